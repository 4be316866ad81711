-- Removes jobs that do not run.
--
-- ARGV: for each job its id, and when it failed in ms, or '' for any job that waits. A job that failed is removed only if
-- that is still the failure that is meant. Returns how many were removed.

local gone = 0
for at = 1, #ARGV, 2 do
  local id, failed = ARGV[at], ARGV[at + 1]
  local previous
  if call('EXISTS', base .. id .. ':lock') == 0 then
    if failed ~= '' then
      local score = call('ZSCORE', base .. 'failed', id)
      if score and tonumber(score) == tonumber(failed) then
        call('ZREM', base .. 'failed', id)
        previous = 'failed'
      end
    elseif call('LREM', WAIT, 0, id) > 0 then
      previous = 'waiting'
    elseif call('ZREM', PRIORITIZED, id) > 0 then
      previous = 'prioritized'
    end
  end
  if previous then
    forget(id)
    event('removed', 'jobId', id, 'prev', previous)
    gone = gone + 1
  end
end
settle('0', {})
return gone
