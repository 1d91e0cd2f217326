-- An owner's heartbeat. Returns its number of changes, the number of its jobs, and Redis' clock.
-- ARGV: owner
return { count_change(), redis.call('SCARD', typed(base .. 'o:' .. me, 'set')), whole(now) }
