-- One round trip of a busy worker: ends what it finished (`end.lua`), then takes what is next (`take.lua`).
--
-- ARGV: now, consumer, lease in ms, free slots, completed to keep, failed to keep, the ticket that leases what is taken
-- ('' for none), 1 if jobs still run by it, number of tickets that were just read, number of tickets whose last job ends
-- here, both kinds of tickets, then groups of results that have the same to say: outcome, ticket, attempts that ended, how
-- many, '1' if they say what follows in brackets; for each: id, value [options if they say what to keep, deduplication id,
-- organization]; and unless they are completed: stack trace, delay, attempts allowed.
-- Outcomes: 'completed' (value is JSON), 'failed' (value is the reason), 'retry' (reason, delay in ms), 'released'.
-- Returns what `take.lua` says.

local now, consumer, lease, free = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local mine, runs_on, spare, done, next_arg = ARGV[7], ARGV[8] == '1', {}, {}, 11
for _ = 1, tonumber(ARGV[9]) do
  spare[#spare + 1], next_arg = ARGV[next_arg], next_arg + 1
end
for _ = 1, tonumber(ARGV[10]) do
  done[#done + 1], next_arg = ARGV[next_arg], next_arg + 1
end

local results = next_arg <= #ARGV
local lost = results and end_results(now, next_arg) or {}
local came, time = #spare > 0
