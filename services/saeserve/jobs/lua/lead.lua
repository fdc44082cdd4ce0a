-- ARGV: name, owner, holder and mark of a leadership that may be taken over ('' for none).
-- Returns the holder and its mark.
local leader = key('leadership', ARGV[1])
local values = redis.call('HMGET', leader, 'holder', 'beats')
local holder, beats = values[1], values[2]
if not holder or holder == ARGV[2] or (holder == ARGV[3] and beats == ARGV[4]) then
  redis.call('HSET', leader, 'holder', ARGV[2])
  redis.call('HINCRBY', leader, 'beats', 1)
end
return redis.call('HMGET', leader, 'holder', 'beats')
