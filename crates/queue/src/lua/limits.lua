-- Charges requests to their budgets. KEYS: the budgets, each once.
--
-- ARGV: now in ms; for each key '<I4I4B': budget, window in ms, 1 for a sliding window; for each charge '<I2': which key
-- (from 1), plus 0x8000 when it begins a request, plus 0x4000 when it only looks. Numbers travel as bytes, because
-- reading and writing them as text cost more than counting. The charges of one request are looked at in order; once one
-- is refused, the rest of that request is not charged.
-- Returns '<BI4I4' for each charge: 1 if allowed, what remains, ms until the window ends (0 for a charge that was skipped).

local now = tonumber(ARGV[1])
local budgets, charges = ARGV[2], ARGV[3]
local unpack, pack = struct.unpack, struct.pack
-- Many requests of one call share a budget, an organization's above all, so it is read once and written once.
local windows, answers = {}, {}

-- Two fixed windows, the older one weighted by how much of it still counts.
local function sliding(name, length)
  local turn = math.floor(now / length)
  local present = name .. ':' .. turn
  local counts = redis.call('MGET', present, name .. ':' .. (turn - 1))
  local left = length - now % length
  return {
    key = present, left = left, added = 0, expires_in = not counts[1] and 2 * length,
    used = tonumber(counts[1] or 0) + tonumber(counts[2] or 0) * left / length,
  }
end

-- A window that begins with the first request, which is counted here and now: one command less.
local function fixed(name, length, looks)
  if looks then
    local used, left = tonumber(redis.call('GET', name) or 0), redis.call('PTTL', name)
    return {key = name, left = math.max(left, 0), added = 0, used = used, expires_in = left < 0 and length}
  end
  local used = redis.call('INCR', name)
  local left = used > 1 and redis.call('PTTL', name) or -1
  if left < 0 then
    redis.call('PEXPIRE', name, length)
    left = length
  end
  return {key = name, left = left, added = -1, used = used - 1}
end

local open = true
for at = 1, #charges, 2 do
  local which = unpack('<I2', charges, at)
  if which >= 0x8000 then open, which = true, which - 0x8000 end
  local looks = which >= 0x4000
  if looks then which = which - 0x4000 end
  local window = windows[which]
  if not window and open then
    local budget, length, slides = unpack('<I4I4B', budgets, which * 9 - 8)
    window = slides == 1 and sliding(KEYS[which], length) or fixed(KEYS[which], length, looks)
    window.budget, window.slides = budget, slides == 1
    windows[which] = window
  end
  if not open then
    answers[#answers + 1] = pack('<BI4I4', 1, 0, 0)
  else
    open = window.used + 1 <= window.budget
    -- Of a fixed window, refused requests count too; looking counts nothing.
    if not looks and (open or not window.slides) then
      window.used, window.added = window.used + 1, window.added + 1
    end
    local remaining = math.max(math.floor(window.budget - window.used), 0)
    answers[#answers + 1] = pack('<BI4I4', open and 1 or 0, remaining, window.left)
  end
end
for _, window in pairs(windows) do
  if window.added > 0 then
    redis.call('INCRBY', window.key, window.added)
    if window.expires_in then redis.call('PEXPIRE', window.key, window.expires_in) end
  end
end
return table.concat(answers)
