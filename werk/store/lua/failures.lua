-- Count a final failure. The hash werk:failures:<hours since 1970> has a field for each task and
-- error, '<task>|<error>': '<count> <Redis's time of the last> <job id of the last>'. When the hash
-- is large, new tasks and errors are counted together as 'other errors'. scripts.py also puts this
-- function into the failure branch of step.lua, because there each function costs time when it is
-- defined.
--
-- Every write goes through `pcall`: a count must not keep a failure from being recorded.

local LONGEST_HOUR, MOST_FAILURES = 128 * 1024, 1000000000 -- bytes of a hash; of one kind

local function count_failure(field, id)
  local pcall, time = redis.pcall, redis.call('TIME')
  local key = P .. ':werk:failures:' .. string.format('%d', math.floor(time[1] / 3600))
  local known = pcall('HGET', key, field)
  if type(known) == 'table' then
    pcall('UNLINK', key)
  elseif not known then
    local size = pcall('MEMORY', 'USAGE', key)
    if type(size) == 'number' and size > LONGEST_HOUR then field = '|other errors' end
    known = pcall('HGET', key, field)
  end
  local before = type(known) == 'string' and string.match(known, '^(%d+) ') or '0'
  local count = math.min(tonumber(before) + 1, MOST_FAILURES)
  pcall('HSET', key, field, string.format('%d %s %s', count, time[1], id))
  pcall('EXPIRE', key, FAILURES_KEPT_S)
end
