-- Enqueue by name with arguments in JSON, for programs without werk or Python: docs/wire.md.
--
-- This file followed by enqueue.lua is one script. Here the call is checked by the catalog and written as a pickle;
-- then KEYS and ARGV are those that enqueue.lua takes, and it does the rest.
--
-- KEYS  none
-- ARGV  1 RQ's key prefix   2 an id for the job: letters, digits, - and _; sent again, it is enqueued once
--       3 the task   4 its arguments: a JSON array, or an object of named ones
-- Returns what enqueue.lua returns; or an error that begins with WERK and says what to send instead.
--
-- Invariant: writes nothing.

local MAX_TEXT = 1024 * 1024 -- bytes: Redis does nothing else meanwhile
local MAX_DEPTH = 90
local MAX_DIGITS = 15 -- a Lua number is exact to 2^53
local DESCRIPTION_LENGTH = 200 -- client.py

local function refuse(why) error({err = 'WERK ' .. why}) end

-- Returns `text` (JSON) as a pickle of the call, protocol 2, and the arguments as people see them.
local function written_call(task, text)
  local out, at, place = {}, 1, task.name
  local WANTED = {str = 'text', int = 'a whole number', float = 'a number', bool = 'true or false', list = 'an array',
    dict = 'an object', json = 'JSON', choice = 'one of its values'}
  local ANY = {'json'}

  local function put(opcode) out[#out + 1] = opcode end
  local function bad(why) refuse(place .. ' ' .. why) end
  local function next_byte()
    at = string.find(text, '%S', at) or #text + 1
    return string.sub(text, at, at)
  end

  local function put_text(value)
    local rest = string.gsub(value, '[\194-\223][\128-\191]', ' ')
    rest = string.gsub(rest, '[\224-\239][\128-\191][\128-\191]', ' ')
    rest = string.gsub(rest, '[\240-\244][\128-\191][\128-\191][\128-\191]', ' ')
    local too_long = string.find(value, '\224[\128-\159]') or string.find(value, '\240[\128-\143]')
    if string.find(rest, '[\128-\255]') or too_long or string.find(value, '\237[\160-\191]') or string.find(value, '\244[\144-\191]') then
      bad('is not valid UTF-8')
    end
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

  -- The text is JSON, cjson has said so: then these find the ends of its parts.
  local function read_string()
    local from = at
    repeat
      at = string.find(text, '["\\]', at + 1)
      local is_escape = string.sub(text, at, at) == '\\'
      if is_escape then at = at + 1 end
    until not is_escape
    at = at + 1
    return cjson.decode('[' .. string.sub(text, from, at - 1) .. ']')[1]
  end

  local function read_number()
    local digits = string.match(text, '^-?%d+', at)
    if not digits then bad('is not JSON') end
    local rest = string.match(text, '^%.?%d*[eE]?[+-]?%d*', at + #digits)
    at = at + #digits + #rest
    local value, kind = tonumber(digits .. rest), rest == '' and 'int' or 'float'
    if math.abs(value) == math.huge then bad('is too large for a float') end
    return value, kind, #string.gsub(digits, '-', '')
  end

  -- Returns a text, a number, a boolean or nil, and its kind; of a number how many digits it has before the point.
  local function read_scalar(first)
    if first == '"' then return read_string(), 'str' end
    local word = string.match(text, '^%a+', at)
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
    return seen
  end

  local function put_choice(choices, value)
    for _, choice in ipairs(choices) do
      if choice[1] == value or choice[2] == value then return put_scalar(choice[2], type(choice[2]) == 'number' and choice[2] % 1 ~= 0) end
    end
    bad('is not ' .. WANTED.choice)
  end

  -- Write the value that begins here, if it is of this kind: a Type of arguments.py.
  local function put_value(kind, depth)
    local first, name = next_byte(), kind[1]
    local inner = type(kind[2]) == 'table' and kind[2] or ANY
    if depth > MAX_DEPTH then bad('is nested too deeply; flatten it') end
    if name == 'optional' then return put_value(first == 'n' and ANY or inner, depth) end
    if not WANTED[name] then bad('is a ' .. name .. ', which JSON cannot say; enqueue it with werk') end
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
      if name ~= found and not is_json and not (name == 'float' and found == 'int') then bad('is not ' .. WANTED[name]) end
      if not is_float and (digits or 0) > MAX_DIGITS then bad('has too many digits for JSON; send text') end
      put_scalar(value, is_float)
    end
  end

  local places, named, has, rest, rest_named = {}, {}, {}, nil, nil
  for _, own in ipairs(task.parameters) do
    has[own.name] = true
    if own.kind == 'positional' then places[#places + 1] = own end
    if own.kind == 'var_positional' then rest = own elseif own.kind == 'var_keyword' then rest_named = own
    elseif not own.positional_only then named[own.name] = own end
  end
  local secret, is_rest_secret = {}, false -- Signature._is_secret
  for _, name in ipairs(task.secret) do
    secret[name] = true
    is_rest_secret = is_rest_secret or not has[name]
  end

  local shown, filled = {}, {}
  local function take(own, key)
    filled[own.name], place = true, task.name .. ': ' .. (key or own.name)
    next_byte()
    local from = at
    put_value(own.type, 1)
    local is_secret = secret[own.name] or key and secret[key] or own.kind == 'var_positional' and is_rest_secret
    shown[#shown + 1] = (key and key .. '=' or '') .. (is_secret and '***' or string.sub(text, from, at - 1))
    place = task.name
  end

  if #text > MAX_TEXT then bad('takes no more than ' .. MAX_TEXT .. ' bytes of JSON; store it and send where') end
  local is_json = pcall(cjson.decode, text)
  local first = next_byte()
  if not is_json or first ~= '[' and first ~= '{' then bad('takes a JSON array of arguments, or an object of named ones') end
  put('\128\2(')
  put_text(task.path)
  put('N')
  if first == '[' then
    put('(')
    each(']', function(count)
      take(places[count] or rest or bad('takes ' .. #places .. ' arguments, not more'))
    end)
    put('t}')
  else
    put(')}(')
    each_member(function(key)
      put_text(key)
      take(named[key] or rest_named or bad('takes no ' .. key), key)
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
  local function length_of_year() return (year % 4 == 0 and year % 100 ~= 0 or year % 400 == 0) and 366 or 365 end
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

local function request(P, id, name, text, more)
  if not text or more then refuse('takes 4 words: key prefix, job id, task, arguments in JSON') end
  if not string.find(id, '^[%w_-]+$') then refuse('job id: use letters, digits, - and _') end
  local page = redis.call('HGET', P .. ':werk:catalog', name)
  if not page then refuse('no worker has told of a task called ' .. name) end
  local task, time = cjson.decode(page), redis.call('TIME')
  task.name = name
  local data, arguments = written_call(task, text)
  local created_at = redis.pcall('HGET', P .. ':job:' .. id, 'created_at') -- sent again: the same sending
  if type(created_at) ~= 'string' then created_at = redis.pcall('GET', P .. ':werk:sent:' .. id) end
  if type(created_at) ~= 'string' then created_at = timestamp(time) end
  return {P .. ':queues', P .. ':queue:' .. task.queue, P .. ':scheduled:' .. task.queue},
    {P, 'back', '0', '0', created_at, task.queue, task.timeout, task.result_ttl, task.failure_ttl, name, task.max_crashes,
      tostring(task.retry), task.retry_delay, '0', '', name .. ' ' .. task.fingerprint, '0',
      id, data, cut(name .. '(' .. arguments .. ')'), '', ''}
end

local is_right, KEYS, ARGV = pcall(request, unpack(ARGV))
if not is_right then return type(KEYS) == 'table' and KEYS or redis.error_reply(KEYS) end -- 7 makes it a text
