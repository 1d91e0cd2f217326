-- The owner looks whether its jobs are there, and in their line. Gives the places of those that are not there. `anew`:
-- Redis' clock was set, so that what was due by it is due as the owner says.
-- ARGV: owner, anew, then of each: id, line, since_ms (from now), expires_ms
local count = counted()
local missing = {}
for i = 3, #ARGV, 4 do
  local job = read(ARGV[i])
  if not job or job.owner ~= me or job.line == '' and job.st == 'L' then
    missing[#missing + 1] = (i - 3) / 4
  elseif job.st == 'E' then
    to_fetch(job)
  elseif job.st == 'R' or job.st == 'L' then
    if job.line ~= ARGV[i + 1] then leave_line(job) end
    job.line = ARGV[i + 1]
    redis.call('HSET', job.key, 'l', job.line, 'x', whole(now + ARGV[i + 3]))
    if left(job) == 0 then ready(job, ARGV[2] == '1' and now + ARGV[i + 2] or job.since) end
  end
end
return { count, missing }
