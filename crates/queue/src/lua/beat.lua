-- Says that jobs still run: their tickets stay with this worker and their locks are renewed.
--
-- ARGV: consumer, lease in ms, then for each job: id, ticket. Returns the ids that somebody else has taken over.

local consumer, lease = ARGV[1], ARGV[2]
local lost, kept = {}, {}
for at = 3, #ARGV, 2 do
  local id, mine = ARGV[at], ARGV[at + 1]
  if kept[mine] == nil then
    local claimed = redis.pcall('XCLAIM', STREAM, GROUP, consumer, 0, mine, 'JUSTID')
    kept[mine] = not claimed.err and #claimed == 1
  end
  if kept[mine] and call('HGET', base .. id, 'tk') == mine then
    call('SET', base .. id .. ':lock', mine, 'PX', lease)
  else
    lost[#lost + 1] = id
  end
end
return lost
