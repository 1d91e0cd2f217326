-- A host knows a newer register than Redis, which lost some: it is put back. Half-open comes back as open and over, since
-- its leases are gone.
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
return answer(r)
