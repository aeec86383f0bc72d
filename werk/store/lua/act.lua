-- Apply an operator's action to jobs, queues or workers (actions.py). A request that is sent again,
-- because its reply was lost, changes nothing and has the same outcomes.
--
-- A job is in one place before and after. The first write to its place is a removal, so the script
-- also runs when memory is full. A job stays as it is if its place, or the place where it is to go,
-- has another type; no error is raised.
--
-- No KEYS. ARGV  ACTION   REQUEST, its id   NOW_TEXT, the time as RQ writes it
--       WINDOW '' or '<first> <last>', indexes in the list of a queue between which all these jobs
--       were seen. Their entries are replaced by GONE_ENTRY, which workers drop
--       NAMES, what to act on
-- Constants      DEFAULT_TIMEOUT_S, LONGEST_S (registry.py), GONE_ENTRY (limits.py)
-- Returns the outcome for each name:
-- of a job 'gone' if it has no record; its status if the action does not apply to it; or else
--       retry    'retried': a failed or stopped job is back in its queue, as with RQ's requeue;
--                'limited': it waits for a slot of its rate limit
--       cancel   'cancelled': it was waiting, scheduled, deferred or ready, as with RQ's cancel;
--                'missed': it waits, but not in WINDOW
--       delete   'deleted', with all that RQ keeps of it; a running job is not
--       discard  the same, only if it has failed or finished
--       probe    its status if it is lost: its record says that it waits, is due or runs, and it is
--                in no place; or it is ready, where no job stays. Else 'fine'
--       restore  the same; and a lost job is back at the front of its queue, a ready one where RQ
--                would have put it
-- of a place
--       empty    '<most> failed:<queue>', '<most> queue:<queue>', ...: how many entries, at most
--                that many, were deleted from its start, with their jobs
--       compact  '<first> <last> <queue>', a range of its list: how many ids of deleted or expired
--                jobs were removed from it
-- of a queue
--       tidy     how many entries of jobs without a record were removed: jobs that plain RQ workers
--                had taken and not begun, and overdue executions
--       untidy   how many there are; nothing is removed
--       pause, resume  'yes', 'already', 'unknown': werk workers stop or resume taking its jobs
-- of a worker, by its name or by that of one of its slots
--       drain    'asked', 'already', 'not listening', 'unknown': it finishes its jobs and exits; a
--                slot of several finishes its job, and is not started again
-- of a worker's record: RQ has one for each slot
--       reap     by its key. 'gone': it has exited, and its record and its entries in the sets of
--                workers were removed; 'there': it may be alive, or own an execution
--       is_dead  the same outcome; nothing is removed

-- The place of a job by its status. A running job is in wip.
local PLACES = {created = 'queue', queued = 'queue', scheduled = 'scheduled', deferred = 'deferred',
  rate_limited = 'rate_limited', ready_to_enqueue = 'ready', finished = 'finished',
  failed = 'failed', stopped = 'failed', canceled = 'canceled'}
local WAITS = {created = true, queued = true, scheduled = true, deferred = true,
  rate_limited = true, ready_to_enqueue = true}

local READ_ONLY, ANSWERED_S = {probe = true, is_dead = true, untidy = true}, 60

local spots, spotted -- by id: the indexes of NAMES in WINDOW of this list
local function find_spots(list)
  spots, spotted = {}, list
  local wanted, first, last = {}, string.match(WINDOW, '^(%d+) (%d+)$')
  for _, id in ipairs(NAMES) do wanted[id] = true end
  for at, id in ipairs(try('LRANGE', list, first, last)) do
    if wanted[id] then spots[id] = first + at - 1 end
  end
end

-- Take a job out of its queue without a search. An index is valid until a job is pushed.
local function take_at(job)
  if not spots then find_spots(job.queue) end
  local index = spotted == job.queue and spots[job.id]
  if not index then return false end
  call('HDEL', job.key, GONE_ENTRY) -- a removal first: see lib.lua
  call('LSET', job.queue, index, GONE_ENTRY)
  return true
end

-- Remove a job from a place. Returns whether it was there.
local function take(job, place)
  if place == 'queue' and WINDOW ~= '' then return take_at(job) end
  if place == 'queue' then
    -- Only the first entry: a search for more takes long in a long list.
    if try('LREM', job.queue, 1, job.id) == 1 then return true end
    local hand = hand_with(job.id, job.origin)
    return hand and call('LREM', hand, 1, job.id) == 1
  end
  local key = P .. ':' .. place .. ':' .. job.origin
  return try('ZREM', place == 'rate_limited' and job.limit .. ':rate_limited' or key, job.id) == 1
end

local function expire(job)
  local ttl = whole(job.ttl, LONGEST_S)
  local dependencies = job_key(':' .. job.id) .. ':dependencies'
  for _, key in ipairs({job.key, job.key .. ':dependents', dependencies}) do
    if ttl == 0 then call('PERSIST', key) else call('EXPIRE', key, ttl) end
  end
