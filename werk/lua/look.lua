-- All that `werk status` asks of Redis, in one reading. Writes nothing. O(queues + workers), not their jobs.
--
-- No KEYS, no ARGV.
-- Returns JSON: time (Redis's), suspended, tallies (what horses have counted), and, by name,
--       queues   name, waiting, since and since_by_rq (see oldest), running, scheduled, failed, paused, left
--                (jobs whose worker is gone), in_hand (jobs in the hands of stock workers), ready (dependents that RQ is about to enqueue)
--                and ready_since (a tick first saw some), served (what its workers say: task, fingerprint)
--       workers  name, host, pid, job, since (it is at that), done, failed, kind, free (runs any path), lease (until
--                when), ttl (RQ keeps it for so long without a beat), facts (its hash)
--
-- Invariant: what is of another type, or gone, counts as nothing: 0, '' or {}; no reading fails because of it.

local SERVED_S = 15 -- three beats of the catalog

local clock = redis_time()

local function ask(nothing, ...)
  local reply = try(...)
  local is_such = type(reply) == type(nothing) and not (type(reply) == 'table' and reply.err)
  return is_such and reply or nothing
end

local function hash_of(key)
  local flat, found = ask({}, 'HGETALL', key), {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

-- The first is the oldest, but for those enqueued at the front: so look at 0, 1, 2, 4, 8, ... too.
-- Returns since when it waits: on Redis's clock, as a number or null; and the oldest of those that
-- plain RQ has enqueued, as RQ writes it.
local function oldest(list, waiting)
  local found, by_rq, at = nil, '', 0
  while at < waiting do
    local h = ask({}, 'HMGET', job_key(ask('', 'LINDEX', list, at)), 'enqueued_at', 'werk_enqueued')
    local written, since = string.match(h[2] or '', '^(.*)|([%d.]+)$')
    local time = written == h[1] and tonumber(since)
    if time then found = math.min(found or time, time)
    elseif h[1] and (by_rq == '' or h[1] < by_rq) then by_rq = h[1] end
    at = math.max(1, at * 2)
  end
  return found or cjson.null, by_rq
end

local function look_at_queue(name)
  local list, failed = P .. ':queue:' .. name, P .. ':failed:' .. name
  local waiting = ask(0, 'LLEN', list)
  local since, since_by_rq = oldest(list, waiting)
  return {name = name, waiting = waiting, since = since, since_by_rq = since_by_rq,
    running = ask(0, 'ZCARD', wip_key(name)),
    scheduled = ask(0, 'ZCARD', P .. ':scheduled:' .. name), failed = ask(0, 'ZCARD', failed) - ask(0, 'ZCOUNT', failed, 0, clock),
    paused = ask(0, 'SISMEMBER', P .. ':werk:paused', name) == 1, left = ask(0, 'ZCOUNT', wip_key(name), '-inf', '(' .. clock),
    in_hand = ask(0, 'LLEN', list .. ':intermediate'), ready = ask(0, 'ZCARD', P .. ':ready:' .. name),
    ready_since = ask('', 'ZSCORE', P .. ':werk:ready', name),
    served = ask({}, 'ZRANGEBYSCORE', P .. ':werk:serves:' .. name, clock - SERVED_S, '+inf')}
end

local function whole(text) return tonumber(string.match(text or '', '^%d+$') or 0) end

local function look_at_worker(key, facts)
  local name, run = string.sub(key, #P + 9), ask({}, 'SMEMBERS', key .. ':executions')[1] or ''
  return {name = name, host = facts.hostname or '?', pid = whole(facts.pid), job = split(run) or cjson.null,
    since = ask('', 'HGET', P .. ':execution:' .. run, 'created_at'), done = whole(facts.successful_job_count),
    failed = whole(facts.failed_job_count), kind = facts.werk_lease and 'werk' or 'stock', free = facts.werk_free == '1',
    lease = ask('', 'ZSCORE', P .. ':werk:leases', name), ttl = ask(0, 'TTL', key), facts = facts}
end

local known, names, queues, workers = {}, {}, {}, {}
for _, key in ipairs(ask({}, 'SMEMBERS', P .. ':queues')) do known[string.sub(key, #P + 8)] = true end
for _, name in ipairs(ask({}, 'SMEMBERS', P .. ':werk:paused')) do known[name] = true end
local keys = ask({}, 'SMEMBERS', P .. ':workers')
table.sort(keys)
for _, key in ipairs(keys) do
  local facts = hash_of(key)
  if facts.birth then workers[#workers + 1] = look_at_worker(key, facts) end -- or it has expired
  for name in string.gmatch(facts.birth and facts.queues or '', '[^,]+') do known[name] = true end
end
for name in pairs(known) do names[#names + 1] = name end
table.sort(names)
for i, name in ipairs(names) do queues[i] = look_at_queue(name) end

return cjson.encode({time = clock, suspended = call('EXISTS', P .. ':suspended') == 1, queues = queues, workers = workers,
  tallies = hash_of(P .. ':werk:tallies')})
