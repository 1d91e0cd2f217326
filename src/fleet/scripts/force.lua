-- Stores a manual override, or removes it if the value is empty.
-- KEYS: overrides, stream. ARGV: key, value, host
local overrides, stream = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function whole(n) return string.format('%.0f', n) end
local value = string.gsub(ARGV[2], '^until=%+(%d+)', function(ms) return 'until=' .. whole(now + ms * 1000) end)
if ARGV[2] == '' then
  redis.call('HDEL', overrides, ARGV[1])
elseif redis.call('HLEN', overrides) >= 1024 and redis.call('HEXISTS', overrides, ARGV[1]) == 0 then
  return redis.error_reply('FULL there are 1024 manual overrides already')
else
  redis.call('HSET', overrides, ARGV[1], value)
end
redis.call('XADD', stream, 'MAXLEN', '~', 4096, '*', 'k', 'f', 'p', ARGV[1], 'r', value, 'n', whole(now), 'w', ARGV[3])
return whole(now)
