-- Note when a call with --once-per was made by a crontab, for `werk status`. It is sent beside an
-- enqueue, which nothing here may make fail: so no command raises an error.
--
-- ARGV  KEY, a hash   CALL, its field   RECORD, a JSON object: `last` is put in front of it
-- The hash has MOST_CALLS at most; the one that was made the longest ago makes room.

local try, time = redis.pcall, redis.call('TIME')

local function oldest()
  local name, first, flat = '', math.huge, try('HGETALL', KEY)
  for at = 1, #flat, 2 do
    local last = tonumber(string.match(flat[at + 1], '^{"last":([%d.]+)')) or 0
    if last < first then name, first = flat[at], last end
  end
  return name
end

local count = try('HLEN', KEY)
if type(count) == 'number' and count <= MOST_CALLS then
  if count == MOST_CALLS and not try('HGET', KEY, CALL) then try('HDEL', KEY, oldest()) end
  local now = time[1] + time[2] / 1000000
  try('HSET', KEY, CALL, string.format('{"last":%.3f,', now) .. string.sub(RECORD, 2))
end
return 1
