-- A host that starts runs nothing: the jobs that its earlier process held are ready again. Returns their number.
-- ARGV: host
local count = 0
for _, id in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  local job = read(id)
  if job and job.st == 'L' and job.holder == me then
    ready(job, job.since)
    count = count + 1
  end
end
return count
