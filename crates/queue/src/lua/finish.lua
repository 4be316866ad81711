-- Jobs that end or go. `settle` has to follow, once for all of them.

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

-- A job of the organization ended. Clients of BullMQ may remove or repeat jobs without telling, so the count may be off
-- by some; it begins anew whenever the queue is empty.
local function give_share_back(organization)
  if call('HINCRBY', SHARES, organization, -1) <= 0 then call('HDEL', SHARES, organization) end
end

-- Keys that nobody needs any more, until `settle` deletes them all at once.
local garbage, logs = {}, {}

-- Forgets a job and its logs.
local function forget(id)
  local key = base .. id
  garbage[#garbage + 1] = key
  logs[#logs + 1] = key .. ':logs'
end

-- At the end of a job: gives its deduplication free, and makes the job that was asked for meanwhile.
local function release_deduplication(now, id, name, organization)
  local holder, next_job = base .. 'de:' .. name, base .. 'dn:' .. name
  if call('GET', holder) == id and call('PTTL', holder) == -1 then call('DEL', holder) end
  local following = call('HMGET', next_job, 'name', 'data', 'opts', 'jid')
  if following[1] then
    call('DEL', next_job)
    local next_id = following[4]
    if not next_id or call('EXISTS', base .. next_id) == 1 then next_id = string.format('%d', call('INCR', base .. 'id')) end
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

-- Tells what listeners must hear even if Redis goes down before they have: a failure, and the end of a job that leaves no
-- record.
local function proclaim(...)
  call('XADD', EVENTS, '*', 'event', ...)
end

-- Ends a job in `set`, 'completed' or 'failed'; `settle` has to follow. `opts` may be '' when they do not say what to
-- keep, and so may `deduplication` and `organization`; the rest are fields to write. The caller announces it, by what this answers.
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
    return proclaim
  end
  call('HSET', base .. id, 'finishedOn', now, 'tk', '', ...)
  local members = ended[set]
  members[#members + 1] = now
  members[#members + 1] = id
  if own then kept_by_own_rule[set] = own end
  return set == 'failed' and proclaim or event
end

-- Ends a call: lines up what arrived, summons a worker, shortens the stream of events, files what ended, deletes what is not to be kept any longer.
-- `keep` says how many of each set.
local function settle(now, keep)
  line_up()
  shorten_events()
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
  -- Few jobs have logs, and what is not there is cheaper to look for than to delete.
  for first = 1, #logs, 1000 do
    local last = math.min(first + 999, #logs)
    if call('EXISTS', unpack(logs, first, last)) > 0 then call('DEL', unpack(logs, first, last)) end
  end
  for first = 1, #garbage, 1000 do call('DEL', unpack(garbage, first, math.min(first + 999, #garbage))) end
end
