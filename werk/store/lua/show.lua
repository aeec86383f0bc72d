-- Return what people see of jobs, and what actions.py asks of failed ones. Writes nothing.
--
-- KEYS  1.. their hashes, then as many streams with their results
-- ARGV  1 bytes of the longest value that is shown   2.. names of fields
-- Returns for each job {value of each field, exc_string, return_value, id of the latest result}.
--       Of what is longer its length; of what is not there, or of another type, nil.
--
-- Invariant: no record, whatever it holds, fails the page or makes it long.

local longest = tonumber(ARGV[1])
local RESULTS = 20 -- times the longest: RQ keeps ten of a job, each in base64

local function ask(...)
  local reply = redis.pcall(...)
  return not (type(reply) == 'table' and reply.err) and reply
end

-- The size first: a value of 64 MB would be copied to be left out.
local function field_of(key, field)
  local length = ask('HSTRLEN', key, field) or 0
  return length > longest and length or ask('HGET', key, field)
end

-- Of what may not be asked for its size, 0.
local function latest(stream)
  local size = ask('MEMORY', 'USAGE', stream, 'SAMPLES', 50) or 0
  if size > RESULTS * longest then return {exc_string = size, return_value = size} end
  local entries = ask('XREVRANGE', stream, '+', '-', 'COUNT', 1) or {}
  local id, fields = unpack(entries[1] or {false, {}})
  local found = {}
  for at = 1, #fields, 2 do
    found[fields[at]] = #fields[at + 1] > longest and #fields[at + 1] or fields[at + 1]
  end
  found.id = id
  return found
end

local records = {}
for at = 1, #KEYS / 2 do
  local record, result = {}, latest(KEYS[#KEYS / 2 + at])
  for field = 2, #ARGV do record[field - 1] = field_of(KEYS[at], ARGV[field]) end
  for _, name in ipairs({'exc_string', 'return_value', 'id'}) do record[#record + 1] = result[name] or false end
  records[at] = record
end
return records
