-- The owner removes jobs. A host that still runs one learns of it when it renews the lease.
-- ARGV: owner, id...
local count = count_change()
local all, done = typed(base .. 'o:' .. me, 'set'), results_key(me)
for i = 2, #ARGV do
  local id = ARGV[i]
  local job = read(id)
  if job and job.owner == me then
    redis.call('ZREM', done, id)
    local runs = lease_left(job) > 0 and job.holder ~= me
    redis.call('ZREM', leases, id)
    leave_partition(job)
    redis.call('DEL', job.key)
    if runs then
      redis.call('HSET', job.key, 'st', 'X', 'o', me)
      redis.call('PEXPIRE', job.key, 2 * LEASE)
    end
  end
  redis.call('SREM', all, id)
end
return count
