-- Charges requests to their budgets. KEYS: the budget of each charge, in order.
--
-- ARGV: now in ms, then for each request: number of charges, and for each charge: budget, window in ms, kind
-- ('fixed', 'sliding' or 'peek'). The charges of one request are looked at in order; once one is refused, the rest of
-- that request is not charged.
-- Returns for each charge {allowed, remaining, ms until the window ends}; nothing for a charge that was skipped.

local now = tonumber(ARGV[1])
local answers, at, key = {}, 2, 1
while at <= #ARGV do
  local charges = tonumber(ARGV[at])
  at = at + 1
  local open = true
  for _ = 1, charges do
    local name, budget, window, kind = KEYS[key], tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2]
    key, at = key + 1, at + 3
    if not open then
      answers[#answers + 1] = {1, budget, 0}
    elseif kind == 'sliding' then
      -- Two fixed windows, the older one weighted by how much of it still counts.
      local turn = math.floor(now / window)
      local passed = now % window
      local current = tonumber(redis.call('GET', name .. ':' .. turn) or 0)
      local before = tonumber(redis.call('GET', name .. ':' .. (turn - 1)) or 0)
      local used = current + before * (window - passed) / window
      open = used + 1 <= budget
      if open then
        if redis.call('INCR', name .. ':' .. turn) == 1 then redis.call('PEXPIRE', name .. ':' .. turn, 2 * window) end
        used = used + 1
      end
      answers[#answers + 1] = {open and 1 or 0, math.max(math.floor(budget - used), 0), window - passed}
    elseif kind == 'peek' then
      local used = tonumber(redis.call('GET', name) or 0)
      open = used < budget
      answers[#answers + 1] = {open and 1 or 0, math.max(budget - used, 0), math.max(redis.call('PTTL', name), 0)}
    else
      -- The window begins with the first request.
      local used = redis.call('INCR', name)
      local left = redis.call('PTTL', name)
      if left < 0 then
        redis.call('PEXPIRE', name, window)
        left = window
      end
      open = used <= budget
      answers[#answers + 1] = {open and 1 or 0, math.max(budget - used, 0), left}
    end
  end
end
return answers
