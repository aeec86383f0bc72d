-- The supervisor's script, once a second: beat, lease, what its horse runs, rescue, due jobs, catalog.
--
-- KEYS  the queues that the worker serves
-- ARGV  1 worker   2 now, as RQ writes it   3 now, Unix seconds   4 generation of its horse
--       5 the execution that the horse is at, '' for none   6 the last execution id of the horse, '' before the first
--       7 seconds of a lease   8 seconds until the worker's hash expires   9 '1' to move due jobs
--       10 how many names of tasks follow; then that many "<task> <fingerprint>"; then task, JSON, task, JSON, ...
-- Returns a list of events, each {what, ...}:
--       {'unborn'} the worker's hash is gone: nothing was done, write it again and tick again
--       {'lost', run} the execution that the horse is at is no longer the job's
--       {'requeued' | 'fail' | 'gone', run, crashes, worker} a rescue, see give_back; 'fail': by us
--       {'limited', job, queue} due, and of a rate limit: for RQ's own code    {'more'} more jobs are due: tick again
--
-- Invariant: after it each job is where it was, or an execution that nobody is at any more has become a job in its
-- queue (or, after too many crashes, an execution of ours), or a due job has moved from scheduled: to its queue.
-- Nothing here needs a leader: any number of workers may run it.

local worker, now_text, now, generation = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local current, counter, lease_s, worker_ttl = ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[8]
local moves_due, tasks = ARGV[9] == '1', tonumber(ARGV[10])

local DUE_AT_ONCE = 500
local DEAD_AT_ONCE = 5
local TRY_AGAIN_S = 5
local ELSEWHERE = ' queued started finished failed deferred stopped canceled rate_limited ready_to_enqueue '
local CATALOG_S = 30 * 24 * 3600

local worker_key, runs, leases = P .. ':worker:' .. worker, runs_of(worker), P .. ':werk:leases'
local clock, events = redis_time(), {}

