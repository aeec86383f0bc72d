-- Enqueue jobs of one task, each once, however often this is sent.
--
-- KEYS  1 the set of queues   2 the queue, a list   3 its scheduled set
-- ARGV  1 RQ's key prefix   2 'back', 'front', 'at', 'in', 'at front' or 'in front'
--       3 with 'at', the time: Unix seconds; with 'in', seconds from now on Redis's clock
--       4 seconds until a job expires, 0 never
--       5 created_at, which tells this sending from another's with the same id   6 name of the queue
--       7 timeout   8 result_ttl   9 failure_ttl   10 task   11 max_crashes   12 retries, 0 none   13 seconds before the first
--       14 milliseconds that a hold lasts   15 webhooks, as RQ's JSON, or ''
--       16 "<task> <fingerprint>" as the caller has it, '' to ask nothing of it   17 '1': enqueue only if somebody serves that
--       then of each job: id, data, description, and two keys or '':
--         hold: whoever is enqueued takes it, and until it ends nothing else with the same hold is
--         pointer: to the last job enqueued with it; while that is active nothing else with it is
-- Returns for each job 1: it is enqueued, by this sending or by the same one before; or
--   {'id', id}: its id is another's    {'hold', id}: job `id` holds it off
--   {'active', id, status}: so does the one that the pointer names
--   {'overdue', id, status}: it is enqueued, though that one is active, and has been for a day
--   and last, if it was asked, what to warn of (see doubt) or ''; that alone, if because of it nothing is enqueued
--
-- Invariant: after it each job is in the queue or in the scheduled set, and its queue is in the set of
-- queues; or nothing has changed. All checks come first, but that of the type of the queue, or of the
-- scheduled set, which is the first write itself; and that is one that Redis refuses at maxmemory. So nothing
-- is half written.
-- What few jobs need is asked and made for those few alone: this runs once for nearly each job.

local queues, queue, scheduled = KEYS[1], KEYS[2], KEYS[3]
local P, place, due, ttl, created_at, origin = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local result_ttl, task, retries, hold_ms, webhooks = tonumber(ARGV[8]), ARGV[10], tonumber(ARGV[12]), ARGV[14], ARGV[15]
local own, FIRST, WORDS = ARGV[16], 18, 5
local is_scheduled, is_in = place ~= 'back' and place ~= 'front', string.sub(place, 1, 2) == 'in'
local status_now = is_scheduled and 'scheduled' or 'queued'
local DAY_MS = 24 * 3600 * 1000
local POINTER_MS = 30 * DAY_MS
local LIVE_S = 15 -- catalog.py
local VERSION = 1 -- of a record; wire.py
local SENT_MEMORY_S = 60 -- far longer than any budget: within it a job may be sent again
local LONGEST_RETRY_DELAY_S = 3600
local is_short_lived = ttl > 0 and ttl < SENT_MEMORY_S or result_ttl >= 0 and result_ttl < SENT_MEMORY_S
local call, try = redis.call, redis.pcall
local clock = call('TIME')

local wrong -- what to reply because of a key of another type
local function fits(key, wanted)
  local found = call('TYPE', key).ok
  if found == wanted or found == 'none' then return true end
  local what = 'WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. wanted
  wrong = redis.error_reply(what .. '; is something else using it?')
end

-- What stands in each hold and pointer, by this sending too. A hold: the id and created_at of its job.
local stands = {}
local function read(key) return stands[key] or fits(key, 'string') and call('GET', key) end

-- Returns what to reply for a job that was sent before or whose id is another's, nothing for others.
local function known(id, job)
  if not fits(job, 'hash') then return end
  if call('EXISTS', job) == 1 then return call('HGET', job, 'created_at') == created_at and 1 or {'id', id} end
  if read(P .. ':werk:sent:' .. id) == created_at then return 1 end
end

-- Returns what to reply for a job that another holds off, nothing for others.
local function held(id, hold)
  local holder = read(hold)
  if holder == id .. ' ' .. created_at then return 1 end -- the same sending, whose job has come and gone
  if holder then return {'hold', string.match(holder, '^%S*')} end
end

local function active(pointer)
  local last = read(pointer)
  if not last then return end
  if stands[pointer] then return {'active', last, status_now} end
  local status = try('HGET', P .. ':job:' .. last, 'status')
  if not ({queued = true, scheduled = true, deferred = true, started = true})[status] then return end
  local age_ms = POINTER_MS - call('PTTL', pointer)
  return {age_ms > DAY_MS and 'overdue' or 'active', last, status}
end

local is_listed = try('SISMEMBER', queues, queue)
if type(is_listed) == 'table' then return fits(queues, 'set') or wrong end

