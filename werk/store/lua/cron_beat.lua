-- Write the record of a `werk cron` with Redis's time as its beat, and the jobs that it enqueued.
--
-- KEYS  the records of crons, the last jobs of their lines (hashes), the stamps of lines
-- ARGV  FIELD, which record it is   RECORD, a JSON object   IS_NEW, 1 for the first beat of a
--       process   TICKS, a JSON list: for each job the stamp of its line, its tick in UTC, its id
-- Returns the beat. A first beat drops records without a beat for a month, keeps only the latest
-- MOST_CRONS, and drops the jobs of lines that no longer have a stamp.

local MOST_CRONS, MOST_STAMPS = 1000, 10000
local crons, jobs, stamps = unpack(KEYS)

local time = redis.call('TIME')
local beat = time[1] + time[2] / 1000000

-- A damaged record, without a beat, stays: `werk status` names it.
local function drop_old_crons()
  local found, flat = {}, redis.call('HGETALL', crons)
  for at = 1, #flat, 2 do
    local since = tonumber(string.match(flat[at + 1], '^{"beat":([%d.]+)'))
    if since then found[#found + 1] = {since, flat[at]} end
  end
  table.sort(found, function(one, other) return one[1] > other[1] end)
  for at, one in ipairs(found) do
    if at > MOST_CRONS or one[1] < beat - MONTH_S then redis.call('HDEL', crons, one[2]) end
  end
end

local function drop_old_jobs()
  if redis.call('HLEN', jobs) > MOST_STAMPS then return redis.call('DEL', jobs) end
  for _, stamp in ipairs(redis.call('HKEYS', jobs)) do
    if not redis.call('ZSCORE', stamps, stamp) then redis.call('HDEL', jobs, stamp) end
  end
end

local function is_job(one)
  return type(one) == 'table' and type(one[1]) == 'string' and type(one[2]) == 'string'
end

-- Add a job to the last jobs of a line. Two processes may write the same job.
local function add_job(stamp, tick, id)
  local found, is_list, list = {{tick, id}}, pcall(cjson.decode, redis.call('HGET', jobs, stamp))
  for at = 1, is_list and type(list) == 'table' and MOST_JOBS or 0 do
    if is_job(list[at]) and list[at][1] ~= tick then found[#found + 1] = list[at] end
  end
  table.sort(found, function(one, other) return one[1] > other[1] end)
  redis.call('HSET', jobs, stamp, cjson.encode({unpack(found, 1, MOST_JOBS)}))
end

-- A script that begins with a removal may write even when memory is full.
redis.call('HDEL', crons, FIELD)
redis.call('HSET', crons, FIELD, string.format('{"beat":%.3f,', beat) .. string.sub(RECORD, 2))
if IS_NEW == '1' then
  drop_old_crons()
  drop_old_jobs()
end
for _, job in ipairs(cjson.decode(TICKS)) do add_job(unpack(job)) end
return string.format('%.3f', beat)
