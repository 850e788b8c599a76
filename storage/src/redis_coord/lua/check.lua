-- One call against a sliding window. KEYS: bucket. ARGV: limit, window in ms, now, exact entries, parts of a window.
-- A bucket is a flat list of time and number of calls, oldest first; neighbours are merged past the exact entries, so
-- that it stays small and an error is always on the side of refusing. Answers: allowed, remaining, ms to wait.
local limit, window, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local exact, parts = tonumber(ARGV[4]), tonumber(ARGV[5])

local entries, calls = {}, 0
local stored = redis.call('GET', KEYS[1])
if stored then
  local all = cmsgpack.unpack(stored)
  for i = 1, #all, 2 do
    if all[i] + window > now then
      -- A clock was turned back: calls of the future leave one window from now, not later.
      entries[#entries + 1] = math.min(all[i], now)
      entries[#entries + 1] = all[i + 1]
      calls = calls + all[i + 1]
    end
  end
end

-- Until enough calls have left for one more to be allowed.
local function wait()
  local left = calls
  for i = 1, #entries, 2 do
    left = left - entries[i + 1]
    if left < limit then
      return math.max(entries[i] + window - now, 0)
    end
  end
  return window
end

if calls >= limit then
  return { 0, 0, wait() }
end
local last = #entries - 1
if last > 0 and (entries[last] == now
    or (calls >= exact and now - entries[last] < math.floor(window / parts))) then
  entries[last] = now
  entries[last + 1] = entries[last + 1] + 1
else
  entries[#entries + 1] = now
  entries[#entries + 1] = 1
end
calls = calls + 1
redis.call('SET', KEYS[1], cmsgpack.pack(entries), 'PX', math.max(window, 1))
local remaining = limit - calls
return { 1, remaining, remaining > 0 and 0 or wait() }
