-- Return the records of jobs, for `werk show`, `werk failed` and the dashboard. Writes nothing.
--
-- No record, whatever it holds, can make this script fail or its reply long.
--
-- KEYS  the hashes of the jobs, then as many streams with their results
-- ARGV  LONGEST, the largest value that is returned, in bytes   MOST, how many results of a job
--       FIELDS, names of fields
-- Returns for each job the values of FIELDS, then its latest results, the last one first: each a
--       list of the values of RESULT_FIELDS (job_record.py), among them the id of the entry. A
--       larger value is replaced by its length. A missing value, or one in a key of another type,
--       is nil.

local longest = tonumber(LONGEST)
local RESULTS = 20 -- times LONGEST: RQ keeps ten results of a job, each in base64

local function ask(...)
  local reply = redis.pcall(...)
  return not (type(reply) == 'table' and reply.err) and reply
end

-- The size is asked first, so that a value of 64 MB is not copied only to be left out.
local function value_of(key, field)
  local length = ask('HSTRLEN', key, field) or 0
  return length > longest and length or ask('HGET', key, field)
end

-- If the Redis user may not ask for the size, the stream counts as small.
local function entries_of(stream)
  local size = ask('MEMORY', 'USAGE', stream, 'SAMPLES', 50) or 0
  if size > RESULTS * longest then
    return {{false, {'exc_string', size, 'return_value', size}}}
  end
  return ask('XREVRANGE', stream, '+', '-', 'COUNT', MOST) or {}
end

local function result_of(id, pairs_of_fields)
  local found, name = {}, nil
  for _, word in ipairs(pairs_of_fields) do
    if not name then
      name = word
    else
      local is_long = type(word) == 'string' and #word > longest
      found[name], name = is_long and #word or word, nil
    end
  end
  found.entry = id
  local result = {}
  for at, field in ipairs(RESULT_FIELDS) do result[at] = found[field] or false end
  return result
end

local function record_of(job_key, stream)
  local record, results = {}, {}
  for _, field in ipairs(FIELDS) do record[#record + 1] = value_of(job_key, field) end
  for at, entry in ipairs(entries_of(stream)) do results[at] = result_of(unpack(entry)) end
  record[#record + 1] = results
  return record
end

local records, jobs = {}, #KEYS / 2
for at = 1, jobs do records[at] = record_of(KEYS[at], KEYS[jobs + at]) end
return records
