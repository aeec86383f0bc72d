-- All that `werk status` asks of Redis, in one reading. Writes nothing. O(queues + workers), not their jobs.
--
-- No KEYS, no ARGV.
-- Returns {Redis's time, 1 if all workers are suspended, queues, workers}
--       queue   {name, waiting, since when the oldest waits or '', running, scheduled, failed, 1 if paused,
--               jobs whose worker is gone, jobs in the hands of stock workers, tasks that its workers define differently}
--       worker  {name, then FIELDS, until when its lease lasts or nil, what it is at or '', since when}
--
-- Invariant: what is of another type, or gone, counts as nothing; no reading fails because of it.

local SERVED_S = 15 -- three beats of the catalog
local FIELDS = {'hostname', 'pid', 'state', 'birth', 'last_heartbeat', 'queues', 'successful_job_count', 'failed_job_count',
  'werk_lease', 'werk_free', 'werk_horse', 'werk_moved', 'werk_draining', 'shutdown_requested_date'}

local clock = redis_time()

local function count(...)
  local reply = try(...)
  return type(reply) == 'number' and reply or 0
end

local function list_of(...)
  local reply = try(...)
  return reply.err and {} or reply
end

local function text_of(...)
  local reply = try(...)
  return type(reply) == 'string' and reply or ''
end

-- The first is the oldest, but for those enqueued at the front: so look at 0, 1, 2, 4, 8, ... too.
local function oldest(list, waiting)
  local found, at = '', 0
  while at < waiting do
    local id = text_of('LINDEX', list, at)
    local since = id ~= '' and text_of('HGET', job_key(id), 'enqueued_at') or ''
    if since ~= '' and (found == '' or since < found) then found = since end
    at = at == 0 and 1 or at * 2
  end
  return found
end

-- Tasks of which live workers of this queue say different things: a deploy half done.
local function differing(queue)
  local seen, names = {}, {}
  for _, member in ipairs(list_of('ZRANGEBYSCORE', P .. ':werk:serves:' .. queue, clock - SERVED_S, '+inf')) do
    local task = string.match(member, '^(%S+) ')
    if task and seen[task] == 1 then names[#names + 1] = task end
    if task then seen[task] = (seen[task] or 0) + 1 end
  end
  return names
end

local paused = {}
for _, name in ipairs(list_of('SMEMBERS', P .. ':werk:paused')) do paused[name] = 1 end

local function look_at_queue(name)
  local list = P .. ':queue:' .. name
  local waiting, failed = count('LLEN', list), P .. ':failed:' .. name
  return {name, waiting, oldest(list, waiting), count('ZCARD', wip_key(name)), count('ZCARD', P .. ':scheduled:' .. name),
    count('ZCARD', failed) - count('ZCOUNT', failed, 0, clock), paused[name] or 0,
    count('ZCOUNT', wip_key(name), '-inf', '(' .. clock), count('LLEN', list .. ':intermediate'), differing(name)}
end

local function look_at_worker(key)
  local fields = list_of('HMGET', key, unpack(FIELDS))
  if not fields[4] then return end -- no birth: it has expired
  local name = string.sub(key, #P + 9)
  local run = list_of('SMEMBERS', key .. ':executions')[1] or ''
  local since = run ~= '' and text_of('HGET', P .. ':execution:' .. run, 'created_at') or ''
  local lease = try('ZSCORE', P .. ':werk:leases', name)
  return {name, fields, type(lease) == 'string' and lease, split(run) or '', since}
end

local names, queues, workers = {}, {}, {}
for _, list in ipairs(list_of('SMEMBERS', P .. ':queues')) do names[string.sub(list, #P + 8)] = true end
for name in pairs(paused) do names[name] = true end
for _, key in ipairs(list_of('SMEMBERS', P .. ':workers')) do
  local worker = look_at_worker(key)
  if worker then
    workers[#workers + 1] = worker
    for name in string.gmatch(worker[2][6] or '', '[^,]+') do names[name] = true end
  end
end
for name in pairs(names) do queues[#queues + 1] = look_at_queue(name) end

return {tostring(clock), call('EXISTS', P .. ':suspended'), queues, workers}
