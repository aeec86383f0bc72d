-- Return what every `werk cron` has published, and the calls with --once-per from crontabs. Writes
-- nothing, and takes O(lines).
--
-- No KEYS, no ARGV. Constants, from cron_health.py: MOST_JOBS, MOST_IN_ALL.
-- Returns JSON: time (Redis's), damaged (keys of another type, or too large to read), and
--       crons  host and path of a crontab, with the record
--       jobs   stamp of a line, and its last jobs: tick, id, status ('' if it has no record)
--       calls  queue and call, with its record
-- Records are returned as they are in Redis: cron_health.py reads them.

local LONGEST_CRONS, LONGEST_HASH, LONGEST_STATUS = 8 * 1024 * 1024, 4 * 1024 * 1024, 20 -- bytes
local LONGEST_ID = 860

local read = 0 -- jobs so far

local function is_job(one)
  return type(one) == 'table' and type(one[1]) == 'string' and type(one[2]) == 'string'
    and #one[2] <= LONGEST_ID
end

local function last_jobs(text)
  local found, is_list, list = {}, pcall(cjson.decode, text)
  if not is_list or type(list) ~= 'table' then return nil end
  for at = 1, MOST_JOBS do
    local one = list[at]
    if is_job(one) and read < MOST_IN_ALL then
      local status = ask('', 'HGET', job_key(one[2]), 'status')
      found[#found + 1] = {one[1], one[2], string.sub(status, 1, LONGEST_STATUS)}
      read = read + 1
    end
  end
  return found
end

local function rows(key, longest, read_row)
  local found = {}
  for name, text in pairs(hash_of(key, longest)) do
    local row = read_row(text)
    if row then found[#found + 1] = {name, row} else damaged[key .. ' ' .. name] = true end
  end
  return found
end

local function as_it_is(text) return text end

local start = P .. ':werk:'
local found = {
  time = redis_time(),
  crons = rows(start .. 'crons', LONGEST_CRONS, as_it_is),
  jobs = rows(start .. 'cron-jobs', LONGEST_HASH, last_jobs),
  calls = rows(start .. 'once-calls', LONGEST_HASH, as_it_is),
}
found.damaged = sorted(damaged)
return cjson.encode(found)
