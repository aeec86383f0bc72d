-- What the horse of a worker has in hand: for the scripts that follow this file and lib.lua.
--
-- Jobs: an idle horse waits with BLMOVE, which moves the next job of a queue into a list of its
-- worker's, the hand, and wakes this horse alone. A job in a hand still waits: its record says
-- 'queued', and it counts as one of its queue. It is there for a round trip only, because each
-- request of an idle horse to step.lua first returns the hands of its worker to the front of their
-- queues. A hand stays full if its horse is frozen, dead or cut off, or has lost a connection: then
-- the fence of the next generation returns it, or a tick. Nobody has begun the job, so this is no
-- crash. A horse that was only slow finds the job in the queue, or does without it.
--
-- Final failures: the one for which a horse calls its handler is in the list werk:gave-up:<worker>.
--
-- After each function that writes, each job and each failure is in exactly one place.

local SILENT_S, SILENT_AT_ONCE = 3, 100 -- since a worker's last tick

local function hand_key(worker, queue) return P .. ':werk:hand:' .. worker .. ':' .. queue end
local function failure_key(worker) return P .. ':werk:gave-up:' .. worker end

-- Return the jobs in a worker's hand, the newest first, to the front of their queue. They stay if
-- the key of the queue has another type.
local function empty_hand(worker, list)
  local hand = hand_key(worker, string.sub(list, #P + 8))
  local id = try('LPOP', hand)
  while type(id) == 'string' do
    if type(try('LPUSH', list, id)) ~= 'number' then call('LPUSH', hand, id); return end
    id = try('LPOP', hand)
  end
  if type(id) == 'table' then own(hand, 'list') end
end

-- Empty the hands of a worker for these queues, and for all that RQ knows.
local function empty_hands(worker, lists)
  for _, list in ipairs(lists) do empty_hand(worker, list) end
  for _, list in ipairs(try('SMEMBERS', P .. ':queues')) do empty_hand(worker, list) end
end

-- Have a tick empty the hands of a worker for good after `until_then`, unless the worker renews
-- this entry first: each of its ticks does, for twice its lease.
--
-- A rescue empties the hands of a silent worker, but not for good if it is only cut off: Redis may
-- not know yet that its connections are lost, and serve its waits. A rescue also ends the worker's
-- generation, and a horse begins a wait only after step.lua has found its generation. A wait lasts
-- less than a lease (idle.py), so none is open a lease after the rescue: then a tick looks again.
-- The entry is not one of werk:leases, because workers of older versions, which know no hands,
-- remove those when they rescue.
local function watch_hands(worker, until_then)
  local hands = P .. ':werk:hands'
  if type(try('ZADD', hands, until_then, worker)) == 'table' then -- no sorted set
    call('UNLINK', hands)
    call('ZADD', hands, until_then, worker)
  end
end

-- Put back what silent workers have in hand, long before they count as dead: a job that was rescued
-- from a dead worker must not wait for a second lease. A worker that is only slow finds the job in
-- the queue.
local function empty_silent_hands(lists, lease_s)
  local hands, now = own(P .. ':werk:hands', 'zset'), redis_time()
  local until_then = now + 2 * lease_s - SILENT_S
  local silent = call('ZRANGEBYSCORE', hands, '-inf', until_then, 'LIMIT', 0, SILENT_AT_ONCE)
  for _, worker in ipairs(silent) do
    for _, list in ipairs(lists) do empty_hand(worker, list) end
    if tonumber(call('ZSCORE', hands, worker)) <= now then
      call('ZREM', hands, worker)
      empty_hands(worker, lists)
    end
  end
end

-- Put back the jobs that a worker has had in hand since the previous tick. What that tick saw is in
-- the field werk_hand of the worker's hash `key`, a line for each queue.
local function empty_stuck_hands(worker, key, lists)
  local seen, found = nil, ''
  for _, list in ipairs(lists) do
    local id = try('LINDEX', hand_key(worker, string.sub(list, #P + 8)), -1)
    if type(id) == 'string' then
      seen = seen or call('HGET', key, 'werk_hand') or ''
      local line = list .. ' ' .. id .. '\n'
      if string.find(seen, line, 1, true) then empty_hand(worker, list)
      else found = found .. line end
    end
  end
  if seen then call('HSET', key, 'werk_hand', found) end
end

-- Return the hand that has a job of a queue, nil if none has.
local full_hands = {} -- by queue
local function hand_with(id, queue)
  if not full_hands[queue] then
    full_hands[queue] = {}
    for _, worker in ipairs(try('ZRANGE', P .. ':werk:hands', 0, -1)) do
      local hand = hand_key(worker, queue)
      if call('EXISTS', hand) == 1 then table.insert(full_hands[queue], hand) end
    end
  end
  for _, hand in ipairs(full_hands[queue]) do
    if type(try('LPOS', hand, id)) == 'number' then return hand end
  end
end

-- Return the failure that a worker's horse has in hand or, if there is none, the first that waits.
-- From then on the horse has it in hand. Returns nothing if none waits.
local function take_failure(worker)
  local hand = own(failure_key(worker), 'list')
  local failure = call('LINDEX', hand, 0)
  if failure then return failure end -- also of a request that was sent before
  failure = call('LPOP', failures())
  if failure then
    call('RPUSH', hand, failure)
    call('EXPIRE', hand, MONTH_S)
  end
  return failure
end

-- Put back the failure that a dead horse had in hand, so that another horse calls the handler.
local function put_back_failures(worker)
  local hand = own(failure_key(worker), 'list')
  local failure = call('LPOP', hand)
  while failure do
    local times, rest = string.match(failure, '^(%d+)( .*)$')
    if times then call('RPUSH', failures(), whole(times, 8) + 1 .. rest) end
    failure = call('LPOP', hand)
  end
end

local function drop_failures()
  local excess = math.min(call('LLEN', failures()) - MOST_GAVE_UP, MOST_GAVE_UP)
  if excess <= 0 then return end
  call('LPOP', failures(), excess)
  try('HINCRBYFLOAT', P .. ':werk:tallies', 'dropped_give_ups', excess)
end

-- Have every horse ask for its generation before it claims, for a while. Otherwise it takes an
-- execution that it ends, and that is still its worker's, as proof that it may claim: see step.lua.
local function ask_for_generations() call('SET', P .. ':werk:fenced', '1', 'EX', FENCED_S) end

-- Let only this generation of a worker's horses claim jobs, and renew the lease. Put back what the
-- horse before had in hand. Returns the executions that are open.
local function fence_generation(worker, generation, lease_s, lists)
  local key = own(P .. ':worker:' .. worker, 'hash')
  call('HDEL', key, 'werk_horse')
  call('HSET', key, 'werk_horse', generation)
  call('ZADD', own(P .. ':werk:leases', 'zset'), redis_time() + lease_s, worker)
  put_back_failures(worker)
  empty_hands(worker, lists)
  local runs = open_runs(worker)
  if #runs > 0 then ask_for_generations() end
  return runs
end
