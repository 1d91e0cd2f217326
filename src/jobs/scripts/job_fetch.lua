-- Returns the first results of jobs of this owner that ended elsewhere.
-- ARGV: owner, most
local done = results_key(me)
local fetched, bytes = {}, 0
for _, id in ipairs(redis.call('ZRANGE', done, 0, ARGV[2] - 1)) do
  local job = read(id)
  if not job or job.st ~= 'E' or job.owner ~= me then
    redis.call('ZREM', done, id)
  elseif bytes < 8 * 1024 * 1024 then
    local f = redis.call('HMGET', job.key, 'w', 's', 'ag', 'ay', 'ac', 'e')
    bytes = bytes + #(f[4] or '')
    fetched[#fetched + 1] = { id, whole(job.attempts), whole(job.deliveries), f[1] or '', f[2] or '0', f[3] or '', f[4] or '',
      f[5] or '0', f[6] or '' }
  end
end
return fetched
