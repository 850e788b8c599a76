-- Takes entries out of the queue, from their lane or its mixed one. A job that came back meanwhile (another score) keeps
-- its new place.
-- KEYS and ARGV as for push.
for i = 3, #ARGV, 4 do
  local lane, mixed, score, job = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local stands = redis.call('HGET', KEYS[1], job)
  if stands == lane or stands == mixed then
    local set = ARGV[1] .. stands
    local found = redis.call('ZSCORE', set, job)
    if found and tonumber(found) == tonumber(score) then
      redis.call('ZREM', set, job)
      redis.call('HDEL', KEYS[1], job)
      local length = redis.call('ZCARD', set)
      if length > 0 then
        redis.call('HSET', KEYS[2], stands, length)
      elseif redis.call('HDEL', KEYS[2], stands) == 1 then
        local account = string.match(stands, '^%S+')
        if redis.call('HINCRBY', KEYS[3], account, -1) <= 0 then
          redis.call('HDEL', KEYS[3], account)
        end
      end
    end
  end
end
return 0
