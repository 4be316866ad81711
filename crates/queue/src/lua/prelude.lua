-- What every script shares. KEYS[1] is the queue's base, `<prefix>:<queue>:`; all other keys derive from it. Time comes
-- from the caller, in milliseconds.

local base = KEYS[1]
local STREAM, GROUP = base .. 'x:stream', 'workers'

local max_events = tonumber(redis.call('HGET', base .. 'meta', 'opts.maxLenEvents') or 10000) or 10000

local function event(...)
  redis.call('XADD', base .. 'events', 'MAXLEN', '~', max_events, '*', 'event', ...)
end

local function is_paused()
  return redis.call('HEXISTS', base .. 'meta', 'paused') == 1
end

-- How many jobs wait to be taken.
local function waiting()
  return redis.call('LLEN', base .. 'wait') + redis.call('ZCARD', base .. 'prioritized')
end

-- A ticket is the right to run one job, whichever is next; `id` is only a hint for people.
local function ticket(id)
  redis.call('XADD', STREAM, '*', 'jobId', id)
end

-- Rings BullMQ's doorbell: member '0' means look now, member '1' look at that time.
local function ring_at(due)
  redis.call('ZADD', base .. 'marker', due, '1')
end

-- Puts a job among the waiting: `side` is 'LPUSH' for the end of the line, 'RPUSH' for its head.
local function wait(id, side, priority, previous)
  if priority > 0 then
    local turn = redis.call('INCR', base .. 'pc') % 4294967296
    redis.call('ZADD', base .. 'prioritized', priority * 4294967296 + turn, id)
  else
    redis.call(side, base .. 'wait', id)
  end
  if previous then
    event('waiting', 'jobId', id, 'prev', previous)
  else
    event('waiting', 'jobId', id)
  end
  if not is_paused() then ticket(id) end
end

-- Puts a job among the delayed. Within a millisecond, 4096 places keep the order of arrival.
local function delay_until(id, due)
  local first = due * 4096
  local place = redis.call('ZCOUNT', base .. 'delayed', first, first + 4095)
  if place > 4095 then place = 4095 end
  redis.call('ZADD', base .. 'delayed', first + place, id)
  event('delayed', 'jobId', id, 'delay', due)
  ring_at(due)
end

-- Fair shares: how many jobs of each organization have not ended yet.
local SHARES = base .. 'x:share'

-- Counts a new job of an organization. Within its share it waits in the order of arrival; what goes beyond stands
-- behind the first jobs of everybody else, in BullMQ's own terms: with a priority, which is run after those without.
local function claim_share(key, organization, share, priority)
  redis.call('HSET', key, 'org', organization)
  local before = redis.call('HINCRBY', SHARES, organization, 1) - 1
  if share == 0 or priority > 0 or before < share then return priority end
  return math.min(1 + math.floor(before / share), 2097151)
end

-- A job of the organization ended. Clients of BullMQ may remove or repeat jobs without telling, so the count may be off
-- by some; it begins anew whenever the queue is empty.
local function give_share_back(organization)
  if organization and redis.call('HINCRBY', SHARES, organization, -1) <= 0 then
    redis.call('HDEL', SHARES, organization)
  end
end

-- Writes a new job and puts it where it belongs. `delay` is in milliseconds; `organization` is '' for nobody's.
local function add(now, id, name, data, opts, delay, priority, side, deduplication, organization, share)
  local key = base .. id
  if organization ~= '' then priority = claim_share(key, organization, share, priority) end
  redis.call('HSET', key, 'name', name, 'data', data, 'opts', opts, 'timestamp', now, 'delay', delay,
    'priority', priority)
  if deduplication ~= '' then redis.call('HSET', key, 'deid', deduplication) end
  event('added', 'jobId', id, 'name', name)
  if delay > 0 then
    delay_until(id, now + delay)
  else
    wait(id, side, priority, nil)
  end
end

-- Forgets a job altogether.
local function forget(id)
  local key = base .. id
  redis.call('DEL', key, key .. ':logs', key .. ':lock', key .. ':dependencies', key .. ':processed', key .. ':failed',
    key .. ':unsuccessful')
end

