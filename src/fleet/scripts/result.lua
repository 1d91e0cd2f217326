-- Counts a probe's result, once, through a valid lease of the current epoch, and closes or opens the breaker.
-- ARGV: breaker, host, lease, succeeded|failed|unused, base_ms, multiplier, max_ms, jitter
local host, lease = ARGV[2], ARGV[3]
local r = read()
local ends = redis.call('ZSCORE', leases, lease)
local epoch = whole(r.epoch) .. ':'
local valid = ends and tonumber(ends) > now and r.state == 'H' and string.sub(lease, 1, #epoch) == epoch
redis.call('ZREM', leases, lease)
if not valid or ARGV[4] == 'unused' then return reply(r, '0') end
local was = r.epoch
if ARGV[4] == 'succeeded' then
  r.ok = r.ok + 1
  if r.ok < r.needed then
    save(r, was)
    return reply(r, '1')
  end
  r.state, r.closed, r.till = 'C', now, 0
else
  r.trips, r.state, r.ok = r.trips + 1, 'O', 0
  r.till = now + open_for(r.trips, ARGV[5], ARGV[6], ARGV[7], ARGV[8])
end
r.epoch, r.writer = next_epoch(r, 0), host
redis.call('DEL', leases, votes, awaited)
save(r, was, r.state == 'C' and 'probe_succeeded' or 'probe_failed')
return reply(r, '1')
