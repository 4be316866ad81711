-- One round trip of a busy worker: ends what it finished, then takes what is next.
--
-- ARGV: now, consumer, lease in ms, free slots, completed to keep, failed to keep, number of tickets in hand, the
-- tickets, then for each result: ticket, id, outcome, value, stack trace, delay, attempts allowed.
-- Outcomes: 'completed' (value is JSON), 'failed' (value is the reason), 'retry' (reason, delay in ms), 'released'.
-- Returns {ids whose lease was lost, jobs taken, ms to wait for the rate limit, jobs still waiting}; a job is
-- {id, ticket, name, data, opts, starts, attempts made, timestamp, reason to fail it with or ''}.

local now, consumer, lease, free = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local keep = {completed = tonumber(ARGV[5]), failed = tonumber(ARGV[6])}
local tickets = {}
for at = 8, 7 + tonumber(ARGV[7]) do tickets[#tickets + 1] = ARGV[at] end

local lost, done, locks, ended = {}, {}, {}, {}
for at = 8 + #tickets, #ARGV, 7 do
  local mine, id, outcome, value = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local key = base .. id
  local job = redis.call('HMGET', key, 'tk', 'opts', 'priority')
  local lock = redis.call('GET', key .. ':lock')
  done[#done + 1] = mine
  if job[1] ~= mine or (lock and lock ~= mine) or redis.call('LREM', base .. 'active', -1, id) == 0 then
    lost[#lost + 1] = id
  else
    locks[#locks + 1] = key .. ':lock'
    if outcome == 'released' then
      redis.call('HSET', key, 'tk', '')
      wait(id, 'RPUSH', 0, 'active')
    else
      local attempts = redis.call('HINCRBY', key, 'atm', 1)
      if outcome == 'completed' then
        ended.completed = finish(now, id, 'completed', job[2], {'returnvalue', value},
          {'completed', 'jobId', id, 'returnvalue', value, 'prev', 'active'}) or ended.completed or true
      elseif outcome == 'failed' then
        ended.failed = finish(now, id, 'failed', job[2], {'failedReason', value, 'stacktrace', ARGV[at + 4]},
          {'failed', 'jobId', id, 'failedReason', value, 'prev', 'active'}) or ended.failed or true
        if attempts >= tonumber(ARGV[at + 6]) then
          event('retries-exhausted', 'jobId', id, 'attemptsMade', attempts)
        end
      else
        local delay = tonumber(ARGV[at + 5])
        redis.call('HSET', key, 'tk', '', 'failedReason', value, 'stacktrace', ARGV[at + 4], 'delay', delay)
        if delay > 0 then
          delay_until(id, now + delay)
        else
          wait(id, 'LPUSH', tonumber(job[3] or 0) or 0, 'active')
        end
      end
    end
  end
end
if #locks > 0 then redis.call('DEL', unpack(locks)) end
for set, own in pairs(ended) do
  if own == true then own = {keep[set], 0} end
  retain(now, set, own[1], own[2])
end

local taken, pause = {}, 0
if free > 0 and not is_paused() then
  local ready = waiting()
  if #tickets < free and ready > 0 then
    for _, more in ipairs(read_tickets(consumer, free - #tickets)) do tickets[#tickets + 1] = more end
    -- BullMQ's own clients add jobs without tickets; a worker with a free slot never starves for one.
    local missing = math.min(free, ready) - #tickets
    if missing > 0 then
      for _ = 1, missing do ticket('*') end
      for _, more in ipairs(read_tickets(consumer, missing)) do tickets[#tickets + 1] = more end
    end
  end
  local allowed = math.min(free, #tickets)
  local rules = redis.call('HMGET', base .. 'meta', 'concurrency', 'max', 'duration')
  if rules[1] then allowed = math.min(allowed, tonumber(rules[1]) - redis.call('LLEN', base .. 'active')) end
  local limited = rules[2] and rules[3] and allowed > 0 and ready > 0
  if limited then
    local used = tonumber(redis.call('GET', base .. 'limiter') or 0)
    if used >= tonumber(rules[2]) then pause = math.max(redis.call('PTTL', base .. 'limiter'), 1) end
    allowed = math.min(allowed, tonumber(rules[2]) - used)
  end
  while #taken < allowed do
    local id = redis.call('RPOP', base .. 'wait')
    if not id then id = redis.call('ZPOPMIN', base .. 'prioritized')[1] end
    if not id then break end
    local key = base .. id
    local job = redis.call('HMGET', key, 'name', 'data', 'opts', 'atm', 'timestamp', 'defa')
    -- A job without a hash was removed; whatever is left of it is passed over.
    if job[1] then
      local mine = tickets[#taken + 1]
      local starts = redis.call('HINCRBY', key, 'ats', 1)
      redis.call('HSET', key, 'tk', mine, 'processedOn', now, 'pb', consumer)
      redis.call('SET', key .. ':lock', mine, 'PX', lease)
      redis.call('LPUSH', base .. 'active', id)
      event('active', 'jobId', id, 'prev', 'waiting')
      taken[#taken + 1] = {id, mine, job[1], job[2] or '', job[3] or '{}', tostring(starts), job[4] or '0',
        job[5] or '0', job[6] or ''}
    end
  end
  if limited and #taken > 0 then
    if redis.call('INCRBY', base .. 'limiter', #taken) == #taken then
      redis.call('PEXPIRE', base .. 'limiter', rules[3])
    end
  end
end
for at = #taken + 1, #tickets do done[#done + 1] = tickets[at] end
-- The group is gone after an obliterate; then there is nothing to acknowledge either.
if #done > 0 then redis.pcall('XACK', STREAM, GROUP, unpack(done)) end

local left = waiting()
if #locks > 0 and left == 0 and redis.call('LLEN', base .. 'active') == 0 then
  event('drained')
  if redis.call('ZCARD', base .. 'delayed') == 0 then redis.call('DEL', SHARES) end
end
return {lost, taken, pause, left}
