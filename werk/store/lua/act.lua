-- What an operator does to jobs, queues and workers (actions.py). Doing it again changes nothing.
--
-- No KEYS. ARGV  1 what   2 now, as RQ writes it   3.. what it is for
-- Returns for each what became of it. Of a job 'gone' if there is no record, its status if that does not fit, or else
--       retry    'retried': a failed or stopped one is back in its queue, as RQ's requeue; 'limited': at its rate limit
--       cancel   'cancelled', one that waits, is scheduled, deferred or ready, as RQ's cancel
--       delete   'deleted', with all that RQ keeps of it; not while it runs
--       probe    its status if it is lost: waiting, due or running by its record, and nowhere; or ready, which no job
--                stays; or 'fine'
--       restore  likewise, and a lost one is back at the front of its queue; a ready one is where RQ would have put it
-- of a place
--       empty    'failed:<queue>', 'queue:<queue>', ...: how many entries the jobs had that were deleted, the first in it
--       compact  '<first> <last> <queue>', a page of it: how many ids were taken out, of jobs that are no more
-- of a queue   pause, resume   'yes', 'already', 'unknown': werk workers take nothing from it, or do again
-- of a worker  drain           'told', 'already', 'deaf', 'unknown': it finishes its job and leaves
--              bury, its key   'gone': out of the sets of workers; or 'there': it is
--
-- Invariant: a job is in one place before and after. The first write to a job's place is a removal, so all of it also
-- passes when memory is full. A job whose place, or the one that it is to go to, is of another type stays as it is, and
-- no error is replied.

local what = ARGV[1]

-- In which place a job of a status is; one that runs is in wip.
local PLACES = {created = 'queue', queued = 'queue', scheduled = 'scheduled', deferred = 'deferred',
  rate_limited = 'rate_limited', ready_to_enqueue = 'ready', finished = 'finished', failed = 'failed', stopped = 'failed',
  canceled = 'canceled'}
local WAITS = {created = true, queued = true, scheduled = true, deferred = true, rate_limited = true,
  ready_to_enqueue = true}

-- Take a job out of a place; was it there?
local function take(job, place)
  if place == 'queue' then return try('LREM', job.queue, 1, job.id) == 1 end -- one: a long list takes its time
  local key = P .. ':' .. place .. ':' .. job.origin
  return try('ZREM', place == 'rate_limited' and job.limit .. ':rate_limited' or key, job.id) == 1
end

local function expire(job)
  local ttl = whole(job.ttl, LONGEST_S)
  if ttl == 0 then call('PERSIST', job.key); return end
  for _, key in ipairs({job.key, job.key .. ':dependents', job_key(':' .. job.id) .. ':dependencies'}) do call('EXPIRE', key, ttl) end
end

local function free_slot(job)
  if job.rate_limit_key ~= '' and try('ZREM', job.limit .. ':allowed', job.id) == 1 then fill_slots(job.limit) end
end

local function retry(job)
  local has_room = fits(job.queue, 'list') and (slots_of(job) == 0 or has_slots(job.limit))
  if not has_room or not take(job, 'failed') then return job.status end
  call('HDEL', job.key, 'exc_info')
  call('HSET', job.key, 'started_at', '', 'ended_at', '')
  if job.timeout == '' then call('HSET', job.key, 'timeout', 180) end
  expire(job)
  if slots_of(job) == 0 then push(job); return 'retried' end
  wait_for_slot(job)
  return 'limited'
end

local function cancel(job)
  local canceled = P .. ':canceled:' .. job.origin
  if not WAITS[job.status] or not fits(canceled, 'zset') or not take(job, PLACES[job.status]) then return job.status end
  call('HSET', job.key, 'status', 'canceled')
  call('ZADD', canceled, now, job.id)
  free_slot(job)
  return 'cancelled'
end

