-- Uses up a nonce. KEYS: birth of this store, nonce. ARGV: the server's run, now, time of signing, life in ms.
-- A birth that names another run is of a store that may have lost nonces since: the store is born anew.
local born = redis.call('GET', KEYS[1])
local run, at = string.match(born or '', '^(.*) (%-?%d+)$')
if run ~= ARGV[1] then
  at = ARGV[2]
  redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. at)
end
if tonumber(ARGV[3]) < tonumber(at) then
  return 0
end
if redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[4]) then
  return 1
end
return 0
