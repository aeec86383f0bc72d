-- Return what people see of jobs. Writes nothing.
--
-- KEYS  1.. their hashes, then as many streams with their results
-- ARGV  1 bytes of the longest value that is shown   2.. names of fields
-- Returns for each job {value of each field, exc_string, return_value of the latest result}.
--       Of what is longer its length; of what is not there, or of another type, nil.
--
-- Invariant: no record, whatever it holds, fails the page or makes it long.

local longest = tonumber(ARGV[1])
local RESULTS = 20 -- times the longest: RQ keeps ten of a job, each in base64

local function ask(...)
  local reply = redis.pcall(...)
  return not (type(reply) == 'table' and reply.err) and reply
end

-- How much memory a value takes; 0 where that may not be asked. More fields than a job has are not looked at.
local function size_of(key)
  return ask('MEMORY', 'USAGE', key, 'SAMPLES', 50) or 0
end

local function cut(value)
  return type(value) == 'string' and #value > longest and #value or value
end

-- All in one call where none can be long, for that is what most are like.
local function values_of(key)
  if size_of(key) <= longest then return ask('HMGET', key, unpack(ARGV, 2)) or {} end
  local values = {}
  for at = 2, #ARGV do
    local length = ask('HSTRLEN', key, ARGV[at]) or 0
    values[at - 1] = length > longest and length or ask('HGET', key, ARGV[at])
  end
  return values
end

-- The size first: a result of 64 MB would be copied to be left out.
local function latest(stream)
  local size = size_of(stream)
  if size > RESULTS * longest then return {exc_string = size, return_value = size} end
  local entries, found = ask('XREVRANGE', stream, '+', '-', 'COUNT', 1) or {}, {}
  local fields = entries[1] and entries[1][2] or {}
  for at = 1, #fields, 2 do
    found[fields[at]] = cut(fields[at + 1])
  end
  return found
end

local records = {}
for at = 1, #KEYS / 2 do
  local record, values = {}, values_of(KEYS[at])
  for field = 1, #ARGV - 1 do record[field] = cut(values[field] or false) end
  local result = latest(KEYS[#KEYS / 2 + at])
  record[#ARGV], record[#ARGV + 1] = result.exc_string or false, result.return_value or false
  records[at] = record
end
return records
