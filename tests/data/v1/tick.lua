local LEASE_S, OWNED_S, LISTED_S, MONTH_S, DEFAULT_TIMEOUT_S, LONGEST_S, MOST_CRASHES = 15, 90, 150, 2592000, 180, 1000000000, 10000
local P = 'rq'
local WORKER, NOW_TEXT, NOW, GENERATION, RUN, LAST, LEASE, WORKER_TTL, MOVES_DUE, DROPPED, AHEAD_S, SERVED, PAGES = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13]
-- Prepended to tick.lua, act.lua and the small scripts, after the constants of scripts.py: P, RQ's
-- key prefix, and others.
--
-- A waiting job is in its queue (a list), a running one in wip:<queue>, others in scheduled:,
-- finished: or failed:<queue> (sorted sets). An execution is named "<job id>:<execution id>", here
-- `run`; its place in wip is what makes it the job's own: whoever removes that first decides what
-- becomes of the job. Invariant: after each function here that writes, each job it is about is in
-- exactly one of these places, or in the one where it was.
--
-- All of it reads and checks before it writes. What may be of another type is asked first where
-- that decides, and written with `try` where it does not: then Redis refuses that one write, and
-- nothing else. A key of one job, execution or worker alone, or of werk's, that is of another type
-- is removed and written anew (see `own`); one of a queue stays as it is. A number in a record may
-- be any text: `whole` bounds it. So no error is replied. The first write is a removal: Redis 6.2
-- lets that pass at maxmemory, and then all that follows (7.0 and newer: flags=allow-oom).

local call, try = redis.call, redis.pcall

local COUNTED, UNCOUNTED = true, false
local MOST_COUNTED = 1000000000000000

local function job_key(id) return 'rq:job:' .. id end
local function wip_key(queue) return 'rq:wip:' .. queue end
local function runs_of(worker) return 'rq:worker:' .. worker .. ':executions' end
local function split(run) return string.match(run, '^(.*):([^:]*)$') end

-- May this key hold such a value? Asked first, so that a key of another type stops nothing half
-- way.
local function fits(key, kind)
  local found = call('TYPE', key).ok
  return found == kind or found == 'none'
end

-- Have a key of ours hold such a value or nothing. Returns the key.
local function own(key, kind)
  if not fits(key, kind) then call('UNLINK', key) end
  return key
end

-- The whole number that a text of a record stands for, from 0 on; 0 for what is none.
local function whole(text, most)
  local number = tonumber(text or 0) or 0
  return number > 0 and math.min(math.floor(number), most) or 0
end

