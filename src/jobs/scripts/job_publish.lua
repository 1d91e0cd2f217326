-- The owner tells of jobs, which others may run then; one that is being run or has ended stays as it is. With `claim` it
-- takes the (one) job for itself at once.
-- ARGV: owner, claim, then of each: id, line, since_ms (from now), expires_ms, keep_ms, attempts, deliveries, method, uri,
-- headers, body, flow
local claim = ARGV[2] == '1'
local all = sound(base .. 'o:' .. me, 'set')
local count = claim and 0 or counted()
local stand = {}
for i = 3, #ARGV, 12 do
  local id, line = ARGV[i], ARGV[i + 1]
  local known = read(id)
  local job = known or { id = id, key = base .. 'b:' .. id, st = '', line = '', n = 0, attempts = 0, deliveries = 0 }
  local runs = left(job) > 0 and (job.holder ~= me or not claim)
  if job.st == 'E' or (job.st == 'X' and not claim) then
    stand[#stand + 1] = job.st
  else
    if job.line ~= line then leave_line(job) end
    local keep = tonumber(ARGV[i + 4])
    local lives = ARGV[i + 3] + keep
    job.owner, job.line = me, line
    job.attempts = math.max(job.attempts, tonumber(ARGV[i + 5]))
    job.deliveries = math.max(job.deliveries, tonumber(ARGV[i + 6]))
    redis.call('HSET', job.key, 'st', job.st, 'o', me, 'l', line, 'a', whole(job.attempts), 'd', whole(job.deliveries),
      'x', whole(now + ARGV[i + 3]), 'k', whole(keep), 'm', ARGV[i + 7], 'u', ARGV[i + 8], 'g', ARGV[i + 9],
      'y', ARGV[i + 10], 'f', ARGV[i + 11], 'b', whole(now + ARGV[i + 2]))
    redis.call('PEXPIRE', job.key, whole(lives))
    redis.call('SADD', all, id)
    lasts(all, lives)
    if runs then
      stand[#stand + 1] = 'L'
    elseif claim then
      lease(job)
      return { 'mine', whole(job.n), whole(job.attempts), whole(job.deliveries) }
    else
      ready(job, now + ARGV[i + 2])
      stand[#stand + 1] = 'R'
    end
  end
end
if claim then return { stand[1] == 'E' and 'ended' or 'elsewhere', whole(left(read(ARGV[3]) or { st = '' })) } end
return { count, stand }
