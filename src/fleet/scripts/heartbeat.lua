-- Records a host's presence and its traffic. Returns the sum of all epochs, so that a host that missed a register notices.
-- KEYS: hosts, facts, totals, registers, stream, holds, overrides; then the hosts with traffic of each breaker.
-- ARGV: host, facts, ttl_ms
local hosts, facts, totals, registers, stream, holds, overrides = unpack(KEYS)
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function whole(n) return string.format('%.0f', n) end
local host, ttl_ms = ARGV[1], tonumber(ARGV[3])
redis.call('ZADD', hosts, whole(now + ttl_ms * 1000), host)
redis.call('HSET', facts, host, ARGV[2])
local gone = redis.call('ZRANGEBYSCORE', hosts, '-inf', whole(now))
for _, name in ipairs(redis.call('ZRANGEBYSCORE', hosts, '(' .. whole(now + 20 * ttl_ms * 1000), '+inf')) do
  gone[#gone + 1] = name
end
for _, name in ipairs(gone) do
  redis.call('ZREM', hosts, name)
  redis.call('HDEL', facts, name)
end
for i = 8, #KEYS do
  redis.call('ZADD', KEYS[i], whole(now + 30000 * 1000), host)
  redis.call('PEXPIRE', KEYS[i], 60000)
end
-- Fails here if a key has another type.
redis.call('HLEN', holds)
redis.call('HLEN', overrides)
redis.call('XLEN', stream)
return { whole(now), redis.call('ZCARD', hosts), redis.call('HLEN', registers), redis.call('HGET', totals, 'sum') or '0' }
