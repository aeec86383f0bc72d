-- The supervisor's script, once a second: renew the leases of its slots and their executions,
-- rescue the jobs of dead workers, move due jobs, publish the catalog. It needs no leader: any
-- number of workers may run it.
--
-- After this script each job is in exactly one place: where it was; or, if no process runs its
-- execution any more, in its queue (after too many crashes in wip, as an execution of the heir);
-- or, if it was due, ready, or stuck in a hand (hands.lua), in its queue. The same holds for final
-- failures that wait for their handler; above MOST_GAVE_UP the oldest are dropped.
--
-- KEYS  the queues that the worker serves
-- ARGV  SLOTS, a JSON list of lists, one for each slot: its name as a worker, the generation of its
--       horse, the execution that the horse runs ('' for none), the id of the horse's latest
--       execution ('' before the first), how many log lines were dropped, and the executions that
--       the next horse has to fail (null while the supervisor decides about those of a dead horse).
--       The first slot is the heir of what other workers have left
--       NOW_TEXT and NOW: the host's time, as RQ writes it and in Unix seconds   LEASE, in seconds
--       WORKER_TTL, seconds until a worker's hash expires   MOVES_DUE '1' to move due jobs
--       AHEAD_S, seconds that the host's clock is ahead of Redis's, '' if not yet known
--       SERVED, a JSON list of "<task> <fingerprint>", or []
--       PAGES, a JSON list of task, JSON, task, JSON, ... for the catalog, or []
--       DEATH, what the attempt of a worker that died shows: see give_back
-- Returns Redis's TIME in seconds, then events, each {what, ...}:
--       {'unborn'} the hash of a slot has expired, and nothing was done: write all and tick again
--       {'lost', run, slot} the execution that this slot's horse runs no longer owns its job
--       {'requeued' | 'fail' | 'gone' | 'later', run, crashes, worker} a rescue, or a slot's ended
--               execution (slots.lua): see give_back. After 'fail' the heir must fail the job; this
--               is repeated until SLOTS has the order
--       {'dropped', id, place, why} a due or ready entry that belongs to no job was removed
--       {'unfinished', run} a failure was recorded; the job's dependents have to be enqueued
--       {'more'} more jobs are due or ready, or more workers dead: tick again

local heir = slots[1].name
local served, pages = cjson.decode(SERVED), cjson.decode(PAGES)
local death, shared_death = {trace = DEATH}, {trace = DEATH, is_excused = true}

local DUE_AT_ONCE = 500
local READY_AT_ONCE = 500
local READY_S = 3 -- RQ takes some ms to enqueue a dependent; moving it earlier is harmless
local COMMITTED_S, MARKS_AT_ONCE = 3, 100 -- the time RQ has before another horse helps
local SEEN_S = 600 -- how long werk:ready outlives the last worker that wrote it
local DEAD_AT_ONCE = 20
local TRY_AGAIN_S = 5
local LONGEST_FINISH_S = 3600 -- werk writes no later time than this
local ELSEWHERE = { -- the statuses of a job that has left this place
  scheduled = {queued = 1, started = 1, finished = 1, failed = 1, deferred = 1, stopped = 1,
    canceled = 1, rate_limited = 1, ready_to_enqueue = 1},
  ready = {queued = 1, started = 1, finished = 1, failed = 1, deferred = 1, stopped = 1,
    canceled = 1, rate_limited = 1, scheduled = 1}}

-- Return whether RQ's own finish may still be running: its worker may be frozen or cut off.
local function is_ending(run)
  local until_then = tonumber(try('HGET', P .. ':execution:' .. run, 'werk_ending') or 0) or 0
  return clock < until_then and until_then < clock + LONGEST_FINISH_S
end

