-- ARGV: slack ms, reason. Returns the ids whose lease ran out.
local lost = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', now_ms() - ARGV[1])
for _, job in ipairs(lost) do
  local state = field(job, 'state')
  if state == 'CANCELLING' then
    cancel_unsettled(job, ARGV[2])
  else
    move(job, state == 'PAUSING' and 'PAUSED' or 'QUEUED', ARGV[2])
  end
end
return lost
