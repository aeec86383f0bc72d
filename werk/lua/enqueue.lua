-- Enqueue one job, once, however often this is sent.
--
-- KEYS  1 the job's hash   2 the set of queues   3 the queue, a list   4 its scheduled set
--       5 what remembers for a minute that the job was sent
-- ARGV  1 job id   2 'back', 'front' or 'at'   3 the time, with 'at': Unix seconds
--       4 seconds until the job expires, 0 never   5 seconds to remember that it was sent, 0 not
--       6 created_at, which tells this sending from another's with the same id   7.. fields and values
-- Returns 1: the job is enqueued, by this sending or by the same one before. 0: the id is another's.
--
-- Invariant: after it the job is in the queue or in the scheduled set, and its queue is in the set of
-- queues; or nothing has changed. All checks come first, and the first write is one that Redis refuses
-- at maxmemory, so nothing is half written.

local job, queues, queue, scheduled, sent = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, place, time = ARGV[1], ARGV[2], ARGV[3]
local ttl, remember_s, created_at = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]

for key, wanted in pairs({[job] = 'hash', [queues] = 'set', [queue] = 'list', [scheduled] = 'zset', [sent] = 'string'}) do
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= wanted then
    return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. wanted .. '; is something else using it?')
  end
end

local before = redis.call('HGET', job, 'created_at')
if before then return before == created_at and 1 or 0 end
if redis.call('GET', sent) == created_at then return 1 end
if redis.call('EXISTS', job) == 1 then return 0 end

redis.call('HSET', job, unpack(ARGV, 7))
if ttl > 0 then redis.call('EXPIRE', job, ttl) end
redis.call('SADD', queues, queue)
if place == 'at' then redis.call('ZADD', scheduled, time, id)
elseif place == 'front' then redis.call('LPUSH', queue, id)
else redis.call('RPUSH', queue, id) end
if remember_s > 0 then redis.call('SET', sent, created_at, 'EX', remember_s) end
return 1
