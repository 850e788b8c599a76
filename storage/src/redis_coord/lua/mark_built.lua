-- Says that the queue is whole, if the mark that its making began with is still there.
-- KEYS: build, built. ARGV: the mark, the server's run.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[2])
  return 1
end
return 0
