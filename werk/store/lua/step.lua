-- The horse's one round trip a job: record the outcome of the last execution, claim the next job.
--
-- KEYS  the queues, in the order in which they are served
-- ARGV  1 worker   2 generation of the horse   3 id of the execution that a claim begins   4 now, as RQ writes it
--       5 now, Unix seconds   6 until when RQ is to leave an execution alone, and 7 its name: whole seconds on Redis's
--       clock, which the tick has measured
--       8 '1' to claim   9 '1' if this may have been sent before   10 '' or, to write the state, what has been counted
--       since it was last written: 'done <jobs> worked <seconds> field amount field amount ...' (for werk:tallies)
--       of the finish, which ended just now; all left out when there is none:
--       11 job   12 its queue   13 execution   14 'finished', 'failed', 'stopped' or 'scheduled' (put off)
--       15 seconds to keep the job   16 until when that is, or with 'scheduled' when it is due, on Redis's clock
--       17 base64 of the result or of the traceback, '' for none; with 'scheduled', since when its task is unknown
--       18 when it was claimed, Unix seconds
-- Returns {what became of the finish, the claim, dropped jobs, paused queues}:
--       finish  'none', 'done', 'again' (this very one is recorded already), 'late' (the execution is no longer the
--               job's: discarded), 'dependents' (RQ must finish it; nothing was changed and nothing claimed), or
--               'misplaced': the key of the set where the job belongs is of another type. Nothing was changed, and
--               nothing claimed; but of a failure, that of failed:<queue>: the job stays in wip and no worker's,
--               until that key is removed and RQ's clean-up fails it
--       claim   {origin, status if RQ does not know it, or 'werk_v <version>' of a newer record than ours; attempt, data,
--               timeout, result_ttl, task; callbacks, if a success is not to be recorded here; job, queue it waited
--               in}, or why there is none: 'empty', 'more' (ask again), 'unasked', 'fenced' (another horse has taken
--               over), 'suspended'
--       dropped {id, why, ...} of what was in a queue and must not run; nothing if there was none, as of the paused,
--               to which belong those whose wip:<queue> is of another type: their jobs wait
--
-- Invariant: after it the job of the finish is where its outcome belongs, or untouched; and each popped job is in
-- wip under this execution, or is dropped because it is somewhere else already or no job at all, or is back in front
-- of its queue. Whatever any field and any key holds, no error is replied. A key of one job, execution or worker
-- alone that is of another type is removed and written anew; one that many share, such as a set of a queue, stays.
--
-- Run once a job, it stands without lib.lua and is made to be short: a call of Redis's costs 2 us, and so do three
-- tables returned, three functions that share locals, or two numbers turned to text. What is true of lib.lua's writes
-- holds here too. What an execution leaves behind expires as soon as the tick has seen it running.

local call, try = redis.call, redis.pcall
local worker, generation, execution, now_text, now = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local resent, counts = ARGV[9] == '1', ARGV[10]

local MOST_ATTEMPTS = 1000000000
local KNOWN = ' started finished failed deferred scheduled stopped canceled rate_limited ready_to_enqueue '
local DROPS_AT_ONCE = 100

local worker_key, suspended, pauses = P .. ':worker:' .. worker, P .. ':suspended', P .. ':werk:paused'
local runs = worker_key .. ':executions'
local outcome, is_special = 'none', false

if not ARGV[11] then
  is_special = call('EXISTS', suspended, pauses) > 0
else
  local id, queue, finished, ended_as, keep, value = ARGV[11], ARGV[12], ARGV[13], ARGV[14], ARGV[15], ARGV[17]
  local job, run, wip, results = P .. ':job:' .. id, id .. ':' .. finished, P .. ':wip:' .. queue, P .. ':results:' .. id
  local execution_key = P .. ':execution:' .. run
  local dependents, dependencies = job .. ':dependents', P .. ':job::' .. id .. ':dependencies' -- RQ's own second colon
  local is_success = ended_as == 'finished'
  local set = ended_as == 'stopped' and 'failed' or ended_as -- as in RQ
  local result_type = is_success and '1' or '2' -- rq/results.py
  is_special = call('EXISTS', suspended, pauses, dependents, dependencies) > 0
  if is_special and is_success and call('TYPE', dependents).ok == 'set' and call('EXISTS', job) == 1
    and tonumber(try('ZSCORE', wip, run)) then return {'dependents', '', false, false} end

  outcome = 'late'
  local removed, place, is_canceled = try('ZREM', wip, run), P .. ':' .. set .. ':' .. queue, false
  local is_ours = removed == 1 or type(removed) == 'table' and try('HGET', execution_key, 'worker_name') == worker
  if not is_ours then
    local last = call('TYPE', results).ok == 'stream' and call('XREVRANGE', results, '+', '-', 'COUNT', 1)[1]
    local entry = {}
    for i = 1, last and #last[2] or 0, 2 do entry[last[2][i]] = last[2][i + 1] end
    -- Who rescued this execution may have failed it, under the same id.
    if entry.execution_id == finished and entry.type == result_type then outcome = 'again' end
    is_canceled = outcome == 'late' and try('HGET', job, 'status') == 'canceled' and call('EXISTS', execution_key) == 1
    is_ours = is_canceled
  end
  -- The set may refuse: so it is written first, and what it refuses goes back to where it was; or, if wip is of another
  -- type as well, to its queue. What was cancelled meanwhile is in its place without this.
  if is_ours and type(try('ZADD', place, ARGV[16], id)) == 'table' then
    is_ours = false
    if not is_canceled then
      if removed == 1 then call('ZADD', wip, ARGV[6], run) end
      if set ~= 'failed' then return {'misplaced', '', false, false} end
      outcome = 'misplaced'
      if removed ~= 1 and call('TYPE', job).ok == 'hash' and type(try('LPUSH', P .. ':queue:' .. queue, id)) == 'number' then
        call('HSET', job, 'status', 'queued', 'worker_name', '')
      end
    end
  end
  if outcome ~= 'again' then
    call('UNLINK', execution_key)
    try('ZREM', P .. ':executions:' .. id, finished)
    try('SREM', runs, run)
    if not is_ours then -- discarded
    elseif ended_as == 'scheduled' and call('TYPE', job).ok == 'hash' then
      outcome = 'done'
      call('HSET', job, 'status', 'scheduled', 'worker_name', '', 'werk_unknown_since', value)
    elseif ended_as ~= 'scheduled' and call('EXPIRE', job, keep) == 1 -- there is such a job, and it is a hash
      and type(try('HSET', job, 'status', ended_as, 'ended_at', now_text, 'last_heartbeat', now_text)) == 'number' then
      outcome = 'done'
      local added
      if value == '' then
        added = try('XADD', results, 'MAXLEN', '~', '10', '*', 'type', result_type, 'worker_name', worker,
          'execution_id', finished, 'execution_started_at', ARGV[18], 'execution_ended_at', now)
      else
        added = try('XADD', results, 'MAXLEN', '~', '10', '*', 'type', result_type, 'worker_name', worker,
          'execution_id', finished, 'execution_started_at', ARGV[18], 'execution_ended_at', now,
          is_success and 'return_value' or 'exc_string', value)
      end
      if type(added) == 'table' then -- no stream, or one that takes no more
        call('UNLINK', results)
        call('XADD', results, '*', 'type', result_type, 'worker_name', worker, 'execution_id', finished,
          'execution_started_at', ARGV[18], 'execution_ended_at', now,
          unpack(value == '' and {} or {is_success and 'return_value' or 'exc_string', value}))
      end
      call('EXPIRE', results, keep)
      if is_special then call('EXPIRE', dependents, keep); call('EXPIRE', dependencies, keep) end
      if is_special and not is_success and call('EXISTS', dependents) == 1 then -- for the tick: see find_unfinished
        try('ZADD', P .. ':werk:committed', ARGV[6] - 90, run .. ' ' .. worker)
      end
      if not is_success then try('HINCRBY', worker_key, 'failed_job_count', 1) end
    else -- the job was deleted, or has expired
      call('ZREM', place, id)
      call('PERSIST', job)
    end
  end
end

-- Origin and status first, then what the horse decides by.
local function fields_of(job)
  return redis.pcall('HMGET', job, 'origin', 'status', 'werk_attempt', 'data', 'timeout', 'result_ttl', 'werk_task',
    'success_callback_name', 'failure_callback_name', 'stopped_callback_name', 'repeats_left', 'rate_limit_key', 'webhooks',
    'werk_v')
end

local got, got_id, got_queue, dropped, paused, number = nil, nil, nil, false, false, 0
if resent then -- the claim that this very request made when it was sent before
  for _, run in ipairs(try('SMEMBERS', runs)) do
    local id, made_by = string.match(run, '^(.*):([^:]*)$')
    local fields = made_by == execution and fields_of(P .. ':job:' .. id)
    if fields and fields[1] then -- or its record is no more
      got, got_id, got_queue = fields, id, ''
      got[2] = ''
    end
  end
end
if got then -- it is that
elseif ARGV[8] ~= '1' then got = 'unasked'
elseif try('HGET', worker_key, 'werk_horse') ~= generation then got = 'fenced'
elseif is_special and call('EXISTS', suspended) == 1 then got = 'suspended'
end

while not got do
  number = number + 1
  local list, id = KEYS[number], nil
  local queue = list and string.sub(list, #P + 8)
  if not list then
    got = 'empty'
  elseif is_special and try('SISMEMBER', pauses, queue) == 1 then
    paused = paused or {}
    paused[#paused + 1] = list
  else
    id = try('LPOP', list)
  end
  while type(id) == 'string' do
    local job = P .. ':job:' .. id
    local fields, why_not, is_blocked = fields_of(job), nil, false
    local origin, status, attempt = fields[1] or '', fields[2] or '', '1'
    local is_ready, is_nowhere = status == 'queued' or status == 'created', origin == ''
    if is_nowhere then origin = queue end
    local run = id .. ':' .. execution
    local execution_key = P .. ':execution:' .. run
    if fields.err then
      why_not = 'its key is no hash'
    elseif not is_ready and status == '' and call('EXISTS', job) == 0 then -- expired or deleted: nothing to say
    elseif not is_ready and string.find(KNOWN, ' ' .. status .. ' ', 1, true) then
      why_not = 'it is ' .. status
    else
      -- What may be of another type comes first. These two are this worker's and this execution's alone.
      if type(try('SADD', runs, run)) == 'table' then call('UNLINK', runs); call('SADD', runs, run) end
      if type(try('HSET', execution_key, 'id', execution, 'job_id', id, 'created_at', now, 'last_heartbeat', now,
        'worker_name', worker)) == 'table' then
        call('UNLINK', execution_key)
        call('HSET', execution_key, 'id', execution, 'job_id', id, 'created_at', now, 'last_heartbeat', now,
          'worker_name', worker)
      end
      is_blocked = type(try('ZADD', P .. ':wip:' .. origin, ARGV[6], run)) == 'table'
      if is_blocked and origin ~= queue then
        origin, is_nowhere = queue, true
        is_blocked = type(try('ZADD', P .. ':wip:' .. origin, ARGV[6], run)) == 'table'
      end
      if is_blocked then
        call('SREM', runs, run)
        call('UNLINK', execution_key)
        call('LPUSH', list, id)
        paused = paused or {}
        paused[#paused + 1] = list
      else
        if fields[3] then
          local before = tonumber(fields[3]) or 0
          attempt = before >= 0 and before < MOST_ATTEMPTS and math.floor(before) + 1 or 1
        end
        call('HSET', job, 'status', 'started', 'started_at', now_text, 'worker_name', worker, 'last_heartbeat', now_text,
          'werk_attempt', attempt)
        if is_nowhere then call('HSET', job, 'origin', origin) end
        call('PERSIST', job)
        if type(try('ZADD', P .. ':executions:' .. id, ARGV[7], execution)) == 'table' then
          call('UNLINK', P .. ':executions:' .. id)
          call('ZADD', P .. ':executions:' .. id, ARGV[7], execution)
        end
        fields[1], fields[2], fields[3] = origin, is_ready and '' or status, attempt
        got, got_id, got_queue = fields, id, queue
      end
    end
    if why_not then
      dropped = dropped or {}
      dropped[#dropped + 1] = id; dropped[#dropped + 1] = why_not
      if #dropped >= 2 * DROPS_AT_ONCE then got = 'more' end
    end
    id = not got and not is_blocked and try('LPOP', list)
  end
end

if type(got) == 'table' then
  local success, failure, stopped = got[8] or '', got[9] or '', got[10] or '' -- RQ stores '' for none
  local is_plain = success .. failure .. stopped .. (got[11] or '') .. (got[12] or '') .. (got[13] or '') == ''
  if (tonumber(got[14] or 0) or 0) > VERSION then got[2] = 'werk_v ' .. got[14] end
  got[8], got[9], got[10], got[11] = not is_plain and {success, failure, stopped}, got_id, got_queue, nil
end

-- What the horse has counted, added to anything but what is no number.
local function add_counts()
  for field, amount in string.gmatch(counts, '(%S+) (%S+)') do
    if field == 'done' then try('HINCRBY', worker_key, 'successful_job_count', amount)
    elseif field == 'worked' then try('HINCRBYFLOAT', worker_key, 'total_working_time', amount)
    else try('HINCRBYFLOAT', P .. ':werk:tallies', field, amount) end
  end
end

if counts ~= '' and try('HEXISTS', worker_key, 'birth') == 1 then -- write the state
  local state = type(got) == 'table' and 'busy' or got == 'suspended' and 'suspended' or 'idle'
  local is_repeat = resent and call('HGET', worker_key, 'werk_step') == execution
  local clock = call('TIME')
  call('HDEL', worker_key, 'werk_moved') -- a removal first: see lib.lua
  call('HSET', worker_key, 'state', state, 'last_heartbeat', now_text, 'werk_step', execution,
    'werk_moved', clock[1] .. '.' .. string.format('%06d', clock[2]))
  if not is_repeat then add_counts() end
end
return {outcome, got, dropped, paused}
