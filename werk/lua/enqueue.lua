-- Enqueue jobs of one task, each once, however often this is sent.
--
-- KEYS  1 the set of queues   2 the queue, a list   3 its scheduled set
-- ARGV  1 RQ's key prefix   2 'back', 'front', 'at' or 'at front'   3 with 'at', the time: Unix seconds
--       4 seconds until a job expires, 0 never   5 seconds to remember that it was sent, 0 not
--       6 created_at, which tells this sending from another's with the same id   7 name of the queue
--       8 timeout   9 result_ttl   10 failure_ttl   11 task   12 max_crashes   13 retries, 0 none
--       14 milliseconds that a hold lasts   15 webhooks, as RQ's JSON, or ''
--       then of each job: id, data, description, retry_intervals, and two keys or '':
--         hold: whoever is enqueued takes it, and until it ends nothing else with the same hold is
--         pointer: to the last job enqueued with it; while that is active nothing else with it is
-- Returns for each job 1: it is enqueued, by this sending or by the same one before; or
--   {'id', id}: its id is another's    {'hold', id}: job `id` holds it off
--   {'active', id, status}: so does the one that the pointer names
--   {'overdue', id, status}: it is enqueued, though that one is active, and has been for a day
--
-- Invariant: after it each job is in the queue or in the scheduled set, and its queue is in the set of
-- queues; or nothing has changed. All checks come first, and the first write is one that Redis refuses
-- at maxmemory, so nothing is half written.

local queues, queue, scheduled = KEYS[1], KEYS[2], KEYS[3]
local P, place, time, ttl, remember_s = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local created_at, retries, hold_ms, FIRST, WORDS = ARGV[6], tonumber(ARGV[13]), ARGV[14], 16, 6
local is_scheduled = place == 'at' or place == 'at front'
local status_now = is_scheduled and 'scheduled' or 'queued'
local DAY_MS = 24 * 3600 * 1000
local POINTER_MS = 30 * DAY_MS

local function job_key(id) return P .. ':job:' .. id end
local function sent_key(id) return P .. ':werk:sent:' .. id end
local function type_of(key) return redis.call('TYPE', key).ok end

local function misfit(key, found, wanted)
  if found == wanted or found == 'none' then return end
  local what = 'WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. wanted
  return redis.error_reply(what .. '; is something else using it?')
end

-- Returns what to reply for a job that was sent before or whose id is another's, nothing for others; or an error.
local function known(id)
  local job, found = job_key(id), type_of(job_key(id))
  local wrong = misfit(job, found, 'hash')
  if not wrong and remember_s > 0 then wrong = misfit(sent_key(id), type_of(sent_key(id)), 'string') end
  if wrong then return nil, wrong end
  if found == 'hash' then
    return redis.call('HGET', job, 'created_at') == created_at and 1 or {'id', id}
  end
  if remember_s > 0 and redis.call('GET', sent_key(id)) == created_at then return 1 end
end

-- What stands in each hold and pointer, by this sending too. A hold: the id and created_at of its job.
local stands = {}
local function read(key)
  if key == '' then return end
  if stands[key] then return stands[key] end
  local wrong = misfit(key, type_of(key), 'string')
  return not wrong and redis.call('GET', key), wrong
end

-- Returns what to reply for a job that another holds off, nothing for others; or an error.
local function held(id, hold)
  local holder, wrong = read(hold)
  if not holder then return nil, wrong end
  if holder == id .. ' ' .. created_at then return 1 end -- the same sending, whose job has come and gone
  return {'hold', string.match(holder, '^%S*')}
end

local ACTIVE = {queued = true, scheduled = true, deferred = true, started = true}
local function active(pointer)
  local last, wrong = read(pointer)
  if not last then return nil, wrong end
  if stands[pointer] then return {'active', last, status_now} end
  local status = redis.pcall('HGET', job_key(last), 'status')
  if not ACTIVE[status] then return end
  local age_ms = POINTER_MS - redis.call('PTTL', pointer)
  return {age_ms > DAY_MS and 'overdue' or 'active', last, status}
end

-- The fields that not every job has.
local more = {}
local function also(field, value) more[#more + 1] = field; more[#more + 1] = value end
if not is_scheduled then also('enqueued_at', created_at) end
if place == 'at front' then also('enqueue_at_front', 1) end
if ttl > 0 then also('ttl', ttl) end
if retries > 0 then also('retries_left', retries) end
if ARGV[15] ~= '' then also('webhooks', ARGV[15]) end

local function write(id, data, description, retry_intervals, hold, pointer)
  local job = job_key(id)
  redis.call('HSET', job, 'created_at', created_at, 'data', data, 'origin', ARGV[7],
    'description', description, 'timeout', ARGV[8], 'result_ttl', ARGV[9], 'failure_ttl', ARGV[10],
    'werk_task', ARGV[11], 'werk_max_crashes', ARGV[12], 'status', status_now,
    'success_callback_name', '', 'failure_callback_name', '', 'stopped_callback_name', '',
    'started_at', '', 'ended_at', '', 'last_heartbeat', '', 'worker_name', '', 'group_id', '',
    unpack(more))
  if retries > 0 then redis.call('HSET', job, 'retry_intervals', retry_intervals) end
  if ttl > 0 then redis.call('EXPIRE', job, ttl) end
  if remember_s > 0 then redis.call('SET', sent_key(id), created_at, 'EX', remember_s) end
  if hold ~= '' then redis.call('SET', hold, stands[hold], 'PX', hold_ms) end
  if pointer ~= '' then redis.call('SET', pointer, id, 'PX', POINTER_MS) end
end

local wrong = misfit(queues, type_of(queues), 'set')
if not wrong and is_scheduled then wrong = misfit(scheduled, type_of(scheduled), 'zset') end
if not wrong and not is_scheduled then wrong = misfit(queue, type_of(queue), 'list') end
if wrong then return wrong end

local replies, new = {}, {}
for i = FIRST, #ARGV, WORDS do
  local id, hold, pointer = ARGV[i], ARGV[i + 4], ARGV[i + 5]
  local reply, wrong_key = known(id)
  if not (reply or wrong_key) then reply, wrong_key = held(id, hold) end
  if not (reply or wrong_key) then reply, wrong_key = active(pointer) end
  if wrong_key then return wrong_key end
  replies[#replies + 1] = reply or 1
  if not reply or reply ~= 1 and reply[1] == 'overdue' then
    new[#new + 1] = i
    stands[hold], stands[pointer] = id .. ' ' .. created_at, id
  end
end
for _, i in ipairs(new) do
  write(unpack(ARGV, i, i + WORDS - 1))
  if is_scheduled then redis.call('ZADD', scheduled, time, ARGV[i])
  else redis.call(place == 'front' and 'LPUSH' or 'RPUSH', queue, ARGV[i]) end
end
if #new > 0 then redis.call('SADD', queues, queue) end
return replies