-- At the end of a job: gives its deduplication free, and makes the job that was asked for meanwhile.
local function release_deduplication(now, id)
  local name = redis.call('HGET', base .. id, 'deid')
  if not name then return end
  local holder, next_job = base .. 'de:' .. name, base .. 'dn:' .. name
  if redis.call('GET', holder) == id and redis.call('PTTL', holder) == -1 then redis.call('DEL', holder) end
  local following = redis.call('HMGET', next_job, 'name', 'data', 'opts', 'jid')
  if following[1] then
    redis.call('DEL', next_job)
    local next_id = following[4]
    if not next_id or redis.call('EXISTS', base .. next_id) == 1 then
      next_id = tostring(redis.call('INCR', base .. 'id'))
    end
    redis.call('SET', holder, next_id)
    -- It stands where the job before it stood: one job of a session at a time is nobody's flood.
    local organization = redis.call('HGET', base .. id, 'org') or ''
    add(now, next_id, following[1], following[2], following[3], 0, 0, 'LPUSH', name, organization, 0)
  end
end

-- What a job's own options say about keeping it: nil when they say nothing, else {count, age_s}; count -1 keeps all.
local function own_retention(opts, which)
  if not opts or not string.find(opts, which, 1, true) then return nil end
  local parsed, decoded = pcall(cjson.decode, opts)
  if not parsed or type(decoded) ~= 'table' then return nil end
  local rule = decoded[which]
  if rule == true then return {0, 0} end
  if rule == false then return {-1, 0} end
  if type(rule) == 'number' then return {rule, 0} end
  if type(rule) == 'table' then return {tonumber(rule.count) or -1, tonumber(rule.age) or 0} end
  return nil
end

-- Deletes what is too old or too much; at most 1000 jobs a call, so that Redis is never held up.
local function retain(now, set, count, age_s)
  local key = base .. set
  local gone = {}
  if age_s > 0 then
    gone = redis.call('ZRANGEBYSCORE', key, '-inf', now - age_s * 1000, 'LIMIT', 0, 1000)
  end
  if #gone == 0 and count >= 0 then
    local surplus = redis.call('ZCARD', key) - count
    if surplus > 0 then gone = redis.call('ZRANGE', key, 0, math.min(surplus, 1000) - 1) end
  end
  if #gone > 0 then
    redis.call('ZREM', key, unpack(gone))
    for _, id in ipairs(gone) do forget(id) end
  end
end

-- Ends a job in `completed` or `failed`, or forgets it when nothing is to be kept. Returns its own rule for how many to keep, if any.
local function finish(now, id, set, opts, fields, announcement)
  local key = base .. id
  local own = own_retention(opts, set == 'completed' and 'removeOnComplete' or 'removeOnFail')
  give_share_back(redis.call('HGET', key, 'org'))
  release_deduplication(now, id)
  if own and own[1] == 0 then
    forget(id)
  else
    redis.call('HSET', key, 'finishedOn', now, 'tk', '', unpack(fields))
    redis.call('ZADD', base .. set, now, id)
  end
  event(unpack(announcement))
  -- "Keep none" is about this job alone; the others are kept by the worker's own rule.
  if own and own[1] ~= 0 then return own end
  return nil
end

-- A job whose worker went away: back to the head of the line, or failed when that happened too often.
local function stalled(now, id, most)
  redis.call('LREM', base .. 'active', -1, id)
  redis.call('DEL', base .. id .. ':lock')
  local times = redis.call('HINCRBY', base .. id, 'stc', 1)
  redis.call('HSET', base .. id, 'tk', '')
  event('stalled', 'jobId', id)
  if times <= most then
    wait(id, 'RPUSH', 0, 'active')
  else
    local reason = 'job stalled more than allowable limit'
    local attempts = redis.call('HINCRBY', base .. id, 'atm', 1)
    local opts = redis.call('HGET', base .. id, 'opts')
    finish(now, id, 'failed', opts, {'failedReason', reason, 'stacktrace', '[]'},
      {'failed', 'jobId', id, 'failedReason', reason, 'prev', 'active'})
    event('retries-exhausted', 'jobId', id, 'attemptsMade', attempts)
  end
end

-- Reads up to `count` tickets for a consumer, making the group when it is not there.
local function read_tickets(consumer, count)
  local ask = {'XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', count, 'STREAMS', STREAM, '>'}
  local reply = redis.pcall(unpack(ask))
  if type(reply) == 'table' and reply.err then
    redis.call('XGROUP', 'CREATE', STREAM, GROUP, '0', 'MKSTREAM')
    reply = redis.call(unpack(ask))
  end
  local tickets = {}
  if reply then
    for _, entry in ipairs(reply[1][2]) do tickets[#tickets + 1] = entry[1] end
  end
  return tickets
end

