-- Jobs that come to wait. `line_up` has to follow, once for all of them.

-- The first job that was made to wait in this call; a hint for people.
local newcomer

-- Rings BullMQ's doorbell: member '0' means look now, member '1' look at that time.
local function ring_at(due)
  call('ZADD', base .. 'marker', due, '1')
end

-- Puts a job among those that wait by priority.
local function prioritize(id, priority)
  local turn = call('INCR', base .. 'pc') % 4294967296
  call('ZADD', PRIORITIZED, priority * 4294967296 + turn, id)
end

-- Puts a job among the waiting again: `side` is 'LPUSH' for the end of the line, 'RPUSH' for its head; `previous` is the
-- state it was in.
local function wait_again(id, side, priority, previous)
  if priority > 0 then
    prioritize(id, priority)
  else
    call(side, WAIT, id)
  end
  event('waiting', 'jobId', id, 'prev', previous)
  newcomer = newcomer or id
end

-- Puts a job among the delayed. Within a millisecond, 4096 places keep the order of arrival.
local function delay_until(id, due)
  local first = due * 4096
  local place = call('ZCOUNT', DELAYED, first, first + 4095)
  if place > 4095 then place = 4095 end
  call('ZADD', DELAYED, first + place, id)
  event('delayed', 'jobId', id, 'delay', due)
  ring_at(due)
end

-- Counts a new job of an organization; answers its priority. Within its share it waits in the order of arrival; what
-- goes beyond stands behind the first jobs of everybody else, in BullMQ's own terms: with a priority, which is run after
-- those without.
local function claim_share(organization, share, priority)
  local before = call('HINCRBY', SHARES, organization, 1) - 1
  if share == 0 or priority ~= '0' or before < share then return priority end
  return tostring(math.min(1 + math.floor(before / share), 2097151))
end

-- Jobs that were added and wait in the order of arrival, until `line_up`.
local arrivals = {}

-- Writes a new job and puts it where it belongs. `delay`, in milliseconds, and `priority` are text; `deduplication` and
-- `organization` may be ''.
local function add(now, id, name, data, opts, delay, priority, deduplication, organization, share)
  if organization ~= '' then priority = claim_share(organization, share, priority) end
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

-- Lines up what arrived, summons a worker, and shortens the stream of events.
local function line_up()
  local waits = #arrivals > 0 and call('LPUSH', WAIT, unpack(arrivals)) or 0
  if newcomer and not is_paused then
    local idle = waits > 0 and waits == #arrivals and call('LLEN', ACTIVE) == 0
    if idle and call('XLEN', STREAM) < 1000 then
      -- Nothing waited and nothing runs: whoever is there is idle and has read every ticket, so nobody need look. Unless
      -- nobody is there who reads and trims tickets, and jobs go by other ways.
      call('XADD', STREAM, '*', 'jobId', newcomer)
    else
      summon(newcomer)
    end
  end
  set_repl(REPLICAS)
  call('XTRIM', EVENTS, 'MAXLEN', '~', max_events)
  set_repl(EVERYWHERE)
end
