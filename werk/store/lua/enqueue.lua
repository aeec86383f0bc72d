-- Enqueue jobs of one task. The same request may be sent again: it enqueues each job only once.
--
-- After this script each new job is in the queue or in the scheduled set, and the queue is in the
-- set of queues; or nothing has changed. All checks come before the first write, except for the
-- type of the queue or of the scheduled set. The first write checks that type, and it is also the
-- write that Redis refuses at maxmemory, so no job is ever half written.
--
-- KEYS  1 the set of queues   2 the queue, a list   3 its scheduled set
-- ARGV  the fields of EnqueueRequest, then JOB_FIELDS for each job: see client/request.py, which
--       prepends the names used here; then RARE words: further fields of all jobs, with values
-- Returns for each job 1: it was enqueued, by this request or by an earlier copy of it; or
--       {'id', id}               not enqueued: another job has this id
--       {'conflict', id, call}   the same, and that job is another call: its werk_call differs
--       {'hold', id}             not enqueued: the hold of job `id` has not expired
--       {'active', id, status}   not enqueued: job `id`, which the pointer names, is active
--       {'overdue', id, status}  enqueued although that job is active: it has been for a day
--   and last, if SERVED was given, a warning (see `found`) or ''. With REQUIRE_WORKER a warning,
--   except for 'paused', is the only reply if any job is new, and nothing is enqueued.
--
-- This script runs for nearly every job, so what only few jobs need is read and written for those
-- jobs alone. Functions are made only where they are needed: three take as long as a call to Redis.

local call, try = redis.call, redis.pcall
local clock = call('TIME')
local queues, queue, scheduled = KEYS[1], KEYS[2], KEYS[3]
local ttl, result_ttl, failure_ttl = tonumber(TTL), tonumber(RESULT_TTL), tonumber(FAILURE_TTL)
if ttl < 0 then -- as many seconds after the job is due
  ttl = math.ceil(math.max(0, DUE - clock[1] - clock[2] / 1000000) - ttl)
end
local retry_delays = RETRY_DELAYS ~= '' and cjson.decode(RETRY_DELAYS)
local jobs_end = #ARGV - RARE
local is_scheduled = PLACE ~= 'back' and PLACE ~= 'front'
local status_now = is_scheduled and 'scheduled' or 'queued'
local POINTER_MS = 1000 * MONTH_S
local SENT_MEMORY_S = 60 -- far longer than the time in which a request is resent
local is_short_lived = ttl > 0 and ttl < SENT_MEMORY_S
  or result_ttl >= 0 and result_ttl < SENT_MEMORY_S
  or failure_ttl >= 0 and failure_ttl < SENT_MEMORY_S

-- Return the error to reply with if a key has another type, else nothing.
local function clash(key, wanted)
  local found = redis.call('TYPE', key).ok
  if found == wanted or found == 'none' then return end
  local what = 'WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. wanted
  return redis.error_reply(what .. '; is something else using it?')
end

local is_listed = try('SISMEMBER', queues, queue)
if type(is_listed) == 'table' then return clash(queues, 'set') or is_listed end

