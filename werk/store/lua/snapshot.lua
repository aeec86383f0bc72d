-- Return all that `werk status` shows, in one reading. Writes nothing, and takes O(queues +
-- workers), however many jobs there are.
--
-- A key of another type counts as empty (0, '' or {}) and is named in `damaged`. Each queue and
-- each worker is read and encoded separately, so none can make the reading of another fail.
--
-- No KEYS, no ARGV. Constants, from snapshot.py: SERVED_S, MOST_SERVED, DEFER_S.
-- Returns JSON: time (Redis's), suspended, counters (of executions, by all horses), damaged (keys
--       of another type, or too large to read), gave_up (how many final failures wait for their
--       handler, and since when the first of them), would_refuse (notes of workers with
--       WERK_ALLOW_UNREGISTERED, by task or path), and by name
--       queues   name, waiting (jobs in its list and in workers' hands), since and
--                since_by_rq (see `oldest`), running, scheduled, failed, paused, left (executions
--                of dead workers), in_hand (jobs that plain RQ workers have taken), ready
--                (dependents that RQ is about to enqueue), ready_since (when a tick first saw
--                some), served (what its workers publish: task, fingerprint),
--                deferred (jobs whose task a worker does not know: see `deferred`)
--       workers  RQ's, so one for each slot of ours: name, run (its execution), since (when that
--                began), task and call (of the job; the call may be cut), lease (until when), ttl
--                (how many seconds RQ keeps the record without a heartbeat), facts (its hash)
-- Texts are returned as they are in Redis: snapshot.py reads the numbers in them.

local LONGEST_RECORD, LONGEST_COUNTERS = 256 * 1024, 4 * 1024 * 1024 -- bytes
local MOST_QUEUES = 2000 -- in the record of one worker
local MOST_DEFERRED, LONGEST_REASON = 20, 500 -- jobs; bytes
local LONGEST_CALL, LONGEST_READ = 500, 64 * 1024 -- bytes of a call: returned; read
local LATEST, LONGEST_TIME = 1e11, 64 -- in seconds; in bytes, as text

local KEYS_AT_ONCE = 1000
local SHORT = 100 -- jobs in a list

local clock, queues, workers = redis_time(), {}, {}
local lists = {} -- of queues, as workers write them: all slots of a worker have the same
local held = {} -- by queue: how many of its jobs are in hands

-- Return how many jobs wait in a list. A job that has expired leaves its id there until a worker
-- finds it, so in a short list, the jobs that exist are counted.
local function count_waiting(list, length)
  if length == 0 or length > SHORT then return length end
  local jobs = {}
  for at, id in ipairs(ask({}, 'LRANGE', list, 0, -1)) do jobs[at] = job_key(id) end
  return ask(0, 'EXISTS', unpack(jobs))
end

-- Return since when the oldest job waits: a number on Redis's clock, or null; and the same for the
-- jobs that plain RQ has enqueued, as RQ writes a time. The first job is the oldest, unless jobs
-- were enqueued at the front. So the jobs at 0, 1, 2, 4, 8, ... are read.
local function oldest(list, length)
  local found, by_rq, at = nil, '', 0
  while at < length do
    local job = job_key(ask('', 'LINDEX', list, at))
    local enqueued_at, stamp = unpack(ask({}, 'HMGET', job, 'enqueued_at', 'werk_enqueued'))
    local written, since = string.match(stamp or '', '^(.*)|([%d.]+)$')
    local time = written == enqueued_at and tonumber(since)
    if time and time < LATEST then found = math.min(found or time, time)
    elseif enqueued_at and (by_rq == '' or enqueued_at < by_rq) then by_rq = enqueued_at end
    at = math.max(1, at * 2)
  end
  return found or cjson.null, string.sub(by_rq, 1, LONGEST_TIME)
end

-- A deferred job is due within DEFER_S; other jobs may be due then, too: so read the first few.
-- Returns the task of each, why it was deferred and since when. One that has ended since then waits
-- for a retry.
local function deferred(scheduled)
  local found = {}
  local due = ask({}, 'ZRANGEBYSCORE', scheduled, '-inf', clock + DEFER_S,
    'LIMIT', 0, MOST_DEFERRED)
  for _, id in ipairs(due) do
    local task, why, since, started_at, ended_at = unpack(ask({}, 'HMGET', job_key(id), 'werk_task',
      'werk_deferred', 'werk_unknown_since', 'started_at', 'ended_at'))
    if since and (started_at or '') > (ended_at or '') then
      found[#found + 1] = {string.sub(task or '', 1, LONGEST_REASON),
        string.sub(why or '', 1, LONGEST_REASON), string.sub(since, 1, LONGEST_TIME)}
    end
  end
  return found
end

