-- ARGV: name, owner, ttl ms
local leader = key('leader', ARGV[1])
local holder = redis.call('GET', leader)
if holder and holder ~= ARGV[2] then
  return 0
end
redis.call('SET', leader, ARGV[2], 'PX', ARGV[3])
return 1
