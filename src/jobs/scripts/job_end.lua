-- Stores how a borrowed job ended. The result counts under the lease of its run. A response also counts if no host runs the
-- job, because Redis may have lost that lease. Returns whether it counts.
-- ARGV: host, id, number, owner, keep_ms, attempts, deliveries, done|dead, status, headers, body, cut, reason
local id = ARGV[2]
local job = read(id)
local held = job and job.st == 'L' and job.holder == me and job.n == tonumber(ARGV[3])
local free = not job or job.st == 'R' or (job.st == 'L' and lease_left(job) == 0)
if not held and not (free and ARGV[8] == 'done') then return 0 end
job = job or { id = id, key = base .. 'b:' .. id, owner = ARGV[4], partition = '' }
job.attempts, job.deliveries, job.keep = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[5])
finish(job, 'w', ARGV[8], 's', ARGV[9], 'ag', ARGV[10], 'ay', ARGV[11], 'ac', ARGV[12], 'e', ARGV[13])
return 1
