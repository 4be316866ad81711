-- The body of `end_results(now, next_arg)` in `step.lua`: ends what was finished, from that argument on. Returns the
-- ids whose lease was lost.

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

local lost, ending, behind = {}, {}, #ARGV
while next_arg <= behind do
  local outcome, held, attempts, many = ARGV[next_arg], ARGV[next_arg + 1], ARGV[next_arg + 2], tonumber(ARGV[next_arg + 3])
  local particular, completed = ARGV[next_arg + 4] == '1', outcome == 'completed'
  local width = 2 + (particular and 3 or 0) + (completed and 0 or 3)
  local first, locks = next_arg + 5, {}
  next_arg = first + many * width
  for number = 1, many do locks[number] = base .. ARGV[first + (number - 1) * width] .. ':lock' end
  local holders = call('MGET', unpack(locks))
  for number = 1, many do
    local at = first + (number - 1) * width
    local id, value, holder, happened = ARGV[at], ARGV[at + 1], holders[number], outcome
    local opts, deduplication, organization = '', '', ''
    at = at + 2
    if particular then
      opts, deduplication, organization = ARGV[at], ARGV[at + 1], ARGV[at + 2]
      at = at + 3
    end
    if holder == held then
      ending[#ending + 1] = id
      garbage[#garbage + 1] = locks[number]
    -- The lock has run out, and nobody has noticed yet.
    elseif holder or call('HGET', base .. id, 'tk') ~= held or call('LREM', ACTIVE, -1, id) == 0 then
      lost[#lost + 1] = id
      happened = 'lost'
    end
    if happened == 'completed' then
      local tell = finish(now, id, 'completed', opts, deduplication, organization, 'atm', attempts, 'returnvalue', value)
      tell('completed', 'jobId', id, 'returnvalue', value, 'prev', 'active')
    elseif happened == 'failed' then
      local tell = finish(now, id, 'failed', opts, deduplication, organization, 'atm', attempts, 'failedReason', value,
        'stacktrace', ARGV[at])
      tell('failed', 'jobId', id, 'failedReason', value, 'prev', 'active')
      if tonumber(attempts) >= tonumber(ARGV[at + 2]) then
        event('retries-exhausted', 'jobId', id, 'attemptsMade', attempts)
      end
    elseif happened == 'retry' then
      local delay = ARGV[at + 1]
      call('HSET', base .. id, 'tk', '', 'atm', attempts, 'failedReason', value, 'stacktrace', ARGV[at], 'delay', delay)
      if delay ~= '0' then
        delay_until(id, now + delay)
      else
        wait_again(id, 'LPUSH', tonumber(call('HGET', base .. id, 'priority') or nil) or 0, 'active')
      end
    elseif happened == 'released' then
      call('HSET', base .. id, 'tk', '')
      wait_again(id, 'RPUSH', 0, 'active')
    end
  end
end
deactivate(ending)
settle(now, {completed = tonumber(ARGV[5]), failed = tonumber(ARGV[6])})
return lost
