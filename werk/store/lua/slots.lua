-- Functions for tick.lua, after limits.lua, about the worker's own slots (SLOTS, see tick.lua).
-- They renew the leases of the slots and the executions of their horses.
--
-- After `check` each job of a slot is where it was; or, if nobody will end its execution (see
-- is_left), at the front of its queue.

local lease_s, leases, clock = tonumber(LEASE), P .. ':werk:leases', now
local events = {string.format('%.6f', clock)}
local RQ_BEAT_S = 30
local USUAL_S = lease_s / LEASE_S -- 1 s, between two ticks of a worker

local slots = {} -- by number, and by name
for number, facts in ipairs(cjson.decode(SLOTS)) do
  local name, generation, run, last, dropped, orders = unpack(facts)
  local slot = {name = name, generation = generation, run = run, last = last, dropped = dropped,
    key = P .. ':worker:' .. name, runs = runs_of(name)}
  if orders ~= cjson.null then
    slot.orders = {}
    for _, ordered in ipairs(orders) do slot.orders[ordered] = true end
  end
  slots[number], slots[name] = slot, slot
end

local function event(...) events[#events + 1] = {...} end

local function number_in(key)
  local number = tonumber(call('GET', own(key, 'string')) or '') or 0
  return number == number and number or 0 -- not NaN
end

-- After an outage, during which no worker could tick, the first tick extends every lease by the
-- length of the outage, but not beyond a new lease. If Redis's clock was set back, or the key was
-- overwritten, each lease becomes a new one. The usual time between two ticks does not count, so
-- that a dead worker's lease expires even if every tick is late.
local function survive_outage()
  local gap = clock - number_in(P .. ':werk:ticked')
  call('SET', P .. ':werk:ticked', string.format('%.6f', clock))
  if gap >= 0 and gap < 3 * USUAL_S then return end
  local length = gap >= 0 and gap - USUAL_S or math.huge
  local all = call('ZRANGE', leases, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    call('ZADD', leases, math.min(math.max(all[i + 1], 0) + length, clock + lease_s), all[i])
  end
end

local function beat(slot)
  call('HDEL', slot.key, 'werk_horse')
  call('HSET', slot.key, 'last_heartbeat', NOW_TEXT, 'werk_horse', slot.generation,
    'werk_clock', AHEAD_S)
  call('EXPIRE', slot.key, WORKER_TTL)
  call('EXPIRE', slot.runs, MONTH_S)
  -- Note how many log lines were dropped, and when that number last grew.
  local dropped = string.format('%d', slot.dropped)
  local before = call('HGET', slot.key, 'werk_lines_dropped') or '0|0'
  if dropped ~= string.match(before, '^[^|]*') then
    call('HSET', slot.key, 'werk_lines_dropped', dropped .. '|' .. clock)
  end
end

local function renew_leases()
  if not fits(leases, 'zset') then -- no lease is known: each worker gets a new one
    call('UNLINK', leases)
    for _, key in ipairs(try('SMEMBERS', P .. ':workers')) do
      call('ZADD', leases, clock + lease_s, string.sub(key, #P + 9))
    end
  end
  survive_outage()
  for _, slot in ipairs(slots) do
    call('ZADD', leases, clock + lease_s, slot.name)
    watch_hands(slot.name, clock + 2 * lease_s)
  end
end

local function renew(slot)
  local run = slot.run
  local id, execution = split(run)
  local key = own(P .. ':execution:' .. run, 'hash')
  local executions = own(P .. ':executions:' .. id, 'zset')
  local is_job = call('TYPE', job_key(id)).ok == 'hash'
  local in_wip = queue_of(run, is_job and call('HGET', job_key(id), 'origin') or '')
  -- A job that was cancelled while it runs has left wip, but its execution is still ours.
  if not in_wip and (call('SISMEMBER', slot.runs, run) == 0 or call('EXISTS', key) == 0) then
    event('lost', run, slot.name)
    return
  end
  if in_wip then call('ZADD', wip_key(in_wip), 'XX', 'GT', clock + OWNED_S, run) end
  if call('HEXISTS', key, 'created_at') == 0 then -- it was lost, and RQ cannot read a part of it
    call('HSET', key, 'id', execution, 'job_id', id, 'worker_name', slot.name, 'created_at', NOW)
  end
  call('HSET', key, 'last_heartbeat', NOW)
  if #slots > 1 then call('HSET', key, 'werk_slots', #slots) end -- see rescue
  call('ZADD', executions, clock + LISTED_S, execution)
  call('EXPIRE', executions, MONTH_S)
  -- RQ's own finish watches the hashes of the job and of the other parents of its dependents, and
  -- starts over when one of them is written. So the job's hash is written as rarely as RQ writes
  -- it, and not at all while RQ finishes the job. The execution has to outlive an outage: RQ cannot
  -- read one that has lost its created_at.
  if call('TTL', key) < MONTH_S - RQ_BEAT_S then
    call('EXPIRE', key, MONTH_S)
    if is_job and call('HEXISTS', key, 'werk_ending') == 0 then
      call('HSET', job_key(id), 'last_heartbeat', NOW_TEXT)
    end
  end
end

-- Return whether nobody will end this open execution of a slot. The slot's horse has gone on to the
-- next one; or it belonged to an earlier horse, and the slot has no order to fail it. So Redis has
-- lost its end, in a crash or a failover, or the reply that made it the slot's was lost.
local function is_left(run, slot)
  local _, execution = split(run)
  if run == slot.run then return false end
  if string.sub(execution, 1, #slot.generation) == slot.generation then
    return slot.last ~= '' and execution < slot.last
  end
  return slot.orders and not slot.orders[run]
end

local function check(slot)
  if not fits(slot.runs, 'set') then
    call('UNLINK', slot.runs)
    if split(slot.run) then call('SADD', slot.runs, slot.run) end
  end
  if split(slot.run) then renew(slot) end
  for _, run in ipairs(open_runs(slot.name)) do
    if is_left(run, slot) then
      local what, crashes = give_back(run, slot.name, nil, slot.name, clock)
      event(what, run, crashes, slot.name)
      if what == 'later' then ask_for_generations() end
    end
  end
end
