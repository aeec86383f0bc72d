-- Record the outcome of the horse's last execution and claim its next job, in one round trip.
--
-- After this script each popped job is in exactly one place: in wip under this execution; or, if it
-- is dropped, where it already was; or back at the front of its queue. The ended job is where its
-- outcome belongs, or untouched. If no job has ended, what the horse's waits have taken (hands.lua)
-- is back in its queue first. No value of a field and no type of a key raises an error. A key of
-- one job, execution or worker that has another type is written anew; one that many share stays.
--
-- KEYS  the queues, in the order in which they are served
-- ARGV  WORKER   GENERATION of the horse   RESENT '1' if this request may have been sent before
--       EXECUTION, the id of the execution that a claim begins
--       NOW_TEXT, the time as RQ writes it   NOW, Unix seconds
--       OWNED_UNTIL and LISTED_UNTIL: until when RQ leaves the execution alone, and lists it; whole
--       seconds on Redis's clock, as the tick has measured it
--       WANTS_JOB '1' to claim
--       COUNTS '' or, to write the worker's state, what the horse has counted since it was last
--       written: 'done <jobs> worked <seconds> field amount field amount ...' (for werk:tallies)
--       Only if an execution has just ended, its outcome (Outcome in outcome.py):
--       ENDED_JOB   ENDED_QUEUE   ENDED_EXECUTION
--       ENDED_STATUS 'finished', 'failed', 'stopped' or 'scheduled' (deferred); 'failed <cause>':
--       the failure is also appended to werk:gave-up, for WERK_ON_GIVE_UP (see lib.lua)
--       ENDED_KEEP_S, seconds that the job is kept   ENDED_UNTIL, when they end or, for
--       'scheduled', when the job is due; on Redis's clock
--       ENDED_VALUE, base64 of the result or of the traceback, '' for none; for 'scheduled', since
--       when the task is unknown, a space, and why   ENDED_CLAIMED_AT, Unix seconds
--       ENDED_FAILURE, for 'failed': what it is counted under, see failures.lua; else ''
-- Returns {outcome, claim, dropped, paused}:
--       outcome 'none'; 'done'; 'again': recorded by an earlier copy of this request; 'late': the
--               execution no longer owns the job, and its outcome was discarded; 'dependents': RQ
--               has to record it, nothing was changed or claimed; 'misplaced': the key of the set
--               where the job belongs has another type. Nothing was changed or claimed; only for a
--               failed job the next job is claimed, and the failed one stays in wip without a
--               worker, until that key is removed and RQ's clean-up fails it
--       claim   the fields of Claim (claim.py) up to its queue. `status` is '' for a job that was
--               waiting, a text that is no status of RQ's, or 'werk_v <version>' for a record newer
--               than this version reads. `callbacks` is set if RQ has to record a success.
--               If nothing was claimed, the reason: 'empty', 'more' (ask again), 'unasked',
--               'fenced' (another horse has taken over), 'suspended'
--       dropped {id, why, ...}, jobs that were in a queue and must not run, or nil
--       paused  the queues that were left out, or nil: paused ones, and those whose wip:<queue> has
--               another type. Their jobs wait
--
-- This script runs for each job. It does without lib.lua and is made to be short: a call to Redis
-- costs 2 us, and so do three returned tables, three closures, or two numbers turned into text. The
-- rules of lib.lua for writes hold. What an execution leaves has an expiry once a tick has seen it.

local call, try = redis.call, redis.pcall
local is_resent = RESENT == '1'

local MOST_ATTEMPTS, DROPS_AT_ONCE = 1000000000, 100

local worker_key = P .. ':worker:' .. WORKER
local runs, suspended, pauses = worker_key .. ':executions', P .. ':suspended', P .. ':werk:paused'
local outcome, is_special, is_current = 'none', false, false

