-- Keeps the queue in order: due jobs, dead workers, missing tickets. Any worker may run it at any time.
--
-- ARGV: now, consumer, lease in ms, stalls a job may suffer, ms between sweeps.
-- Returns {due time of the next delayed job or -1, jobs taken back from dead workers, jobs waiting}.

local now, consumer, lease, most_stalls = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

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
  local tell = finish(now, id, 'failed', job[1] or '', job[2] or '', job[3] or '', 'failedReason', reason, 'stacktrace',
    '[]')
  tell('failed', 'jobId', id, 'failedReason', reason, 'prev', 'active')
  event('retries-exhausted', 'jobId', id, 'attemptsMade', attempts)
end

-- 1. Delayed jobs that are due.
local DELAYED = base .. 'delayed'
local due = call('ZRANGEBYSCORE', DELAYED, '-inf', now * 4096 + 4095, 'LIMIT', 0, 1000)
if #due > 0 then
  call('ZREM', DELAYED, unpack(due))
  for _, id in ipairs(due) do
    local priority = call('HGET', base .. id, 'priority')
    if priority then
      call('HSET', base .. id, 'delay', 0)
      wait_again(id, 'LPUSH', tonumber(priority) or 0, 'delayed')
    end
  end
end

-- 2. Tickets whose worker has been silent for longer than the lease.
local reclaimed = 0
local claimed = redis.pcall('XAUTOCLAIM', STREAM, GROUP, consumer, lease, '0-0', 'COUNT', 100, 'JUSTID')
if claimed.err then
  -- Redis came back empty, or somebody obliterated the queue.
  call('XGROUP', 'CREATE', STREAM, GROUP, '0', 'MKSTREAM')
elseif #claimed[2] > 0 then
  local holders = {}
  for _, id in ipairs(call('LRANGE', ACTIVE, 0, -1)) do
    local held = call('HGET', base .. id, 'tk')
    if held and held ~= '' then
      holders[held] = holders[held] or {}
      table.insert(holders[held], id)
    end
  end
  for _, entry in ipairs(claimed[2]) do
    for _, id in ipairs(holders[entry] or {}) do
      local lock = call('GET', base .. id .. ':lock')
      if not lock or lock == entry then
        stalled(now, id, most_stalls)
        reclaimed = reclaimed + 1
      end
    end
  end
  call('XACK', STREAM, GROUP, unpack(claimed[2]))
end

-- 3. Now and then: jobs of ours that nobody holds any more, though no ticket says so (the stream was deleted), and
-- consumers nobody is behind any more.
if call('SET', base .. 'stalled-check', now, 'NX', 'PX', ARGV[5]) then
  for _, id in ipairs(call('LRANGE', ACTIVE, 0, -1)) do
    local held = call('HGET', base .. id, 'tk')
    if held and held ~= '' and call('EXISTS', base .. id .. ':lock') == 0 then
      stalled(now, id, most_stalls)
      reclaimed = reclaimed + 1
    end
  end
  for _, row in ipairs(call('XINFO', 'CONSUMERS', STREAM, GROUP)) do
    local about = {}
    for at = 1, #row, 2 do about[row[at]] = row[at + 1] end
    if about.pending == 0 and about.idle > 3600000 and about.name ~= consumer then
      call('XGROUP', 'DELCONSUMER', STREAM, GROUP, about.name)
    end
  end
end

settle(now, {})

-- 4. Waiting jobs that nobody was called to: added by BullMQ's own clients, held back while paused, or left by a worker
-- that read the ticket and died.
local ready = call('LLEN', WAIT) + call('ZCARD', PRIORITIZED)
if ready > 0 and not is_paused and not (most_active and call('LLEN', ACTIVE) >= most_active) then summon('*') end

-- 5. Tickets that were delivered and acknowledged.
for _, row in ipairs(call('XINFO', 'GROUPS', STREAM)) do
  local about = {}
  for at = 1, #row, 2 do about[row[at]] = row[at + 1] end
  if about.name == GROUP then
    local pending = call('XPENDING', STREAM, GROUP)
    call('XTRIM', STREAM, 'MINID', '~', pending[2] or about['last-delivered-id'])
  end
end

local following = call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')[2]
return {following and math.floor(tonumber(following) / 4096) or -1, reclaimed, ready}
