-- Prepended to tick.lua, act.lua and the small scripts, after the constants of scripts.py: P, RQ's
-- key prefix, and others.
--
-- A waiting job is in its queue (a list), a running one in wip:<queue>, others in scheduled:,
-- finished: or failed:<queue> (sorted sets). An execution is named "<job id>:<execution id>", here
-- `run`; its place in wip is what makes it the job's own: the first to remove that decides what
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

local function job_key(id) return P .. ':job:' .. id end
local function wip_key(queue) return P .. ':wip:' .. queue end
local function runs_of(worker) return P .. ':worker:' .. worker .. ':executions' end
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
  for _, list in ipairs(try('SMEMBERS', P .. ':queues')) do
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
  return tonumber(try('ZSCORE', P .. ':canceled:' .. queue, id))
end

-- Remove what RQ keeps about one execution, but for its place in wip.
local function forget(id, execution, worker)
  local run = id .. ':' .. execution
  call('UNLINK', P .. ':execution:' .. run)
  try('ZREM', P .. ':executions:' .. id, execution)
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
  local job, execution_key = job_key(id), P .. ':execution:' .. run
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
  local wip, list = wip_key(queue), P .. ':queue:' .. queue
  -- Where wip is of another type the execution's own record says whose it is, and nobody can be
  -- made its heir.
  local has_wip = fits(wip, 'zset')
  local mine = in_wip or not has_wip and try('HGET', execution_key, 'worker_name') == worker
  if is_job and mine and not fits(list, 'list') then return 'later', 0 end
  -- RQ writes 'scheduled' before the transaction that defers a job. Its horse may have died between
  -- the two.
  local is_half_deferred = status == 'scheduled'
    and not tonumber(try('ZSCORE', P .. ':scheduled:' .. queue, id))
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
  try('SADD', P .. ':queues', list)
  call('LPUSH', list, id)
  return 'requeued', crashes
end

-- The first of the keys that RQ's own finish writes that is of another type, nil if there is none:
-- of its transaction Redis would refuse a part.
local function clash(id, queue)
  local kinds = {[P .. ':queues'] = 'set', [P .. ':results:' .. id] = 'stream',
    [P .. ':executions:' .. id] = 'zset', [P .. ':queue:' .. queue] = 'list',
    [P .. ':job:' .. id .. ':dependents'] = 'set'}
  for _, place in ipairs({'wip', 'finished', 'failed', 'scheduled'}) do
    kinds[P .. ':' .. place .. ':' .. queue] = 'zset'
  end
  for key, kind in pairs(kinds) do
    if not fits(key, kind) then return key .. ' is no ' .. kind end
  end
end

-- RQ's transaction adds to a worker's counts: one that is no number begins anew.
local function check_counts(worker)
  local key = own(P .. ':worker:' .. worker, 'hash')
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
  local execution_key, wrong = P .. ':execution:' .. run, id and clash(id, queue)
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
  local key = own(P .. ':worker:' .. worker, 'hash')
  call('HDEL', key, 'werk_horse')
  call('HSET', key, 'werk_horse', generation)
  call('ZADD', own(P .. ':werk:leases', 'zset'), redis_time() + lease_s, worker)
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
    local worker = try('HGET', P .. ':execution:' .. run, 'worker_name')
    if type(worker) ~= 'string' then worker = try('HGET', job_key(id), 'worker_name') end
    if type(worker) == 'string' and tonumber(try('ZSCORE', P .. ':werk:leases', worker))
      and try('SISMEMBER', runs_of(worker), run) == 1 then
      call('ZREM', wip, run)
      call('ZADD', wip, now + OWNED_S, run)
    end
  end
end

-- Withdraw the tasks that a worker which exits has published for a queue, so that callers are
-- warned at once. Not if another of our workers listens there: it may serve the same tasks.
local function withdraw(worker, queue, served)
  local now = redis_time()
  for _, key in ipairs(try('SMEMBERS', P .. ':workers:' .. queue)) do
    local other = string.sub(key, #P + 9)
    local lease = tonumber(try('ZSCORE', P .. ':werk:leases', other)) -- none before its first tick
    if other ~= worker and try('HEXISTS', key, 'werk_lease') == 1 and (lease or now) >= now then
      return
    end
  end
  for _, task in ipairs(served) do try('ZREM', P .. ':werk:serves:' .. queue, task) end
end
