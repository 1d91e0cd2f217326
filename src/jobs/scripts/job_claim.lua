-- The owner is about to run a job of its own: nobody else does then. What it held already, it holds anew. Where Redis does
-- not know the job, it tells how many changes of the owner's it remembers.
-- ARGV: owner, id, attempts that the owner knows of
local job = read(ARGV[2])
if job and job.owner == me then
  if job.st == 'E' then
    to_fetch(job)
    return { 'ended' }
  end
  local ms = left(job)
  if ms > 0 and job.holder ~= me then return { 'elsewhere', whole(ms) } end
  -- It failed elsewhere a moment ago.
  local rest = job.since - now
  if job.st == 'R' and job.attempts > tonumber(ARGV[3]) and rest > 0 and rest <= HOUR then
    return { 'elsewhere', whole(rest) }
  end
  if job.st ~= 'X' and job.line ~= '' then
    lease(job)
    return { 'mine', whole(job.n), whole(job.attempts), whole(job.deliveries) }
  end
end
return { 'unknown', whole(number(redis.call('GET', sound(base .. 'm:' .. me, 'string')))) }
