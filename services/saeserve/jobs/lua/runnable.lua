-- Returns class, count, class, count...
local answer = {}
for _, class in ipairs(redis.call('SMEMBERS', key('classes'))) do
  local count = 0
  for _, submitter in ipairs(redis.call('SMEMBERS', key('submitters', class))) do
    count = count + redis.call('ZCARD', key('queue', class, submitter))
  end
  table.insert(answer, class)
  table.insert(answer, count)
end
return answer