-- Executions of a job that are in wip: how many are alive, and those whose time is over.
local function executions_of(job)
  local alive, over = 0, {}
  for _, execution in ipairs(try('ZRANGE', P .. ':executions:' .. job.id, 0, -1)) do
    local score = tonumber(try('ZSCORE', wip_key(job.origin), job.id .. ':' .. execution) or '')
    if score and score >= now then alive = alive + 1 elseif score then over[#over + 1] = execution end
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
  if job.status == 'started' or alive > 0 then return 'started' end
  local own = PLACES[job.status] -- a status that says nothing: look in all
  for _, place in pairs(own and {own} or PLACES) do take(job, place) end
  forget_all(job, over)
  call('UNLINK', job.key, job.key .. ':dependents', job_key(':' .. job.id) .. ':dependencies', P .. ':results:' .. job.id,
    P .. ':executions:' .. job.id)
  if job.group_id ~= '' then try('SREM', P .. ':group:' .. job.group_id, job.id) end
  free_slot(job)
  return 'deleted'
end

-- The executions, all over, of a job that is lost. RQ's own clean-up may be at it just now.
local function lost(job)
  local alive, over = executions_of(job)
  if job.origin == '' or alive > 0 or #over > 0 and call('EXISTS', P .. ':clean_registries:' .. job.origin) == 1 then return nil end
  local is_lost = job.status == 'started' or job.status == 'ready_to_enqueue'
    or job.status == 'queued' and not try('LPOS', job.queue, job.id)
    or job.status == 'scheduled' and not try('ZSCORE', P .. ':scheduled:' .. job.origin, job.id)
  return is_lost and fits(job.queue, 'list') and fits(wip_key(job.origin), 'zset') and over
end

local function restore(job)
  local over = lost(job)
  if not over or job.rate_limit_key ~= '' and not has_slots(job.limit) then return 'fine' end
  if what == 'probe' then return job.status end
  try('LREM', job.queue .. ':intermediate', 0, job.id)
  forget_all(job, over)
  local is_ready = job.status == 'ready_to_enqueue'
  if is_ready then take(job, 'ready') end
  call('HSET', job.key, 'worker_name', '')
  if is_ready and job.timeout == '' then call('HSET', job.key, 'timeout', 180) end
  expire(job)
  if is_ready and job.rate_limit_key ~= '' then
    wait_for_slot(job)
  else
    push(job, not is_ready or job.enqueue_at_front == '1')
  end
  return job.status
end

local CHUNK = 200

-- An entry may be an old one, of a job that has moved on: then only the entry goes.
local function empty(place)
  local key, kind = P .. ':' .. place, string.match(place, '^[^:]*')
  local ids = try(kind == 'queue' and 'LRANGE' or 'ZRANGE', key, 0, CHUNK - 1)
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
  local list, gone, found = P .. ':queue:' .. queue, 'werk: gone', 0 -- which is no id
  for i, id in ipairs(try('LRANGE', list, start, stop)) do
    if call('EXISTS', job_key(id)) == 0 then
      call('LSET', list, start + i - 1, gone)
      found = found + 1
    end
  end
  return found > 0 and call('LREM', list, 0, gone) or 0
end

local function pause(queue)
  local is_known = try('SISMEMBER', P .. ':queues', P .. ':queue:' .. queue) == 1
    or call('EXISTS', P .. ':workers:' .. queue) == 1
  if what == 'pause' and not is_known then return 'unknown' end
  if call(what == 'pause' and 'SADD' or 'SREM', own(P .. ':werk:paused', 'set'), queue) == 1 then return 'yes' end
  return is_known and 'already' or 'unknown'
end

-- Told once: a second time would make it break off its job.
local function drain(name)
  local worker = P .. ':worker:' .. name
  local birth, told, asked = unpack(try('HMGET', worker, 'birth', 'werk_draining', 'shutdown_requested_date'))
  if not birth then return 'unknown' end
  if told or asked then return 'already' end
  if call('PUBLISH', P .. ':pubsub:' .. name, '{"command": "shutdown"}') == 0 then return 'deaf' end
  try('HSET', worker, 'werk_draining', now_text)
  return 'told'
end

-- Asked again in here: it may just have registered anew.
local function bury(worker_key)
  if call('EXISTS', worker_key) == 1 then return 'there' end
  try('SREM', P .. ':workers', worker_key)
  for _, list in ipairs(try('SMEMBERS', P .. ':queues')) do try('SREM', P .. ':workers:' .. string.sub(list, #P + 8), worker_key) end
  return 'gone'
end

local of_jobs = {retry = retry, cancel = cancel, delete = delete, probe = restore, restore = restore}
local of_others = {empty = empty, compact = compact, pause = pause, resume = pause, drain = drain, bury = bury}

local function act(name)
  if of_others[what] then return of_others[what](name) end
  local job = load(name)
  return job and of_jobs[what](job) or 'gone'
end

local replies = {}
for i = 3, #ARGV do replies[i - 2] = tostring(act(ARGV[i])) end
return replies
