-- A host that starts runs nothing: what it held when it ended is ready again.
-- ARGV: host
local some = 0
for _, id in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  local job = read(id)
  if job and job.st == 'L' and job.holder == me then
    ready(job, job.since)
    some = some + 1
  end
end
return some
