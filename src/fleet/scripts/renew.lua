-- Extends an unused lease. Returns whether it is valid, and whether another host waits for one.
-- ARGV: breaker, lease, lease_ms
local lease, lease_ms = ARGV[2], tonumber(ARGV[3])
local r = read()
local ends = redis.call('ZSCORE', leases, lease)
local epoch = whole(r.epoch) .. ':'
local valid = ends and tonumber(ends) > now and r.state == 'H' and string.sub(lease, 1, #epoch) == epoch
if valid then
  redis.call('ZADD', leases, 'XX', whole(now + lease_ms * 1000), lease)
  redis.call('PEXPIRE', leases, lease_ms * 2)
end
sweep(awaited, 10000)
local others = redis.call('ZCARD', awaited) > 0
return reply(r, (valid and '1' or '0') .. (others and '1' or '0'))
