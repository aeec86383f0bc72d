-- Functions for scripts that read for operators: a key of another type counts as empty (0, '' or
-- {}), and is named in `damaged`. No function here writes or raises an error.

local damaged = {}

local function ask(nothing, command, key, ...)
  local reply = try(command, key, ...)
  local is_error = type(reply) == 'table' and reply.err
  if is_error and string.find(reply.err, 'WRONGTYPE', 1, true) then damaged[key] = true end
  return not is_error and type(reply) == type(nothing) and reply or nothing
end

-- The size is read first. If the Redis user may not ask for it, the key counts as small.
local function hash_of(key, longest)
  local found = {}
  if ask(0, 'MEMORY', 'USAGE', key, 'SAMPLES', 0) > longest then
    damaged[key] = true
    return found
  end
  local flat = ask({}, 'HGETALL', key)
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

local function sorted(set)
  local found = {}
  for name in pairs(set) do found[#found + 1] = name end
  table.sort(found)
  return found
end
