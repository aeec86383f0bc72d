-- Return the records of jobs, for people and for failures.py. Writes nothing.
--
-- KEYS  the hashes of the jobs, then as many streams with their results
-- ARGV  LONGEST, bytes of the longest value that is shown   FIELDS, names of fields
-- Returns for each job the values of FIELDS, then those of RESULT_FIELDS (see job_record.py): from
--       the latest result, its id (entry) among them. A longer value is replaced by its length; a
--       missing one, or one in a key of another type, by nil.
--
-- Invariant: no record, whatever it holds, fails the page or makes it long.

local longest = tonumber(LONGEST)
local RESULTS = 20 -- times the longest: RQ keeps ten of a job, each in base64

local function ask(...)
  local reply = redis.pcall(...)
  return not (type(reply) == 'table' and reply.err) and reply
end

-- The size is asked first: a value of 64 MB would be copied to be left out.
local function value_of(key, field)
  local length = ask('HSTRLEN', key, field) or 0
  return length > longest and length or ask('HGET', key, field)
end

-- A stream whose size may not be asked for counts as empty.
local function latest(stream)
  local size = ask('MEMORY', 'USAGE', stream, 'SAMPLES', 50) or 0
  if size > RESULTS * longest then return {exc_string = size, return_value = size} end
  local entries = ask('XREVRANGE', stream, '+', '-', 'COUNT', 1) or {}
  local id, pairs_of_fields = unpack(entries[1] or {false, {}})
  local found, name = {}, nil
  for _, word in ipairs(pairs_of_fields) do
    if not name then
      name = word
    else
      found[name], name = #word > longest and #word or word, nil
    end
  end
  found.entry = id
  return found
end

local function record_of(job_key, stream)
  local record, result = {}, latest(stream)
  for _, field in ipairs(FIELDS) do record[#record + 1] = value_of(job_key, field) end
  for _, field in ipairs(RESULT_FIELDS) do record[#record + 1] = result[field] or false end
  return record
end

local records, jobs = {}, #KEYS / 2
for at = 1, jobs do records[at] = record_of(KEYS[at], KEYS[jobs + at]) end
return records
