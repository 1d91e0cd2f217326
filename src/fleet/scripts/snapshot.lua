-- All that a host that comes back has to know, at one moment; and where the stream stands then.
-- KEYS: registers, totals, stream, holds, by hand, hosts, facts
local registers, totals, stream, holds, forced, hosts, facts = unpack(KEYS)
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function whole(n) return string.format('%.0f', n) end
local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
-- What registers come to is counted anew, should it ever have gone wrong.
local all = redis.call('HGETALL', registers)
redis.call('DEL', totals)
for i = 2, #all, 2 do
  local epoch = string.match(all[i], '^(%d+)|')
  if epoch then redis.call('HINCRBY', totals, 'sum', epoch) end
end
return { whole(now), last[1] and last[1][1] or '0-0', all, redis.call('HGETALL', holds), redis.call('HGETALL', forced),
  redis.call('ZRANGE', hosts, 0, -1, 'WITHSCORES'), redis.call('HGETALL', facts) }
