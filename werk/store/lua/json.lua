-- Enqueue by name with arguments in JSON, for programs without werk or Python: docs/wire.md.
--
-- This file followed by enqueue.lua is one script (client/foreign.py). Here the call is checked
-- against the catalog and written as a pickle; KEYS and ARGV become those that enqueue.lua takes,
-- and it does the rest.
--
-- KEYS  none
-- ARGV  PREFIX, RQ's key prefix   JOB_ID: letters, digits, - and _; sent again, it is enqueued once
--       NAME of the task   ARGUMENTS: a JSON array, or an object of named ones
-- Returns what enqueue.lua returns; or an error that begins with WERK and names what is wrong.
--
-- Invariant: writes nothing.

local MAX_TEXT = 1024 * 1024 -- bytes: Redis does nothing else meanwhile
local MAX_DEPTH = 90
local MAX_DIGITS = 15 -- a Lua number is exact to 2^53
local WANTED = {str = 'text', int = 'a whole number', float = 'a number', bool = 'true or false',
  list = 'an array', dict = 'an object', json = 'JSON', choice = 'one of its values'}
local ANY = {'json'}

local function refuse(why) error({err = 'WERK ' .. why}) end

-- The pickle (protocol 2) so far; how far ARGUMENTS is read; what is read there.
local out, at, place = {}, 1, NAME

