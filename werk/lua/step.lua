-- The horse's one round trip a job: record the outcome of the last execution, claim the next job.
--
-- KEYS  the queues, in the order in which they are served
-- ARGV  1 worker   2 generation of the horse   3 id of the execution that a claim begins   4 now, as RQ writes it
--       5 now, Unix seconds   6 '1' to claim   7 '1' if this may have been sent before   8 '1' to write the state
--       9 jobs done and 10 seconds worked since the state was last written
--       11 what else is to be counted with the state, for werk:tallies: 'field amount field amount ...'
--       of the finish, all left out when there is none:
--       12 job   13 its queue   14 execution   15 'finished', 'failed', or 'scheduled' (put off)
--       16 when it ended, as RQ writes it   17 seconds to keep the job, or with 'scheduled' the time it is due
--       18 base64 of the result or of the traceback, '' for none   19 and 20 when it was claimed and ended, Unix seconds
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
local done, worked, tallies = ARGV[9], ARGV[10], ARGV[11]

local KNOWN = ' started finished failed deferred scheduled stopped canceled rate_limited ready_to_enqueue '
local DROPS_AT_ONCE = 100

local worker_key, runs = P .. ':worker:' .. worker, runs_of(worker)

-- FIELDS: origin and status first, then what the horse decides by.
local function fields_of(job)
  return try('HMGET', job, 'origin', 'status', 'werk_attempt', 'data', 'timeout', 'result_ttl', 'werk_task',
    'success_callback_name', 'failure_callback_name', 'stopped_callback_name', 'repeats_left', 'rate_limit_key', 'webhooks')
end

local function was_recorded(results, finished)
  if not fits(results, 'stream') then return false end
  local last = call('XREVRANGE', results, '+', '-', 'COUNT', 1)[1]
  for i = 1, last and #last[2] or 0, 2 do
    if last[2][i] == 'execution_id' then return last[2][i + 1] == finished end
  end
  return false
end

local function put_off(job, id, queue, due)
  try('HSET', job, 'status', 'scheduled', 'worker_name', '')
  try('ZADD', P .. ':scheduled:' .. queue, due, id)
end

