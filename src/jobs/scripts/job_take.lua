-- A host that has nothing of its own to do takes jobs of others, somewhere among the oldest: their owner runs them from
-- the first on, and two who take at once mostly take different ones. Tells how many of its own wait to be fetched, and when
-- more of these lines are due.
-- ARGV: host, want, most deliveries, draw, line...
local want, most, draw = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local LOOK, BYTES = 64, 8 * 1024 * 1024

-- Whoever ran these is gone: they are ready again, at their old place.
local function abandoned(from, to)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, from, to, 'LIMIT', 0, LOOK)) do
    local job = read(id)
    if job and job.st == 'L' then ready(job, job.since) else redis.call('ZREM', leases, id) end
  end
end
abandoned('-inf', whole(now))
abandoned('(' .. whole(now + 2 * LEASE), '+inf')

local taken, bytes, due = {}, 0, -1
local function take(line, id)
  local job = read(id)
  if not job or job.st ~= 'R' or job.line ~= line or job.expires <= now then
    return redis.call('ZREM', in_line(line), id)
  end
  if job.owner == me then return end
  if job.deliveries >= most then
    return ended(job, 'w', 'dead', 'e', 'it was begun ' .. whole(job.deliveries) .. ' times without an end')
  end
  local asked = redis.call('HMGET', job.key, 'm', 'u', 'g', 'y', 'f')
  -- Its owner tells of it again.
  if not asked[1] then
    leave_line(job)
    return redis.call('DEL', job.key)
  end
  lease(job)
  bytes = bytes + #(asked[4] or '')
  taken[#taken + 1] = { id, job.owner, line, whole(job.n), whole(job.attempts), whole(job.deliveries),
    whole(job.expires - now), whole(job.keep), asked[1] or '', asked[2] or '', asked[3] or '', asked[4] or '', asked[5] or '' }
end
for i = 5, #ARGV do
  local line = in_line(ARGV[i])
  local ids = #taken < want and redis.call('ZRANGEBYSCORE', line, '-inf', whole(now), 'LIMIT', 0, LOOK) or {}
  local first = math.floor(draw * #ids)
  for k = 0, #ids - 1 do
    if #taken >= want or bytes >= BYTES then break end
    take(ARGV[i], ids[(first + k) % #ids + 1])
  end
  local later = redis.call('ZRANGEBYSCORE', line, '(' .. whole(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if later[2] and (due < 0 or later[2] - now < due) then due = later[2] - now end
end
return { taken, redis.call('ZCARD', done_of(me)), whole(due) }
