-- Charges requests to their budgets. KEYS: the budget of each charge, in order.
--
-- ARGV: now in ms, then for each request: number of charges, and for each charge: budget, window in ms, kind
-- ('fixed', 'sliding' or 'peek'). The charges of one request are looked at in order; once one is refused, the rest of
-- that request is not charged.
-- Returns for each charge {allowed, remaining, ms until the window ends}; nothing for a charge that was skipped.

local now = tonumber(ARGV[1])
local answers, at, key = {}, 2, 1
-- Many requests of one call share an organization's budget, so it is read once and written once.
local windows = {}

local function window_of(name, length)
  local window = windows[name]
  if not window then
    local turn = math.floor(now / length)
    local counts = redis.call('MGET', name .. ':' .. turn, name .. ':' .. (turn - 1))
    -- Two fixed windows, the older one weighted by how much of it still counts.
    local left = length - now % length
    window = {
      key = name .. ':' .. turn, length = length, left = left, new = not counts[1], added = 0,
      used = tonumber(counts[1] or 0) + tonumber(counts[2] or 0) * left / length,
    }
    windows[name] = window
  end
  return window
end

while at <= #ARGV do
  local charges = tonumber(ARGV[at])
  at = at + 1
  local open = true
  for _ = 1, charges do
    local name, budget, length, kind = KEYS[key], tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2]
    key, at = key + 1, at + 3
    if not open then
      answers[#answers + 1] = {1, budget, 0}
    elseif kind == 'sliding' then
      local window = window_of(name, length)
      open = window.used + 1 <= budget
      if open then
        window.used, window.added = window.used + 1, window.added + 1
      end
      answers[#answers + 1] = {open and 1 or 0, math.max(math.floor(budget - window.used), 0), window.left}
    elseif kind == 'peek' then
      local used = tonumber(redis.call('GET', name) or 0)
      open = used < budget
      answers[#answers + 1] = {open and 1 or 0, math.max(budget - used, 0), math.max(redis.call('PTTL', name), 0)}
    else
      -- The window begins with the first request.
      local used = redis.call('INCR', name)
      local left = used > 1 and redis.call('PTTL', name) or -1
      if left < 0 then
        redis.call('PEXPIRE', name, length)
        left = length
      end
      open = used <= budget
      answers[#answers + 1] = {open and 1 or 0, math.max(budget - used, 0), left}
    end
  end
end
for _, window in pairs(windows) do
  if window.added > 0 then
    redis.call('INCRBY', window.key, window.added)
    if window.new then redis.call('PEXPIRE', window.key, 2 * window.length) end
  end
end
return answers
