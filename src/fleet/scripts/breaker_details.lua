-- Returns votes, leases with their remaining time, and the register, for the admin API.
-- KEYS: registers, votes, leases. ARGV: breaker
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local leases = {}
local all = redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES')
for i = 1, #all, 2 do
  local left = (tonumber(all[i + 1]) - now) / 1000
  if left > 0 then
    leases[#leases + 1] = all[i]
    leases[#leases + 1] = string.format('%.0f', left)
  end
end
return { redis.call('ZRANGEBYSCORE', KEYS[2], string.format('(%.0f', now), '+inf'), leases,
  { redis.call('HGET', KEYS[1], ARGV[1]) or '' } }
