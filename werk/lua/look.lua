-- All that `werk status` asks of Redis, in one reading. Writes nothing. O(queues + workers), not their jobs.
--
-- No KEYS, no ARGV.
-- Returns JSON: time (Redis's), suspended, tallies (what horses have counted), and
--       queues   name, waiting, since (the oldest waits), running, scheduled, failed, paused, left (jobs whose worker
--                is gone), in_hand (jobs in the hands of stock workers), differing (tasks that its workers define so)
--       workers  name, facts (its hash), lease (until when), job, since (it is at that), ttl
--                (RQ keeps it for so long without a beat); lease, job and since may be missing
--
-- Invariant: what is of another type, or gone, counts as nothing; no reading fails because of it.

local SERVED_S = 15 -- three beats of the catalog

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
  return type(reply) == 'string' and reply or nil
end

local function hash_of(key)
  local flat, found = list_of('HGETALL', key), {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

-- The first is the oldest, but for those enqueued at the front: so look at 0, 1, 2, 4, 8, ... too.
local function oldest(list, waiting)
  local found, at = nil, 0
  while at < waiting do
    local id = text_of('LINDEX', list, at)
    local since = id and text_of('HGET', job_key(id), 'enqueued_at')
    if since and (not found or since < found) then found = since end
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
  return table.concat(names, ', ')
end

local paused = {}
for _, name in ipairs(list_of('SMEMBERS', P .. ':werk:paused')) do paused[name] = true end

local function look_at_queue(name)
  local list = P .. ':queue:' .. name
  local waiting, failed = count('LLEN', list), P .. ':failed:' .. name
  return {name = name, waiting = waiting, since = oldest(list, waiting), running = count('ZCARD', wip_key(name)),
    scheduled = count('ZCARD', P .. ':scheduled:' .. name),
    failed = count('ZCARD', failed) - count('ZCOUNT', failed, 0, clock), paused = paused[name] or false,
    left = count('ZCOUNT', wip_key(name), '-inf', '(' .. clock), in_hand = count('LLEN', list .. ':intermediate'),
    differing = differing(name)}
end

local function look_at_worker(key)
  local facts, name = hash_of(key), string.sub(key, #P + 9)
  if not facts.birth then return end -- it has expired
  local run = list_of('SMEMBERS', key .. ':executions')[1]
  return {name = name, facts = facts, lease = text_of('ZSCORE', P .. ':werk:leases', name), job = run and split(run),
    since = run and text_of('HGET', P .. ':execution:' .. run, 'created_at'), ttl = count('TTL', key)}
end

local names, queues, workers = {}, {}, {}
for _, list in ipairs(list_of('SMEMBERS', P .. ':queues')) do names[string.sub(list, #P + 8)] = true end
for name in pairs(paused) do names[name] = true end
for _, key in ipairs(list_of('SMEMBERS', P .. ':workers')) do
  local worker = look_at_worker(key)
  if worker then
    workers[#workers + 1] = worker
    for name in string.gmatch(worker.facts.queues or '', '[^,]+') do names[name] = true end
  end
end
for name in pairs(names) do queues[#queues + 1] = look_at_queue(name) end

return cjson.encode({time = clock, suspended = call('EXISTS', P .. ':suspended') == 1, queues = queues, workers = workers,
  tallies = hash_of(P .. ':werk:tallies')})
