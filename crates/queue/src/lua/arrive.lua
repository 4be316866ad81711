-- Jobs that come to wait. `line_up` has to follow, once for all of them.

-- The first job that was made to wait in this call; a hint for people.
local newcomer

-- Puts a job among those that wait by priority.
local function prioritize(id, priority)
  local turn = call('INCR', base .. 'pc') % 4294967296
  call('ZADD', PRIORITIZED, priority * 4294967296 + turn, id)
end

-- Puts a job among the delayed. Within a millisecond, 4096 places keep the order of arrival.
local function delay_until(id, due)
  local delayed, first = base .. 'delayed', due * 4096
  local place = call('ZCOUNT', delayed, first, first + 4095)
  if place > 4095 then place = 4095 end
  call('ZADD', delayed, first + place, id)
  event('delayed', 'jobId', id, 'delay', due)
  -- BullMQ's doorbell: member '0' means look now, member '1' look at that time.
  call('ZADD', base .. 'marker', due, '1')
end

-- Jobs that were added and wait in the order of arrival, until `line_up`.
local arrivals = {}

-- Writes a new job and puts it where it belongs. `delay`, in milliseconds, and `priority` are text; `deduplication` and
-- `organization` may be ''.
local function add(now, id, name, data, opts, delay, priority, deduplication, organization, share)
  if organization ~= '' then
    -- Within its share it waits in the order of arrival; what goes beyond stands behind the first jobs of everybody else,
    -- in BullMQ's own terms: with a priority, which is run after those without.
    local before = call('HINCRBY', SHARES, organization, 1) - 1
    if share > 0 and priority == '0' and before >= share then
      priority = tostring(math.min(1 + math.floor(before / share), 2097151))
    end
  end
  if deduplication == '' and organization == '' then
    call('HSET', base .. id, 'name', name, 'data', data, 'opts', opts, 'timestamp', now, 'delay', delay, 'priority',
      priority)
  else
    local fields = {}
    if deduplication ~= '' then fields = {'deid', deduplication} end
    if organization ~= '' then
      fields[#fields + 1] = 'org'
      fields[#fields + 1] = organization
    end
    call('HSET', base .. id, 'name', name, 'data', data, 'opts', opts, 'timestamp', now, 'delay', delay, 'priority',
      priority, unpack(fields))
  end
  -- Two of `event`.
  set_repl(REPLICAS)
  call('XADD', EVENTS, '*', 'event', 'added', 'jobId', id, 'name', name)
  if delay ~= '0' then
    set_repl(EVERYWHERE)
    delay_until(id, now + delay)
    return
  end
  call('XADD', EVENTS, '*', 'event', 'waiting', 'jobId', id)
  set_repl(EVERYWHERE)
  if priority ~= '0' then
    prioritize(id, tonumber(priority))
  else
    arrivals[#arrivals + 1] = id
  end
  newcomer = newcomer or id
end

-- Lines up what arrived and summons a worker.
local function line_up()
  local waits = #arrivals > 0 and call('LPUSH', WAIT, unpack(arrivals)) or 0
  if not newcomer or is_paused then return end
  local idle = waits > 0 and waits == #arrivals and call('EXISTS', ACTIVE) == 0
  if idle and call('XLEN', STREAM) < 1000 then
    -- Nothing waited and nothing runs: whoever is there is idle and has read every ticket, so nobody need look. Unless
    -- nobody is there who reads and trims tickets, and jobs go by other ways.
    call('XADD', STREAM, '*', 'jobId', newcomer)
  else
    summon(newcomer)
  end
end

-- Shortens the stream of events; it may be longer by a few hundred.
local function shorten_events()
  set_repl(REPLICAS)
  call('XTRIM', EVENTS, 'MAXLEN', '~', max_events)
  set_repl(EVERYWHERE)
end