-- Most jobs are surely new: nothing has their id, and they have neither a hold nor a pointer.
local replies, new, ids, is_new = {}, {}, {}, not is_short_lived
for at = REQUEST_FIELDS, jobs_end - 1, JOB_FIELDS do
  local id = ARGV[at + ID]
  replies[#replies + 1], new[#new + 1], ids[#ids + 1] = 1, at, id
  is_new = is_new and ARGV[at + HOLD] == '' and ARGV[at + POINTER] == ''
    and call('EXISTS', PREFIX .. ':job:' .. id) == 0
end

-- What each hold and pointer contains, including what this request is about to write. A hold
-- contains the id and created_at of its job.
local stands = {}

if not is_new then
  replies, new, ids = {}, {}, {}
  local OVERDUE_MS = 24 * 3600 * 1000
  local wrong -- the error to reply with
  local function read(key)
    if stands[key] then return stands[key] end
    wrong = wrong or clash(key, 'string')
    return not wrong and call('GET', key)
  end

  -- Return the value of a field that few jobs have; nothing if these jobs do not have it.
  local function rare(name)
    for at = jobs_end + 1, #ARGV, 2 do
      if ARGV[at] == name then return ARGV[at + 1] end
    end
  end

  -- Return the reply for a job that was sent before or whose id another job has, else nothing.
  local function known(id, job)
    wrong = clash(job, 'hash')
    if wrong then return end
    if call('EXISTS', job) == 1 then
      local own = call('HMGET', job, 'created_at', 'werk_call', 'description')
      if own[1] == CREATED_AT then return 1 end
      local theirs, ours = own[2], rare('werk_call')
      local is_other = theirs and ours and theirs ~= ours -- plain RQ and older callers write none
      return is_other and {'conflict', id, own[3] or ''} or {'id', id}
    end
    if read(PREFIX .. ':werk:sent:' .. id) == CREATED_AT then return 1 end
  end

  -- Return the reply for a job that the hold of another job keeps out, else nothing.
  local function held(id, hold)
    local holder = read(hold)
    if holder == id .. ' ' .. CREATED_AT then return 1 end -- sent before; the job has ended
    if holder then return {'hold', string.match(holder, '^%S*')} end
  end

  -- Return the reply for a job whose pointer names an active job, else nothing.
  local function active(pointer)
    local is_active = {queued = true, scheduled = true, deferred = true, started = true}
    local last = read(pointer)
    if not last then return end
    if stands[pointer] then return {'active', last, status_now} end
    local status = try('HGET', PREFIX .. ':job:' .. last, 'status')
    if not is_active[status] then return end
    local age_ms = POINTER_MS - call('PTTL', pointer)
    return {age_ms > OVERDUE_MS and 'overdue' or 'active', last, status}
  end

  for at = REQUEST_FIELDS, jobs_end - 1, JOB_FIELDS do
    local id, hold, pointer = ARGV[at + ID], ARGV[at + HOLD], ARGV[at + POINTER]
    local job, reply = PREFIX .. ':job:' .. id, nil
    if is_short_lived or call('EXISTS', job) == 1 then reply = known(id, job) end
    if hold ~= '' then reply = reply or held(id, hold) end
    if pointer ~= '' then reply = reply or active(pointer) end
    if wrong then return wrong end
    replies[#replies + 1] = reply or 1
    if not reply or reply ~= 1 and reply[1] == 'overdue' then
      new[#new + 1], ids[#ids + 1] = at, id
      if hold ~= '' then stands[hold] = id .. ' ' .. CREATED_AT end
      if pointer ~= '' then stands[pointer] = id end
    end
  end
end

if SERVED ~= '' then
  local function members(...)
    local reply = try(...)
    return reply.err and {} or reply
  end

  -- Return '' if a live worker serves the caller's version of the task, or if a plain RQ worker
  -- listens, which runs anything. Else return 'differs' if live workers serve another version,
  -- 'unknown' if they do not know the task, 'unheard' if no worker listens. (See `found` as well.)
  local function warning()
    local serves, prefix = PREFIX .. ':werk:serves:' .. QUEUE, TASK .. ' '
    local since = clock[1] - LEASE_S
    local beat = try('ZSCORE', serves, SERVED)
    if type(beat) == 'string' and tonumber(beat) >= since then return '' end
    local live = members('ZRANGEBYSCORE', serves, since, '+inf')
    for _, other in ipairs(live) do
      if string.sub(other, 1, #prefix) == prefix then return 'differs' end
    end
    if #live > 0 then return 'unknown' end
    for _, worker in ipairs(members('SMEMBERS', PREFIX .. ':workers:' .. QUEUE)) do
      local found = members('HMGET', worker, 'birth', 'werk_lease')
      if found[1] and not found[2] then return '' end
    end
    return 'unheard'
  end

  local found = warning()
  if found ~= '' and #new > 0 and REQUIRE_WORKER == '1' then return {found} end
  -- A worker that serves the task will run it when the queue is resumed.
  local is_paused = found == '' and try('SISMEMBER', PREFIX .. ':werk:paused', QUEUE) == 1
  if is_paused then found = 'paused' end
  replies[#replies + 1] = found
end
if #new == 0 then return replies end

local placed
if is_scheduled then
  local due, scored = DUE, {}
  if string.sub(PLACE, 1, 2) == 'in' then
    due = string.format('%.3f', clock[1] + clock[2] / 1000000 + DUE)
  end
  for _, id in ipairs(ids) do scored[#scored + 1] = due; scored[#scored + 1] = id end
  placed = try('ZADD', scheduled, unpack(scored))
  if type(placed) == 'table' then return clash(scheduled, 'zset') or placed end
else
  placed = try(PLACE == 'front' and 'LPUSH' or 'RPUSH', queue, unpack(ids))
  if type(placed) == 'table' then return clash(queue, 'list') or placed end
end
if is_listed == 0 then call('SADD', queues, queue) end

-- Return the seconds before each retry, plus or minus 10 %, so that jobs that failed together are
-- not retried together.
local retry_intervals = retry_delays and function()
  local seconds = {}
  for n, exact in ipairs(retry_delays) do
    seconds[n] = math.floor(exact * (0.9 + math.random() / 5) + 0.5)
  end
  return cjson.encode(seconds)
end

local first, first_meta
if retry_delays then math.randomseed(clock[2]) end
for _, at in ipairs(new) do
  local id, data, description = ARGV[at + ID], ARGV[at + DATA], ARGV[at + DESCRIPTION]
  local hold, pointer, meta = ARGV[at + HOLD], ARGV[at + POINTER], ARGV[at + META]
  local job = PREFIX .. ':job:' .. id
  if first then -- COPY takes a third of the time
    call('COPY', first, job)
    call('HSET', job, 'data', data, 'description', description)
    if meta ~= first_meta then call('HSET', job, 'meta', meta) end
  else
    -- The fields that step.lua uses come first: Redis searches a small hash from its beginning.
    call('HSET', job, 'status', status_now, 'origin', QUEUE, 'data', data, 'timeout', TIMEOUT,
      'result_ttl', RESULT_TTL, 'werk_task', TASK, 'werk_v', VERSION,
      'werk_enqueued', CREATED_AT .. '|' .. clock[1] .. '.' .. string.sub('00000' .. clock[2], -6),
      -- A scheduled job has no enqueued_at yet.
      is_scheduled and 'created_at' or 'enqueued_at', CREATED_AT, 'success_callback_name', '',
      'failure_callback_name', '', 'stopped_callback_name', '', 'started_at', '',
      'worker_name', '', 'last_heartbeat', '', 'ended_at', '', 'created_at', CREATED_AT,
      'description', description, 'failure_ttl', FAILURE_TTL, 'werk_max_crashes', MAX_CRASHES,
      'group_id', '')
    local is_front = is_scheduled and string.find(PLACE, 'front', 1, true)
    if is_front then call('HSET', job, 'enqueue_at_front', 1) end
    if retry_delays then call('HSET', job, 'retries_left', #retry_delays) end
    if jobs_end < #ARGV then call('HSET', job, unpack(ARGV, jobs_end + 1)) end
    if ttl > 0 then call('HSET', job, 'ttl', ttl); call('EXPIRE', job, ttl) end
    if meta ~= '' then call('HSET', job, 'meta', meta) end
    first, first_meta = job, meta
  end
  if retry_delays then call('HSET', job, 'retry_intervals', retry_intervals()) end
  if is_short_lived then
    call('SET', PREFIX .. ':werk:sent:' .. id, CREATED_AT, 'EX', SENT_MEMORY_S)
  end
  if hold ~= '' then call('SET', hold, stands[hold], 'PX', HOLD_MS) end
  if pointer ~= '' then call('SET', pointer, id, 'PX', POINTER_MS) end
end
return replies
