-- Takes what is next, by the heads `step.lua` and `called.lua`. They say: now, consumer, lease (ms), free (slots), mine (the
-- ticket that leases what is taken, '' for none), runs_on (whether jobs still run by it), spare (tickets that lease
-- nothing), came (whether the worker was called here by a ticket), done (tickets that are over), results (whether jobs
-- ended in this call), lost (ids whose lease was lost), time (what TIME answered, if it was asked).
--
-- Returns {ids whose lease was lost, ticket of the jobs taken, their ids, the jobs, ms to wait for the rate limit, 1 if there
-- may be more}; a job is {name, data, opts, timestamp, deduplication id, organization, starts before, attempts made, reason
-- to fail it with}, nil where there is none, and without the nils at its end.

local ids, jobs, pause, may_be_more = {}, {}, 0, 0
if free > 0 and not is_paused then
  local allowed = free
  if most_active then allowed = math.min(allowed, most_active - call('LLEN', ACTIVE)) end
  local limited = most_starts and per_ms
  if limited then
    local used = tonumber(call('GET', base .. 'limiter') or 0)
    if used >= most_starts and anyone_waits() then pause = math.max(call('PTTL', base .. 'limiter'), 1) end
    allowed = math.min(allowed, most_starts - used)
  end
  -- The next jobs in their order. One without a hash was removed; whatever is left of it is passed over.
  local in_line, moved = true, false
  while #jobs < allowed do
    local found
    if in_line and allowed == 1 then
      -- One command instead of two.
      found = {call('RPOPLPUSH', WAIT, ACTIVE) or nil}
      in_line, moved = #found > 0, #found > 0
    elseif in_line then
      found = call('RPOP', WAIT, allowed - #jobs) or {}
      in_line = #found == allowed - #jobs
    else
      found = {}
      for place, member in ipairs(call('ZPOPMIN', PRIORITIZED, allowed - #jobs)) do
        if place % 2 == 1 then found[#found + 1] = member end
      end
      if #found == 0 then break end
    end
    for _, id in ipairs(found) do
      local job = call('HMGET', base .. id, 'name', 'data', 'opts', 'timestamp', 'deid', 'org', 'ats', 'atm', 'defa')
      if job[1] then
        ids[#ids + 1] = id
        jobs[#jobs + 1] = job
      elseif moved then
        call('LREM', ACTIVE, 1, id)
        moved = false
      end
    end
  end
  if #jobs == allowed and allowed > 0 then may_be_more = 1 end
  if #jobs > 0 then
    if mine == '' and came then
      mine = table.remove(spare)
    elseif mine == '' then
      -- A worker that comes on its own takes a ticket that lies there, or a new one. Makes the group when it is not there.
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
      mine, came = reply[1][2][1][1], true
    end
    local term, ends = 'PX', lease
    if #jobs > 1 then
      -- Redis would reckon the time for each lock.
      time = time or call('TIME')
      term, ends = 'PXAT', string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000) + lease)
    end
    for number, job in ipairs(jobs) do
      local id = ids[number]
      local key = base .. id
      call('HSET', key, 'tk', mine, 'processedOn', now, 'pb', consumer, 'ats', job[7] and string.format('%d', job[7] + 1) or '1')
      call('SET', key .. ':lock', mine, term, ends)
      for place = 9, 5, -1 do
        if job[place] then break end
        job[place] = nil
      end
    end
    -- As `event` does, for all of them.
    set_repl(REPLICAS)
    for _, id in ipairs(ids) do call('XADD', EVENTS, '*', 'event', 'active', 'jobId', id, 'prev', 'waiting') end
    set_repl(EVERYWHERE)
    if not moved then call('LPUSH', ACTIVE, unpack(ids)) end
    if limited then
      if call('INCRBY', base .. 'limiter', #jobs) == #jobs then call('PEXPIRE', base .. 'limiter', per_ms) end
    end
  end
end
-- What this worker leaves behind is for the next one; so is what it made room for and does not take itself.
if (came or results) and not is_paused and (free == 0 or may_be_more == 1 and came) and anyone_waits() then summon('*') end
for _, ticket in ipairs(spare) do done[#done + 1] = ticket end
if #jobs == 0 and mine ~= '' and not runs_on then done[#done + 1] = mine end
-- The group is gone after an obliterate; then there is nothing to acknowledge either.
if #done > 0 then redis.pcall('XACK', STREAM, GROUP, unpack(done)) end

if results and #jobs == 0 and call('EXISTS', WAIT, PRIORITIZED, ACTIVE) == 0 then
  event('drained')
  if call('EXISTS', base .. 'delayed') == 0 then call('DEL', base .. 'x:share') end
end
return {lost, mine, ids, jobs, pause, may_be_more}