local function put(opcode) out[#out + 1] = opcode end
local function bad(why) refuse(place .. ' ' .. why) end
local function next_byte()
  at = string.find(ARGUMENTS, '%S', at) or #ARGUMENTS + 1
  return string.sub(ARGUMENTS, at, at)
end

local function put_text(value)
  local rest = string.gsub(value, '[\194-\223][\128-\191]', ' ')
  rest = string.gsub(rest, '[\224-\239][\128-\191][\128-\191]', ' ')
  rest = string.gsub(rest, '[\240-\244][\128-\191][\128-\191][\128-\191]', ' ')
  local is_wrong = string.find(rest, '[\128-\255]')
    or string.find(value, '\224[\128-\159]') or string.find(value, '\240[\128-\143]') -- too long
    or string.find(value, '\237[\160-\191]') or string.find(value, '\244[\144-\191]')
  if is_wrong then bad('is not valid UTF-8') end
  put('X' .. struct.pack('<I4', #value) .. value)
end

local function put_scalar(value, is_float)
  if value == nil then put('N')
  elseif type(value) == 'string' then put_text(value)
  elseif type(value) == 'boolean' then put(value and '\136' or '\137')
  elseif type(value) ~= 'number' then bad('has values that JSON cannot say; enqueue it with werk')
  elseif is_float then put('G' .. struct.pack('>d', value))
  elseif math.abs(value) < 2 ^ 31 then put('J' .. struct.pack('<i4', value))
  else put('\138\8' .. struct.pack('<i8', value)) end
end

-- cjson has accepted ARGUMENTS as JSON; the functions that follow find the ends of its parts.
local function read_string()
  local from = at
  repeat
    at = string.find(ARGUMENTS, '["\\]', at + 1)
    local is_escape = string.sub(ARGUMENTS, at, at) == '\\'
    if is_escape then at = at + 1 end
  until not is_escape
  at = at + 1
  return cjson.decode('[' .. string.sub(ARGUMENTS, from, at - 1) .. ']')[1]
end

local function read_number()
  local digits = string.match(ARGUMENTS, '^-?%d+', at)
  if not digits then bad('is not JSON') end
  local rest = string.match(ARGUMENTS, '^%.?%d*[eE]?[+-]?%d*', at + #digits)
  at = at + #digits + #rest
  local value, kind = tonumber(digits .. rest), rest == '' and 'int' or 'float'
  if math.abs(value) == math.huge then bad('is too large for a float') end
  return value, kind, #string.gsub(digits, '-', '')
end

-- Return a text, a number, a boolean or nil, and its kind; for a number also how many digits it has
-- before the point.
local function read_scalar(first)
  if first == '"' then return read_string(), 'str' end
  local word = string.match(ARGUMENTS, '^%a+', at)
  if word ~= 'true' and word ~= 'false' and word ~= 'null' then return read_number() end
  at = at + #word
  if word == 'null' then return nil, 'null' end
  return word == 'true', 'bool'
end

local function each(close, item)
  at = at + 1
  local count = 0
  while next_byte() ~= close do
    count = count + 1
    item(count)
    if next_byte() == ',' then at = at + 1 end
  end
  at = at + 1
end

local function each_member(item)
  local seen = {}
  each('}', function()
    local name = read_string()
    if seen[name] then bad('has a key twice') end
    seen[name] = true
    next_byte() -- the colon
    at = at + 1
    item(name)
  end)
end

local function put_choice(choices, value)
  for _, choice in ipairs(choices) do
    if choice[1] == value or choice[2] == value then
      return put_scalar(choice[2], type(choice[2]) == 'number' and choice[2] % 1 ~= 0)
    end
  end
  bad('is not ' .. WANTED.choice)
end

-- Write the value that begins here, if it is of this kind: a Type of arguments.py.
local function put_value(kind, depth)
  local first, name = next_byte(), kind[1]
  local inner = type(kind[2]) == 'table' and kind[2] or ANY
  if depth > MAX_DEPTH then bad('is nested too deeply; flatten it') end
  if name == 'optional' then return put_value(first == 'n' and ANY or inner, depth) end
  if not WANTED[name] then
    bad('is a ' .. name .. ', which JSON cannot say; enqueue it with werk')
  end
  local is_json = name == 'json'
  if first == '[' then
    if name ~= 'list' and not is_json then bad('is not ' .. WANTED[name]) end
    put('](')
    each(']', function() put_value(inner, depth + 1) end)
    put('e')
  elseif first == '{' then
    if name ~= 'dict' and not is_json then bad('is not ' .. WANTED[name]) end
    put('}(')
    each_member(function(key) put_text(key); put_value(ANY, depth + 1) end)
    put('u')
  else
    local value, found, digits = read_scalar(first)
    if name == 'choice' then return put_choice(kind[3], value) end
    local is_float = found == 'float' or name == 'float'
    local is_right = name == found or is_json or name == 'float' and found == 'int'
    if not is_right then bad('is not ' .. WANTED[name]) end
    if not is_float and (digits or 0) > MAX_DIGITS then
      bad('has too many digits for JSON; send text')
    end
    put_scalar(value, is_float)
  end
end

-- Return the task's parameters: a list of those that are filled in order, those by name, and the
-- ones that take the rest of either; and which names are secret (Signature._is_secret).
local function parameters_of(task)
  local found, has = {places = {}, named = {}, secret = {}, is_rest_secret = false}, {}
  for _, own in ipairs(task.parameters) do
    has[own.name] = true
    if own.kind == 'positional' then found.places[#found.places + 1] = own end
    if own.kind == 'var_positional' then found.rest = own
    elseif own.kind == 'var_keyword' then found.rest_named = own
    elseif not own.positional_only then found.named[own.name] = own end
  end
  for _, name in ipairs(task.secret) do
    found.secret[name] = true
    found.is_rest_secret = found.is_rest_secret or not has[name]
  end
  return found
end

-- Write ARGUMENTS as a pickle of the call. Return it, and the arguments as people see them.
local function written_call(task)
  local takes, shown, filled = parameters_of(task), {}, {}
  local function take(own, key)
    filled[own.name], place = true, NAME .. ': ' .. (key or own.name)
    next_byte()
    local from = at
    put_value(own.type, 1)
    local is_secret = takes.secret[own.name] or key and takes.secret[key]
      or own.kind == 'var_positional' and takes.is_rest_secret
    shown[#shown + 1] = (key and key .. '=' or '')
      .. (is_secret and '***' or string.sub(ARGUMENTS, from, at - 1))
    place = NAME
  end

  local first = next_byte()
  put('\128\2(')
  put_text(task.path)
  put('N')
  if first == '[' then
    put('(')
    each(']', function(count)
      local too_many = 'takes ' .. #takes.places .. ' arguments, not more'
      take(takes.places[count] or takes.rest or bad(too_many))
    end)
    put('t}')
  else
    put(')}(')
    each_member(function(key)
      put_text(key)
      take(takes.named[key] or takes.rest_named or bad('takes no ' .. key), key)
    end)
    put('u')
  end
  for _, own in ipairs(task.parameters) do
    if own.required and not filled[own.name] then bad('is missing ' .. own.name) end
  end
  put('t.')
  return table.concat(out), table.concat(shown, ', ')
end

local function timestamp(time)
  local days, second, year, month = math.floor(time[1] / 86400), time[1] % 86400, 1970, 1
  local function length_of_year()
    return (year % 4 == 0 and year % 100 ~= 0 or year % 400 == 0) and 366 or 365
  end
  while days >= length_of_year() do days = days - length_of_year(); year = year + 1 end
  local lengths = {31, length_of_year() - 337, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}
  while days >= lengths[month] do days = days - lengths[month]; month = month + 1 end
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', year, month, days + 1,
    math.floor(second / 3600), math.floor(second / 60) % 60, second % 60, time[2])
end

local function cut(text)
  if #text <= DESCRIPTION_LENGTH then return text end
  return (string.gsub(string.sub(text, 1, DESCRIPTION_LENGTH), '[\192-\255][\128-\191]*$', ''))
end

-- Return the created_at of this job: sent again, it is that of the first time.
local function created_at()
  local found = redis.pcall('HGET', PREFIX .. ':job:' .. JOB_ID, 'created_at')
  if type(found) ~= 'string' then found = redis.pcall('GET', PREFIX .. ':werk:sent:' .. JOB_ID) end
  return type(found) == 'string' and found or timestamp(redis.call('TIME'))
end

local function check()
  if not ARGUMENTS or #ARGV > 4 then
    refuse('takes 4 words: key prefix, job id, task, arguments in JSON')
  end
  if not string.find(JOB_ID, '^[%w_-]+$') then refuse('job id: use letters, digits, - and _') end
  if #ARGUMENTS > MAX_TEXT then
    bad('takes no more than ' .. MAX_TEXT .. ' bytes of JSON; store it and send where')
  end
  local is_json, first = pcall(cjson.decode, ARGUMENTS), next_byte()
  if not is_json or first ~= '[' and first ~= '{' then
    bad('takes a JSON array of arguments, or an object of named ones')
  end
end

-- Append to `words` the values of the fields with these names.
local function append(words, names, fields)
  for _, name in ipairs(names) do words[#words + 1] = assert(fields[name], name) end
end

-- Return the KEYS and ARGV of enqueue.lua.
local function request()
  check()
  local page = redis.call('HGET', PREFIX .. ':werk:catalog', NAME)
  if not page then refuse('unknown task ' .. NAME .. ': no worker has published it') end
  local task, words = cjson.decode(page), {}
  local data, arguments = written_call(task)
  append(words, REQUEST_NAMES, {prefix = PREFIX, place = 'back', due = '0', ttl = '0',
    created_at = created_at(), queue = task.queue, timeout = task.timeout,
    result_ttl = task.result_ttl, failure_ttl = task.failure_ttl, task = NAME,
    max_crashes = task.max_crashes, retry = tostring(task.retry), retry_delay = task.retry_delay,
    hold_ms = '0', webhooks = '', served = NAME .. ' ' .. task.fingerprint, require_worker = '0'})
  append(words, JOB_NAMES, {id = JOB_ID, data = data,
    description = cut(NAME .. '(' .. arguments .. ')'), hold = '', pointer = ''})
  return {PREFIX .. ':queues', PREFIX .. ':queue:' .. task.queue,
    PREFIX .. ':scheduled:' .. task.queue}, words
end

local is_right, KEYS, ARGV = pcall(request)
if not is_right then -- Redis 7 makes the error a text
  return type(KEYS) == 'table' and KEYS or redis.error_reply(KEYS)
end
