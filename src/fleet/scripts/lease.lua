-- Grants a probe lease. An elapsed open becomes half-open. A host calls this only after its own copy of the end, so its
-- epoch suffices if the clock was set.
-- ARGV: breaker, host, seen, lease_ms, permits, needed, number
local host, seen, lease_ms = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local r = read()
if r.state == 'O' and (now >= r.till or seen == r.epoch) then
  local was = r.epoch
  r.epoch, r.writer, r.state, r.ok = next_epoch(r, seen), host, 'H', 0
  r.till, r.permits, r.needed = 0, tonumber(ARGV[5]), tonumber(ARGV[6])
  redis.call('DEL', leases, awaited)
  save(r, was, 'elapsed')
end
local lease = ''
if r.state == 'H' then
  sweep(leases, lease_ms * 2)
  if redis.call('ZCARD', leases) < r.permits then
    lease = whole(r.epoch) .. ':' .. host .. ':' .. ARGV[7]
    redis.call('ZADD', leases, whole(now + lease_ms * 1000), lease)
    redis.call('PEXPIRE', leases, lease_ms * 2)
    redis.call('ZREM', awaited, host)
  else
    redis.call('ZADD', awaited, whole(now + 5000 * 1000), host)
    redis.call('PEXPIRE', awaited, 10000)
  end
end
return reply(r, lease)
