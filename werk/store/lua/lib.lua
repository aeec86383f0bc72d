-- Functions for the scripts that follow this file (see scripts.py; P is RQ's key prefix).
--
-- A waiting job is in its queue (a list), a running one in wip:<queue>, any other in scheduled:,
-- finished: or failed:<queue> (sorted sets). An execution is named "<job id>:<execution id>", here
-- `run`. It owns its job as long as it is in wip: the first to remove it from there decides what
-- becomes of the job. After each function here that writes, each job that it concerns is in exactly
-- one of these places, or in the one where it was.
--
-- All functions read and check before they write. Where the type of a key decides something, it is
-- asked for first; elsewhere the write goes through `try`, so that Redis refuses that one write and
-- nothing else. A key of one job, execution or worker, or of werk, that has another type is removed
-- and written again (see `own`); a key of a queue stays as it is. A number in a record may be any
-- text: `whole` bounds it. So no function raises an error. The first write is a removal: Redis 6.2
-- lets a script that begins with one run at maxmemory (7.0 and newer: flags=allow-oom).

local call, try = redis.call, redis.pcall

local MOST_COUNTED = 1000000000000000
local RETRIED = '4' -- type of a result (rq/results.py)

local function job_key(id) return P .. ':job:' .. id end
local function wip_key(queue) return P .. ':wip:' .. queue end
local function runs_of(worker) return P .. ':worker:' .. worker .. ':executions' end
local function split(run) return string.match(run, '^(.*):([^:]*)$') end

-- Return whether a key can hold a value of this kind. To be asked before the first write, so that
-- no script fails half way.
local function fits(key, kind)
  local found = call('TYPE', key).ok
  return found == kind or found == 'none'
end

-- Remove a key of werk's own if its value is of another kind. Returns the key.
local function own(key, kind)
  if not fits(key, kind) then call('UNLINK', key) end
  return key
end

-- Return the number in a text of a record as a whole number from 0 to `most`; 0 if it has none.
local function whole(text, most)
  local number = tonumber(text or 0) or 0
  return number > 0 and math.min(math.floor(number), most) or 0
end

-- Return the executions of a worker, and remove entries that cannot name one.
local function open_runs(worker)
  local found, runs = {}, own(runs_of(worker), 'set')
  for _, run in ipairs(call('SMEMBERS', runs)) do
    if split(run) then found[#found + 1] = run else call('SREM', runs, run) end
  end
  return found
end

-- Return the queue whose wip has an execution, nil if there is none. The job's record may name
-- another queue.
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

-- Return the text of werk_enqueued: since when a job has been in its queue, on Redis's clock. It is
-- valid while the job has this enqueued_at, which comes from the writer's clock.
local function enqueued(enqueued_at) return string.format('%s|%.6f', enqueued_at, redis_time()) end

-- Final failures for the handler of WERK_ON_GIVE_UP are in the list werk:gave-up, each one as the
-- text '<times put back> <since> <cause> <execution id> <job id>'. See hands.lua.
local function failures() return own(P .. ':werk:gave-up', 'list') end

-- Return a number if a job is among the cancelled ones, else nil. A job that is cancelled while it
-- runs leaves wip at once, and its status may have changed again when the execution ends.
local function is_cancelled(id, queue)
  return tonumber(try('ZSCORE', P .. ':canceled:' .. queue, id))
end

-- Remove what RQ keeps about one execution, except for its place in wip.
local function forget(id, execution, worker)
  local run = id .. ':' .. execution
  call('UNLINK', P .. ':execution:' .. run)
  try('ZREM', P .. ':executions:' .. id, execution)
  try('SREM', runs_of(worker), run)
end

-- Return how often a job has crashed since it was enqueued. A requeue writes another enqueued_at,
-- so the count starts again.
local function crashes_of(field, enqueued_at)
  local since, count = string.match(field or '', '^(.*)|(%d+)$')
  return since == enqueued_at and whole(count, MOST_CRASHES) or 0
end

-- Return the Unix time in a text as RQ writes it in a result, nil for one that RQ cannot read.
local function moment(text)
  local time = tonumber(text or '') or 0
  return time > 0 and time < 250000000000 and string.format('%.6f', time) or nil
end

-- Add an execution that crashed to the results of its job, as RQ adds an attempt that is retried.
-- `facts` may be unknown. If the entry has no place, because the key has another type or is a full
-- stream, it replaces what is there. The key expires with the hash of a job that waits.
local function add_attempt(id, execution, worker, trace, facts, ttl)
  local entry = {'type', RETRIED, 'worker_name', worker, 'execution_id', execution,
    'exc_string', trace}
  for name, value in pairs(facts) do entry[#entry + 1] = name; entry[#entry + 1] = value end
  local results = P .. ':results:' .. id
  if type(try('XADD', results, 'MAXLEN', MOST_RESULTS, '*', unpack(entry))) == 'table' then
    call('UNLINK', results)
    call('XADD', results, '*', unpack(entry))
  end
  call('EXPIRE', results, ttl > 0 and ttl or YEAR_S)
end

-- Take an execution away from `worker` and put its job back at the front of its queue. If it ended
-- in a crash, `crash` has a `trace` to show, base64 of a compressed text, and `at`, the time on the
-- clock of its host; without `at` that is its last heartbeat. A crash that `is_excused` does not
-- count. If the job has had more crashes than it may, the execution goes to `heir`, which must fail
-- the job: it stays in wip, so if the heir dies too, it is rescued again. Its record then says how
-- many crashes there were, because the reply that tells the heir may be lost.
-- Returns what happened and the number of crashes: 'requeued', 'fail' (the heir must), 'gone' (the
-- execution no longer owned the job), 'later' (cannot be decided now; nothing changed).
local function give_back(run, worker, crash, heir, now)
  local id, execution = split(run)
  local job, execution_key = job_key(id), P .. ':execution:' .. run
  local is_job = fits(job, 'hash')
  local origin, status, enqueued_at, crashed, max, ttl, attempt
  if is_job then
    origin, status, enqueued_at, crashed, max, ttl, attempt = unpack(call('HMGET', job, 'origin',
      'status', 'enqueued_at', 'werk_crashes', 'werk_max_crashes', 'ttl', 'werk_attempt'))
  end
  origin, enqueued_at = origin or '', enqueued_at or ''
  max, ttl = whole(max, MOST_CRASHES), whole(ttl, LONGEST_S)
  local in_wip = queue_of(run, origin)
  local queue = in_wip or origin
  local wip, list = wip_key(queue), P .. ':queue:' .. queue
  -- If wip has another type, the record of the execution says which worker has it, and there can
  -- be no heir.
  local has_wip = fits(wip, 'zset')
  local mine = in_wip or not has_wip and try('HGET', execution_key, 'worker_name') == worker
  if is_job and mine and not fits(list, 'list') then return 'later', 0 end
  -- RQ writes 'scheduled' before the transaction that defers a job. The horse may have died in
  -- between.
  local is_half_deferred = status == 'scheduled'
    and not tonumber(try('ZSCORE', P .. ':scheduled:' .. queue, id))
  if not mine or not is_job or not (status == 'started' or is_half_deferred) then
    if in_wip then call('ZREM', wip, run) end
    forget(id, execution, worker)
    if is_half_deferred and is_cancelled(id, queue) then call('HSET', job, 'status', 'canceled') end
    return 'gone', 0
  end

  local crashes = crashes_of(crashed, enqueued_at)
  local is_counted = crash and not crash.is_excused
  if is_counted then crashes = math.min(crashes, max) + 1 end -- resending changes nothing
  local told = whole(try('HGET', execution_key, 'werk_crashes'), MOST_COUNTED)
  if told > 0 then crashes = told end
  local has_name = not string.find(run, '[^%w_:-]') -- RQ's ids: an order can name it
  if (told > 0 or is_counted and crashes > max) and has_wip and has_name then
    try('SREM', runs_of(worker), run)
    call('SADD', own(runs_of(heir), 'set'), run)
    call('ZADD', wip, now + OWNED_S, run)
    call('HSET', own(execution_key, 'hash'), 'worker_name', heir, 'werk_crashes', crashes)
    call('EXPIRE', execution_key, MONTH_S)
    call('HSET', job, 'werk_crashes', enqueued_at .. '|' .. crashes)
    return 'fail', crashes
  end
  local times = try('HMGET', execution_key, 'created_at', 'last_heartbeat')
  if in_wip then call('ZREM', wip, run) end
  forget(id, execution, worker)
  call('HSET', job, 'status', 'queued', 'worker_name', '')
  -- The job waits from now on: the time in which it ran does not count.
  if enqueued_at ~= '' then call('HSET', job, 'werk_enqueued', enqueued(enqueued_at)) end
  if queue ~= origin then call('HSET', job, 'origin', queue) end
  if crash then
    local number = whole(attempt, MOST_COUNTED)
    add_attempt(id, execution, worker, crash.trace, {
      execution_started_at = moment(times[1]), execution_ended_at = moment(crash.at or times[2]),
      werk_attempt = number > 0 and string.format('%d', number) or nil}, ttl)
    call('HSET', job, 'werk_crashes', enqueued_at .. '|' .. crashes)
  end
  if ttl > 0 then call('EXPIRE', job, ttl) end
  try('SADD', P .. ':queues', list)
  call('LPUSH', list, id)
  return 'requeued', crashes
end

-- Return a text about a key of another type, for which Redis would refuse a part of RQ's finish.
local function clash(id, queue)
  local kinds = {[P .. ':queues'] = 'set', [P .. ':results:' .. id] = 'stream',
    [P .. ':executions:' .. id] = 'zset', [P .. ':queue:' .. queue] = 'list',
    [P .. ':job:' .. id .. ':dependents'] = 'set'}
  for _, place in ipairs({'wip', 'finished', 'failed', 'scheduled'}) do
    kinds[P .. ':' .. place .. ':' .. queue] = 'zset'
  end
  for key, kind in pairs(kinds) do
    if not fits(key, kind) then return key .. ' is not a ' .. kind end
  end
end

-- RQ's transaction adds to a worker's counts. Remove those that are not numbers.
local function check_counts(worker)
  local key = own(P .. ':worker:' .. worker, 'hash')
  for _, field in ipairs({'failed_job_count', 'successful_job_count', 'total_working_time'}) do
    local value = call('HGET', key, field)
    local number = field == 'total_working_time' and '^%d+%.?%d*$' or '^%d+$'
    local is_number = value and string.match(value, number) and tonumber(value) < MOST_COUNTED
    if value and not is_number then call('HDEL', key, field) end
  end
end

-- Return 1 if an execution still owns its job, else 0; or a text about a key that RQ cannot write.
-- RQ's own finish consists of several commands. It calls this first and again before it commits,
-- and for `seconds` the job is not rescued. A job that was cancelled while it ran has left wip; its
-- end is recorded all the same, as in RQ.
local function fence(run, queue, seconds, worker)
  local id, now = split(run), redis_time()
  local execution_key, wrong = P .. ':execution:' .. run, id and clash(id, queue)
  if wrong or not id then return wrong or 0 end
  check_counts(worker)
  failures() -- RQ's transaction for a failure appends to this list
  call('HDEL', own(execution_key, 'hash'), 'werk_ending')
  if call('ZSCORE', wip_key(queue), run) then
    call('ZADD', wip_key(queue), 'XX', 'GT', now + OWNED_S, run)
  elseif not is_cancelled(id, queue) or call('EXISTS', execution_key) == 0 then
    return 0
  end
  call('HSET', execution_key, 'werk_ending', now + seconds)
  call('EXPIRE', execution_key, MONTH_S)
  return 1
end

-- Before RQ's clean-up of a queue, extend the time of each execution in wip that will be rescued
-- when it is overdue, because its worker has a lease. RQ would take it for abandoned and fail the
-- job. So jobs also run again after an outage of all workers. The clean-up may take a while.
local function spare(queue)
  local wip, now = wip_key(queue), redis_time()
  local all = fits(wip, 'zset') and call('ZRANGEBYSCORE', wip, '-inf', now + OWNED_S) or {}
  for _, run in ipairs(all) do
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

-- Return how many entries of jobs without a record a queue has: jobs that plain RQ workers had
-- taken and not begun, and overdue executions. Remove them unless `is_dry`. RQ's own clean-up of a
-- queue removes overdue executions too, and may be running.
local function drop_deleted(queue, is_dry)
  local taken, wip, found = P .. ':queue:' .. queue .. ':intermediate', wip_key(queue), 0
  for _, id in ipairs(try('LRANGE', taken, 0, -1)) do
    if call('EXISTS', job_key(id)) == 0 then
      found = found + (is_dry and 1 or call('LREM', taken, 1, id))
    end
  end
  if call('EXISTS', P .. ':clean_registries:' .. queue) == 1 then return found end
  for _, run in ipairs(try('ZRANGEBYSCORE', wip, '-inf', redis_time())) do
    local id, execution = split(run)
    if not id or call('EXISTS', job_key(id)) == 0 then
      found = found + (is_dry and 1 or call('ZREM', wip, run))
      local worker = try('HGET', P .. ':execution:' .. run, 'worker_name')
      if id and not is_dry then forget(id, execution, type(worker) == 'string' and worker or '') end
    end
  end
  return found
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
