-- The owner checks that Redis has its jobs, in the right partition. Returns the indexes of those that are missing.
-- `clock_was_set`: the owner's times replace those in Redis.
-- ARGV: owner, clock_was_set, then of each: id, partition, ready_in_ms, expires_ms
local count = count_change()
local missing = {}
for i = 3, #ARGV, 4 do
  local job = read(ARGV[i])
  if not job or job.owner ~= me or job.partition == '' and job.st == 'L' then
    missing[#missing + 1] = (i - 3) / 4
  elseif job.st == 'E' then
    queue_result(job)
  elseif job.st == 'R' or job.st == 'L' then
    if job.partition ~= ARGV[i + 1] then leave_partition(job) end
    job.partition = ARGV[i + 1]
    redis.call('HSET', job.key, 'l', job.partition, 'x', whole(now + ARGV[i + 3]))
    if lease_left(job) == 0 then ready(job, ARGV[2] == '1' and now + ARGV[i + 2] or job.since) end
  end
end
return { count, missing }
