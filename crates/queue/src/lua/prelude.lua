-- What every script shares. KEYS[1] is the queue's base, `<prefix>:<queue>:`; all other keys derive from it. Time comes
-- from the caller, in milliseconds.
--
-- A call costs about a microsecond beside what it does, so whatever a batch of jobs has in common is done once. Redis
-- prints a number among the arguments as a floating-point one, which costs another; so numbers that come as text stay
-- text until somebody reckons with them.

local call = redis.call
local base = KEYS[1]
local WAIT, PRIORITIZED, DELAYED, ACTIVE = base .. 'wait', base .. 'prioritized', base .. 'delayed', base .. 'active'
local STREAM, GROUP, EVENTS = base .. 'x:stream', 'workers', base .. 'events'

-- A whole number as text.
local function whole(number)
  return string.format('%d', number)
end

-- What operators may have set: whether jobs are held back, and how many may run or start.
local meta = call('HMGET', base .. 'meta', 'paused', 'opts.maxLenEvents', 'concurrency', 'max', 'duration')
local is_paused = meta[1] ~= false
local max_events = meta[2] or '10000'
local most_active, most_starts, per_ms = tonumber(meta[3] or nil), tonumber(meta[4] or nil), tonumber(meta[5] or nil)

-- Tells listeners; `settle` shortens the stream once for all that a call tells.
local function event(...)
  call('XADD', EVENTS, '*', 'event', ...)
end

-- How many jobs wait to be taken.
local function waiting()
  return call('LLEN', WAIT) + call('ZCARD', PRIORITIZED)
end

-- A ticket calls one worker to the queue, whatever is next, and becomes its lease of what it takes. One that nobody has
-- read yet is enough, however many jobs wait: whoever reads it and leaves jobs behind lays out the next one (`summon`),
-- until every idle worker has come.
--
-- Jobs made to wait in this call summon a worker once, when `settle` is called; `id` is only a hint for people.
local newcomer

local function summon(id)
  local groups = redis.pcall('XINFO', 'GROUPS', STREAM)
  if not groups.err then
    local known = false
    for _, row in ipairs(groups) do
      local about = {}
      for at = 1, #row, 2 do about[row[at]] = row[at + 1] end
      if about.name == GROUP then
        known = true
        if (tonumber(about.lag or nil) or 0) > 0 then return end
      end
    end
    -- The first worker, when it comes, reads from the beginning.
    if not known and call('XLEN', STREAM) > 0 then return end
  end
  call('XADD', STREAM, '*', 'jobId', id)
end

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

-- Fair shares: how many jobs of each organization have not ended yet.
local SHARES = base .. 'x:share'

-- Counts a new job of an organization; answers its priority. Within its share it waits in the order of arrival; what
-- goes beyond stands behind the first jobs of everybody else, in BullMQ's own terms: with a priority, which is run after
-- those without.
local function claim_share(organization, share, priority)
  local before = call('HINCRBY', SHARES, organization, 1) - 1
  if share == 0 or priority ~= '0' or before < share then return priority end
  return tostring(math.min(1 + math.floor(before / share), 2097151))
end

-- A job of the organization ended. Clients of BullMQ may remove or repeat jobs without telling, so the count may be off
-- by some; it begins anew whenever the queue is empty.
local function give_share_back(organization)
  if call('HINCRBY', SHARES, organization, -1) <= 0 then call('HDEL', SHARES, organization) end
end

-- Jobs that were added and wait in the order of arrival, until `settle` lines them up.
local arrivals = {}