-- Return the crash that the death of a worker is for one of its executions. When one of several
-- slots dies, the whole process has died, so no job is to blame. The worker's own record may have
-- expired by now, and an execution's record says it only after a tick.
local function crash_of(run, worker_key)
  local is_shared = call('HEXISTS', worker_key, 'werk_slots') == 1
    or whole(try('HGET', P .. ':execution:' .. run, 'werk_slots'), MOST_COUNTED) > 1
  return is_shared and shared_death or death
end

local function rescue()
  local silent = call('ZRANGEBYSCORE', leases, '-inf', clock, 'LIMIT', 0, DEAD_AT_ONCE)
  if #silent == DEAD_AT_ONCE then event('more') end
  for _, dead in ipairs(silent) do
    local is_done, its_key = true, own(P .. ':worker:' .. dead, 'hash')
    for _, run in ipairs(open_runs(dead)) do
      local what, crashes, crash = 'later', 0, crash_of(run, its_key)
      if not is_ending(run) then what, crashes = give_back(run, dead, crash, heir, clock) end
      if what == 'later' then is_done = false else event(what, run, crashes, dead) end
    end
    put_back_failures(dead)
    empty_hands(dead, KEYS)
    watch_hands(dead, clock + lease_s)
    if is_done then call('ZREM', leases, dead)
    else call('ZADD', leases, clock + TRY_AGAIN_S, dead); ask_for_generations() end
    call('HDEL', its_key, 'werk_horse') -- a frozen worker claims nothing before its next tick
  end
end

-- Move a job from a place to its queue, or have it wait for a slot of its rate limit, as RQ does.
-- Returns whether its entry in the place was removed. If the job's status names another place, only
-- the entry goes. An entry without a job is dropped: the job has expired, or another program wrote
-- the entry. If a key of the rate limit has another type, the job stays where it is.
local function enqueue(id, place, queue)
  local job, from = load(id), P .. ':' .. place .. ':' .. queue
  if not job then
    call('ZREM', from, id)
    local is_gone = call('EXISTS', job_key(id)) == 0
    event('dropped', id, place, is_gone and 'there is no such job' or 'its key is not a hash')
    return true
  end
  if ELSEWHERE[place][job.status] then call('ZREM', from, id); return true end
  local is_limited = slots_of(job) > 0
  if is_limited and not has_slots(job.limit) then return false end
  local at_front = job.enqueue_at_front == '1'
    or (job.enqueue_at_front_on_retry == '1' and job.ended_at ~= '')
  job.origin, job.queue = queue, P .. ':queue:' .. queue
  call('ZREM', from, id)
  call('HSET', job.key, 'origin', queue)
  if job.timeout == '' then call('HSET', job.key, 'timeout', DEFAULT_TIMEOUT_S) end
  local ttl = whole(job.ttl, LONGEST_S)
  if ttl > 0 then
    call('EXPIRE', job.key, ttl)
    call('EXPIRE', job.key .. ':dependents', ttl)
    call('EXPIRE', job_key(':' .. id) .. ':dependencies', ttl)
    call('EXPIRE', P .. ':results:' .. id, ttl)
  end
  if not is_limited then push(job, at_front); return true end
  if at_front then call('HSET', job.key, 'enqueue_at_front', '1') end
  wait_for_slot(job)
  return true
end

local function enqueue_all(ids, place, queue, at_once)
  local has_room = false
  for _, id in ipairs(ids) do has_room = enqueue(id, place, queue) or has_room end
  if #ids == at_once and has_room then event('more') end
end

