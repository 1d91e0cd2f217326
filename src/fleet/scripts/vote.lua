-- Records the vote of a host whose own breaker tripped. The fleet's breaker opens when enough hosts with traffic voted.
-- ARGV: breaker, host, seen, vote_ms, quorum, fraction, base_ms, multiplier, max_ms, jitter, reset_ms, reason
local host, seen, vote_ms = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local r = read()
if r.state == 'C' and seen >= r.epoch then
  sweep(votes, vote_ms * 2)
  redis.call('ZADD', votes, whole(now + vote_ms * 1000), host)
  redis.call('PEXPIRE', votes, vote_ms * 2)
  sweep(busy, 60000)
  redis.call('ZADD', busy, whole(now + 30000 * 1000), host)
  redis.call('PEXPIRE', busy, 60000)
  local needed = math.max(tonumber(ARGV[5]), math.ceil(redis.call('ZCARD', busy) * ARGV[6]))
  if redis.call('ZCARD', votes) >= needed then
    local was = r.epoch
    local closed_for = now - r.closed
    r.trips = (closed_for >= 0 and closed_for < ARGV[11] * 1000) and r.trips + 1 or 1
    r.epoch, r.writer, r.state, r.ok = next_epoch(r, seen), host, 'O', 0
    r.till = now + open_for(r.trips, ARGV[7], ARGV[8], ARGV[9], ARGV[10])
    redis.call('DEL', votes, leases, awaited)
    save(r, was, ARGV[12])
  end
end
return reply(r)
