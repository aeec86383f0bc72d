-- Functions for tick.lua and act.lua, after lib.lua: put a job into its queue or, if it has a rate
-- limit, have it wait for a slot, as RQ does. After `push` or `wait_for_slot` a job that the caller
-- has taken out of its place is in exactly one place again. NOW_TEXT is the time as RQ writes it.

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
  job.queue, job.limit = P .. ':queue:' .. job.origin, P .. ':rl:' .. job.rate_limit_key
  return job
end

local function push(job, at_front)
  call('HSET', job.key, 'status', 'queued', 'enqueued_at', now_text,
    'werk_enqueued', enqueued(now_text))
  try('SADD', P .. ':queues', job.queue)
  call(at_front and 'LPUSH' or 'RPUSH', job.queue, job.id)
end

local function has_slots(limit)
  return fits(limit, 'hash') and fits(limit .. ':allowed', 'zset')
    and fits(limit .. ':rate_limited', 'zset')
end

-- Give the free slots of a rate limit to the jobs that wait for one, oldest first: see
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

-- Return how many jobs of a job's rate limit may be queued or running; 0 if it has no rate limit
-- (as RQ's Job.has_rate_limit reads it).
local function slots_of(job)
  return job.rate_limit_key == '' and 0 or whole(job.rate_limit_concurrency, MOST_SLOTS)
end

local function wait_for_slot(job)
  call('ZREM', job.limit .. ':allowed', job.id) -- it may have a slot, from before it was deferred
  call('HSET', job.key, 'status', 'rate_limited')
  try('SADD', P .. ':rl-keys', job.rate_limit_key)
  call('HSET', job.limit, 'concurrency', string.format('%d', slots_of(job)))
  call('ZADD', job.limit .. ':rate_limited', now, job.id)
  fill_slots(job.limit)
end
