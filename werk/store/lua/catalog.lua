-- Return entries of the catalog, for callers and `werk tasks`. Writes nothing.
--
-- Nothing that the catalog contains can make this script fail or its reply long.
--
-- KEYS  1 the catalog
-- ARGV  LONGEST_PAGE, in bytes   MOST_PAGES   TASK, whose page to return; without it, all pages
-- Returns task, JSON, task, JSON, ... with '' in place of a page that is too long. A catalog of
--       another type, and the pages beyond MOST_PAGES, are named like a task, with '' as well.

local LONGEST_NAME = 200
local catalog, longest, most = KEYS[1], tonumber(LONGEST_PAGE), tonumber(MOST_PAGES)
local left, found = 64 * longest, {}

local function add(name, page)
  found[#found + 1] = string.sub(name, 1, LONGEST_NAME)
  found[#found + 1] = page
end

local names = TASK and {TASK} or redis.pcall('HKEYS', catalog)
local wrong = names.err or redis.pcall('HSTRLEN', catalog, names[1] or '')
wrong = type(wrong) == 'table' and wrong.err or names.err
if wrong then
  if string.find(wrong, 'WRONGTYPE', 1, true) then add(catalog .. ', which is not a hash', '') end
  return found
end
for at = 1, math.min(#names, most) do
  local length, page = redis.call('HSTRLEN', catalog, names[at]), ''
  if length <= longest and length <= left and #names[at] <= LONGEST_NAME then
    page, left = redis.call('HGET', catalog, names[at]), left - length
  end
  if page then add(names[at], page) end
end
if #names > most then add((#names - most) .. ' more', '') end
return found