-- While a plain RQ scheduler holds the lock of a queue, it moves the jobs. werk never takes it.
local function move_due(list)
  local queue = string.sub(list, #P + 8)
  local scheduled = P .. ':scheduled:' .. queue
  if call('EXISTS', P .. ':scheduler-lock:' .. queue) == 1 then return end
  if not fits(scheduled, 'zset') or not fits(list, 'list') then return end
  local due = call('ZRANGEBYSCORE', scheduled, '-inf', clock, 'LIMIT', 0, DUE_AT_ONCE)
  enqueue_all(due, 'scheduled', queue, DUE_AT_ONCE)
end

-- RQ marks the dependents of a job as ready in one transaction, and then enqueues them one by one.
-- Those that stay in the set were left by a horse that died or was replaced. Their scores come from
-- a host's clock, so werk:ready holds the time since which the set has had entries. RQ watches the
-- jobs that it enqueues, and skips those that were moved before.
local function move_ready(list)
  local queue = string.sub(list, #P + 8)
  local ready, seen_ready = P .. ':ready:' .. queue, own(P .. ':werk:ready', 'zset')
  if not fits(ready, 'zset') or not fits(list, 'list') then return end
  if call('EXISTS', ready) == 0 then call('ZREM', seen_ready, queue); return end
  local seen = tonumber(call('ZSCORE', seen_ready, queue) or '')
  if not seen then
    call('ZADD', seen_ready, clock, queue)
    call('EXPIRE', seen_ready, SEEN_S)
  elseif clock >= seen + READY_S then
    enqueue_all(call('ZRANGE', ready, 0, READY_AT_ONCE - 1), 'ready', queue, READY_AT_ONCE)
  end
end

-- RQ enqueues the dependents of a failed job after it has committed the failure, and step.lua does
-- not enqueue them. Until that is done, werk:committed has the execution and the name of the worker
-- that has to do it. If that worker's lease has expired, or it is a slot of ours whose horse has
-- gone on to another job, the heir's horse does it.
local function find_unfinished()
  local committed = own(P .. ':werk:committed', 'zset')
  local until_then = clock - COMMITTED_S
  local marks = call('ZRANGEBYSCORE', committed, '-inf', until_then, 'LIMIT', 0, MARKS_AT_ONCE)
  for _, mark in ipairs(marks) do
    local run, by = string.match(mark, '^(%S+:%S+) (.*)$')
    local lease = by and tonumber(call('ZSCORE', leases, by) or '') or 0
    local own = slots[by]
    local is_left = not run or own and run ~= own.run or not own and lease < clock
    if is_left then call('ZREM', committed, mark) end
    if is_left and run then
      call('ZADD', committed, clock, run .. ' ' .. heir)
      event('unfinished', run)
    end
  end
end

local function serve(list)
  local serves = own(P .. ':werk:serves:' .. string.sub(list, #P + 8), 'zset')
  for _, task in ipairs(served) do call('ZADD', serves, clock, task) end
  call('ZREMRANGEBYSCORE', serves, '-inf', '(' .. clock - MONTH_S)
  call('EXPIRE', serves, MONTH_S)
end

-- Forget the tasks that no worker has served for a month. The worker's own pages are written after
-- this, with the current time.
local function forget_old_pages()
  local catalog = own(P .. ':werk:catalog', 'hash')
  local old = call('HGETALL', catalog)
  for i = 1, #old, 2 do
    local is_read, page = pcall(cjson.decode, old[i + 1])
    local seen = is_read and type(page) == 'table' and tonumber(page.seen) or 0
    if seen < clock - MONTH_S then call('HDEL', catalog, old[i]) end
  end
end

for _, slot in ipairs(slots) do
  if call('HEXISTS', own(slot.key, 'hash'), 'birth') == 0 then event('unborn'); return events end
end
for _, slot in ipairs(slots) do beat(slot) end
renew_leases()
for _, slot in ipairs(slots) do
  check(slot)
  empty_stuck_hands(slot.name, slot.key, KEYS)
end
rescue()
empty_silent_hands(KEYS, lease_s)
if MOVES_DUE == '1' then for _, list in ipairs(KEYS) do move_due(list) end end
for _, list in ipairs(KEYS) do move_ready(list) end
find_unfinished()
drop_failures()
if #served > 0 then for _, list in ipairs(KEYS) do serve(list) end end
if #pages > 0 then
  forget_old_pages()
  call('HSET', P .. ':werk:catalog', unpack(pages))
  call('EXPIRE', P .. ':werk:catalog', MONTH_S)
end
return events
