-- A host gives back a job that it did not finish: it is ready again after a delay. If it did not fail, the run does not
-- count. Returns whether the lease still held.
-- ARGV: host, id, number, delay_ms, failed
local job = read(ARGV[2])
if not job or job.st ~= 'L' or job.holder ~= me or job.n ~= tonumber(ARGV[3]) then return 0 end
if ARGV[5] == '1' then job.attempts = job.attempts + 1 else job.deliveries = job.deliveries - 1 end
local delay = tonumber(ARGV[4])
ready(job, delay > 0 and now + delay or job.since)
return 1
