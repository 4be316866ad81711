-- ARGV: now, most waiting jobs (0: any number), jobs of an organization that may wait in the order of arrival (0: all),
-- number of jobs, then groups of jobs that have the same to say, one after the other: how many, name, delay, priority, '1'
-- to keep the last one asked for while active, '1' if an id, a deduplication id ('' for none) and an organization ('' for
-- none) are given; then for each job of the group: data, opts, and those three ('' for a generated id).
-- Returns for each job {outcome, id}: 'added', 'deduplicated', 'duplicate' or 'overloaded'.

local now, most, share = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local answers = {}
local depth = 0
if most > 0 then depth = call('LLEN', WAIT) + call('ZCARD', PRIORITIZED) + call('ZCARD', base .. 'delayed') end

-- BullMQ counts jobs with an id of their own, too.
local generated = call('INCRBY', base .. 'id', ARGV[4]) - ARGV[4]

-- What becomes of a job.
local function enqueue(id, name, data, opts, delay, priority, deduplication, keep_last, organization)
  -- A job that collapses into one that waits makes the queue no deeper.
  local holder = deduplication ~= '' and base .. 'de:' .. deduplication
  local held_by = holder and call('GET', holder)
  if held_by and call('EXISTS', base .. held_by) == 0 and call('PTTL', holder) == -1 then
    -- The job was removed and left its claim behind.
    call('DEL', holder, base .. 'dn:' .. deduplication)
    held_by = false
  end

  if most > 0 and depth >= most and not held_by then return {'overloaded', ''} end
  if id == '' then
    id = string.format('%d', generated)
  elseif call('EXISTS', base .. id) == 1 then
    event('duplicated', 'jobId', id)
    return {'duplicate', id}
  end
  if held_by then
    if keep_last and call('EXISTS', base .. held_by .. ':lock') == 1 then
      call('HSET', base .. 'dn:' .. deduplication, 'name', name, 'data', data, 'opts', opts, 'jid', id)
      call('PERSIST', holder)
    end
    event('deduplicated', 'jobId', held_by, 'deduplicationId', deduplication, 'deduplicatedJobId', id)
    return {'deduplicated', held_by}
  end
  if holder then call('SET', holder, id) end
  add(now, id, name, data, opts, delay, priority, deduplication, organization, share)
  depth = depth + 1
  return {'added', id}
end

local at, behind = 5, #ARGV
while at <= behind do
  local name, delay, priority = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local keep_last, particular = ARGV[at + 4] == '1', ARGV[at + 5] == '1'
  local many = tonumber(ARGV[at])
  at = at + 6
  for _ = 1, many do
    local data, opts = ARGV[at], ARGV[at + 1]
    local id, deduplication, organization = '', '', ''
    at = at + 2
    if particular then
      id, deduplication, organization = ARGV[at], ARGV[at + 1], ARGV[at + 2]
      at = at + 3
    end
    generated = generated + 1
    answers[#answers + 1] = enqueue(id, name, data, opts, delay, priority, deduplication, keep_last, organization)
  end
end

line_up()
-- Now and then is enough, and a job that comes alone waits for nothing.
if generated % 32 < ARGV[4] + 0 then shorten_events() end
return answers
