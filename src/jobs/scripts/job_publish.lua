-- The owner publishes jobs, which other hosts may run from then on. A job that runs or has ended stays as it is. With
-- `claim` the owner claims the (one) job at once.
-- ARGV: owner, claim, then of each: id, partition, ready_in_ms, expires_ms, keep_ms, attempts, deliveries, method, uri,
-- headers, body, flow
local claim = ARGV[2] == '1'
local all = typed(base .. 'o:' .. me, 'set')
local count = claim and 0 or count_change()
local states = {}
for i = 3, #ARGV, 12 do
  local id, partition = ARGV[i], ARGV[i + 1]
  local known = read(id)
  local job = known or { id = id, key = base .. 'b:' .. id, st = '', partition = '', n = 0, attempts = 0, deliveries = 0 }
  local runs = lease_left(job) > 0 and (job.holder ~= me or not claim)
  if job.st == 'E' or (job.st == 'X' and not claim) then
    states[#states + 1] = job.st
  else
    if job.partition ~= partition then leave_partition(job) end
    local keep = tonumber(ARGV[i + 4])
    local lifetime = ARGV[i + 3] + keep
    job.owner, job.partition = me, partition
    job.attempts = math.max(job.attempts, tonumber(ARGV[i + 5]))
    job.deliveries = math.max(job.deliveries, tonumber(ARGV[i + 6]))
    redis.call('HSET', job.key, 'st', job.st, 'o', me, 'l', partition, 'a', whole(job.attempts), 'd', whole(job.deliveries),
      'x', whole(now + ARGV[i + 3]), 'k', whole(keep), 'm', ARGV[i + 7], 'u', ARGV[i + 8], 'g', ARGV[i + 9],
      'y', ARGV[i + 10], 'f', ARGV[i + 11], 'b', whole(now + ARGV[i + 2]))
    redis.call('PEXPIRE', job.key, whole(lifetime))
    redis.call('SADD', all, id)
    keep_for(all, lifetime)
    if runs then
      states[#states + 1] = 'L'
    elseif claim then
      lease(job)
      return { 'claimed', whole(job.n), whole(job.attempts), whole(job.deliveries) }
    else
      ready(job, now + ARGV[i + 2])
      states[#states + 1] = 'R'
    end
  end
end
if claim then return { states[1] == 'E' and 'ended' or 'elsewhere', whole(lease_left(read(ARGV[3]) or { st = '' })) } end
return { count, states }
