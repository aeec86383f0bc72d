-- Note that something has happened, when and how often, in a hash of MOST_NOTES entries at most: a
-- new entry replaces the one that was noted longest ago. The script is sent beside other work,
-- which must not fail because of a note: so no command raises an error.
--
-- ARGV  KEY, the hash   FIELD, what has happened   COUNT, how often
--       RECORD, a JSON object with more facts: `last`, Redis's time, `count` and `first`, the time
--       when it was noted first, come before them

local try, time = redis.pcall, redis.call('TIME')
local START = '^{"last":([%d.]+),"count":(%d+)'

local function oldest()
  local name, first, flat = '', math.huge, try('HGETALL', KEY)
  for at = 1, #flat, 2 do
    local last = tonumber((string.match(flat[at + 1], START))) or 0
    if last < first then name, first = flat[at], last end
  end
  return name
end

local function note()
  local size = try('HLEN', KEY)
  if type(size) ~= 'number' or size > MOST_NOTES then return end
  local known = try('HGET', KEY, FIELD)
  if size == MOST_NOTES and not known then try('HDEL', KEY, oldest()) end
  local _, count = string.match(known or '', START)
  local now = time[1] + time[2] / 1000000
  local _, _, first = string.match(known or '', START .. ',"first":([%d.]+)')
  local facts = string.format('{"last":%.3f,"count":%d,"first":%.3f,', now,
    math.min(COUNT + (tonumber(count) or 0), 1e15), tonumber(first) or now)
  try('HSET', KEY, FIELD, facts .. string.sub(RECORD, 2))
end

pcall(note)
return 1
