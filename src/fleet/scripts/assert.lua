-- Restores a host's register that is newer than the stored one, which Redis lost. Half-open comes back as an elapsed open,
-- because its leases are lost.
-- ARGV: breaker, register
local r = read()
local e, w, s, u, t, p, n, o, c = string.match(ARGV[2],
  '^(%d+)|([^|]*)|([COH])|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)$')
local was = r.epoch
if e and (tonumber(e) > r.epoch or (tonumber(e) == r.epoch and w > r.writer)) then
  r = { epoch = tonumber(e), writer = w, state = s == 'H' and 'O' or s, till = tonumber(u), trips = tonumber(t),
    permits = tonumber(p), needed = tonumber(n), ok = 0, closed = tonumber(c) }
  redis.call('DEL', leases, votes, awaited)
  save(r, was, 'asserted')
end
return reply(r)
