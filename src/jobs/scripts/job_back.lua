-- A host gives a job back that it did not finish: it is ready again, from then on. `spent`: it failed; else it was not run
-- at all. Whether the lease still held.
-- ARGV: host, id, number, rest_ms, spent
local job = read(ARGV[2])
if not job or job.st ~= 'L' or job.holder ~= me or job.n ~= tonumber(ARGV[3]) then return 0 end
if ARGV[5] == '1' then job.attempts = job.attempts + 1 else job.deliveries = job.deliveries - 1 end
local rest = tonumber(ARGV[4])
ready(job, rest > 0 and now + rest or job.since)
return 1
