-- Puts entries into the queue, each job at one place: its latest.
-- KEYS: lane of each job, length of each lane. ARGV: what a lane's set begins with; then lane, score, job of each entry.
local function tell_length(lane)
  local length = redis.call('ZCARD', ARGV[1] .. lane)
  if length > 0 then
    redis.call('HSET', KEYS[2], lane, length)
  else
    redis.call('HDEL', KEYS[2], lane)
  end
end

for i = 2, #ARGV, 3 do
  local lane, score, job = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local before = redis.call('HGET', KEYS[1], job)
  if before and before ~= lane then
    redis.call('ZREM', ARGV[1] .. before, job)
    tell_length(before)
  end
  redis.call('ZADD', ARGV[1] .. lane, score, job)
  redis.call('HSET', KEYS[1], job, lane)
  tell_length(lane)
end
return 0
