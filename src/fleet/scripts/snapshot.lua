-- Returns the whole shared state at one moment, and the position of the stream.
-- KEYS: registers, totals, stream, holds, overrides, hosts, facts
local registers, totals, stream, holds, overrides, hosts, facts = unpack(KEYS)
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function whole(n) return string.format('%.0f', n) end
local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
-- The sum of epochs is counted anew, in case it was wrong.
local all = redis.call('HGETALL', registers)
redis.call('DEL', totals)
for i = 2, #all, 2 do
  local epoch = string.match(all[i], '^(%d+)|')
  if epoch then redis.call('HINCRBY', totals, 'sum', epoch) end
end
return { whole(now), last[1] and last[1][1] or '0-0', all, redis.call('HGETALL', holds), redis.call('HGETALL', overrides),
  redis.call('ZRANGE', hosts, 0, -1, 'WITHSCORES'), redis.call('HGETALL', facts) }
