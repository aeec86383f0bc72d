-- What an operator does to jobs, queues and workers (actions.py). Doing it again changes nothing.
--
-- No KEYS. ARGV  1 what   2 now, as RQ writes it   3 now, Unix seconds   4.. the jobs, queues or workers that it is for:
--       retry    jobs      failed or stopped ones go back to their queue, as RQ's requeue
--       cancel   jobs      that wait, are scheduled or deferred, as RQ's cancel
--       delete   jobs      they and all that RQ keeps of them, but of those that run
--       empty    places    'failed:<queue>', 'queue:<queue>', ...: the first in it are deleted, as delete
--       compact  pages of a queue, '<index> <queue>': ids of jobs that are no more are taken out
--       stop     jobs      their worker is told to end them
--       pause    queues    werk workers take nothing from them
--       resume   queues
--       drain    workers   they are told to finish their job and leave
--       probe    jobs      is it lost: waiting, due or running by its record, and nowhere?
--       restore  jobs      then back to the front of their queue
--       bury     workers, their keys: out of the sets of workers, if they are gone
-- Returns for each {outcome, ...}:
--       retry    'retried', or 'limited': it waits for a slot of its rate limit
--       cancel   'cancelled', and how many jobs depend on it
--       delete   'deleted'   empty   'emptied', and of how many entries   compact   'compacted', how many are left of the page, and how many were in it
--       stop     'told' or 'deaf', and its worker
--       pause and resume   'yes', 'already', 'unknown'
--       drain    'told', 'already', 'deaf', 'unknown'
--       probe    'lost', 'fine', 'later' (RQ's clean-up is at it), and its status   restore  'restored', or as probe
--       bury     'buried', 'fine'
--       and for a job that it does not fit: 'gone', or 'is' and its status
--
-- Invariant: a job is in one place before and after. The first write to a job's place is a removal, so all of it also
-- passes when memory is full.

local what, now_text, now = ARGV[1], ARGV[2], tonumber(ARGV[3])

local function load(id, ...)
  local job = job_key(id)
  if not fits(job, 'hash') or call('EXISTS', job) == 0 then return nil end
  local fields = call('HMGET', job, 'origin', 'status', ...)
  for i = 1, #fields do fields[i] = fields[i] or '' end
  return job, unpack(fields)
end

local function expire(job, id, ttl)
  if (tonumber(ttl) or 0) <= 0 then call('PERSIST', job); return end
  for _, key in ipairs({job, job .. ':dependents', job_key(':' .. id) .. ':dependencies'}) do call('EXPIRE', key, ttl) end
end

local function push(job, id, queue, at_front)
  local list = P .. ':queue:' .. queue
  call('HSET', job, 'status', 'queued', 'enqueued_at', now_text)
  call('SADD', P .. ':queues', list)
  call(at_front and 'LPUSH' or 'RPUSH', list, id)
end

-- Fill the free slots of a rate limit with those that wait for one, oldest first (rq/rate_limit.py).
local function fill_slots(limit)
  local key = P .. ':rl:' .. limit
  local slots = tonumber(call('HGET', key, 'concurrency') or 0) or 0
  while call('ZCARD', key .. ':allowed') < slots do
    local id = call('ZPOPMIN', key .. ':rate_limited')[1]
    if not id then return end
    local job, queue, status, at_front = load(id, 'enqueue_at_front')
    if job and queue ~= '' and status == 'rate_limited' then
      call('ZADD', key .. ':allowed', now, id)
      push(job, id, queue, at_front == '1')
    end
  end
end

local function retry(id)
  local job, queue, status, ttl, timeout, limit, slots =
    load(id, 'ttl', 'timeout', 'rate_limit_key', 'rate_limit_concurrency')
  if not job then return {'gone'} end
  if not fits(P .. ':queue:' .. queue, 'list') or try('ZREM', P .. ':failed:' .. queue, id) ~= 1 then return {'is', status} end
  call('HDEL', job, 'exc_info')
  call('HSET', job, 'started_at', '', 'ended_at', '')
  if timeout == '' then call('HSET', job, 'timeout', 180) end
  expire(job, id, ttl)
  if limit == '' then
    push(job, id, queue)
    return {'retried'}
  end
  local key = P .. ':rl:' .. limit
  call('HSET', job, 'status', 'rate_limited')
  call('SADD', P .. ':rl-keys', limit)
  call('HSET', key, 'concurrency', slots)
  call('ZADD', key .. ':rate_limited', now, id)
  fill_slots(limit)
  return {'limited'}
end

-- Where a job is that may be cancelled, and how it is taken from there.
local function take_away(id, queue, status, limit)
  if status == 'queued' or status == 'created' then return try('LREM', P .. ':queue:' .. queue, 0, id) end
  if status == 'rate_limited' then return try('ZREM', P .. ':rl:' .. limit .. ':rate_limited', id) end
  if status == 'scheduled' or status == 'deferred' then return try('ZREM', P .. ':' .. status .. ':' .. queue, id) end
end

local function cancel(id)
  local job, queue, status, limit = load(id, 'rate_limit_key')
  if not job then return {'gone'} end
  if not fits(P .. ':canceled:' .. queue, 'zset') or take_away(id, queue, status, limit) ~= 1 then return {'is', status} end
  call('HSET', job, 'status', 'canceled')
  call('ZADD', P .. ':canceled:' .. queue, now, id)
  if limit ~= '' and call('ZREM', P .. ':rl:' .. limit .. ':allowed', id) == 1 then fill_slots(limit) end
  local dependents = try('SCARD', job .. ':dependents')
  return {'cancelled', type(dependents) == 'number' and dependents or 0}
end

-- Executions of a job that are in wip: how many are alive, and those whose time is over.
local function executions_of(id, queue)
  local alive, over = 0, {}
  if not fits(wip_key(queue), 'zset') or not fits(P .. ':executions:' .. id, 'zset') then return alive, over end
  for _, execution in ipairs(call('ZRANGE', P .. ':executions:' .. id, 0, -1)) do
    local score = tonumber(call('ZSCORE', wip_key(queue), id .. ':' .. execution) or '')
    if score and score >= now then alive = alive + 1 elseif score then over[#over + 1] = execution end
  end
  return alive, over
end

local function forget_all(id, queue, executions)
  for _, execution in ipairs(executions) do
    local run = id .. ':' .. execution
    call('ZREM', wip_key(queue), run)
    forget(id, execution, call('HGET', P .. ':execution:' .. run, 'worker_name') or '')
  end
end

-- The status says in which place a job is; of one whose status says nothing, look in all.
local PLACES = {finished = 'finished', failed = 'failed', stopped = 'failed', canceled = 'canceled', scheduled = 'scheduled',
  deferred = 'deferred', ready_to_enqueue = 'ready'}

local function delete(id)
  local job, queue, status, group, limit = load(id, 'group_id', 'rate_limit_key')
  if not job then return {'gone'} end
  local alive, over = executions_of(id, queue)
  if status == 'started' or alive > 0 then return {'is', 'started'} end
  if not PLACES[status] then try('LREM', P .. ':queue:' .. queue, 1, id) end -- a long list takes its time
  for _, place in pairs(PLACES[status] and {PLACES[status]} or PLACES) do try('ZREM', P .. ':' .. place .. ':' .. queue, id) end
  forget_all(id, queue, over)
  call('UNLINK', job, job .. ':dependents', job_key(':' .. id) .. ':dependencies', P .. ':results:' .. id, P .. ':executions:' .. id)
  if group ~= '' then try('SREM', P .. ':group:' .. group, id) end
  local key = P .. ':rl:' .. limit
  if limit ~= '' and (try('ZREM', key .. ':rate_limited', id) == 1 or try('ZREM', key .. ':allowed', id) == 1) then fill_slots(limit) end
  return {'deleted'}
end

-- An entry may be an old one, of a job that has moved on: then only the entry goes.
local MOVED_ON = {queued = 'queue', scheduled = 'scheduled', deferred = 'deferred', rate_limited = '', ready_to_enqueue = ''}
local CHUNK = 200

local function empty(place)
  local key, kind = P .. ':' .. place, string.match(place, '^[^:]*')
  local ids = try(kind == 'queue' and 'LRANGE' or 'ZRANGE', key, 0, CHUNK - 1)
  if ids.err then return {'emptied', 0} end
  for _, id in ipairs(ids) do
    if kind == 'queue' then call('LREM', key, 1, id) else call('ZREM', key, id) end
    local _, _, status = load(id)
    if (MOVED_ON[status] or kind) == kind then delete(id) end
  end
  return {'emptied', #ids}
end

local function compact(page)
  local start, queue = string.match(page, '^(%d+) (.*)$')
  local list, gone = P .. ':queue:' .. queue, 'werk: gone' -- is no id
  local ids = try('LRANGE', list, start, start + CHUNK - 1)
  if ids.err then return {'compacted', 0, 0} end
  local left = #ids
  for i, id in ipairs(ids) do
    if call('EXISTS', job_key(id)) == 0 then
      call('LSET', list, start + i - 1, gone)
      left = left - 1
    end
  end
  if left < #ids then call('LREM', list, 0, gone) end
  return {'compacted', left, #ids}
end

local function stop(id)
  local job, _, status, worker = load(id, 'worker_name')
  if not job then return {'gone'} end
  if status ~= 'started' or worker == '' then return {'is', status} end
  local heard = call('PUBLISH', P .. ':pubsub:' .. worker, '{"command": "stop-job", "job_id": "' .. id .. '"}')
  return {heard > 0 and 'told' or 'deaf', worker}
end

local paused = P .. ':werk:paused'

local function is_known(queue)
  return call('SISMEMBER', P .. ':queues', P .. ':queue:' .. queue) + call('EXISTS', P .. ':workers:' .. queue) > 0
end

local function pause(queue)
  if not is_known(queue) then return {'unknown'} end
  return {call('SADD', paused, queue) == 1 and 'yes' or 'already'}
end

local function resume(queue)
  if call('SREM', paused, queue) == 1 then return {'yes'} end
  return {is_known(queue) and 'already' or 'unknown'}
end

-- Told once: a second time would make it break off its job.
local function drain(name)
  local worker = P .. ':worker:' .. name
  local birth, told, asked = unpack(call('HMGET', worker, 'birth', 'werk_draining', 'shutdown_requested_date'))
  if not birth then return {'unknown'} end
  if told or asked then return {'already'} end
  if call('PUBLISH', P .. ':pubsub:' .. name, '{"command": "shutdown"}') == 0 then return {'deaf'} end
  try('HSET', worker, 'werk_draining', now_text)
  return {'told'}
end

local function probe(id)
  local job, queue, status, ttl = load(id, 'ttl')
  if not job or queue == '' then return 'fine', status or '' end
  local list, scheduled = P .. ':queue:' .. queue, P .. ':scheduled:' .. queue
  local fit = fits(list, 'list') and fits(wip_key(queue), 'zset') and fits(P .. ':executions:' .. id, 'zset') and fits(scheduled, 'zset')
  if not fit then return 'fine', status end
  local alive, over = executions_of(id, queue)
  local is_lost = alive == 0 and (
    status == 'queued' and not call('LPOS', list, id)
    or status == 'scheduled' and not call('ZSCORE', scheduled, id)
    or status == 'started')
  if is_lost and #over > 0 and call('EXISTS', P .. ':clean_registries:' .. queue) == 1 then return 'later', status end
  return is_lost and 'lost' or 'fine', status, job, queue, over, ttl
end

local function restore(id)
  local found, status, job, queue, over, ttl = probe(id)
  if found ~= 'lost' then return {found, status} end
  try('LREM', P .. ':queue:' .. queue .. ':intermediate', 0, id)
  forget_all(id, queue, over)
  call('HSET', job, 'worker_name', '')
  expire(job, id, ttl)
  push(job, id, queue, true)
  return {'restored', status}
end

local function bury(key)
  if call('EXISTS', key) == 1 or call('SREM', P .. ':workers', key) == 0 then return {'fine'} end
  for _, list in ipairs(call('SMEMBERS', P .. ':queues')) do call('SREM', P .. ':workers:' .. string.sub(list, #P + 8), key) end
  return {'buried'}
end

local acts = {retry = retry, cancel = cancel, delete = delete, empty = empty, compact = compact, stop = stop, pause = pause,
  resume = resume, drain = drain, probe = function(id) local found, status = probe(id); return {found, status} end, restore = restore, bury = bury}
local replies = {}
for i = 4, #ARGV do replies[i - 3] = acts[what](ARGV[i]) end
return replies
