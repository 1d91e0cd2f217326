-- A host lives, and has traffic at these breakers. Says what registers come to, so that who missed one reads them all.
-- KEYS: hosts, facts of each, totals, registers, stream, holds, by hand; then the hosts with traffic at each breaker.
-- ARGV: host, facts, ttl_ms
local hosts, facts, totals, registers, stream, holds, forced = unpack(KEYS)
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
-- Read, so that a key of another type is found out here.
redis.call('HLEN', holds)
redis.call('HLEN', forced)
redis.call('XLEN', stream)
return { whole(now), redis.call('ZCARD', hosts), redis.call('HLEN', registers), redis.call('HGET', totals, 'sum') or '0' }
