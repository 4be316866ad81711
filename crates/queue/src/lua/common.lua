-- What every script has. KEYS[1] is the queue's base, `<prefix>:<queue>:`; all other keys derive from it. Time comes
-- from the caller, in milliseconds, but for `called.lua`.
--
-- A call costs about a microsecond beside what it does, so whatever a batch of jobs has in common is done once. Redis
-- prints a number among the arguments as a floating-point one, which costs another; so numbers that come as text stay
-- text until somebody reckons with them. Defining a function costs a tenth of a microsecond; so what only some scripts need
-- stands in files of its own (`arrive.lua`, `finish.lua`).

local call = redis.call
local base = KEYS[1]
local WAIT, PRIORITIZED, ACTIVE = base .. 'wait', base .. 'prioritized', base .. 'active'
local STREAM, GROUP, EVENTS = base .. 'x:stream', 'workers', base .. 'events'

-- What operators may have set: whether jobs are held back, and how many may run or start.
local meta = call('HMGET', base .. 'meta', 'paused', 'opts.maxLenEvents', 'concurrency', 'max', 'duration')
local is_paused = meta[1] ~= false
local max_events = meta[2] or '10000'
local most_active, most_starts, per_ms = tonumber(meta[3] or nil), tonumber(meta[4] or nil), tonumber(meta[5] or nil)

-- Tells listeners; `shorten_events` shortens the stream once for all that a call tells. What was told goes to replicas and not into
-- the append-only file, of which it would be the larger part: who listens has heard it before Redis could come back, and
-- what became of a job is in its record.
local set_repl, REPLICAS, EVERYWHERE = redis.set_repl, redis.REPL_REPLICA, redis.REPL_ALL

local function event(...)
  set_repl(REPLICAS)
  call('XADD', EVENTS, '*', 'event', ...)
  set_repl(EVERYWHERE)
end

-- Whether jobs wait to be taken.
local function anyone_waits()
  return call('EXISTS', WAIT, PRIORITIZED) > 0
end

-- A ticket calls one worker to the queue, whatever is next, and becomes its lease of what it takes. One that nobody has
-- read yet is enough, however many jobs wait: whoever reads it and leaves jobs behind lays out the next one (`summon`),
-- until every idle worker has come.
local function summon(id)
  local groups = redis.pcall('XINFO', 'GROUPS', STREAM)
  if not groups.err then
    local known = false
    for _, row in ipairs(groups) do
      local about = {}
      for at = 1, #row, 2 do about[row[at]] = row[at + 1] end
      if about.name == GROUP then
        known = true
        if (tonumber(about.lag or nil) or 0) > 0 then return end
      end
    end
    -- The first worker, when it comes, reads from the beginning.
    if not known and call('XLEN', STREAM) > 0 then return end
  end
  call('XADD', STREAM, '*', 'jobId', id)
end

-- Fair shares: how many jobs of each organization have not ended yet.
local SHARES = base .. 'x:share'
