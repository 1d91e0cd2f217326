-- Functions that the breaker scripts share: reading and writing a breaker's register.
-- KEYS: registers, totals, stream, votes, leases, hosts that wait for a lease, hosts with traffic. ARGV[1]: the breaker.
local registers, totals, stream, votes, leases, awaited, busy = unpack(KEYS)
local breaker = ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local STREAM_LENGTH, MAX_REGISTERS = 4096, 4096

local function whole(n) return string.format('%.0f', n) end

-- A malformed register counts as absent.
local function read()
  local none = { epoch = 0, writer = '', state = 'C', till = 0, trips = 0, permits = 0, needed = 0, ok = 0, closed = 0 }
  local line = redis.call('HGET', registers, breaker)
  if not line then return none end
  local e, w, s, u, t, p, n, o, c = string.match(line,
    '^(%d+)|([^|]*)|([COH])|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)$')
  if not e then return none end
  return { epoch = tonumber(e), writer = w, state = s, till = tonumber(u), trips = tonumber(t), permits = tonumber(p),
    needed = tonumber(n), ok = tonumber(o), closed = tonumber(c), line = line }
end

local function pack(r)
  return table.concat({ whole(r.epoch), r.writer, r.state, whole(r.till), whole(r.trips), whole(r.permits),
    whole(r.needed), whole(r.ok), whole(r.closed) }, '|')
end

-- When there are too many registers, removes those that have been closed for a day.
local function prune()
  if redis.call('HLEN', registers) < MAX_REGISTERS then return end
  local all = redis.call('HGETALL', registers)
  for i = 1, #all, 2 do
    local e, s = string.match(all[i + 1], '^(%d+)|[^|]*|([COH])|')
    if not e or (s == 'C' and now - tonumber(e) > 86400 * 1000000) then
      redis.call('HDEL', registers, all[i])
      if e then redis.call('HINCRBY', totals, 'sum', '-' .. e) end
    end
  end
end

-- Writes the register. With a reason, the transition goes to the stream.
local function save(r, was, reason)
  if was == 0 then prune() end
  redis.call('HSET', registers, breaker, pack(r))
  if r.epoch ~= was then redis.call('HINCRBY', totals, 'sum', whole(r.epoch - was)) end
  if reason then
    redis.call('XADD', stream, 'MAXLEN', '~', STREAM_LENGTH, '*', 'k', 'r', 'p', breaker, 'r', pack(r), 'n', whole(now), 'w', reason)
  end
end

-- Greater than the stored epoch, the caller's epoch and Redis' clock, so the order survives a loss of data.
local function next_epoch(r, seen) return math.max(r.epoch, seen, now) + 1 end

-- The open time, in microseconds.
local function open_for(trips, base_ms, multiplier, max_ms, jitter)
  return math.min(max_ms, base_ms * multiplier ^ (trips - 1)) * jitter * 1000
end

-- Removes expired scores, and those that lie too far ahead because the clock was set back.
local function sweep(set, longest_ms)
  redis.call('ZREMRANGEBYSCORE', set, '-inf', whole(now))
  redis.call('ZREMRANGEBYSCORE', set, '(' .. whole(now + longest_ms * 1000), '+inf')
end

local function reply(r, extra) return { whole(now), pack(r), extra or '' } end

