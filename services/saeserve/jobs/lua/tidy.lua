-- ARGV: ids. Lets the events of those that ended expire, where a release put them that did not.
local count = 0
for _, job in ipairs(ARGV) do
  if TERMINAL[field(job, 'state')] and redis.call('PTTL', key('events', job)) == -1 then
    expire_events(job)
    count = count + 1
  end
end
return count
