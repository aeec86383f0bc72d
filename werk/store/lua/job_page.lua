-- Return a page of the jobs in one place, for `werk jobs` and for actions on many jobs. Writes
-- nothing.
--
-- A list is read from its end to its start, by indexes from its start. Entries that are added at
-- its end do not matter, and after removals a page may repeat some entries. Only entries that are
-- added at its start can push unread entries out of the next page: so each page reads SLACK more
-- entries, and begins before MARK, the last entry of the page before.
--
-- KEYS  the place, a list or a sorted set
-- ARGV  KIND 'list', 'first' (a sorted set from its start) or 'last' (from its end)
--       IS_WIP '1' if the entries are executions
--       TASK, or '' for all
--       START, how the ids begin   AT_ONCE, how many entries to read
--       POSITION and MARK, as the page before has returned them; '' to begin
--       FIELDS, names of fields, the first of which is werk_task: for a job of plain RQ, the path
--       of its function is returned instead, or '' if the path is too long
-- Returns {is_last, POSITION, MARK, job, ...}, a job as {the values of FIELDS, id, score}. Jobs
--       without a record are left out. A key of another type is empty. A long value is cut off.
--       POSITION is the index in a list, or the score in a sorted set, of MARK

local SLACK = 200 -- entries
local LONGEST = 1000 -- bytes of a value

local try, at_once, jobs = redis.pcall, tonumber(AT_ONCE), {}

local function ask(nothing, ...)
  local reply = try(...)
  local wrong = type(reply) == 'table' and reply.err
  if wrong and not string.find(wrong, 'WRONGTYPE', 1, true) then error(wrong) end
  return not wrong and type(reply) == type(nothing) and reply or nothing
end

-- Return the task of a job of plain RQ: its description begins with the path of the function.
local function path_of(job)
  if ask(0, 'HSTRLEN', job, 'description') > LONGEST then return '' end
  return string.match(ask('', 'HGET', job, 'description'), '^[^(]*')
end

-- Add a job to the page. Most jobs have another task, so the task is checked first.
local function add(entry, score)
  local job = P .. ':job:' .. entry
  if IS_WIP == '1' then
    entry = string.match(entry, '^(.*):[^:]*$') or entry
    job = P .. ':job:' .. entry
  end
  if TASK ~= '' then
    local task = try('HGET', job, 'werk_task')
    if task ~= TASK and (type(task) == 'string' or path_of(job) ~= TASK) then return end
  end
  if START ~= '' and string.sub(entry, 1, #START) ~= START then return end
  local row, is_empty = ask({}, 'HMGET', job, unpack(FIELDS)), true
  for at = 1, #FIELDS do
    local value = row[at] or ''
    if value ~= '' then is_empty = false end
    row[at] = #value > LONGEST and string.sub(value, 1, LONGEST) or value
  end
  if is_empty and ask(0, 'EXISTS', job) == 0 then return end
  if row[1] == '' then row[1] = path_of(job) end
  row[#FIELDS + 1], row[#FIELDS + 2] = entry, score
  jobs[#jobs + 1] = row
end

local function read_list(list)
  local stop = tonumber(POSITION) or ask(0, 'LLEN', list)
  local first = math.max(0, stop - at_once)
  local entries = ask({}, 'LRANGE', list, first, stop + SLACK - 1)
  local begin = #entries
  for at = 1, #entries do
    if entries[at] == MARK then begin = at - 1; break end
  end
  for at = begin, 1, -1 do add(entries[at], '') end
  return first == 0, first, entries[1] or ''
end

-- Return how many entries a sorted set has up to POSITION and MARK. Entries with the same score are
-- in the order of their bytes.
local function passed(set, range)
  if MARK == '' then return 0 end
  local before = KIND == 'first' and {'-inf', '(' .. POSITION} or {'(' .. POSITION, '+inf'}
  local low = ask(0, 'ZCOUNT', set, unpack(before))
  local high = low + ask(0, 'ZCOUNT', set, POSITION, POSITION)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local entry = ask({}, range, set, middle, middle)[1] or ''
    local is_before = entry == MARK or (entry < MARK) == (KIND == 'first')
    if is_before then low = middle + 1 else high = middle end
  end
  return low
end

local function read_set(set)
  local range = KIND == 'first' and 'ZRANGE' or 'ZREVRANGE'
  local from = passed(set, range)
  local flat = ask({}, range, set, from, from + at_once - 1, 'WITHSCORES')
  for at = 1, #flat, 2 do add(flat[at], flat[at + 1]) end
  return #flat < 2 * at_once, flat[#flat] or POSITION, flat[#flat - 1] or MARK
end

local is_last, position, mark = (KIND == 'list' and read_list or read_set)(KEYS[1])
return {is_last and 1 or 0, tostring(position), mark, unpack(jobs)}