local function record(job, id, queue, finished, outcome, ended_text, keep, value, claimed, ended)
  local results, is_success = P .. ':results:' .. id, outcome == 'finished'
  try('HSET', job, 'status', outcome, 'ended_at', ended_text, 'last_heartbeat', ended_text)
  local entry = {'XADD', results, 'MAXLEN', '~', 10, '*', 'type', is_success and 1 or 2, 'worker_name', worker,
    'execution_id', finished, 'execution_started_at', claimed, 'execution_ended_at', ended}
  if value ~= '' then
    entry[#entry + 1] = is_success and 'return_value' or 'exc_string'
    entry[#entry + 1] = value
  end
  try(unpack(entry))
  try('ZADD', P .. ':' .. outcome .. ':' .. queue, keep < 0 and '+inf' or now + keep, id)
  if keep > 0 then
    call('EXPIRE', job, keep)
    call('EXPIRE', results, keep)
  end
  if not is_success then call('HINCRBY', worker_key, 'failed_job_count', 1) end
end

local function finish(id, queue, finished, outcome, ended_text, keep, value, claimed, ended)
  local job, run, wip = job_key(id), id .. ':' .. finished, wip_key(queue)
  local dependents, dependencies = job .. ':dependents', job_key(':' .. id) .. ':dependencies' -- RQ's own second colon
  local there = call('EXISTS', job, dependents, dependents, dependencies, dependencies, dependencies, dependencies)
  local is_job, has_dependents, has_dependencies = there % 2 == 1, there % 4 >= 2, there >= 4
  if has_dependents and is_job and outcome == 'finished' and tonumber(try('ZSCORE', wip, run)) then return 'dependents' end

  local mine = try('ZREM', wip, run) == 1 and is_job
  if is_job and not mine then
    if was_recorded(P .. ':results:' .. id, finished) then return 'again' end
    mine = try('HGET', job, 'status') == 'canceled' and call('EXISTS', P .. ':execution:' .. run) == 1
  end
  forget(id, finished, worker)
  if not mine then return 'late' end
  if outcome == 'scheduled' then
    put_off(job, id, queue, keep)
  else
    record(job, id, queue, finished, outcome, ended_text, tonumber(keep), value, claimed, ended)
    if has_dependents then call('EXPIRE', dependents, keep) end
    if has_dependencies then call('EXPIRE', dependencies, keep) end
  end
  return 'done'
end

-- Returns the claim, or nothing and why this one is dropped.
local function claim(id, queue)
  local job = job_key(id)
  local fields = fields_of(job)
  if fields.err then return nil, 'its key is no hash' end
  local origin, status = fields[1] or '', fields[2] or ''
  if status == 'queued' or status == 'created' then
    status = ''
  elseif status == '' then
    if call('EXISTS', job) == 0 then return end -- expired or deleted
  elseif string.find(KNOWN, ' ' .. status .. ' ', 1, true) then
    return nil, 'it is ' .. status
  end
  if origin == '' then origin = queue end
  local wip, run, attempt = wip_key(origin), id .. ':' .. execution, (tonumber(fields[3] or 0) or 0) + 1
  if type(try('ZADD', wip, now + OWNED_S, run)) == 'table' then return nil, wip .. ' is no sorted set' end

  call('HSET', job, 'status', 'started', 'started_at', now_text, 'worker_name', worker, 'last_heartbeat', now_text,
    'origin', origin, 'werk_attempt', attempt)
  call('PERSIST', job)
  local execution_key, executions = P .. ':execution:' .. run, P .. ':executions:' .. id
  call('HSET', execution_key, 'id', execution, 'job_id', id, 'created_at', ARGV[5], 'last_heartbeat', ARGV[5],
    'worker_name', worker)
  call('EXPIRE', execution_key, OWNED_S)
  try('ZADD', executions, now + OWNED_S + 60, execution)
  call('EXPIRE', executions, OWNED_S + 60)
  call('SADD', runs, run) -- the tick sees to it that this expires
  fields[1], fields[2], fields[3] = origin, status, attempt
  return {id, queue, unpack(fields, 1, 13)}
end

-- The claim that this very request made when it was sent before.
local function claimed_before()
  for _, run in ipairs(call('SMEMBERS', runs)) do
    local id, made_by = split(run)
    if made_by == execution then
      local fields = fields_of(job_key(id))
      fields[2] = ''
      return {id, '', unpack(fields, 1, 13)}
    end
  end
end

local dropped, paused = {}, {}

local function next_job()
  local claimed = resent and claimed_before()
  if claimed then return claimed end
  if not wanted then return 'unasked' end
  if call('HGET', worker_key, 'werk_horse') ~= generation then return 'fenced' end
  local suspended, pauses = P .. ':suspended', P .. ':werk:paused'
  local is_held = call('EXISTS', suspended, pauses) > 0
  if is_held and call('EXISTS', suspended) == 1 then return 'suspended' end
  for _, list in ipairs(KEYS) do
    local queue = string.sub(list, #P + 8)
    if is_held and call('SISMEMBER', pauses, queue) == 1 then
      paused[#paused + 1] = list
    else
      local id = try('LPOP', list)
      while type(id) == 'string' do
        local got, why_not = claim(id, queue)
        if got then return got end
        if why_not then dropped[#dropped + 1] = id; dropped[#dropped + 1] = why_not end
        if #dropped >= 2 * DROPS_AT_ONCE then return 'more' end
        id = try('LPOP', list)
      end
    end
  end
  return 'empty'
end

local function write_state(got)
  if call('HEXISTS', worker_key, 'birth') == 0 then return end
  local state = type(got) == 'table' and 'busy' or got == 'suspended' and 'suspended' or 'idle'
  local is_repeat = resent and call('HGET', worker_key, 'werk_step') == execution
  call('HSET', worker_key, 'state', state, 'last_heartbeat', now_text, 'werk_step', execution, 'werk_moved', redis_time())
  if is_repeat then return end
  for field, amount in string.gmatch(tallies, '(%S+) (%S+)') do try('HINCRBYFLOAT', P .. ':werk:tallies', field, amount) end
  if done == '0' then return end
  call('HINCRBY', worker_key, 'successful_job_count', done)
  call('HINCRBYFLOAT', worker_key, 'total_working_time', worked)
end

local outcome = ARGV[12] and finish(unpack(ARGV, 12, 20)) or 'none'
if outcome == 'dependents' then return {outcome} end
local got = next_job()
if flush or type(got) ~= 'table' then write_state(got) end
return {outcome, got, dropped, paused}
