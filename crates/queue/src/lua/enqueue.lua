-- ARGV: now, most waiting jobs (0: any number), jobs of an organization that may wait in the order of arrival (0: all),
-- then for each job: id ('' for a generated one), name, data, opts, delay, priority, side, deduplication id, '1' to
-- keep the last one asked for while active, organization or ''.
-- Returns for each job {outcome, id}: 'added', 'deduplicated', 'duplicate' or 'overloaded'.

local now, most, share = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local answers = {}
local depth = 0
if most > 0 then depth = waiting() + redis.call('ZCARD', base .. 'delayed') end

for at = 4, #ARGV, 10 do
  local id, name, data, opts = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local delay, priority, side = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), ARGV[at + 6]
  local deduplication, keep_last, organization = ARGV[at + 7], ARGV[at + 8] == '1', ARGV[at + 9]
  local answer

  -- A job that collapses into one that waits makes the queue no deeper.
  local holder = deduplication ~= '' and base .. 'de:' .. deduplication
  local held_by = holder and redis.call('GET', holder)
  if held_by and redis.call('EXISTS', base .. held_by) == 0 and redis.call('PTTL', holder) == -1 then
    -- The job was removed and left its claim behind.
    redis.call('DEL', holder, base .. 'dn:' .. deduplication)
    held_by = false
  end

  if most > 0 and depth >= most and not held_by then
    answer = {'overloaded', ''}
  else
    local counted = tostring(redis.call('INCR', base .. 'id'))
    if id ~= '' and redis.call('EXISTS', base .. id) == 1 then
      event('duplicated', 'jobId', id)
      answer = {'duplicate', id}
    else
      if id == '' then id = counted end
      if held_by then
        if keep_last and redis.call('EXISTS', base .. held_by .. ':lock') == 1 then
          redis.call('HSET', base .. 'dn:' .. deduplication, 'name', name, 'data', data, 'opts', opts, 'jid', id)
          redis.call('PERSIST', holder)
        end
        event('deduplicated', 'jobId', held_by, 'deduplicationId', deduplication, 'deduplicatedJobId', id)
        answer = {'deduplicated', held_by}
      else
        if holder then redis.call('SET', holder, id) end
        add(now, id, name, data, opts, delay, priority, side, deduplication, organization, share)
        depth = depth + 1
        answer = {'added', id}
      end
    end
  end
  answers[#answers + 1] = answer
end

return answers
