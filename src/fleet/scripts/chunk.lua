-- Grants a chunk of a shared limit, and settles what the host took beyond its chunks. GCRA: the value is `end at`, the time
-- at which the whole burst is available again and the time of writing. The difference bounds the wait if the clock is set.
-- Capacity that does not exist yet is granted for later, so hosts take turns and a large request is not overtaken for ever.
-- KEYS: the limit. ARGV: rate per second, burst, want, least, debt (negative: granted and not used)
local limit = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local rate, burst, want, least, debt = unpack(ARGV)
rate, burst, want, least, debt = tonumber(rate), tonumber(burst), tonumber(want), tonumber(least), tonumber(debt)
local function whole(n) return string.format('%.0f', n) end
-- The latest moment of a grant, beyond the grant's own time; and the longest debt.
local AHEAD, LONGEST = 5 * 1000000, 86400 * 1000000
local function time_for(amount) return amount / rate * 1000000 end

-- A malformed value counts as absent.
local line = redis.pcall('GET', limit)
local till, at = string.match(type(line) == 'string' and line or '', '^(%d+) (%d+)$')
till, at = tonumber(till or 0), tonumber(at or 0)
local ahead = math.min(math.max(till - math.max(now, at), 0), LONGEST)

ahead = math.min(math.max(ahead + time_for(debt), 0), LONGEST)
local room = burst - ahead * rate / 1000000
local granted, wait = 0, 0
if want > 0 then
  if room + 0.000001 >= least then
    granted = math.min(want, math.max(room, least))
  else
    wait = time_for(math.min(least, burst) - room)
    if wait <= AHEAD + time_for(least) then granted = least end
  end
  ahead = ahead + time_for(granted)
end
if ahead > 0 then
  redis.call('SET', limit, whole(now + ahead) .. ' ' .. whole(now), 'PX', whole(ahead / 1000 + 1000))
else
  redis.call('DEL', limit)
end
return { whole(now), string.format('%.6f', granted), whole(math.max(wait, 0)), string.format('%.6f', ahead * rate / 1000000) }