if not ENDED_JOB then
  is_special = call('EXISTS', suspended, pauses) > 0
  for _, list in ipairs(KEYS) do -- as empty_hand in hands.lua
    local hand = P .. ':werk:hand:' .. WORKER .. ':' .. string.sub(list, #P + 8)
    local id = try('LPOP', hand)
    while type(id) == 'string' do
      local is_back = type(try('LPUSH', list, id)) == 'number'
      if not is_back then call('LPUSH', hand, id) end
      id = is_back and try('LPOP', hand)
    end
    if type(id) == 'table' and call('TYPE', hand).ok ~= 'list' then call('UNLINK', hand) end
  end
else
  local id, queue, value, keep = ENDED_JOB, ENDED_QUEUE, ENDED_VALUE, ENDED_KEEP_S
  local job, run = P .. ':job:' .. id, id .. ':' .. ENDED_EXECUTION
  local wip, results = P .. ':wip:' .. queue, P .. ':results:' .. id
  local execution_key, dependents = P .. ':execution:' .. run, job .. ':dependents'
  local dependencies = P .. ':job::' .. id .. ':dependencies' -- the second colon is RQ's
  local status, is_success = ENDED_STATUS, ENDED_STATUS == 'finished'
  local since, why
  if status == 'scheduled' then since, why = string.match(value, '^(%S*) ?(.*)$') end
  local cause = not is_success and string.match(status, '^failed (.*)$')
  if cause then status = 'failed' end
  local set = status == 'stopped' and 'failed' or status -- as in RQ
  local result_type = is_success and '1' or '2' -- rq/results.py
  is_special = call('EXISTS', suspended, pauses, P .. ':werk:fenced', dependents, dependencies) > 0
  if is_special and is_success and call('TYPE', dependents).ok == 'set' and call('EXISTS', job) == 1
    and tonumber(try('ZSCORE', wip, run)) then return {'dependents', '', false, false} end

  outcome = 'late'
  local removed, place, is_canceled = try('ZREM', wip, run), P .. ':' .. set .. ':' .. queue, false
  local is_ours = removed == 1
    or type(removed) == 'table' and try('HGET', execution_key, 'worker_name') == WORKER
  if not is_ours then
    local is_stream = call('TYPE', results).ok == 'stream'
    local last = is_stream and call('XREVRANGE', results, '+', '-', 'COUNT', 1)[1]
    local flat, entry = last and last[2] or {}, {}
    for i = 1, #flat, 2 do entry[flat[i]] = flat[i + 1] end
    -- The worker that rescued this execution may have failed it, under the same id.
    local is_this = entry.execution_id == ENDED_EXECUTION and entry.type == result_type
    local found = try('HMGET', job, 'status', 'werk_unknown_since')
    local is_same = status == 'scheduled' and found[1] == status and found[2] == since
    if is_this or is_resent and is_same then outcome = 'again' end
    -- As in RQ, the end of a job that was cancelled is recorded; a deferral is no end.
    is_ours = outcome == 'late' and status ~= 'scheduled' and found[1] == 'canceled'
      and call('EXISTS', execution_key) == 1
    is_canceled = is_ours
  end
  -- The set is written first, because its key may have another type. Then the job returns to where
  -- it was or, if wip has another type as well, to its queue. A job that was cancelled meanwhile is
  -- already where it belongs.
  if is_ours and type(try('ZADD', place, ENDED_UNTIL, id)) == 'table' then
    is_ours = false
    if not is_canceled then
      if removed == 1 then call('ZADD', wip, OWNED_UNTIL, run) end
      if set ~= 'failed' then return {'misplaced', '', false, false} end
      outcome = 'misplaced'
      if removed ~= 1 and call('TYPE', job).ok == 'hash'
        and type(try('LPUSH', P .. ':queue:' .. queue, id)) == 'number' then
        call('HSET', job, 'status', 'queued', 'worker_name', '')
      end
    end
  end
  if outcome ~= 'again' then
    local executions = P .. ':executions:' .. id
    if is_ours then call('UNLINK', execution_key, executions) -- our job has no other execution
    else call('UNLINK', execution_key); try('ZREM', executions, ENDED_EXECUTION) end
    -- If it was still its worker's, its horse is the current one, unless a worker decides about
    -- what a dead one left (ask_for_generations). But its worker may expire: ask now and then.
    is_current = try('SREM', runs, run) == 1 and removed == 1 and not is_special and COUNTS == ''
    if not is_ours then -- discarded
    elseif status == 'scheduled' and call('TYPE', job).ok == 'hash' then
      outcome = 'done'
      call('HSET', job, 'status', 'scheduled', 'worker_name', '', 'werk_unknown_since', since,
        'werk_deferred', 'worker ' .. WORKER .. ': ' .. why)
      try('HINCRBY', job, 'werk_attempt', -1) -- the task was not tried
    elseif status ~= 'scheduled' and call('EXPIRE', job, keep) == 1 -- the job exists
      and type(try('HSET', job, 'status', status, 'ended_at', NOW_TEXT)) == 'number' then -- a hash
      outcome = 'done'
      local added
      if value == '' then
        added = try('XADD', results, 'MAXLEN', '10', '*', 'type', result_type,
          'worker_name', WORKER, 'execution_id', ENDED_EXECUTION,
          'execution_started_at', ENDED_CLAIMED_AT, 'execution_ended_at', NOW)
      else
        added = try('XADD', results, 'MAXLEN', '10', '*', 'type', result_type,
          'worker_name', WORKER, 'execution_id', ENDED_EXECUTION,
          'execution_started_at', ENDED_CLAIMED_AT, 'execution_ended_at', NOW,
          is_success and 'return_value' or 'exc_string', value)
      end
      if type(added) == 'table' then -- not a stream, or a full one
        call('UNLINK', results)
        call('XADD', results, '*', 'type', result_type,
          'worker_name', WORKER, 'execution_id', ENDED_EXECUTION,
          'execution_started_at', ENDED_CLAIMED_AT, 'execution_ended_at', NOW,
          unpack(value == '' and {} or {is_success and 'return_value' or 'exc_string', value}))
      end
      call('EXPIRE', results, keep)
      if is_special then call('EXPIRE', dependents, keep); call('EXPIRE', dependencies, keep) end
      -- The tick has the dependents enqueued: see find_unfinished.
      if is_special and not is_success and call('EXISTS', dependents) == 1 then
        try('ZADD', P .. ':werk:committed', OWNED_UNTIL - OWNED_S, run .. ' ' .. WORKER) end
      if not is_success then
        call('HDEL', job, 'werk_unknown_since') -- a retry has the full time again
        try('HINCRBY', worker_key, 'failed_job_count', 1)
      end
      if ENDED_FAILURE ~= '' then
-- failures.lua
        count_failure(ENDED_FAILURE, id) end
      if cause and not is_canceled then
        local gave_up, since = P .. ':werk:gave-up', OWNED_UNTIL - OWNED_S
        local failure = table.concat({'0', since, cause, ENDED_EXECUTION, id}, ' ')
        if type(try('RPUSH', gave_up, failure)) == 'table' then
          call('UNLINK', gave_up)
          call('RPUSH', gave_up, failure)
        end
      end
    else call('ZREM', place, id); call('PERSIST', job) end -- deleted, or expired
  end
end

local got, got_id, got_queue, dropped, paused, number, taken = nil, nil, nil, false, false, 0, 0
if is_resent then -- find the claim that this request made when it was sent before
  for _, run in ipairs(try('SMEMBERS', runs)) do
    local id, made_by = string.match(run, '^(.*):([^:]*)$')
    local fields = made_by == EXECUTION and read_job(P .. ':job:' .. id)
    if fields and fields[ORIGIN] then -- else its record has expired
      got, got_id, got_queue = fields, id, ''
      got[STATUS] = ''
    end
  end
end
if got then -- claimed before
elseif WANTS_JOB ~= '1' then got = 'unasked'
elseif not is_current and try('HGET', worker_key, 'werk_horse') ~= GENERATION then got = 'fenced'
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
    local fields, why_not, is_blocked = read_job(job), nil, false
    local origin, status, attempt = fields[ORIGIN] or '', fields[STATUS] or '', '1'
    local is_ready, is_nowhere = status == 'queued' or status == 'created', origin == ''
    if is_nowhere then origin = queue end
    local run = id .. ':' .. EXECUTION
    local execution_key = P .. ':execution:' .. run
    if fields.err then
      why_not = 'its key is not a hash'
    elseif not is_ready and status == '' and call('EXISTS', job) == 0 then -- expired or deleted
    elseif not is_ready and string.find(' started finished failed deferred scheduled stopped'
      .. ' canceled rate_limited ready_to_enqueue ', ' ' .. status .. ' ', 1, true) then
      why_not = 'it is ' .. status
    else
      -- Keys that may have another type come first. These two belong to worker and execution alone.
      if type(try('SADD', runs, run)) == 'table' then
        call('UNLINK', runs)
        call('SADD', runs, run)
      end
      if type(try('HSET', execution_key, 'id', EXECUTION, 'job_id', id, 'created_at', NOW,
        'last_heartbeat', NOW, 'worker_name', WORKER)) == 'table' then
        call('UNLINK', execution_key)
        call('HSET', execution_key, 'id', EXECUTION, 'job_id', id, 'created_at', NOW,
          'last_heartbeat', NOW, 'worker_name', WORKER)
      end
      is_blocked = type(try('ZADD', P .. ':wip:' .. origin, OWNED_UNTIL, run)) == 'table'
      if is_blocked and origin ~= queue then
        origin, is_nowhere = queue, true
        is_blocked = type(try('ZADD', P .. ':wip:' .. origin, OWNED_UNTIL, run)) == 'table'
      end
      if is_blocked then
        call('SREM', runs, run)
        call('UNLINK', execution_key)
        call('LPUSH', list, id)
        paused = paused or {}
        paused[#paused + 1] = list
      else
        if fields[ATTEMPT] then
          local before = tonumber(fields[ATTEMPT]) or 0
          attempt = before >= 0 and before < MOST_ATTEMPTS and math.floor(before) + 1 or 1
          call('EXPIRE', P .. ':results:' .. id, YEAR_S) -- the hash does not expire any more
        end
        call('HSET', job, 'status', 'started', 'started_at', NOW_TEXT, 'worker_name', WORKER,
          'last_heartbeat', NOW_TEXT, 'werk_attempt', attempt)
        if is_nowhere then call('HSET', job, 'origin', origin) end
        if call('PERSIST', job) == 1 then
          call('PERSIST', job .. ':dependents')
          call('PERSIST', P .. ':job::' .. id .. ':dependencies')
        end
        if type(try('ZADD', P .. ':executions:' .. id, LISTED_UNTIL, EXECUTION)) == 'table' then
          call('UNLINK', P .. ':executions:' .. id)
          call('ZADD', P .. ':executions:' .. id, LISTED_UNTIL, EXECUTION)
        end
        fields[ORIGIN], fields[STATUS], fields[ATTEMPT] = origin, is_ready and '' or status, attempt
        got, got_id, got_queue = fields, id, queue
      end
    end
    if why_not then
      dropped = dropped or {}
      dropped[#dropped + 1] = id; dropped[#dropped + 1] = why_not
    end
    taken = taken + 1
    if not got and taken >= DROPS_AT_ONCE then got = 'more' end
    id = not got and not is_blocked and try('LPOP', list)
  end
end

if type(got) == 'table' then
  -- RQ stores '' if a job has none.
  local success = got[SUCCESS_CALLBACK_NAME] or ''
  local failure, stopped = got[FAILURE_CALLBACK_NAME] or '', got[STOPPED_CALLBACK_NAME] or ''
  local is_plain = success .. failure .. stopped .. (got[REPEATS_LEFT] or '')
    .. (got[RATE_LIMIT_KEY] or '') .. (got[WEBHOOKS] or '') == ''
  local version = got[WERK_V]
  if (tonumber(version or 0) or 0) > VERSION then got[STATUS] = 'werk_v ' .. version end
  got[CLAIM_CALLBACKS] = not is_plain and {success, failure, stopped}
  got[CLAIM_JOB], got[CLAIM_QUEUE], got[CLAIM_END] = got_id, got_queue, nil
end

if COUNTS ~= '' and try('HEXISTS', worker_key, 'birth') == 1 then -- write the state
  local state = type(got) == 'table' and 'busy' or got == 'suspended' and 'suspended' or 'idle'
  local is_repeat = is_resent and call('HGET', worker_key, 'werk_step') == EXECUTION
  call('HDEL', worker_key, 'werk_moved') -- a removal first: see lib.lua
  -- Only the tick writes last_heartbeat: a horse may outlive its supervisor, or not see it frozen.
  call('HSET', worker_key, 'state', state, 'werk_step', EXECUTION, 'werk_moved',
    string.format('%s.%06d', unpack(call('TIME'))))
  -- Add what the horse has counted. A counter that is not a number stays as it is.
  for field, amount in string.gmatch(is_repeat and '' or COUNTS, '(%S+) (%S+)') do
    if field == 'done' then try('HINCRBY', worker_key, 'successful_job_count', amount)
    elseif field == 'worked' then try('HINCRBYFLOAT', worker_key, 'total_working_time', amount)
    else try('HINCRBYFLOAT', P .. ':werk:tallies', field, amount) end
  end
end
return {outcome, got, dropped, paused}
