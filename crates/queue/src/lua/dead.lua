-- Failed jobs of which no dead letter was made yet. The note stands in the job's own hash (`dl`: when the failure it
-- speaks of ended), so it goes when the job goes, and a job that is tried again and fails again is found again.
--
-- ARGV: 'find', most; answers {id, finishedOn, name, data, failedReason} each, the newest first.
-- ARGV: 'note', then id and finishedOn each; answers nothing.

local call = redis.call
local base = KEYS[1]

if ARGV[1] == 'note' then
  for at = 2, #ARGV, 2 do
    -- Retention may have taken the job meanwhile; a hash of nothing but the note would be in nobody's way and nobody's list.
    if call('EXISTS', base .. ARGV[at]) == 1 then call('HSET', base .. ARGV[at], 'dl', ARGV[at + 1]) end
  end
  return
end

local most, found = tonumber(ARGV[2]), {}
for _, id in ipairs(call('ZREVRANGE', base .. 'failed', 0, 4999)) do
  local times = call('HMGET', base .. id, 'finishedOn', 'dl')
  if times[1] and times[1] ~= times[2] then
    local job = call('HMGET', base .. id, 'name', 'data', 'failedReason')
    found[#found + 1] = {id, times[1], job[1] or '', job[2] or '', job[3] or ''}
    if #found == most then break end
  end
end
return found
