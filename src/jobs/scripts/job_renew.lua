-- A host renews the leases of the jobs that it runs. A job that Redis lost is leased again, so that its owner finds it
-- leased. Returns the number of each lease, or 0 if it is lost. An argument 0 is a run that started without a lease.
-- ARGV: host, then of each: id, number, owner
local numbers = {}
for i = 2, #ARGV, 3 do
  local id, n = ARGV[i], tonumber(ARGV[i + 1])
  local job = read(id)
  if job and job.st == 'L' and job.holder == me and (job.n == n or n == 0) then
    n = job.n
    redis.call('ZADD', leases, whole(now + LEASE), id)
    keep_for(leases, 2 * LEASE)
  elseif job and (job.st == 'E' or job.st == 'X' or lease_left(job) > 0) then
    n = 0
  else
    job = job or { id = id, key = base .. 'b:' .. id, partition = '', n = n, deliveries = 0, new = true }
    job.deliveries = job.deliveries - 1
    lease(job)
    if job.new then
      redis.call('HSET', job.key, 'o', ARGV[i + 2], 'd', '0')
      redis.call('PEXPIRE', job.key, 2 * LEASE)
    end
    n = job.n
  end
  numbers[#numbers + 1] = whole(n)
end
return numbers