-- The executions of a worker; what is no name of one goes.
local function open_runs(worker)
  local found, runs = {}, own(runs_of(worker), 'set')
  for _, run in ipairs(call('SMEMBERS', runs)) do
    if split(run) then found[#found + 1] = run else call('SREM', runs, run) end
  end
  return found
end

-- The queue whose wip an execution is in, nil if there is none. A record can name another queue
-- than that.
local function queue_of(run, origin)
  if type(try('ZSCORE', wip_key(origin), run)) == 'string' then return origin end
  for _, list in ipairs(try('SMEMBERS', 'rq:queues')) do
    local queue = string.sub(list, #P + 8)
    if type(try('ZSCORE', wip_key(queue), run)) == 'string' then return queue end
  end
end

local function redis_time()
  local time = call('TIME')
  return time[1] + time[2] / 1000000
end

-- Since when a job has been in its queue, on Redis's clock. It is valid while the job's
-- enqueued_at, which is on the writer's clock, is the one that it names.
local function enqueued(enqueued_at) return string.format('%s|%.6f', enqueued_at, redis_time()) end

-- A job that is cancelled while it runs leaves wip at once; its status may be another when the
-- execution ends.
local function is_cancelled(id, queue)
  return tonumber(try('ZSCORE', 'rq:canceled:' .. queue, id))
end

-- Remove what RQ keeps about one execution, but for its place in wip.
local function forget(id, execution, worker)
  local run = id .. ':' .. execution
  call('UNLINK', 'rq:execution:' .. run)
  try('ZREM', 'rq:executions:' .. id, execution)
  try('SREM', runs_of(worker), run)
end

-- How often this job has killed its worker since it was enqueued: a requeue writes another
-- enqueued_at.
local function crashes_of(field, enqueued_at)
  local since, count = string.match(field or '', '^(.*)|(%d+)$')
  return since == enqueued_at and whole(count, MOST_CRASHES) or 0
end

-- Take an execution away from `worker` and put its job back at the front of its queue. A COUNTED
-- one ended in a crash. After more of those than the job may have it goes to `heir` instead, who
-- must fail it: it stays in wip as the heir's, so if the heir dies too, its own lease brings it up
-- again. Returns what became of it, and the count of crashes: 'requeued', 'fail', 'gone' (it was no
-- longer the job's), 'later' (cannot be decided now; nothing changed).
local function give_back(run, worker, counted, heir, now)
  local id, execution = split(run)
  local job, execution_key = job_key(id), 'rq:execution:' .. run
  local is_job = fits(job, 'hash')
  local origin, status, enqueued_at, crashed, max, ttl
  if is_job then
    origin, status, enqueued_at, crashed, max, ttl = unpack(call('HMGET', job, 'origin', 'status',
      'enqueued_at', 'werk_crashes', 'werk_max_crashes', 'ttl'))
  end
  origin, enqueued_at = origin or '', enqueued_at or ''
  max, ttl = whole(max, MOST_CRASHES), whole(ttl, LONGEST_S)
  local in_wip = queue_of(run, origin)
  local queue = in_wip or origin
  local wip, list = wip_key(queue), 'rq:queue:' .. queue
  -- Where wip is of another type the execution's own record says whose it is, and nobody can be
  -- made its heir.
  local has_wip = fits(wip, 'zset')
  local mine = in_wip or not has_wip and try('HGET', execution_key, 'worker_name') == worker
  if is_job and mine and not fits(list, 'list') then return 'later', 0 end
  -- RQ writes 'scheduled' before the transaction that defers a job. Its horse may have died between
  -- the two.
  local is_half_deferred = status == 'scheduled'
    and not tonumber(try('ZSCORE', 'rq:scheduled:' .. queue, id))
  if not mine or not is_job or not (status == 'started' or is_half_deferred) then
    if in_wip then call('ZREM', wip, run) end
    forget(id, execution, worker)
    if is_half_deferred and is_cancelled(id, queue) then call('HSET', job, 'status', 'canceled') end
    return 'gone', 0
  end

  local crashes = crashes_of(crashed, enqueued_at)
  if counted then crashes = math.min(crashes, max) + 1 end -- the same, however often this is sent
  if counted and crashes > max and has_wip then
    try('SREM', runs_of(worker), run)
    call('SADD', own(runs_of(heir), 'set'), run)
    call('ZADD', wip, now + OWNED_S, run)
    call('HSET', own(execution_key, 'hash'), 'worker_name', heir)
    call('EXPIRE', execution_key, OWNED_S)
    call('HSET', job, 'werk_crashes', enqueued_at .. '|' .. crashes)
    return 'fail', crashes
  end
  if in_wip then call('ZREM', wip, run) end
  forget(id, execution, worker)
  call('HSET', job, 'status', 'queued', 'worker_name', '')
  if queue ~= origin then call('HSET', job, 'origin', queue) end
  if counted then call('HSET', job, 'werk_crashes', enqueued_at .. '|' .. crashes) end
  if ttl > 0 then call('EXPIRE', job, ttl) end
  try('SADD', 'rq:queues', list)
  call('LPUSH', list, id)
  return 'requeued', crashes
end

-- The first of the keys that RQ's own finish writes that is of another type, nil if there is none:
-- of its transaction Redis would refuse a part.
local function clash(id, queue)
  local kinds = {['rq:queues'] = 'set', ['rq:results:' .. id] = 'stream',
    ['rq:executions:' .. id] = 'zset', ['rq:queue:' .. queue] = 'list',
    ['rq:job:' .. id .. ':dependents'] = 'set'}
  for _, place in ipairs({'wip', 'finished', 'failed', 'scheduled'}) do
    kinds['rq:' .. place .. ':' .. queue] = 'zset'
  end
  for key, kind in pairs(kinds) do
    if not fits(key, kind) then return key .. ' is no ' .. kind end
  end
end

-- RQ's transaction adds to a worker's counts: one that is no number begins anew.
local function check_counts(worker)
  local key = own('rq:worker:' .. worker, 'hash')
  for _, field in ipairs({'failed_job_count', 'successful_job_count', 'total_working_time'}) do
    local value = call('HGET', key, field)
    local number = field == 'total_working_time' and '^%d+%.?%d*$' or '^%d+$'
    local is_number = value and string.match(value, number) and tonumber(value) < MOST_COUNTED
    if value and not is_number then call('HDEL', key, field) end
  end
end

-- Is this execution still the job's own? For RQ's own finish, which is several commands: it asks
-- first, and again before it commits, and for `seconds` a rescue stays away. A job cancelled while
-- it runs has left wip; it is recorded as RQ does. Returns 1, or 0 if it is not; or a text, which
-- says what is wrong with a key that RQ would write.
local function fence(run, queue, seconds, worker)
  local id, now = split(run), redis_time()
  local execution_key, wrong = 'rq:execution:' .. run, id and clash(id, queue)
  if wrong or not id then return wrong or 0 end
  check_counts(worker)
  call('HDEL', own(execution_key, 'hash'), 'werk_ending')
  if call('ZSCORE', wip_key(queue), run) then
    call('ZADD', wip_key(queue), 'XX', 'GT', now + OWNED_S, run)
  elseif not is_cancelled(id, queue) or call('EXISTS', execution_key) == 0 then
    return 0
  end
  call('HSET', execution_key, 'werk_ending', now + seconds)
  call('EXPIRE', execution_key, OWNED_S + math.ceil(seconds))
  return 1
end

-- Let this generation of a worker's horses alone claim, under a lease. Returns what was in hand
-- until now.
local function fence_generation(worker, generation, lease_s)
  local key = own('rq:worker:' .. worker, 'hash')
  call('HDEL', key, 'werk_horse')
  call('HSET', key, 'werk_horse', generation)
  call('ZADD', own('rq:werk:leases', 'zset'), redis_time() + lease_s, worker)
  return open_runs(worker)
end

-- Before RQ's clean-up of a queue, give more time to each execution whose time in wip is over but
-- which will be rescued, because its worker has a lease. To RQ it is abandoned, and would fail. So
-- after an outage of all workers their jobs run again, too.
local function spare(queue)
  local wip, now = wip_key(queue), redis_time()
  local over = fits(wip, 'zset') and call('ZRANGEBYSCORE', wip, '-inf', now) or {}
  for _, run in ipairs(over) do
    local id = split(run) or ''
    local worker = try('HGET', 'rq:execution:' .. run, 'worker_name')
    if type(worker) ~= 'string' then worker = try('HGET', job_key(id), 'worker_name') end
    if type(worker) == 'string' and tonumber(try('ZSCORE', 'rq:werk:leases', worker))
      and try('SISMEMBER', runs_of(worker), run) == 1 then
      call('ZREM', wip, run)
      call('ZADD', wip, now + OWNED_S, run)
    end
  end
end

-- Prepended to tick.lua and act.lua, after lib.lua: a job on its way to its queue, and its rate
-- limit if it has one. NOW_TEXT is the time, as RQ writes it.

local now_text, now = NOW_TEXT, redis_time()

local MOST_SLOTS = 1000000
local FIELDS = {'origin', 'status', 'ttl', 'timeout', 'group_id', 'rate_limit_key',
  'rate_limit_concurrency', 'enqueue_at_front', 'enqueue_at_front_on_retry', 'ended_at'}

local function load(id)
  local job = {id = id, key = job_key(id)}
  if call('TYPE', job.key).ok ~= 'hash' then return nil end
  for i, value in ipairs(call('HMGET', job.key, unpack(FIELDS))) do
    job[FIELDS[i]] = value or ''
  end
  job.queue, job.limit = 'rq:queue:' .. job.origin, 'rq:rl:' .. job.rate_limit_key
  return job
end

local function push(job, at_front)
  call('HSET', job.key, 'status', 'queued', 'enqueued_at', now_text,
    'werk_enqueued', enqueued(now_text))
  try('SADD', 'rq:queues', job.queue)
  call(at_front and 'LPUSH' or 'RPUSH', job.queue, job.id)
end

local function has_slots(limit)
  return fits(limit, 'hash') and fits(limit .. ':allowed', 'zset')
    and fits(limit .. ':rate_limited', 'zset')
end

-- Fill the free slots of a rate limit with those that wait for one, oldest first: see
-- rq/rate_limit.py.
local function fill_slots(limit)
  if not has_slots(limit) then return end
  local slots = whole(call('HGET', limit, 'concurrency'), MOST_SLOTS)
  while call('ZCARD', limit .. ':allowed') < slots do
    local id = call('ZRANGE', limit .. ':rate_limited', 0, 0)[1]
    local job = id and load(id)
    if not id or job and not fits(job.queue, 'list') then return end
    call('ZREM', limit .. ':rate_limited', id)
    if job and job.origin ~= '' and job.status == 'rate_limited' then
      call('ZADD', limit .. ':allowed', now, id)
      push(job, job.enqueue_at_front == '1')
    end
  end
end

-- How many jobs of its rate limit may be queued or running; 0 if a job has no rate limit, as RQ's
-- Job.has_rate_limit reads it.
local function slots_of(job)
  return job.rate_limit_key == '' and 0 or whole(job.rate_limit_concurrency, MOST_SLOTS)
end

local function wait_for_slot(job)
  call('HSET', job.key, 'status', 'rate_limited')
  try('SADD', 'rq:rl-keys', job.rate_limit_key)
  call('HSET', job.limit, 'concurrency', string.format('%d', slots_of(job)))
  call('ZADD', job.limit .. ':rate_limited', now, job.id)
  fill_slots(job.limit)
end

-- The supervisor's script, once a second: beat, lease, what its horse runs, rescue, due jobs,
-- catalog.
--
-- KEYS  the queues that the worker serves
-- ARGV  WORKER   NOW_TEXT and NOW: now by its host's clock, as RQ writes it and in Unix seconds
--       GENERATION of its horse   RUN: the execution that the horse runs, '' for none
--       LAST execution id of the horse, '' before the first   LEASE, seconds
--       WORKER_TTL: seconds until the worker's hash expires   MOVES_DUE '1' to move due jobs
--       DROPPED: how many log lines the worker has dropped
--       AHEAD_S: that its host's clock is ahead of Redis's, '' before it is known
--       SERVED: JSON list of "<task> <fingerprint>", or []
--       PAGES: JSON list of task, JSON, task, JSON, ... for the catalog, or []
-- Returns Redis's TIME in seconds, and then events, each {what, ...}:
--       {'unborn'} the worker's hash has expired: nothing was done, write it again and tick again
--       {'lost', run} the execution that the horse runs is no longer the job's
--       {'requeued' | 'fail' | 'gone', run, crashes, worker} a rescue, see give_back; 'fail': by us
--       {'dropped', id, place, why} an entry among the due or ready jobs that is no job's
--       {'unfinished', run} a failure was recorded, and its job's dependents are to be enqueued
--       {'more'} more jobs are due or ready: tick again
--
-- Invariant: after this script each job is in exactly one place: where it was; or, if nobody runs
-- its execution any more, in its queue (after too many crashes, in wip as an execution of ours);
-- or, if it was due or ready, in its queue. Nothing here needs a leader: any number of workers may
-- run it.

local lease_s = tonumber(LEASE)
local served, pages = cjson.decode(SERVED), cjson.decode(PAGES)

local DUE_AT_ONCE = 500
local READY_AT_ONCE = 500
local READY_S = 3 -- RQ enqueues one dependent in some milliseconds; moving one earlier is harmless
local RQ_BEAT_S = 30
local COMMITTED_S, MARKS_AT_ONCE = 3, 100 -- RQ needs so long at least before another horse helps
local SEEN_S = 600 -- so long werk:ready outlives the last worker that wrote it
local DEAD_AT_ONCE = 5
local TRY_AGAIN_S = 5
local LONGEST_FINISH_S = 3600 -- what lasts longer was not written by us
local USUAL_S = lease_s / LEASE_S -- 1 s, between two ticks of a worker
local ELSEWHERE = { -- the statuses of a job that has left this place
  scheduled = {queued = 1, started = 1, finished = 1, failed = 1, deferred = 1, stopped = 1,
    canceled = 1, rate_limited = 1, ready_to_enqueue = 1},
  ready = {queued = 1, started = 1, finished = 1, failed = 1, deferred = 1, stopped = 1,
    canceled = 1, rate_limited = 1, scheduled = 1}}

local worker_key, runs, leases = 'rq:worker:' .. WORKER, runs_of(WORKER), 'rq:werk:leases'
local clock = now
local events = {string.format('%.6f', clock)}

local function event(...) events[#events + 1] = {...} end

local function number_in(key)
  local number = tonumber(call('GET', own(key, 'string')) or '') or 0
  return number == number and number or 0 -- or NaN
end

-- An outage, in which nobody could tick, extends every lease by its own length. The first tick
-- after it does that, once. No lease ends later than a new one, and after a clock that was set back
-- (or a key that was overwritten) each is a new one. The usual time between two ticks does not
-- count, so that a dead worker's lease expires even if every tick is late.
local function survive_outage()
  local gap = clock - number_in('rq:werk:ticked')
  call('SET', 'rq:werk:ticked', string.format('%.6f', clock))
  if gap >= 0 and gap < 3 * USUAL_S then return end
  local length = gap >= 0 and gap - USUAL_S or math.huge
  local all = call('ZRANGE', leases, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    call('ZADD', leases, math.min(math.max(all[i + 1], 0) + length, clock + lease_s), all[i])
  end
end

local function beat()
  call('HDEL', worker_key, 'werk_horse')
  call('HSET', worker_key, 'last_heartbeat', NOW_TEXT, 'werk_horse', GENERATION,
    'werk_clock', AHEAD_S)
  call('EXPIRE', worker_key, WORKER_TTL)
  call('EXPIRE', runs, MONTH_S)
  if not fits(leases, 'zset') then -- nobody's is known: all begin anew
    call('UNLINK', leases)
    for _, key in ipairs(try('SMEMBERS', 'rq:workers')) do
      call('ZADD', leases, clock + lease_s, string.sub(key, #P + 9))
    end
  end
  survive_outage()
  call('ZADD', leases, clock + lease_s, WORKER)
end

-- Log lines that nobody read: their number, and when it last grew.
local function note_dropped()
  local before = call('HGET', worker_key, 'werk_lines_dropped') or '0|0'
  if DROPPED ~= string.match(before, '^[^|]*') then
    call('HSET', worker_key, 'werk_lines_dropped', DROPPED .. '|' .. clock)
  end
end

local function renew(run)
  local id, execution = split(run)
  local key = own('rq:execution:' .. run, 'hash')
  local executions = own('rq:executions:' .. id, 'zset')
  local is_job = call('TYPE', job_key(id)).ok == 'hash'
  local in_wip = queue_of(run, is_job and call('HGET', job_key(id), 'origin') or '')
  -- A job cancelled while it runs has left wip, and its execution is still ours.
  if not in_wip and (call('SISMEMBER', runs, run) == 0 or call('EXISTS', key) == 0) then
    event('lost', run)
    return
  end
  if in_wip then call('ZADD', wip_key(in_wip), 'XX', 'GT', clock + OWNED_S, run) end
  call('HSET', key, 'last_heartbeat', NOW)
  call('ZADD', executions, 'XX', clock + LISTED_S, execution)
  call('EXPIRE', executions, LISTED_S)
  -- RQ's own finish watches the hashes of the job and of all other parents of its dependents, and
  -- starts over whenever one has been written. So this is written as seldom as RQ does, and not at
  -- all during that finish.
  if call('TTL', key) < OWNED_S - RQ_BEAT_S then -- the TTL is longer during RQ's own finish
    call('EXPIRE', key, OWNED_S)
    if is_job and call('HEXISTS', key, 'werk_ending') == 0 then
      call('HSET', job_key(id), 'last_heartbeat', NOW_TEXT)
    end
  end
end

-- An earlier execution of this horse: it is past it, and the finish was lost with a part of Redis's
-- memory.
local function is_past(run)
  local _, execution = split(run)
  return run ~= RUN and LAST ~= '' and string.sub(execution, 1, #GENERATION) == GENERATION
    and execution < LAST
end

local function check_own()
  if not fits(runs, 'set') then
    call('UNLINK', runs)
    if split(RUN) then call('SADD', runs, RUN) end
  end
  if split(RUN) then renew(RUN) end
  for _, run in ipairs(open_runs(WORKER)) do
    if is_past(run) then
      local what, crashes = give_back(run, WORKER, UNCOUNTED, WORKER, clock)
      event(what, run, crashes, WORKER)
    end
  end
end

-- RQ's own finish may still be running, if its worker is only frozen or cut off.
local function is_ending(run)
  local until_then = tonumber(try('HGET', 'rq:execution:' .. run, 'werk_ending') or 0) or 0
  return clock < until_then and until_then < clock + LONGEST_FINISH_S
end

local function rescue()
  for _, dead in ipairs(call('ZRANGEBYSCORE', leases, '-inf', clock, 'LIMIT', 0, DEAD_AT_ONCE)) do
    local is_done = true
    for _, run in ipairs(open_runs(dead)) do
      local what, crashes = 'later', 0
      if not is_ending(run) then what, crashes = give_back(run, dead, COUNTED, WORKER, clock) end
      if what == 'later' then is_done = false else event(what, run, crashes, dead) end
    end
    if is_done then call('ZREM', leases, dead)
    else call('ZADD', leases, clock + TRY_AGAIN_S, dead) end
    local its_key = 'rq:worker:' .. dead
    -- If it is only frozen, it claims nothing until it ticks.
    if fits(its_key, 'hash') then call('HDEL', its_key, 'werk_horse') end
  end
end

-- Move a job from its place to its queue, or have it wait for a slot of its rate limit, as RQ does.
-- Returns whether its entry was removed. A job whose status names another place stays there. An
-- entry without a job is dropped: the job has expired, or something else has written the entry. A
-- job stays in its place while a key of its rate limit is of another type.
local function enqueue(id, place, queue)
  local job, from = load(id), 'rq:' .. place .. ':' .. queue
  if not job then
    call('ZREM', from, id)
    local is_gone = call('EXISTS', job_key(id)) == 0
    event('dropped', id, place, is_gone and 'there is no such job' or 'its key is no hash')
    return true
  end
  if ELSEWHERE[place][job.status] then call('ZREM', from, id); return true end
  local is_limited = slots_of(job) > 0
  if is_limited and not has_slots(job.limit) then return false end
  local at_front = job.enqueue_at_front == '1'
    or (job.enqueue_at_front_on_retry == '1' and job.ended_at ~= '')
  job.origin, job.queue = queue, 'rq:queue:' .. queue
  call('ZREM', from, id)
  call('HSET', job.key, 'origin', queue)
  if job.timeout == '' then call('HSET', job.key, 'timeout', DEFAULT_TIMEOUT_S) end
  local ttl = whole(job.ttl, LONGEST_S)
  if ttl > 0 then
    call('EXPIRE', job.key, ttl)
    call('EXPIRE', job.key .. ':dependents', ttl)
    call('EXPIRE', job_key(':' .. id) .. ':dependencies', ttl)
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

-- A stock scheduler that holds its lock moves the queue's jobs itself. We never take that lock.
local function move_due(list)
  local queue = string.sub(list, #P + 8)
  local scheduled = 'rq:scheduled:' .. queue
  if call('EXISTS', 'rq:scheduler-lock:' .. queue) == 1 then return end
  if not fits(scheduled, 'zset') or not fits(list, 'list') then return end
  local due = call('ZRANGEBYSCORE', scheduled, '-inf', clock, 'LIMIT', 0, DUE_AT_ONCE)
  enqueue_all(due, 'scheduled', queue, DUE_AT_ONCE)
end

-- RQ marks the dependents of a job as ready in one transaction, and enqueues them one by one after
-- it. What stays was left by a horse that died, or that gave way to another one. The scores are of
-- a host's clock, so this notes since when the set has not been empty. RQ watches what it enqueues:
-- it leaves alone what was moved before.
local function move_ready(list)
  local queue = string.sub(list, #P + 8)
  local ready, seen_ready = 'rq:ready:' .. queue, own('rq:werk:ready', 'zset')
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

-- RQ enqueues the dependents of a failed job after it has committed the failure, and step.lua
-- leaves them to others. Until that is done the execution is in werk:committed, with the worker
-- that answers for it. If that worker's lease is over, or its horse has gone on, they are for ours.
local function find_unfinished()
  local committed = own('rq:werk:committed', 'zset')
  local until_then = clock - COMMITTED_S
  local marks = call('ZRANGEBYSCORE', committed, '-inf', until_then, 'LIMIT', 0, MARKS_AT_ONCE)
  for _, mark in ipairs(marks) do
    local run, by = string.match(mark, '^(%S+:%S+) (.*)$')
    local lease = by and tonumber(call('ZSCORE', leases, by) or '') or 0
    local is_left = not run or by == WORKER and run ~= RUN or by ~= WORKER and lease < clock
    if is_left then call('ZREM', committed, mark) end
    if is_left and run then
      call('ZADD', committed, clock, run .. ' ' .. WORKER)
      event('unfinished', run)
    end
  end
end

local function serve(list)
  local serves = own('rq:werk:serves:' .. string.sub(list, #P + 8), 'zset')
  for _, task in ipairs(served) do call('ZADD', serves, clock, task) end
  call('ZREMRANGEBYSCORE', serves, '-inf', '(' .. clock - MONTH_S)
  call('EXPIRE', serves, MONTH_S)
end

-- A task that no worker has had for so long is forgotten; `pages` is written after that, with the
-- time of now.
local function forget_old_pages()
  local catalog = own('rq:werk:catalog', 'hash')
  local old = call('HGETALL', catalog)
  for i = 1, #old, 2 do
    local is_read, page = pcall(cjson.decode, old[i + 1])
    local seen = is_read and type(page) == 'table' and tonumber(page.seen) or 0
    if seen < clock - MONTH_S then call('HDEL', catalog, old[i]) end
  end
end

if call('HEXISTS', own(worker_key, 'hash'), 'birth') == 0 then event('unborn'); return events end
beat()
note_dropped()
check_own()
rescue()
if MOVES_DUE == '1' then for _, list in ipairs(KEYS) do move_due(list) end end
for _, list in ipairs(KEYS) do move_ready(list) end
find_unfinished()
if #served > 0 then for _, list in ipairs(KEYS) do serve(list) end end
if #pages > 0 then
  forget_old_pages()
  call('HSET', 'rq:werk:catalog', unpack(pages))
  call('EXPIRE', 'rq:werk:catalog', MONTH_S)
end
return events
