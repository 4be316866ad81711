-- Charges requests to their budgets. KEYS: the budget of each charge, in order.
--
-- ARGV: now in ms, then for each request: number of charges, and for each charge: budget, window in ms, kind
-- ('fixed', 'sliding' or 'peek'). The charges of one request are looked at in order; once one is refused, the rest of
-- that request is not charged.
-- Returns for each charge {allowed, remaining, ms until the window ends}; nothing for a charge that was skipped.

local now = tonumber(ARGV[1])
local answers, at, key = {}, 2, 1
-- Many requests of one call share a budget, an organization's above all, so it is read once and written once.
local windows = {}

-- Two fixed windows, the older one weighted by how much of it still counts.
local function sliding(name, length)
  local turn = math.floor(now / length)
  local counts = redis.call('MGET', name .. ':' .. turn, name .. ':' .. (turn - 1))
  local left = length - now % length
  return {
    key = name .. ':' .. turn, left = left, added = 0, expires_in = not counts[1] and 2 * length,
    used = tonumber(counts[1] or 0) + tonumber(counts[2] or 0) * left / length,
  }
end

-- A window that begins with the first request, which is counted here and now: one command less.
local function fixed(name, length, kind)
  local used = kind == 'peek' and tonumber(redis.call('GET', name) or 0) or redis.call('INCR', name)
  local left = redis.call('PTTL', name)
  if kind == 'peek' then return {key = name, left = math.max(left, 0), added = 0, used = used} end
  if left < 0 then
    redis.call('PEXPIRE', name, length)
    left = length
  end
  return {key = name, left = left, added = -1, used = used - 1}
end

local function window_of(name, length, kind)
  local window = windows[name]
  if not window then
    window = kind == 'sliding' and sliding(name, length) or fixed(name, length, kind)
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
    else
      local window = window_of(name, length, kind)
      open = window.used + 1 <= budget
      -- Of a fixed window, refused requests count too; looking counts nothing.
      if kind == 'fixed' or (kind == 'sliding' and open) then
        window.used, window.added = window.used + 1, window.added + 1
      end
      answers[#answers + 1] = {open and 1 or 0, math.max(math.floor(budget - window.used), 0), window.left}
    end
  end
end
for _, window in pairs(windows) do
  if window.added > 0 then
    redis.call('INCRBY', window.key, window.added)
    if window.expires_in then redis.call('PEXPIRE', window.key, window.expires_in) end
  end
end
return answers