local function read_queue(name)
  local list, failed = P .. ':queue:' .. name, P .. ':failed:' .. name
  local length = ask(0, 'LLEN', list)
  local waiting, since, since_by_rq = count_waiting(list, length), oldest(list, length)
  return {
    name = name, waiting = waiting + (held[name] or 0), since = since, since_by_rq = since_by_rq,
    running = ask(0, 'ZCARD', wip_key(name)),
    scheduled = ask(0, 'ZCARD', P .. ':scheduled:' .. name),
    failed = ask(0, 'ZCARD', failed) - ask(0, 'ZCOUNT', failed, 0, clock),
    paused = ask(0, 'SISMEMBER', P .. ':werk:paused', name) == 1,
    left = ask(0, 'ZCOUNT', wip_key(name), '-inf', '(' .. clock),
    in_hand = ask(0, 'LLEN', list .. ':intermediate'),
    ready = ask(0, 'ZCARD', P .. ':ready:' .. name),
    ready_since = ask('', 'ZSCORE', P .. ':werk:ready', name),
    served = ask({}, 'ZRANGEBYSCORE', P .. ':werk:serves:' .. name, clock - SERVED_S, '+inf',
      'LIMIT', 0, MOST_SERVED),
    deferred = deferred(P .. ':scheduled:' .. name),
  }
end

-- Count the jobs in the hands of a worker, which still wait. Usually there are none.
local function count_hands(worker, served)
  local hands = {}
  for at, queue in ipairs(served) do hands[at] = hand_key(worker, queue) end
  for first = 1, #hands, KEYS_AT_ONCE do
    local last = math.min(first + KEYS_AT_ONCE - 1, #hands)
    if ask(0, 'EXISTS', unpack(hands, first, last)) > 0 then
      for at = first, last do
        held[served[at]] = (held[served[at]] or 0) + ask(0, 'LLEN', hands[at])
      end
    end
  end
end

-- Return the task and the call of a job. werk masks a call; slots.py does not show one of plain RQ.
local function call_of(id)
  local job = id and job_key(id)
  if not job or ask(0, 'HSTRLEN', job, 'description') > LONGEST_READ then return '', '' end
  local task, call = unpack(ask({}, 'HMGET', job, 'werk_task', 'description'))
  return string.sub(task or '', 1, LONGEST_CALL), string.sub(call or '', 1, LONGEST_CALL)
end

-- Return the queues in a worker's list, each once.
local function names_in(list)
  local found, seen = {}, {}
  for name in string.gmatch(list, '[^,]+') do
    if #found == MOST_QUEUES then break end
    if not seen[name] then found[#found + 1] = name end
    seen[name], queues[name] = true, true
  end
  return found
end

local function read_worker(name)
  local key = P .. ':worker:' .. name
  local facts = hash_of(key, LONGEST_RECORD)
  if not facts.birth then return nil end -- it has expired
  local list = facts.queues or ''
  lists[list] = lists[list] or names_in(list)
  count_hands(name, lists[list])
  local run = ask({}, 'SMEMBERS', key .. ':executions')[1] or ''
  local since = ask('', 'HGET', P .. ':execution:' .. run, 'created_at')
  local task, call = call_of(string.match(run, '^(.*):'))
  return {
    name = name, run = run, since = string.sub(since, 1, LONGEST_TIME), facts = facts,
    task = task, call = call,
    lease = ask('', 'ZSCORE', P .. ':werk:leases', name), ttl = ask(0, 'TTL', key),
  }
end

-- Return the rows as JSON, each encoded separately. A row that cannot be encoded is left out.
local function rows(read, names, prefix)
  local found = {}
  for _, name in ipairs(names) do
    local is_read, row = pcall(read, name)
    if is_read and row then is_read, row = pcall(cjson.encode, row) end
    if not is_read then damaged[prefix .. name] = true else found[#found + 1] = row end
  end
  return '[' .. table.concat(found, ',') .. ']'
end

-- Add the names in a set of keys, without the start that all keys have.
local function add_named(found, set, start)
  for _, key in ipairs(ask({}, 'SMEMBERS', set)) do
    if string.sub(key, 1, #start) == start then found[string.sub(key, #start + 1)] = true end
  end
end

add_named(queues, P .. ':queues', P .. ':queue:')
for _, name in ipairs(ask({}, 'SMEMBERS', P .. ':werk:paused')) do queues[name] = true end
add_named(workers, P .. ':workers', P .. ':worker:')
-- RQ's set of workers may have another type. Leases and each queue's own set name workers as well.
for _, name in ipairs(ask({}, 'ZRANGE', P .. ':werk:leases', 0, -1)) do workers[name] = true end
if damaged[P .. ':workers'] then
  for name in pairs(queues) do add_named(workers, P .. ':workers:' .. name, P .. ':worker:') end
end
-- The workers come first: read_worker adds the queues that they serve, and counts their hands.
local worker_rows = rows(read_worker, sorted(workers), P .. ':worker:')
local queue_rows = rows(read_queue, sorted(queues), P .. ':queue:')
local gave_up = P .. ':werk:gave-up'
local first = string.match(ask('', 'LINDEX', gave_up, 0), '^%d+ ([%d.]+)') or ''
local rest = cjson.encode({
  gave_up = {ask(0, 'LLEN', gave_up), string.sub(first, 1, LONGEST_TIME)},
  time = clock, suspended = ask(0, 'EXISTS', P .. ':suspended') == 1,
  counters = hash_of(P .. ':werk:tallies', LONGEST_COUNTERS),
  would_refuse = hash_of(P .. ':werk:would-refuse', LONGEST_COUNTERS), damaged = sorted(damaged),
})
return '{"queues":' .. queue_rows .. ',"workers":' .. worker_rows .. ',' .. string.sub(rest, 2)
