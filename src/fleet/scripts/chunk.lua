-- A host asks for a piece of a limit that the fleet shares, and tells what it took beyond what it was given. GCRA: kept is
-- when all of the burst will be there again, as `end at`: nobody waits for longer than when it was told, wherever the
-- clock was set since. What is not there yet is given for later, so that hosts take turns and a large request is never
-- overtaken for ever.
-- KEYS: the limit. ARGV: rate a second, burst, want, least, debt (below 0: what was given and not used)
local limit = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local rate, burst, want, least, debt = unpack(ARGV)
rate, burst, want, least, debt = tonumber(rate), tonumber(burst), tonumber(want), tonumber(least), tonumber(debt)
local function whole(n) return string.format('%.0f', n) end
-- Nothing is given for later than this, beyond what it takes to come itself; no debt lasts for longer than that.
local AHEAD, LONGEST = 5 * 1000000, 86400 * 1000000
local function time_for(amount) return amount / rate * 1000000 end

-- Anything that is no limit counts as none.
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
