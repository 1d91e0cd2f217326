-- Ends the lease of a benchmark: the host has started it, or could not.
-- KEYS: benchmark. ARGV: host, 1 if it has started, every_ms
local key, host = KEYS[1], ARGV[1]
local time = redis.call('TIME')
if redis.call('HGET', key, 'holder') == host then redis.call('HDEL', key, 'holder', 'till') end
if ARGV[2] == '1' then
  redis.call('HSET', key, 'start', string.format('%.0f', time[1] * 1000000 + time[2]))
  redis.call('PEXPIRE', key, string.format('%.0f', 2 * ARGV[3]))
end
return 1
