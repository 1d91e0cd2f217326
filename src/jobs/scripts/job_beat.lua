-- An owner lives. How many changes it made, how many of its jobs are here, and Redis' clock.
-- ARGV: owner
return { counted(), redis.call('SCARD', sound(base .. 'o:' .. me, 'set')), whole(now) }
