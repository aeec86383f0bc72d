-- Enqueue jobs of one task, each once, however often this is sent.
--
-- KEYS  1 the set of queues   2 the queue, a list   3 its scheduled set
-- ARGV  1 RQ's key prefix   2 'back', 'front', 'at' or 'at front'   3 with 'at', the time: Unix seconds
--       4 seconds until a job expires, 0 never   5 seconds to remember that it was sent, 0 not
--       6 created_at, which tells this sending from another's with the same id   7 name of the queue
--       8 timeout   9 result_ttl   10 failure_ttl   11 task   12 max_crashes   13 retries, 0 none
--       then of each job: id, data, description, retry_intervals
-- Returns for each job 1: it is enqueued, by this sending or by the same one before. 0: its id is
-- another's.
--
-- Invariant: after it each job is in the queue or in the scheduled set, and its queue is in the set of
-- queues; or nothing has changed. All checks come first, and the first write is one that Redis refuses
-- at maxmemory, so nothing is half written.

local queues, queue, scheduled = KEYS[1], KEYS[2], KEYS[3]
local P, place, time, ttl, remember_s = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local created_at, retries, FIRST, WORDS = ARGV[6], tonumber(ARGV[13]), 14, 4
local is_scheduled = place == 'at' or place == 'at front'

local function job_key(id) return P .. ':job:' .. id end
local function sent_key(id) return P .. ':werk:sent:' .. id end
local function type_of(key) return redis.call('TYPE', key).ok end

local function misfit(key, found, wanted)
  if found == wanted or found == 'none' then return end
  local what = 'WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. wanted
  return redis.error_reply(what .. '; is something else using it?')
end

-- Returns what to reply for a job that is not new, nothing for a new one; or an error.
local function known(id)
  local job, found = job_key(id), type_of(job_key(id))
  local wrong = misfit(job, found, 'hash')
  if not wrong and remember_s > 0 then wrong = misfit(sent_key(id), type_of(sent_key(id)), 'string') end
  if wrong then return nil, wrong end
  if found == 'hash' then return redis.call('HGET', job, 'created_at') == created_at and 1 or 0 end
  if remember_s > 0 and redis.call('GET', sent_key(id)) == created_at then return 1 end
end

-- The fields that not every job has.
local more = {}
local function also(field, value) more[#more + 1] = field; more[#more + 1] = value end
if not is_scheduled then also('enqueued_at', created_at) end
if place == 'at front' then also('enqueue_at_front', 1) end
if ttl > 0 then also('ttl', ttl) end
if retries > 0 then also('retries_left', retries) end

local function write(id, data, description, retry_intervals)
  local job = job_key(id)
  redis.call('HSET', job, 'created_at', created_at, 'data', data, 'origin', ARGV[7],
    'description', description, 'timeout', ARGV[8], 'result_ttl', ARGV[9], 'failure_ttl', ARGV[10],
    'werk_task', ARGV[11], 'werk_max_crashes', ARGV[12],
    'status', is_scheduled and 'scheduled' or 'queued',
    'success_callback_name', '', 'failure_callback_name', '', 'stopped_callback_name', '',
    'started_at', '', 'ended_at', '', 'last_heartbeat', '', 'worker_name', '', 'group_id', '',
    unpack(more))
  if retries > 0 then redis.call('HSET', job, 'retry_intervals', retry_intervals) end
  if ttl > 0 then redis.call('EXPIRE', job, ttl) end
  if remember_s > 0 then redis.call('SET', sent_key(id), created_at, 'EX', remember_s) end
end

local wrong = misfit(queues, type_of(queues), 'set')
if not wrong and is_scheduled then wrong = misfit(scheduled, type_of(scheduled), 'zset') end
if not wrong and not is_scheduled then wrong = misfit(queue, type_of(queue), 'list') end
if wrong then return wrong end

local replies, new = {}, {}
for i = FIRST, #ARGV, WORDS do
  local reply, wrong_job = known(ARGV[i])
  if wrong_job then return wrong_job end
  replies[#replies + 1] = reply or 1
  if not reply then new[#new + 1] = i end
end
for _, i in ipairs(new) do
  write(unpack(ARGV, i, i + WORDS - 1))
  if is_scheduled then redis.call('ZADD', scheduled, time, ARGV[i])
  else redis.call(place == 'front' and 'LPUSH' or 'RPUSH', queue, ARGV[i]) end
end
if #new > 0 then redis.call('SADD', queues, queue) end
return replies