end

local function free_slot(job)
  if job.rate_limit_key == '' then return end
  if try('ZREM', job.limit .. ':allowed', job.id) == 1 then fill_slots(job.limit) end
  spots = nil
end

local function retry(job)
  local has_room = fits(job.queue, 'list') and (slots_of(job) == 0 or has_slots(job.limit))
  if not has_room or not take(job, 'failed') then return job.status end
  call('HDEL', job.key, 'exc_info')
  call('HSET', job.key, 'started_at', '', 'ended_at', '')
  if job.timeout == '' then call('HSET', job.key, 'timeout', DEFAULT_TIMEOUT_S) end
  expire(job)
  if slots_of(job) == 0 then push(job); return 'retried' end
  wait_for_slot(job)
  return 'limited'
end

local function cancel(job)
  local canceled = P .. ':canceled:' .. job.origin
  local can_move = WAITS[job.status] and fits(canceled, 'zset')
  if not can_move then return job.status end
  local place = PLACES[job.status]
  if not take(job, place) then
    return place == 'queue' and WINDOW ~= '' and 'missed' or job.status
  end
  call('HSET', job.key, 'status', 'canceled')
  call('ZADD', canceled, now, job.id)
  free_slot(job)
  return 'cancelled'
end

-- Return the executions of a job in wip: how many are alive, and the list of those that are
-- overdue.
local function executions_of(job)
  local alive, over = 0, {}
  for _, execution in ipairs(try('ZRANGE', P .. ':executions:' .. job.id, 0, -1)) do
    local score = tonumber(try('ZSCORE', wip_key(job.origin), job.id .. ':' .. execution) or '')
    if score and score >= now then alive = alive + 1
    elseif score then over[#over + 1] = execution end
  end
  return alive, over
end

local function forget_all(job, executions)
  for _, execution in ipairs(executions) do
    local run = job.id .. ':' .. execution
    call('ZREM', wip_key(job.origin), run)
    local worker = try('HGET', P .. ':execution:' .. run, 'worker_name')
    forget(job.id, execution, type(worker) == 'string' and worker or '')
  end
end

local function delete(job)
  local alive, over = executions_of(job)
  local own = PLACES[job.status] -- nil for an unknown status: then take it from all places
  if job.status == 'started' or alive > 0 then return 'started' end
  if ACTION == 'discard' and own ~= 'failed' and own ~= 'finished' then return job.status end
  for _, place in pairs(own and {own} or PLACES) do take(job, place) end
  try('LREM', job.queue .. ':intermediate', 0, job.id)
  forget_all(job, over)
  call('UNLINK', job.key, job.key .. ':dependents', job_key(':' .. job.id) .. ':dependencies',
    P .. ':results:' .. job.id, P .. ':executions:' .. job.id)
  if job.group_id ~= '' then try('SREM', P .. ':group:' .. job.group_id, job.id) end
  free_slot(job)
  return 'deleted'
end

-- Return the overdue executions of a lost job; nil or false if it is not lost, or if RQ's own
-- clean-up may be running.
local function lost(job)
  local alive, over = executions_of(job)
  if job.origin == '' or alive > 0 then return nil end
  if #over > 0 and call('EXISTS', P .. ':clean_registries:' .. job.origin) == 1 then return nil end
  local is_lost = job.status == 'started' or job.status == 'ready_to_enqueue'
    or job.status == 'queued' and not try('LPOS', job.queue, job.id)
      and not hand_with(job.id, job.origin)
    or job.status == 'scheduled' and not try('ZSCORE', P .. ':scheduled:' .. job.origin, job.id)
  return is_lost and fits(job.queue, 'list') and fits(wip_key(job.origin), 'zset') and over
end

local function restore(job)
  local over = lost(job)
  if not over or job.rate_limit_key ~= '' and not has_slots(job.limit) then return 'fine' end
  if ACTION == 'probe' then return job.status end
  try('LREM', job.queue .. ':intermediate', 0, job.id)
  forget_all(job, over)
  local is_ready = job.status == 'ready_to_enqueue'
  if is_ready then take(job, 'ready') end
  call('HSET', job.key, 'worker_name', '')
  if is_ready and job.timeout == '' then call('HSET', job.key, 'timeout', DEFAULT_TIMEOUT_S) end
  expire(job)
  if is_ready and job.rate_limit_key ~= '' then
    wait_for_slot(job)
  else
    push(job, not is_ready or job.enqueue_at_front == '1')
  end
  return job.status
end

-- If the job of an entry has moved on to another place, only the entry is deleted.
local function empty(piece)
  local most, place = string.match(piece, '^(%d+) (.*)$')
  local key, kind = P .. ':' .. place, string.match(place, '^[^:]*')
  local ids = try(kind == 'queue' and 'LRANGE' or 'ZRANGE', key, 0, most - 1)
  if ids.err then return 0 end
  for _, id in ipairs(ids) do
    if kind == 'queue' then call('LREM', key, 1, id) else call('ZREM', key, id) end
    local job = load(id)
    if job and (PLACES[job.status] or kind) == kind then delete(job) end
  end
  return #ids
end

local function compact(page)
  local start, stop, queue = string.match(page, '^(%d+) (%d+) (.*)$')
  local list, found = P .. ':queue:' .. queue, 0
  for at, id in ipairs(try('LRANGE', list, start, stop)) do
    if call('EXISTS', job_key(id)) == 0 then
      call('LSET', list, start + at - 1, GONE_ENTRY)
      found = found + 1
    end
  end
  return found > 0 and call('LREM', list, 0, GONE_ENTRY) or 0
end

local function pause(queue)
  local is_known = try('SISMEMBER', P .. ':queues', P .. ':queue:' .. queue) == 1
    or call('EXISTS', P .. ':workers:' .. queue) == 1
  if ACTION == 'pause' and not is_known then return 'unknown' end
  local command, paused = ACTION == 'pause' and 'SADD' or 'SREM', own(P .. ':werk:paused', 'set')
  if call(command, paused, queue) == 1 then return 'yes' end
  return is_known and 'already' or 'unknown'
end

-- Ask only once: a second request would make the slot stop its job.
local function drain_slot(name)
  local worker = P .. ':worker:' .. name
  local birth, draining, asked =
    unpack(try('HMGET', worker, 'birth', 'werk_draining', 'shutdown_requested_date'))
  if not birth then return 'unknown' end
  if draining or asked then return 'already' end
  local listeners = call('PUBLISH', P .. ':pubsub:' .. name, '{"command": "shutdown"}')
  if listeners == 0 then return 'not listening' end
  try('HSET', worker, 'werk_draining', now_text)
  return 'asked'
end

-- A worker with several slots has no record of its own: RQ knows its slots, <name>.1 and so on.
-- All have one process and one subscription. If they differ, the most that was done is returned.
local function drain(name)
  local outcome, start = drain_slot(name), P .. ':worker:' .. name .. '.'
  if outcome ~= 'unknown' then return outcome end
  local found = {}
  for _, key in ipairs(try('SMEMBERS', P .. ':workers')) do
    local number = string.sub(key, 1, #start) == start and string.sub(key, #start + 1)
    if number and string.match(number, '^%d+$') and type(try('HGET', key, 'werk_slots')) == 'string'
    then found[drain_slot(name .. '.' .. number)] = true end
  end
  for _, done in ipairs({'asked', 'already', 'not listening'}) do
    if found[done] then return done end
  end
  return outcome
end

-- Return whether a worker has died, so that its record can be removed. A werk worker has a lease
-- from its first tick on, which writes werk_clock too. A worker that was only frozen registers
-- again. One with executions keeps its lease, because others rescue them when that is over.
local function is_dead(worker_key, name)
  if call('EXISTS', runs_of(name)) == 1 then return false end
  if call('EXISTS', worker_key) == 0 then return true end
  local leases, facts = P .. ':werk:leases', try('HMGET', worker_key, 'werk_lease', 'werk_clock')
  if not facts[1] or not facts[2] or not fits(leases, 'zset') then return false end
  return (tonumber(try('ZSCORE', leases, name) or '') or 0) < now
end

-- Check again here: the worker may have registered again meanwhile.
local function reap(worker_key)
  local name = string.sub(worker_key, #P + 9)
  if not is_dead(worker_key, name) then return 'there' end
  if ACTION == 'is_dead' then return 'gone' end
  call('UNLINK', worker_key)
  try('ZREM', P .. ':werk:leases', name)
  try('SREM', P .. ':workers', worker_key)
  for _, list in ipairs(try('SMEMBERS', P .. ':queues')) do
    try('SREM', P .. ':workers:' .. string.sub(list, #P + 8), worker_key)
  end
  return 'gone'
end

local of_jobs = {retry = retry, cancel = cancel, delete = delete, discard = delete, probe = restore,
  restore = restore}
local of_others = {empty = empty, compact = compact, tidy = drop_deleted, untidy = drop_deleted,
  pause = pause, resume = pause, drain = drain, reap = reap, is_dead = reap}

local function act(name)
  if of_others[ACTION] then return of_others[ACTION](name, READ_ONLY[ACTION]) end
  local job = load(name)
  return job and of_jobs[ACTION](job) or 'gone'
end

local answer_key = P .. ':werk:act:' .. REQUEST
local answered = not READ_ONLY[ACTION] and try('GET', answer_key)
if type(answered) == 'string' then return cjson.decode(answered) end
local outcomes = {}
for at, name in ipairs(NAMES) do outcomes[at] = tostring(act(name)) end
if not READ_ONLY[ACTION] then try('SET', answer_key, cjson.encode(outcomes), 'EX', ANSWERED_S) end
return outcomes
