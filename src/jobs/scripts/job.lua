-- What the scripts of jobs have in common. KEYS[1]: what the names of all their keys begin with. ARGV[1]: the host that asks.
--   b:ID     HASH  a job: whose it is, its line, how it stands, what is asked, how it ended. `st` is R ready, L leased,
--                  E ended, X taken back while somebody ran it
--   q:LINE   ZSET  those of a line that are ready, by when (ms)
--   l        ZSET  those that are leased, by the lease's end (ms)
--   o:OWNER  SET   all of an owner's
--   d:OWNER  ZSET  those of them that ended elsewhere, for the owner to fetch, by when (ms)
--   w:OWNER  LIST  something in it: there is one to fetch
--   m:OWNER  how many changes the owner made; who finds fewer knows that Redis lost some
-- Times are Redis' own. What is of another type, or lies beyond what anybody sets, counts as not there.
local base, me = KEYS[1], ARGV[1]
local LEASE, HOUR, DAY = 30000, 3600000, 86400000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local leases = base .. 'l'

local function whole(n) return string.format('%.0f', n) end
local function number(text) return tonumber(text or 0) or 0 end

-- A key that is written as this type.
local function sound(key, kind)
  local is = redis.call('TYPE', key).ok
  if is ~= 'none' and is ~= kind then redis.call('DEL', key) end
  return key
end

-- A key lasts for as long as the longest that lies in it.
local function lasts(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, whole(ms)) end
end

local function read(id)
  local key = base .. 'b:' .. id
  local f = redis.pcall('HMGET', key, 'st', 'o', 'l', 'h', 'n', 'a', 'd', 'b', 'x', 'k')
  if f.err then redis.call('DEL', key) end
  if f.err or not f[1] then return nil end
  return { id = id, key = key, st = f[1], owner = f[2] or '', line = f[3] or '', holder = f[4] or '', n = number(f[5]),
    attempts = number(f[6]), deliveries = number(f[7]), since = number(f[8]), expires = number(f[9]), keep = number(f[10]) }
end

-- What is left of the lease of a job; 0: nobody runs it.
local function left(job)
  if job.st ~= 'L' then return 0 end
  local till = number(redis.call('ZSCORE', leases, job.id))
  if till > now + 2 * LEASE then return 0 end
  return math.max(0, till - now)
end

local function in_line(name) return sound(base .. 'q:' .. name, 'zset') end

local function leave_line(job)
  if job.line ~= '' then redis.call('ZREM', in_line(job.line), job.id) end
end

-- Gives it to the host that asks. Numbers grow even where Redis lost the last one.
local function lease(job)
  job.n, job.deliveries = math.max(job.n + 1, now), job.deliveries + 1
  redis.call('HSET', job.key, 'st', 'L', 'h', me, 'n', whole(job.n), 'd', whole(job.deliveries))
  redis.call('ZADD', leases, whole(now + LEASE), job.id)
  lasts(leases, 2 * LEASE)
  leave_line(job)
end

-- It is ready, for those who take it, since (or from) then. Of one that is not in Redis whole nothing stays.
local function ready(job, since)
  if job.line ~= '' then
    redis.call('HSET', job.key, 'st', 'R', 'h', '', 'b', whole(since), 'a', whole(job.attempts), 'd', whole(job.deliveries))
  end
  redis.call('ZREM', leases, job.id)
  if job.line == '' then return redis.call('DEL', job.key) end
  local line = in_line(job.line)
  redis.call('ZADD', line, whole(since), job.id)
  lasts(line, redis.call('PTTL', job.key))
end

local function done_of(owner) return sound(base .. 'd:' .. owner, 'zset') end

-- Its owner finds it. Whoever waits for a first one is woken; it looks for others when it has cleared that.
local function to_fetch(job)
  local done, bell = done_of(job.owner), sound(base .. 'w:' .. job.owner, 'list')
  redis.call('ZADD', done, 'NX', whole(now), job.id)
  lasts(done, redis.call('PTTL', job.key))
  if redis.call('ZCARD', done) == 1 and redis.call('LLEN', bell) == 0 then
    redis.call('RPUSH', bell, '1')
    redis.call('PEXPIRE', bell, LEASE)
  end
end

-- It ended, and waits for its owner. What a Redis that is full refuses comes first: nothing is done by half.
local function ended(job, ...)
  redis.call('HSET', job.key, 'st', 'E', 'o', job.owner, 'a', whole(job.attempts), 'd', whole(job.deliveries), ...)
  redis.call('HDEL', job.key, 'm', 'u', 'g', 'y', 'f')
  redis.call('ZREM', leases, job.id)
  leave_line(job)
  redis.call('PEXPIRE', job.key, whole(job.keep))
  to_fetch(job)
end

-- The owner made a change.
local function counted()
  local key = sound(base .. 'm:' .. me, 'string')
  local count = redis.pcall('INCR', key)
  if type(count) == 'table' then
    redis.call('SET', key, 1)
    count = 1
  end
  redis.call('PEXPIRE', key, DAY)
  return count
end

sound(leases, 'zset')
