-- The horse's one round trip a job: record the outcome of the last execution, claim the next job.
--
-- KEYS  the queues, in the order in which they are served
-- ARGV  1 worker   2 generation of the horse   3 id of the execution that a claim begins   4 now, as RQ writes it
--       5 now, Unix seconds   6 until when RQ is to leave an execution alone, and 7 its name: whole seconds on Redis's
--       clock, which the tick has measured
--       8 '1' to claim   9 '1' if this may have been sent before   10 '' or, to write the state, what has been counted
--       since it was last written: 'done <jobs> worked <seconds> field amount field amount ...' (for werk:tallies)
--       of the finish, which ended just now; all left out when there is none:
--       11 job   12 its queue   13 execution   14 'finished', 'failed', or 'scheduled' (put off)
--       15 seconds to keep the job   16 until when that is, or with 'scheduled' when it is due, on Redis's clock
--       17 base64 of the result or of the traceback, '' for none; with 'scheduled', since when its task is unknown
--       18 when it was claimed, Unix seconds
-- Returns {what became of the finish, the claim, dropped jobs, paused queues}:
--       finish  'none', 'done', 'again' (this very one is recorded already), 'late' (the execution is no longer the
--               job's: discarded), or 'dependents' (RQ must finish it; nothing was changed and nothing claimed)
--       claim   {origin, status if RQ does not know it, attempt, data, timeout, result_ttl, task; callbacks, if a success
--               is not to be recorded here; job, queue it waited in}, or why there is none: 'empty', 'more' (ask
--               again), 'unasked', 'fenced' (another horse has taken over), 'suspended'
--       dropped {id, why, ...} of what was in a queue and must not run; nothing if there was none, as of the paused
--
-- Invariant: after it the job of the finish is where its outcome belongs, or untouched; and each popped job is in
-- wip under this execution, or is dropped because it is somewhere else already or no job at all.
--
-- Run once a job, it stands without lib.lua and is made to be short: a call of Redis's costs 2 us, and so do three
-- tables returned, three functions that share locals, or two numbers turned to text. What is true of lib.lua's writes
-- holds here too. What an execution leaves behind expires as soon as the tick has seen it running.

local call, try = redis.call, redis.pcall
local worker, generation, execution, now_text, now = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local resent, counts = ARGV[9] == '1', ARGV[10]

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
  local result_type = is_success and '1' or '2' -- rq/results.py
  is_special = call('EXISTS', suspended, pauses, dependents, dependencies) > 0
  if is_special and is_success and call('EXISTS', dependents) == 1 and call('EXISTS', job) == 1
    and tonumber(try('ZSCORE', wip, run)) then return {'dependents', '', false, false} end

  outcome = 'late'
  local is_ours = try('ZREM', wip, run) == 1
  if not is_ours then
    local last = call('TYPE', results).ok == 'stream' and call('XREVRANGE', results, '+', '-', 'COUNT', 1)[1]
    local entry = {}
    for i = 1, last and #last[2] or 0, 2 do entry[last[2][i]] = last[2][i + 1] end
    -- Who rescued this execution may have failed it, under the same id.
    if entry.execution_id == finished and entry.type == result_type then outcome = 'again' end
    is_ours = outcome == 'late' and try('HGET', job, 'status') == 'canceled' and call('EXISTS', execution_key) == 1
  end
  if outcome == 'late' then
    call('UNLINK', execution_key)
    try('ZREM', P .. ':executions:' .. id, finished)
    call('SREM', runs, run)
    if not is_ours then -- discarded
    elseif ended_as == 'scheduled' then
      if call('EXISTS', job) == 1 then
        outcome = 'done'
        try('HSET', job, 'status', 'scheduled', 'worker_name', '', 'werk_unknown_since', value)
        try('ZADD', P .. ':scheduled:' .. queue, ARGV[16], id)
      end
    elseif call('EXPIRE', job, keep) == 1 then -- there is such a job
      outcome = 'done'
      try('HSET', job, 'status', ended_as, 'ended_at', now_text, 'last_heartbeat', now_text)
      try('ZADD', P .. ':' .. ended_as .. ':' .. queue, ARGV[16], id)
      if value == '' then
        try('XADD', results, 'MAXLEN', '~', '10', '*', 'type', result_type, 'worker_name', worker,
          'execution_id', finished, 'execution_started_at', ARGV[18], 'execution_ended_at', now)
      else
        try('XADD', results, 'MAXLEN', '~', '10', '*', 'type', result_type, 'worker_name', worker,
          'execution_id', finished, 'execution_started_at', ARGV[18], 'execution_ended_at', now,
          is_success and 'return_value' or 'exc_string', value)
      end
      call('EXPIRE', results, keep)
      if is_special then call('EXPIRE', dependents, keep); call('EXPIRE', dependencies, keep) end
      if not is_success then call('HINCRBY', worker_key, 'failed_job_count', 1) end
    end
  end
end

-- Origin and status first, then what the horse decides by.
local function fields_of(job)
  return redis.pcall('HMGET', job, 'origin', 'status', 'werk_attempt', 'data', 'timeout', 'result_ttl', 'werk_task',
    'success_callback_name', 'failure_callback_name', 'stopped_callback_name', 'repeats_left', 'rate_limit_key', 'webhooks')
end

local got, got_id, got_queue, dropped, paused, number = nil, nil, nil, false, false, 0
if resent then -- the claim that this very request made when it was sent before
  for _, run in ipairs(call('SMEMBERS', runs)) do
    local id, made_by = string.match(run, '^(.*):([^:]*)$')
    if made_by == execution then
      got, got_id, got_queue = fields_of(P .. ':job:' .. id), id, ''
      got[2] = ''
    end
  end
end
if got then -- it is that
elseif ARGV[8] ~= '1' then got = 'unasked'
elseif call('HGET', worker_key, 'werk_horse') ~= generation then got = 'fenced'
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
    local fields, why_not = fields_of(job), nil
    local origin, status, attempt = fields[1] or '', fields[2] or '', fields[3] and (tonumber(fields[3]) or 0) + 1 or '1'
    local is_ready, is_nowhere = status == 'queued' or status == 'created', origin == ''
    if is_nowhere then origin = queue end
    local wip, run = P .. ':wip:' .. origin, id .. ':' .. execution
    if fields.err then
      why_not = 'its key is no hash'
    elseif not is_ready and status == '' and call('EXISTS', job) == 0 then -- expired or deleted: nothing to say
    elseif not is_ready and string.find(KNOWN, ' ' .. status .. ' ', 1, true) then
      why_not = 'it is ' .. status
    elseif type(try('ZADD', wip, ARGV[6], run)) == 'table' then
      why_not = wip .. ' is no sorted set'
    else
      call('HSET', job, 'status', 'started', 'started_at', now_text, 'worker_name', worker, 'last_heartbeat', now_text,
        'werk_attempt', attempt)
      if is_nowhere then call('HSET', job, 'origin', origin) end
      call('PERSIST', job)
      call('HSET', P .. ':execution:' .. run, 'id', execution, 'job_id', id, 'created_at', now, 'last_heartbeat', now,
        'worker_name', worker)
      try('ZADD', P .. ':executions:' .. id, ARGV[7], execution)
      call('SADD', runs, run)
      fields[1], fields[2], fields[3] = origin, is_ready and '' or status, attempt
      got, got_id, got_queue = fields, id, queue
    end
    if why_not then
      dropped = dropped or {}
      dropped[#dropped + 1] = id; dropped[#dropped + 1] = why_not
      if #dropped >= 2 * DROPS_AT_ONCE then got = 'more' end
    end
    id = not got and try('LPOP', list)
  end
end

if type(got) == 'table' then
  local success, failure, stopped = got[8] or '', got[9] or '', got[10] or '' -- RQ stores '' for none
  local is_plain = success .. failure .. stopped .. (got[11] or '') .. (got[12] or '') .. (got[13] or '') == ''
  got[8], got[9], got[10], got[11] = not is_plain and {success, failure, stopped}, got_id, got_queue, nil
end

if counts ~= '' and call('HEXISTS', worker_key, 'birth') == 1 then -- write the state
  local state = type(got) == 'table' and 'busy' or got == 'suspended' and 'suspended' or 'idle'
  local is_repeat = resent and call('HGET', worker_key, 'werk_step') == execution
  if call('HGET', worker_key, 'werk_dead') == generation then counts = '' end -- its supervisor has written them
  local clock = call('TIME')
  call('HDEL', worker_key, 'werk_moved') -- a removal first: see lib.lua
  call('HSET', worker_key, 'state', state, 'last_heartbeat', now_text, 'werk_step', execution,
    'werk_moved', clock[1] .. '.' .. string.format('%06d', clock[2]))
  if not is_repeat then add_counts(worker_key, counts) end
end
return {outcome, got, dropped, paused}
