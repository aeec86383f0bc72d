-- Enqueue one job, once, however often this is sent.
--
-- KEYS  1 the job's hash   2 the set of queues   3 the queue, a list   4 its scheduled set
--       5 what remembers for a minute that the job was sent
-- ARGV  1 job id   2 'back', 'front' or 'at'   3 the time, with 'at': Unix seconds
--       4 seconds until the job expires, 0 never   5 seconds to remember that it was sent, 0 not
--       6 created_at, which tells this sending from another's with the same id
--       7 data   8 name of the queue   9 description   10 timeout   11 result_ttl   12 failure_ttl
--       13 task   14 max_crashes   15.. more fields and values
-- Returns 1: the job is enqueued, by this sending or by the same one before. 0: the id is another's.
--
-- Invariant: after it the job is in the queue or in the scheduled set, and its queue is in the set of
-- queues; or nothing has changed. All checks come first, and the first write is one that Redis refuses
-- at maxmemory, so nothing is half written.

local job, queues, queue, scheduled, sent = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, place, time = ARGV[1], ARGV[2], ARGV[3]
local ttl, remember_s, created_at = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local is_scheduled = place == 'at'

local function type_of(key) return redis.call('TYPE', key).ok end

local function misfit(key, found, wanted)
  if found == wanted or found == 'none' then return end
  local what = 'WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. wanted
  return redis.error_reply(what .. '; is something else using it?')
end

local found = type_of(job)
local wrong = misfit(job, found, 'hash') or misfit(queues, type_of(queues), 'set')
if not wrong and is_scheduled then wrong = misfit(scheduled, type_of(scheduled), 'zset') end
if not wrong and not is_scheduled then wrong = misfit(queue, type_of(queue), 'list') end
if not wrong and remember_s > 0 then wrong = misfit(sent, type_of(sent), 'string') end
if wrong then return wrong end

local before = found == 'hash' and (redis.call('HGET', job, 'created_at') or '')
if before then return before == created_at and 1 or 0 end
-- What was sent under this id and is gone already answers only its own sending.
if remember_s > 0 and redis.call('GET', sent) == created_at then return 1 end

redis.call('HSET', job, 'created_at', created_at, 'data', ARGV[7], 'origin', ARGV[8],
  'description', ARGV[9], 'timeout', ARGV[10], 'result_ttl', ARGV[11], 'failure_ttl', ARGV[12],
  'werk_task', ARGV[13], 'werk_max_crashes', ARGV[14],
  'status', is_scheduled and 'scheduled' or 'queued',
  'success_callback_name', '', 'failure_callback_name', '', 'stopped_callback_name', '',
  'started_at', '', 'ended_at', '', 'last_heartbeat', '', 'worker_name', '', 'group_id', '',
  unpack(ARGV, 15))
if ttl > 0 then redis.call('EXPIRE', job, ttl) end
redis.call('SADD', queues, queue)
if is_scheduled then redis.call('ZADD', scheduled, time, id)
elseif place == 'front' then redis.call('LPUSH', queue, id)
else redis.call('RPUSH', queue, id) end
if remember_s > 0 then redis.call('SET', sent, created_at, 'EX', remember_s) end
return 1
