-- A host takes jobs of other hosts, from a random position among the oldest. Their owner runs them from the first on, so
-- hosts that take at the same time mostly take different jobs. Returns the jobs, the number of its own results to fetch,
-- and when the next job of these partitions is ready.
-- ARGV: host, want, max_deliveries, draw, partition...
local want, max_deliveries, draw = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local SCAN, BYTES = 64, 8 * 1024 * 1024

-- Jobs whose leases have ended are ready again, at their old position.
local function release(from, to)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, from, to, 'LIMIT', 0, SCAN)) do
    local job = read(id)
    if job and job.st == 'L' then ready(job, job.since) else redis.call('ZREM', leases, id) end
  end
end
release('-inf', whole(now))
release('(' .. whole(now + 2 * LEASE), '+inf')

local taken, bytes, due = {}, 0, -1
local function take(partition, id)
  local job = read(id)
  if not job or job.st ~= 'R' or job.partition ~= partition or job.expires <= now then
    return redis.call('ZREM', partition_key(partition), id)
  end
  if job.owner == me then return end
  if job.deliveries >= max_deliveries then
    return finish(job, 'w', 'dead', 'e', 'it was started ' .. whole(job.deliveries) .. ' times without an end')
  end
  local request = redis.call('HMGET', job.key, 'm', 'u', 'g', 'y', 'f')
  -- Redis lost the request; the owner publishes the job again.
  if not request[1] then
    leave_partition(job)
    return redis.call('DEL', job.key)
  end
  lease(job)
  bytes = bytes + #(request[4] or '')
  taken[#taken + 1] = { id, job.owner, partition, whole(job.n), whole(job.attempts), whole(job.deliveries),
    whole(job.expires - now), whole(job.keep), request[1] or '', request[2] or '', request[3] or '', request[4] or '', request[5] or '' }
end
for i = 5, #ARGV do
  local key = partition_key(ARGV[i])
  local ids = #taken < want and redis.call('ZRANGEBYSCORE', key, '-inf', whole(now), 'LIMIT', 0, SCAN) or {}
  local first = math.floor(draw * #ids)
  for k = 0, #ids - 1 do
    if #taken >= want or bytes >= BYTES then break end
    take(ARGV[i], ids[(first + k) % #ids + 1])
  end
  local next = redis.call('ZRANGEBYSCORE', key, '(' .. whole(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if next[2] and (due < 0 or next[2] - now < due) then due = next[2] - now end
end
return { taken, redis.call('ZCARD', results_key(me)), whole(due) }