-- Writes a new job and puts it where it belongs; `settle` has to follow. `delay`, in milliseconds, and
-- `priority` are text; `deduplication` and `organization` may be ''.
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
  event('added', 'jobId', id, 'name', name)
  if delay ~= '0' then
    delay_until(id, now + delay)
    return
  end
  if priority ~= '0' then
    prioritize(id, tonumber(priority))
  else
    arrivals[#arrivals + 1] = id
  end
  event('waiting', 'jobId', id)
  newcomer = newcomer or id
end

-- Keys that nobody needs any more, until `settle` deletes them all at once.
local garbage = {}

-- Forgets a job and its logs.
local function forget(id)
  local key = base .. id
  garbage[#garbage + 1] = key
  garbage[#garbage + 1] = key .. ':logs'
end

-- At the end of a job: gives its deduplication free, and makes the job that was asked for meanwhile.
local function release_deduplication(now, id, name, organization)
  local holder, next_job = base .. 'de:' .. name, base .. 'dn:' .. name
  if call('GET', holder) == id and call('PTTL', holder) == -1 then call('DEL', holder) end
  local following = call('HMGET', next_job, 'name', 'data', 'opts', 'jid')
  if following[1] then
    call('DEL', next_job)
    local next_id = following[4]
    if not next_id or call('EXISTS', base .. next_id) == 1 then next_id = whole(call('INCR', base .. 'id')) end
    call('SET', holder, next_id)
    -- It stands where the job before it stood: one job of a session at a time is nobody's flood.
    add(now, next_id, following[1], following[2], following[3], '0', '0', name, organization, 0)
  end
end

-- What a job's own options, as JSON, say about keeping it: nil when they say nothing, else {count, age_s}; count -1 keeps all.
local function own_retention(opts, which)
  if not string.find(opts, which, 1, true) then return nil end
  local parsed, decoded = pcall(cjson.decode, opts)
  if not parsed or type(decoded) ~= 'table' then return nil end
  local rule = decoded[which]
  if rule == true then return {0, 0} end
  if rule == false then return {-1, 0} end
  if type(rule) == 'number' then return {rule, 0} end
  if type(rule) == 'table' then return {tonumber(rule.count) or -1, tonumber(rule.age) or 0} end
  return nil
end

-- Forgets what is too old or too much; at most 1000 jobs a call, so that Redis is never held up.
local function retain(now, set, count, age_s)
  local key = base .. set
  local gone = {}
  if age_s > 0 then
    gone = call('ZRANGEBYSCORE', key, '-inf', now - age_s * 1000, 'LIMIT', 0, 1000)
    if #gone > 0 then call('ZREM', key, unpack(gone)) end
    for _, id in ipairs(gone) do forget(id) end
  end
  if #gone == 0 and count >= 0 then
    local surplus = call('ZCARD', key) - count
    if surplus > 0 then
      for place, member in ipairs(call('ZPOPMIN', key, math.min(surplus, 1000))) do
        if place % 2 == 1 then forget(member) end
      end
    end
  end
end

-- Jobs that ended in this call, as members of a sorted set, and how many of their kind are to be kept.
local ended = {completed = {}, failed = {}}
local kept_by_own_rule = {}

-- How many of each kind ended in this call, kept or not; BullMQ's own counters have the sum.
local counted = {completed = 0, failed = 0}

-- Ends a job in `set`, 'completed' or 'failed'; `settle` has to follow. `opts` may be '' when they do not say what to
-- keep, and so may `deduplication` and `organization`; the rest are fields to write. The caller announces it.
local function finish(now, id, set, opts, deduplication, organization, ...)
  counted[set] = counted[set] + 1
  local own = opts ~= '' and own_retention(opts, set == 'completed' and 'removeOnComplete' or 'removeOnFail')
  if organization ~= '' then give_share_back(organization) end
  if deduplication ~= '' then release_deduplication(now, id, deduplication, organization) end
  if own and own[1] == 0 then
    -- "Keep none" is about this job alone; the others are kept by the worker's own rule.
    forget(id)
    for _, part in ipairs({':dependencies', ':processed', ':failed', ':unsuccessful'}) do
      garbage[#garbage + 1] = base .. id .. part
    end
    return
  end
  call('HSET', base .. id, 'finishedOn', now, 'tk', '', ...)
  local members = ended[set]
  members[#members + 1] = now
  members[#members + 1] = id
  if own then kept_by_own_rule[set] = own end
end

-- Ends a call: lines up what arrived and summons a worker, files what ended, deletes what is not to be kept any longer.
-- `keep` says how many of each set.
local function settle(now, keep)
  if #arrivals > 0 then call('LPUSH', WAIT, unpack(arrivals)) end
  if newcomer and not is_paused then summon(newcomer) end
  for set, members in pairs(ended) do
    if #members > 0 then
      call('ZADD', base .. set, unpack(members))
      local own = kept_by_own_rule[set] or {keep[set] or -1, 0}
      retain(now, set, own[1], own[2])
    end
  end
  for set, count in pairs(counted) do
    if count > 0 then call('HINCRBY', base .. 'metrics:' .. set, 'count', count) end
  end
  for first = 1, #garbage, 1000 do call('DEL', unpack(garbage, first, math.min(first + 999, #garbage))) end
  call('XTRIM', EVENTS, 'MAXLEN', '~', max_events)
end

-- A job whose worker went away: back to the head of the line, or failed when that happened too often. `settle` has to
-- follow.
local function stalled(now, id, most)
  local key = base .. id
  call('LREM', ACTIVE, -1, id)
  call('DEL', key .. ':lock')
  local times = call('HINCRBY', key, 'stc', 1)
  call('HSET', key, 'tk', '')
  event('stalled', 'jobId', id)
  if times <= most then
    wait_again(id, 'RPUSH', 0, 'active')
    return
  end
  local reason = 'job stalled more than allowable limit'
  local attempts = call('HINCRBY', key, 'atm', 1)
  local job = call('HMGET', key, 'opts', 'deid', 'org')
  finish(now, id, 'failed', job[1] or '', job[2] or '', job[3] or '', 'failedReason', reason, 'stacktrace', '[]')
  event('failed', 'jobId', id, 'failedReason', reason, 'prev', 'active')
  event('retries-exhausted', 'jobId', id, 'attemptsMade', attempts)
end

-- A ticket for a worker that comes on its own: one that lies there, or a new one. Makes the group when it is not there.
local function draw_ticket(consumer)
  local read = {'XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', '1', 'STREAMS', STREAM, '>'}
  local reply = redis.pcall(unpack(read))
  if type(reply) == 'table' and reply.err then
    call('XGROUP', 'CREATE', STREAM, GROUP, '0', 'MKSTREAM')
    reply = call(unpack(read))
  end
  if not reply then
    call('XADD', STREAM, '*', 'jobId', '*')
    reply = call(unpack(read))
  end
  return reply[1][2][1][1]
end

