-- One round trip of a busy worker: ends what it finished, then takes what is next.
--
-- ARGV: now, consumer, lease in ms, free slots, completed to keep, failed to keep, the ticket that leases what is taken
-- ('' for none), 1 if jobs still run by it, number of tickets that were just read, number of tickets whose last job ends
-- here, both kinds of tickets, then for each result: outcome, ticket, id, value, attempts that ended, options if they say
-- what to keep, deduplication id, organization; and unless it is completed: stack trace, delay, attempts allowed, priority.
-- Outcomes: 'completed' (value is JSON), 'failed' (value is the reason), 'retry' (reason, delay in ms), 'released'.
-- Returns {ids whose lease was lost, ticket of the jobs taken, jobs taken, ms to wait for the rate limit, 1 if there may
-- be more}; a job is {name, data, opts, attempts made, timestamp, reason to fail it with, deduplication id, organization,
-- priority, starts before, id}, nil where there is none.

local now, consumer, lease, free = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local keep = {completed = tonumber(ARGV[5]), failed = tonumber(ARGV[6])}
local mine, runs_on, spare, done, next_arg = ARGV[7], ARGV[8] == '1', {}, {}, 11
for _ = 1, tonumber(ARGV[9]) do
  spare[#spare + 1], next_arg = ARGV[next_arg], next_arg + 1
end
for _ = 1, tonumber(ARGV[10]) do
  done[#done + 1], next_arg = ARGV[next_arg], next_arg + 1
end

-- Takes jobs out of the active list. For more than a few, one look at a short list is cheaper than a search for each.
local function deactivate(ids)
  if #ids < 4 or call('LLEN', ACTIVE) > 4 * #ids then
    for _, id in ipairs(ids) do call('LREM', ACTIVE, -1, id) end
    return
  end
  local ending, rest = {}, {}
  for _, id in ipairs(ids) do ending[id] = true end
  for _, id in ipairs(call('LRANGE', ACTIVE, 0, -1)) do
    if not ending[id] then rest[#rest + 1] = id end
  end
  call('DEL', ACTIVE)
  if #rest > 0 then call('RPUSH', ACTIVE, unpack(rest)) end
end

-- What ended, in parts of ARGV.
local results, locks = {}, {}
while next_arg <= #ARGV do
  results[#results + 1] = next_arg
  locks[#locks + 1] = base .. ARGV[next_arg + 2] .. ':lock'
  next_arg = next_arg + (ARGV[next_arg] == 'completed' and 8 or 12)
end

local lost = {}
if #results > 0 then
  local ending = {}
  local holders = call('MGET', unpack(locks))
  for number, at in ipairs(results) do
    local outcome, held, id, value, attempts = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
    local key, holder = base .. id, holders[number]
    if holder == held then
      ending[#ending + 1] = id
      garbage[#garbage + 1] = locks[number]
    -- The lock has run out, and nobody has noticed yet.
    elseif holder or call('HGET', key, 'tk') ~= held or call('LREM', ACTIVE, -1, id) == 0 then
      lost[#lost + 1] = id
      outcome = 'lost'
    end
    if outcome == 'completed' then
      finish(now, id, 'completed', ARGV[at + 5], ARGV[at + 6], ARGV[at + 7], 'atm', attempts, 'returnvalue', value)
      event('completed', 'jobId', id, 'returnvalue', value, 'prev', 'active')
    elseif outcome == 'failed' then
      finish(now, id, 'failed', ARGV[at + 5], ARGV[at + 6], ARGV[at + 7], 'atm', attempts, 'failedReason', value,
        'stacktrace', ARGV[at + 8])
      event('failed', 'jobId', id, 'failedReason', value, 'prev', 'active')
      if tonumber(attempts) >= tonumber(ARGV[at + 10]) then
        event('retries-exhausted', 'jobId', id, 'attemptsMade', attempts)
      end
    elseif outcome == 'retry' then
      local delay = ARGV[at + 9]
      call('HSET', key, 'tk', '', 'atm', attempts, 'failedReason', value, 'stacktrace', ARGV[at + 8], 'delay', delay)
      if delay ~= '0' then
        delay_until(id, now + delay)
      else
        wait_again(id, 'LPUSH', tonumber(ARGV[at + 11]), 'active')
      end
    elseif outcome == 'released' then
      call('HSET', key, 'tk', '')
      wait_again(id, 'RPUSH', 0, 'active')
    end
  end
  deactivate(ending)
  settle(now, keep)
end

-- The next jobs in their order, up to `most`. A job without a hash was removed; whatever is left of it is passed over.
local function pop(most)
  local jobs = {}
  while #jobs < most do
    local ids = call('RPOP', WAIT, most - #jobs)
    if not ids then
      ids = {}
      for place, member in ipairs(call('ZPOPMIN', PRIORITIZED, most - #jobs)) do
        if place % 2 == 1 then ids[#ids + 1] = member end
      end
      if #ids == 0 then break end
    end
    for _, id in ipairs(ids) do
      local job = call('HMGET', base .. id, 'name', 'data', 'opts', 'atm', 'timestamp', 'defa', 'deid', 'org',
        'priority', 'ats')
      if job[1] then
        job[11] = id
        jobs[#jobs + 1] = job
      end
    end
  end
  return jobs
end

local jobs, pause, may_be_more = {}, 0, 0
local came = #spare > 0
if free > 0 and not is_paused then
  local allowed = free
  if most_active then allowed = math.min(allowed, most_active - call('LLEN', ACTIVE)) end
  local limited = most_starts and per_ms
  if limited then
    local used = tonumber(call('GET', base .. 'limiter') or 0)
    if used >= most_starts and waiting() > 0 then pause = math.max(call('PTTL', base .. 'limiter'), 1) end
    allowed = math.min(allowed, most_starts - used)
  end
  jobs = pop(allowed)
  if #jobs == allowed and allowed > 0 then may_be_more = 1 end
  if #jobs > 0 then
    if mine == '' and came then
      mine = table.remove(spare)
    elseif mine == '' then
      mine, came = draw_ticket(consumer), true
    end
    local started = {}
    for number, job in ipairs(jobs) do
      local id = job[11]
      local key = base .. id
      call('HSET', key, 'tk', mine, 'processedOn', now, 'pb', consumer, 'ats', whole((job[10] or 0) + 1))
      call('SET', key .. ':lock', mine, 'PX', lease)
      event('active', 'jobId', id, 'prev', 'waiting')
      started[number] = id
    end
    call('LPUSH', ACTIVE, unpack(started))
    if limited then
      if call('INCRBY', base .. 'limiter', #jobs) == #jobs then call('PEXPIRE', base .. 'limiter', per_ms) end
    end
  end
end
-- What this worker leaves behind is for the next one.
if came and not is_paused and (free == 0 or may_be_more == 1) and waiting() > 0 then summon('*') end
for _, ticket in ipairs(spare) do done[#done + 1] = ticket end
if #jobs == 0 and mine ~= '' and not runs_on then done[#done + 1] = mine end
-- The group is gone after an obliterate; then there is nothing to acknowledge either.
if #done > 0 then redis.pcall('XACK', STREAM, GROUP, unpack(done)) end

if #results > 0 and #jobs == 0 and waiting() == 0 and call('LLEN', ACTIVE) == 0 then
  event('drained')
  if call('ZCARD', DELAYED) == 0 then call('DEL', SHARES) end
end
return {lost, mine, jobs, pause, may_be_more}