local replies, new, ids = {}, {}, {}
for i = FIRST, #ARGV, WORDS do
  local id, hold, pointer = ARGV[i], ARGV[i + 3], ARGV[i + 4]
  local job, reply = P .. ':job:' .. id, nil
  if is_short_lived or call('EXISTS', job) == 1 then reply = known(id, job) end
  if hold ~= '' then reply = reply or held(id, hold) end
  if pointer ~= '' then reply = reply or active(pointer) end
  if wrong then return wrong end
  replies[#replies + 1] = reply or 1
  if not reply or reply ~= 1 and reply[1] == 'overdue' then
    new[#new + 1], ids[#ids + 1] = i, id
    if hold ~= '' then stands[hold] = id .. ' ' .. created_at end
    if pointer ~= '' then stands[pointer] = id end
  end
end
if own ~= '' then
  local function members(...)
    local reply = try(...)
    return reply.err and {} or reply
  end

  -- Returns '' if a live worker serves the task as the caller has it, or a stock one listens, which serves anything;
  -- 'differs' if live workers serve another version, 'unknown' if they do not know it, 'unheard' if there is none.
  local function doubt()
    local serves, prefix = P .. ':werk:serves:' .. origin, task .. ' '
    local since = clock[1] - LIVE_S
    local beat = try('ZSCORE', serves, own)
    if type(beat) == 'string' and tonumber(beat) >= since then return '' end
    local live = members('ZRANGEBYSCORE', serves, since, '+inf')
    for _, other in ipairs(live) do
      if string.sub(other, 1, #prefix) == prefix then return 'differs' end
    end
    if #live > 0 then return 'unknown' end
    for _, worker in ipairs(members('SMEMBERS', P .. ':workers:' .. origin)) do
      local known = members('HMGET', worker, 'birth', 'werk_lease')
      if known[1] and not known[2] then return '' end
    end
    return 'unheard'
  end

  local warning = doubt()
  if warning ~= '' and #new > 0 and ARGV[17] == '1' then return {warning} end
  replies[#replies + 1] = warning
end
if #new == 0 then return replies end

local placed
if is_scheduled then
  local scored = {}
  if is_in then due = string.format('%.3f', clock[1] + clock[2] / 1000000 + due) end
  for _, id in ipairs(ids) do scored[#scored + 1] = due; scored[#scored + 1] = id end
  placed = try('ZADD', scheduled, unpack(scored))
else
  placed = try(place == 'front' and 'LPUSH' or 'RPUSH', queue, unpack(ids))
end
if type(placed) == 'table' then
  fits(is_scheduled and scheduled or queue, is_scheduled and 'zset' or 'list')
  return wrong or placed
end
if is_listed == 0 then call('SADD', queues, queue) end

local function write_whole(job, data, description)
  -- What step.lua reads and writes comes first: in a small hash Redis looks at one field after the other.
  call('HSET', job, 'status', status_now, 'origin', origin, 'data', data, 'timeout', ARGV[7], 'result_ttl', ARGV[8],
    'werk_task', task, 'werk_v', VERSION, 'success_callback_name', '', 'failure_callback_name', '',
    'stopped_callback_name', '', 'started_at', '', 'worker_name', '', 'last_heartbeat', '', 'ended_at', '',
    'created_at', created_at, 'description', description, 'failure_ttl', ARGV[9], 'werk_max_crashes', ARGV[11],
    'group_id', '', 'werk_enqueued', string.format('%s|%s.%06d', created_at, clock[1], clock[2]),
    is_scheduled and 'created_at' or 'enqueued_at', created_at) -- a scheduled one has no enqueued_at yet
  local is_front = is_scheduled and string.find(place, 'front', 1, true)
  if is_front then call('HSET', job, 'enqueue_at_front', 1) end
  if retries > 0 then call('HSET', job, 'retries_left', retries) end
  if webhooks ~= '' then call('HSET', job, 'webhooks', webhooks) end
  if ttl > 0 then call('HSET', job, 'ttl', ARGV[4]); call('EXPIRE', job, ARGV[4]) end
end

-- Returns seconds before each retry: doubled each time, and 10 % either way, not all at once.
local function retry_intervals()
  local seconds = {}
  for n = 1, retries do
    local exact = math.min(ARGV[13] * 2 ^ math.min(n - 1, 12), LONGEST_RETRY_DELAY_S)
    seconds[n] = math.floor(exact * (0.9 + math.random() / 5) + 0.5)
  end
  return cjson.encode(seconds)
end

local first
if retries > 0 then math.randomseed(clock[2]) end
for _, i in ipairs(new) do
  local id, data, description, hold, pointer = unpack(ARGV, i, i + 4)
  local job = P .. ':job:' .. id
  if first then -- a third of the time
    call('COPY', first, job)
    call('HSET', job, 'data', data, 'description', description)
  else
    write_whole(job, data, description)
    first = job
  end
  if retries > 0 then call('HSET', job, 'retry_intervals', retry_intervals()) end
  if is_short_lived then call('SET', P .. ':werk:sent:' .. id, created_at, 'EX', SENT_MEMORY_S) end
  if hold ~= '' then call('SET', hold, stands[hold], 'PX', hold_ms) end
  if pointer ~= '' then call('SET', pointer, id, 'PX', POINTER_MS) end
end
return replies
