-- Stores a hold for all hosts; of two ends the later one counts. The value is `end at`, the end and the time of writing.
-- The difference bounds the wait if the clock is set. At most 1024 are stored; past that, a hold reaches the hosts that read the
-- stream.
-- KEYS: holds, stream. ARGV: key, left_ms, host
local holds, stream = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function whole(n) return string.format('%.0f', n) end
local LONGEST = 900 * 1000000
local left = math.min(ARGV[2] * 1000, LONGEST)
local function read(line)
  local till, at = string.match(line or '', '^(%d+) (%d+)$')
  till, at = tonumber(till or 0), tonumber(at or 0)
  if at > now then return 0 end
  return till
end
local known = read(redis.call('HGET', holds, ARGV[1]))
if now + left > known then
  if redis.call('HLEN', holds) >= 1024 then
    local all = redis.call('HGETALL', holds)
    for i = 1, #all, 2 do
      if read(all[i + 1]) <= now then redis.call('HDEL', holds, all[i]) end
    end
  end
  if redis.call('HLEN', holds) < 1024 or redis.call('HEXISTS', holds, ARGV[1]) == 1 then
    redis.call('HSET', holds, ARGV[1], whole(now + left) .. ' ' .. whole(now))
  end
  redis.call('XADD', stream, 'MAXLEN', '~', 4096, '*', 'k', 'h', 'p', ARGV[1], 'r', whole(now + left), 'n', whole(now), 'w', ARGV[3])
end
return whole(now)
