-- A worker says good-bye. Tickets that were delivered to it and never used are given back to the others; tickets of
-- jobs that still count as running stay, and so does the consumer's name: the jobs are found there when their lease ends.
--
-- ARGV: consumer.

local consumer = ARGV[1]
local held = redis.pcall('XPENDING', STREAM, GROUP, '-', '+', 1000, consumer)
if held.err then return end

local leases = {}
for _, id in ipairs(call('LRANGE', ACTIVE, 0, -1)) do
  local mine = call('HGET', base .. id, 'tk')
  if mine then leases[mine] = true end
end

local kept = 0
for _, entry in ipairs(held) do
  if leases[entry[1]] then
    kept = kept + 1
  else
    call('XACK', STREAM, GROUP, entry[1])
  end
end
if not is_paused and anyone_waits() then summon('*') end
if kept == 0 then call('XGROUP', 'DELCONSUMER', STREAM, GROUP, consumer) end
