-- The horse's one round trip a job: record the outcome of the last execution, claim the next job.
--
-- KEYS  the queues, in the order in which they are served
-- ARGV  1 worker   2 generation of the horse   3 id of the execution that a claim begins   4 now, as RQ writes it
--       5 now, Unix seconds   6 '1' to claim   7 '1' if this may have been sent before   8 '1' to write the state
--       9 jobs done and 10 seconds worked since the state was last written
--       of the finish, all left out when there is none:
--       11 job   12 its queue   13 execution   14 'finished', 'failed', or 'scheduled' (put off)
--       15 when it ended, as RQ writes it   16 seconds to keep the job, or with 'scheduled' the time it is due
--       17 base64 of the result or of the traceback, '' for none   18 and 19 when it was claimed and ended, Unix seconds
-- Returns {what became of the finish, the claim, dropped jobs, paused queues}:
--       finish  'none', 'done', 'again' (this very one is recorded already), 'late' (the execution is no longer the
--               job's: discarded), or 'dependents' (RQ must finish it; nothing was changed and nothing claimed)
--       claim   {job, queue it waited in, then FIELDS}, or why there is none: 'empty', 'more' (ask again),
--               'unasked', 'fenced' (another horse has taken over), 'suspended'
--       dropped {id, why, ...} of what was in a queue and must not run
--
-- Invariant: after it the job of the finish is where its outcome belongs, or untouched; and each popped job is in
-- wip under this execution, or is dropped because it is somewhere else already or no job at all.

local worker, generation, execution, now_text = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local now, wanted, resent, flush = tonumber(ARGV[5]), ARGV[6] == '1', ARGV[7] == '1', ARGV[8] == '1'
local done, worked = ARGV[9], ARGV[10]

local FIELDS = {'origin', 'data', 'timeout', 'result_ttl', 'created_at', 'success_callback_name', 'failure_callback_name',
  'stopped_callback_name', 'repeats_left', 'rate_limit_key', 'webhooks', 'werk_task', 'werk_attempt', 'status'}
local ORIGIN, ATTEMPT, STATUS = 1, 13, 14
local TO_RUN = {queued = true, created = true}
local KNOWN = {started = true, finished = true, failed = true, deferred = true, scheduled = true, stopped = true,
  canceled = true, rate_limited = true, ready_to_enqueue = true}
local RESULT_TYPE = {finished = 1, failed = 2} -- rq.results.Result.Type
local DROPS_AT_ONCE = 100

local worker_key, runs = P .. ':worker:' .. worker, runs_of(worker)

local function was_recorded(results, finished)
  if not fits(results, 'stream') then return false end
  local last = call('XREVRANGE', results, '+', '-', 'COUNT', 1)[1]
  for i = 1, last and #last[2] or 0, 2 do
    if last[2][i] == 'execution_id' then return last[2][i + 1] == finished end
  end
  return false
end

local function record(job, id, queue, outcome, ended_text, keep, value, finished, claimed, ended)
  local set, results = P .. ':' .. outcome .. ':' .. queue, P .. ':results:' .. id
  if outcome == 'scheduled' then
    call('HSET', job, 'status', outcome, 'worker_name', '')
    if fits(set, 'zset') then call('ZADD', set, keep, id) end
    return
  end
  call('HSET', job, 'status', outcome, 'ended_at', ended_text, 'last_heartbeat', ended_text)
  if fits(set, 'zset') then call('ZADD', set, keep < 0 and '+inf' or now + keep, id) end
  if fits(results, 'stream') then
    local entry = {'type', RESULT_TYPE[outcome], 'worker_name', worker, 'execution_id', finished,
      'execution_started_at', claimed, 'execution_ended_at', ended}
    if value ~= '' then
      entry[#entry + 1] = outcome == 'failed' and 'exc_string' or 'return_value'
      entry[#entry + 1] = value
    end
    call('XADD', results, 'MAXLEN', '~', 10, '*', unpack(entry))
  end
  if keep > 0 then
    for _, key in ipairs({job, results, job .. ':dependents', job .. ':dependencies'}) do call('EXPIRE', key, keep) end
  end
  if outcome == 'failed' then call('HINCRBY', worker_key, 'failed_job_count', 1) end
end

local function finish(id, queue, finished, outcome, ended_text, keep, value, claimed, ended)
  local job, run, wip = job_key(id), id .. ':' .. finished, wip_key(queue)
  local is_job = call('TYPE', job).ok == 'hash'
  local mine = is_job and fits(wip, 'zset') and call('ZSCORE', wip, run)
  if mine and outcome == 'finished' and call('EXISTS', job .. ':dependents') == 1 then return 'dependents' end
  if is_job and not mine then
    if was_recorded(P .. ':results:' .. id, finished) then return 'again' end
    mine = call('HGET', job, 'status') == 'canceled' and call('EXISTS', P .. ':execution:' .. run) == 1
  end
  if fits(wip, 'zset') then call('ZREM', wip, run) end
  forget(run, worker)
  if not mine then return 'late' end
  record(job, id, queue, outcome, ended_text, tonumber(keep), value, finished, claimed, ended)
  return 'done'
end

local function claim(id, queue)
  local job, executions = job_key(id), P .. ':executions:' .. id
  local kind = call('TYPE', job).ok
  if kind ~= 'hash' then return nil, kind ~= 'none' and 'its key is a ' .. kind or nil end
  local fields = call('HMGET', job, unpack(FIELDS))
  local status, origin = fields[STATUS] or '', fields[ORIGIN] or ''
  if KNOWN[status] then return nil, 'it is ' .. status end
  if origin == '' then origin = queue end
  local wip, run = wip_key(origin), id .. ':' .. execution
  if not fits(wip, 'zset') then return nil, wip .. ' is no sorted set' end

  local attempt = (tonumber(fields[ATTEMPT] or 0) or 0) + 1
  call('HSET', job, 'status', 'started', 'started_at', now_text, 'worker_name', worker, 'last_heartbeat', now_text,
    'origin', origin, 'werk_attempt', attempt)
  call('PERSIST', job)
  local key = P .. ':execution:' .. run
  call('HSET', key, 'id', execution, 'job_id', id, 'created_at', ARGV[5], 'last_heartbeat', ARGV[5], 'worker_name', worker)
  call('EXPIRE', key, OWNED_S)
  if fits(executions, 'zset') then
    call('ZADD', executions, now + OWNED_S + 60, execution)
    call('EXPIRE', executions, OWNED_S + 60)
  end
  call('ZADD', wip, now + OWNED_S, run)
  call('SADD', runs, run)
  call('EXPIRE', runs, 3600)
  fields[ORIGIN], fields[ATTEMPT] = origin, attempt
  fields[STATUS] = (status == '' or TO_RUN[status]) and '' or status
  return {id, queue, unpack(fields)}
end

-- The claim that this very request made when it was sent before.
local function claimed_before()
  for _, run in ipairs(call('SMEMBERS', runs)) do
    local id, made_by = split(run)
    if made_by == execution then return {id, '', unpack(call('HMGET', job_key(id), unpack(FIELDS)))} end
  end
end

local dropped, paused = {}, {}

local function next_job()
  if resent then
    local claimed = claimed_before()
    if claimed then claimed[2 + STATUS] = ''; return claimed end
  end
  if not wanted then return 'unasked' end
  if call('HGET', worker_key, 'werk_horse') ~= generation then return 'fenced' end
  local pauses = P .. ':werk:paused'
  local held = call('EXISTS', P .. ':suspended', pauses) > 0
  if held and call('EXISTS', P .. ':suspended') == 1 then return 'suspended' end
  for _, list in ipairs(KEYS) do
    local queue = string.sub(list, #P + 8)
    if held and call('SISMEMBER', pauses, queue) == 1 then
      paused[#paused + 1] = list
    elseif fits(list, 'list') then
      local id = call('LPOP', list)
      while id do
        local claimed, why_not = claim(id, queue)
        if claimed then return claimed end
        if why_not then dropped[#dropped + 1] = id; dropped[#dropped + 1] = why_not end
        if #dropped >= 2 * DROPS_AT_ONCE then return 'more' end
        id = call('LPOP', list)
      end
    end
  end
  return 'empty'
end

local function write_state(got)
  if call('HEXISTS', worker_key, 'birth') == 0 then return end
  local state = type(got) == 'table' and 'busy' or got == 'suspended' and 'suspended' or 'idle'
  local is_repeat = resent and call('HGET', worker_key, 'werk_step') == execution
  call('HSET', worker_key, 'state', state, 'last_heartbeat', now_text, 'werk_step', execution)
  if is_repeat or done == '0' then return end
  call('HINCRBY', worker_key, 'successful_job_count', done)
  call('HINCRBYFLOAT', worker_key, 'total_working_time', worked)
end

local outcome = ARGV[11] and finish(unpack(ARGV, 11, 19)) or 'none'
if outcome == 'dependents' then return {outcome} end
local got = next_job()
if flush or type(got) ~= 'table' then write_state(got) end
return {outcome, got, dropped, paused}
