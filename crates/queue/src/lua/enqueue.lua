-- ARGV: now, most waiting jobs (0: any number), jobs of an organization that may wait in the order of arrival (0: all),
-- then for each job: id ('' for a generated one), name, data, opts, delay, priority, deduplication id, '1' to keep the
-- last one asked for while active, organization or ''.
-- Returns for each job {outcome, id}: 'added', 'deduplicated', 'duplicate' or 'overloaded'.

local now, most, share = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local answers = {}
local depth = 0
if most > 0 then depth = waiting() + call('ZCARD', DELAYED) end

-- BullMQ counts jobs with an id of their own, too.
local count = (#ARGV - 3) / 9
local last = call('INCRBY', base .. 'id', count)

for number = 1, count do
  local at = number * 9 - 5
  local id, deduplication = ARGV[at], ARGV[at + 6]

  -- A job that collapses into one that waits makes the queue no deeper.
  local holder = deduplication ~= '' and base .. 'de:' .. deduplication
  local held_by = holder and call('GET', holder)
  if held_by and call('EXISTS', base .. held_by) == 0 and call('PTTL', holder) == -1 then
    -- The job was removed and left its claim behind.
    call('DEL', holder, base .. 'dn:' .. deduplication)
    held_by = false
  end

  local answer
  if most > 0 and depth >= most and not held_by then
    answer = {'overloaded', ''}
  elseif id ~= '' and call('EXISTS', base .. id) == 1 then
    event('duplicated', 'jobId', id)
    answer = {'duplicate', id}
  else
    if id == '' then id = whole(last - count + number) end
    local name, data, opts = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    if held_by then
      if ARGV[at + 7] == '1' and call('EXISTS', base .. held_by .. ':lock') == 1 then
        call('HSET', base .. 'dn:' .. deduplication, 'name', name, 'data', data, 'opts', opts, 'jid', id)
        call('PERSIST', holder)
      end
      event('deduplicated', 'jobId', held_by, 'deduplicationId', deduplication, 'deduplicatedJobId', id)
      answer = {'deduplicated', held_by}
    else
      if holder then call('SET', holder, id) end
      add(now, id, name, data, opts, ARGV[at + 4], ARGV[at + 5], deduplication, ARGV[at + 8], share)
      depth = depth + 1
      answer = {'added', id}
    end
  end
  answers[number] = answer
end

settle(now, {})
return answers
