-- Forgets the whole queue. KEYS: lane of each job, length of each lane, number of lanes of each account, build, built, reservations. ARGV: what a lane's set begins with.
for _, lane in ipairs(redis.call('HKEYS', KEYS[2])) do
  redis.call('UNLINK', ARGV[1] .. lane)
end
return redis.call('UNLINK', unpack(KEYS))
