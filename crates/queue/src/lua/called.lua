-- An idle worker sends this behind the XREADGROUP that waits for a ticket: Redis runs it the moment the ticket is there, so
-- jobs are taken and on their way before the worker knows that it was called.
--
-- ARGV: consumer, lease in ms, free slots, the newest ticket this worker has had ('0-0' for none).
-- Returns what `take.lua` says; without a new ticket, nothing is taken.

local consumer, lease, free = ARGV[1], ARGV[2], tonumber(ARGV[3])
local fresh = redis.pcall('XPENDING', STREAM, GROUP, '(' .. ARGV[4], '+', 1000, consumer)
if #fresh == 0 then return {{}, '', {}, {}, 0, 0} end

-- Nobody knows beforehand when it will run.
local time = call('TIME')
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
local mine, runs_on, came, spare, done, results, lost = fresh[#fresh][1], false, true, {}, {}, false, {}
