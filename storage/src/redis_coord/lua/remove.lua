-- Takes entries out of the queue. A job that came back meanwhile (another score) keeps its new place.
-- KEYS and ARGV as for push.
for i = 2, #ARGV, 3 do
  local lane, score, job = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local set = ARGV[1] .. lane
  local found = redis.call('ZSCORE', set, job)
  if found and tonumber(found) == tonumber(score) then
    redis.call('ZREM', set, job)
    redis.call('HDEL', KEYS[1], job)
    local length = redis.call('ZCARD', set)
    if length > 0 then
      redis.call('HSET', KEYS[2], lane, length)
    else
      redis.call('HDEL', KEYS[2], lane)
    end
  end
end
return 0
