-- Functions that the job scripts share. KEYS[1]: the prefix of all keys. ARGV[1]: the calling host.
--   b:ID         HASH    a job: owner, partition, state, request, result. `st` is R ready, L leased, E ended, or
--                        X withdrawn by its owner while a host ran it
--   q:PARTITION  ZSET    ready jobs of a partition, by the time at which they became ready
--   l            ZSET    leased jobs, by the end of the lease
--   o:OWNER      SET     all jobs of an owner
--   d:OWNER      ZSET    jobs of an owner that ended elsewhere, by the time of their end
--   w:OWNER      LIST    not empty: there is a result to fetch
--   m:OWNER      STRING  the number of changes the owner made; a smaller number means that Redis lost data
-- Times are milliseconds of Redis' clock. A key of another type, or a time that no script sets, counts as absent.
local base, me = KEYS[1], ARGV[1]
local LEASE, HOUR, DAY = 30000, 3600000, 86400000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local leases = base .. 'l'

local function whole(n) return string.format('%.0f', n) end
local function number(text) return tonumber(text or 0) or 0 end

-- Deletes a key of another type.
local function typed(key, kind)
  local is = redis.call('TYPE', key).ok
  if is ~= 'none' and is ~= kind then redis.call('DEL', key) end
  return key
end

-- A key expires no earlier than its longest-lived member.
local function keep_for(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, whole(ms)) end
end

local function read(id)
  local key = base .. 'b:' .. id
  local f = redis.pcall('HMGET', key, 'st', 'o', 'l', 'h', 'n', 'a', 'd', 'b', 'x', 'k')
  if f.err then redis.call('DEL', key) end
  if f.err or not f[1] then return nil end
  return { id = id, key = key, st = f[1], owner = f[2] or '', partition = f[3] or '', holder = f[4] or '', n = number(f[5]),
    attempts = number(f[6]), deliveries = number(f[7]), since = number(f[8]), expires = number(f[9]), keep = number(f[10]) }
end

-- The remaining time of a job's lease; 0 if no host runs it.
local function lease_left(job)
  if job.st ~= 'L' then return 0 end
  local till = number(redis.call('ZSCORE', leases, job.id))
  if till > now + 2 * LEASE then return 0 end
  return math.max(0, till - now)
end

local function partition_key(name) return typed(base .. 'q:' .. name, 'zset') end

local function leave_partition(job)
  if job.partition ~= '' then redis.call('ZREM', partition_key(job.partition), job.id) end
end

-- Leases the job to the calling host. Numbers grow even if Redis lost the last one.
local function lease(job)
  job.n, job.deliveries = math.max(job.n + 1, now), job.deliveries + 1
  redis.call('HSET', job.key, 'st', 'L', 'h', me, 'n', whole(job.n), 'd', whole(job.deliveries))
  redis.call('ZADD', leases, whole(now + LEASE), job.id)
  keep_for(leases, 2 * LEASE)
  leave_partition(job)
end

-- Makes the job ready at a time. A job whose data Redis lost is deleted.
local function ready(job, since)
  if job.partition ~= '' then
    redis.call('HSET', job.key, 'st', 'R', 'h', '', 'b', whole(since), 'a', whole(job.attempts), 'd', whole(job.deliveries))
  end
  redis.call('ZREM', leases, job.id)
  if job.partition == '' then return redis.call('DEL', job.key) end
  local key = partition_key(job.partition)
  redis.call('ZADD', key, whole(since), job.id)
  keep_for(key, redis.call('PTTL', job.key))
end

local function results_key(owner) return typed(base .. 'd:' .. owner, 'zset') end

-- Queues the result for the owner. The first one wakes it; it looks for others after it has removed that one.
local function queue_result(job)
  local done, bell = results_key(job.owner), typed(base .. 'w:' .. job.owner, 'list')
  redis.call('ZADD', done, 'NX', whole(now), job.id)
  keep_for(done, redis.call('PTTL', job.key))
  if redis.call('ZCARD', done) == 1 and redis.call('LLEN', bell) == 0 then
    redis.call('RPUSH', bell, '1')
    redis.call('PEXPIRE', bell, LEASE)
  end
end

-- Ends the job. The write that a full Redis refuses comes first, so that nothing is done by half.
local function finish(job, ...)
  redis.call('HSET', job.key, 'st', 'E', 'o', job.owner, 'a', whole(job.attempts), 'd', whole(job.deliveries), ...)
  redis.call('HDEL', job.key, 'm', 'u', 'g', 'y', 'f')
  redis.call('ZREM', leases, job.id)
  leave_partition(job)
  redis.call('PEXPIRE', job.key, whole(job.keep))
  queue_result(job)
end

-- Counts a change of the owner.
local function count_change()
  local key = typed(base .. 'm:' .. me, 'string')
  local count = redis.pcall('INCR', key)
  if type(count) == 'table' then
    redis.call('SET', key, 1)
    count = 1
  end
  redis.call('PEXPIRE', key, DAY)
  return count
end

typed(leases, 'zset')
