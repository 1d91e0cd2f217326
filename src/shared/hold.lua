-- A provider asked somebody to wait: everybody does. Of two ends the later one counts.
-- KEYS: holds, stream. ARGV: key, left_ms, host
local holds, stream = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function whole(n) return string.format('%.0f', n) end
local LONGEST = 900 * 1000000
local left = math.min(ARGV[2] * 1000, LONGEST)
local known = tonumber(redis.call('HGET', holds, ARGV[1]) or '0') or 0
if known > now + LONGEST then known = 0 end
if now + left > known then
  if redis.call('HLEN', holds) >= 1024 then
    local all = redis.call('HGETALL', holds)
    for i = 1, #all, 2 do
      local till = tonumber(all[i + 1]) or 0
      if till <= now or till > now + LONGEST then redis.call('HDEL', holds, all[i]) end
    end
  end
  redis.call('HSET', holds, ARGV[1], whole(now + left))
  redis.call('XADD', stream, 'MAXLEN', '~', 4096, '*', 'k', 'h', 'p', ARGV[1], 'r', whole(now + left), 'n', whole(now), 'w', ARGV[3])
end
return whole(now)
