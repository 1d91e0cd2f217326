-- The owner has no more to do with these. Whoever still runs one hears of it.
-- ARGV: owner, id...
local count = counted()
local all, done = sound(base .. 'o:' .. me, 'set'), done_of(me)
for i = 2, #ARGV do
  local id = ARGV[i]
  local job = read(id)
  if job and job.owner == me then
    redis.call('ZREM', done, id)
    local runs = left(job) > 0 and job.holder ~= me
    redis.call('ZREM', leases, id)
    leave_line(job)
    redis.call('DEL', job.key)
    if runs then
      redis.call('HSET', job.key, 'st', 'X', 'o', me)
      redis.call('PEXPIRE', job.key, 2 * LEASE)
    end
  end
  redis.call('SREM', all, id)
end
return count
