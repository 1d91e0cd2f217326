-- The owner claims a job of its own, so that no other host runs it. A claim that it already has is replaced. If Redis does
-- not know the job, it returns the owner's number of changes.
-- ARGV: owner, id, failed runs that the owner knows of
local job = read(ARGV[2])
if job and job.owner == me then
  if job.st == 'E' then
    queue_result(job)
    return { 'ended' }
  end
  local ms = lease_left(job)
  if ms > 0 and job.holder ~= me then return { 'elsewhere', whole(ms) } end
  -- It failed elsewhere, and the owner does not know that yet.
  local delay = job.since - now
  if job.st == 'R' and job.attempts > tonumber(ARGV[3]) and delay > 0 and delay <= HOUR then
    return { 'elsewhere', whole(delay) }
  end
  if job.st ~= 'X' and job.partition ~= '' then
    lease(job)
    return { 'claimed', whole(job.n), whole(job.attempts), whole(job.deliveries) }
  end
end
return { 'unknown', whole(number(redis.call('GET', typed(base .. 'm:' .. me, 'string')))) }
