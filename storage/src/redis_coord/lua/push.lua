-- Puts entries into the queue, each job at one place: its latest. A lane that would be one too many for its account is
-- not made: the entry goes into the mixed one.
-- KEYS: lane of each job, length of each lane, number of lanes of each account. ARGV: what a lane's set begins with, most
-- lanes of an account; then lane, its mixed lane, score, job of each entry.
local function account_of(lane)
  return string.match(lane, '^%S+')
end

local function tell_length(lane)
  local length = redis.call('ZCARD', ARGV[1] .. lane)
  if length > 0 then
    if redis.call('HSET', KEYS[2], lane, length) == 1 then
      redis.call('HINCRBY', KEYS[3], account_of(lane), 1)
    end
  elseif redis.call('HDEL', KEYS[2], lane) == 1 then
    if redis.call('HINCRBY', KEYS[3], account_of(lane), -1) <= 0 then
      redis.call('HDEL', KEYS[3], account_of(lane))
    end
  end
end

for i = 3, #ARGV, 4 do
  local lane, mixed, score, job = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local before = redis.call('HGET', KEYS[1], job)
  if before and before ~= lane then
    redis.call('ZREM', ARGV[1] .. before, job)
    tell_length(before)
  end
  local lanes = tonumber(redis.call('HGET', KEYS[3], account_of(lane)) or '0')
  if lanes >= tonumber(ARGV[2]) and redis.call('HEXISTS', KEYS[2], lane) == 0 then
    lane = mixed
  end
  redis.call('ZADD', ARGV[1] .. lane, score, job)
  redis.call('HSET', KEYS[1], job, lane)
  tell_length(lane)
end
return 0