local function event(...) events[#events + 1] = {...} end

-- After a gap in which nobody could tick, all leases look expired, and nobody is rescued for one more lease.
local function beat()
  call('HDEL', worker_key, 'werk_horse')
  call('HSET', worker_key, 'last_heartbeat', now_text, 'werk_horse', generation)
  call('EXPIRE', worker_key, worker_ttl)
  call('EXPIRE', runs, worker_ttl)
  local last = tonumber(call('GET', P .. ':werk:ticked') or 0) or 0
  if clock - last > lease_s / 2 then call('SET', P .. ':werk:grace', clock + lease_s, 'EX', math.ceil(lease_s) + 60) end
  call('SET', P .. ':werk:ticked', clock)
  call('ZADD', leases, clock + lease_s, worker)
end

local function renew(run)
  local id, execution = split(run)
  local key, executions = P .. ':execution:' .. run, P .. ':executions:' .. id
  local queue = fits(job_key(id), 'hash') and call('HGET', job_key(id), 'origin') or ''
  local is_in_wip = fits(wip_key(queue), 'zset') and call('ZSCORE', wip_key(queue), run)
  -- A job cancelled while it runs has left wip, and its execution is still ours.
  if not is_in_wip and (call('SISMEMBER', runs, run) == 0 or call('EXISTS', key) == 0) then event('lost', run); return end
  if is_in_wip then call('ZADD', wip_key(queue), 'XX', 'GT', now + OWNED_S, run) end
  call('HSET', key, 'last_heartbeat', ARGV[3])
  if call('TTL', key) < OWNED_S then call('EXPIRE', key, OWNED_S) end -- it is longer while RQ's own finish is at work
  if fits(executions, 'zset') then
    call('ZADD', executions, 'XX', now + OWNED_S + 60, execution)
    call('EXPIRE', executions, OWNED_S + 60)
  end
  call('HSET', job_key(id), 'last_heartbeat', now_text)
end

-- An earlier execution of this horse: it is past it, and the finish was lost with a part of Redis's memory.
local function is_past(run)
  local _, execution = split(run)
  return run ~= current and counter ~= '' and string.sub(execution, 1, #generation) == generation and execution < counter
end

local function check_own()
  if current ~= '' then renew(current) end
  for _, run in ipairs(call('SMEMBERS', runs)) do
    if is_past(run) then
      local what, crashes = give_back(run, worker, UNCOUNTED, worker, now)
      event(what, run, crashes, worker)
    end
  end
end

-- RQ's own finish may still be at work on it, if its worker is only frozen or cut off.
local function is_ending(run)
  return clock < (tonumber(call('HGET', P .. ':execution:' .. run, 'werk_ending') or 0) or 0)
end

local function rescue()
  if clock <= (tonumber(call('GET', P .. ':werk:grace') or 0) or 0) then return end
  for _, dead in ipairs(call('ZRANGEBYSCORE', leases, '-inf', clock, 'LIMIT', 0, DEAD_AT_ONCE)) do
    local is_done = true
    local left = fits(runs_of(dead), 'set') and call('SMEMBERS', runs_of(dead)) or {}
    for _, run in ipairs(left) do
      local what, crashes = 'later', 0
      if not is_ending(run) then what, crashes = give_back(run, dead, COUNTED, worker, now) end
      if what == 'later' then is_done = false else event(what, run, crashes, dead) end
    end
    if is_done then call('ZREM', leases, dead) else call('ZADD', leases, clock + TRY_AGAIN_S, dead) end
    local its_key = P .. ':worker:' .. dead
    if fits(its_key, 'hash') then call('HDEL', its_key, 'werk_horse') end -- if only frozen, it claims nothing until it ticks
  end
end

-- Move one due job to its queue, as RQ's scheduler does; but one that is somewhere else stays there: its id stood
-- here for a job that has expired before it was due.
local function enqueue(id, queue, scheduled)
  local job, list = job_key(id), P .. ':queue:' .. queue
  if call('TYPE', job).ok ~= 'hash' then call('ZREM', scheduled, id); return end
  local h = call('HMGET', job, 'rate_limit_key', 'enqueue_at_front', 'enqueue_at_front_on_retry', 'ended_at', 'ttl', 'timeout',
    'status')
  if h[7] and string.find(ELSEWHERE, ' ' .. h[7] .. ' ', 1, true) then call('ZREM', scheduled, id); return end
  if h[1] and h[1] ~= '' then event('limited', id, queue); return end
  local at_front = h[2] == '1' or (h[3] == '1' and h[4] and h[4] ~= '')
  call('ZREM', scheduled, id)
  call('HSET', job, 'status', 'queued', 'origin', queue, 'enqueued_at', now_text)
  if not h[6] then call('HSET', job, 'timeout', 180) end
  local ttl = tonumber(h[5] or 0) or 0
  if ttl > 0 then call('EXPIRE', job, ttl) end
  call('SADD', P .. ':queues', list)
  call(at_front and 'LPUSH' or 'RPUSH', list, id)
end

-- A stock scheduler that holds its lock moves the queue's jobs itself. We never take that lock.
local function move_due(list)
  local queue = string.sub(list, #P + 8)
  local scheduled = P .. ':scheduled:' .. queue
  if call('EXISTS', P .. ':scheduler-lock:' .. queue) == 1 or not fits(scheduled, 'zset') or not fits(list, 'list') then return end
  local due = call('ZRANGEBYSCORE', scheduled, '-inf', now, 'LIMIT', 0, DUE_AT_ONCE)
  local before = #events
  for _, id in ipairs(due) do enqueue(id, queue, scheduled) end
  local for_rq = #events - before
  if #due == DUE_AT_ONCE and for_rq < #due then event('more') end
end

local function serve(list)
  local serves = P .. ':werk:serves:' .. string.sub(list, #P + 8)
  for i = 11, 10 + tasks do call('ZADD', serves, clock, ARGV[i]) end
  call('ZREMRANGEBYSCORE', serves, '-inf', '(' .. clock - CATALOG_S)
  call('EXPIRE', serves, CATALOG_S)
end

-- A task that no worker has had for so long is forgotten; `pages` is written after that, with the time of now.
local function forget_old_pages()
  local catalog = P .. ':werk:catalog'
  local pages = fits(catalog, 'hash') and call('HGETALL', catalog) or {}
  for i = 1, #pages, 2 do
    local is_read, page = pcall(cjson.decode, pages[i + 1])
    local seen = is_read and type(page) == 'table' and tonumber(page.seen) or 0
    if seen < now - CATALOG_S then call('HDEL', catalog, pages[i]) end
  end
end

if call('HEXISTS', worker_key, 'birth') == 0 then return {{'unborn'}} end
beat()
check_own()
rescue()
if moves_due then for _, list in ipairs(KEYS) do move_due(list) end end
if tasks > 0 then for _, list in ipairs(KEYS) do serve(list) end end
if #ARGV > 10 + tasks then
  forget_old_pages()
  call('HSET', P .. ':werk:catalog', unpack(ARGV, 11 + tasks))
  call('EXPIRE', P .. ':werk:catalog', CATALOG_S)
end
return events
