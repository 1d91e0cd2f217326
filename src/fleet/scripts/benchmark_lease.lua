-- Grants one host the start of a benchmark by its schedule, if no host has started it within `every`.
-- KEYS: benchmark. ARGV: host, every_ms, lease_ms, age_ms of the last start that the host knows of, or -1
local key, host = KEYS[1], ARGV[1]
local every, lease, age = ARGV[2] * 1000, ARGV[3] * 1000, ARGV[4] * 1000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function whole(n) return string.format('%.0f', n) end
local stored = redis.call('HMGET', key, 'start', 'holder', 'till')
-- Redis' clock may have been set, and it may have lost data.
local start = math.min(tonumber(stored[1] or 0) or 0, now)
if age >= 0 then start = math.max(start, now - age) end
local till = tonumber(stored[3] or 0) or 0
local free = till <= now or till > now + lease or stored[2] == host
local is_due = now - start >= every
redis.call('HSET', key, 'start', whole(start))
if is_due and free then redis.call('HSET', key, 'holder', host, 'till', whole(now + lease)) end
redis.call('PEXPIRE', key, whole(2 * math.max(every, lease) / 1000))
return { (is_due and free) and 1 or 0, is_due and 1 or 0, whole((now - start) / 1000) }
