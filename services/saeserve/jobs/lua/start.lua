-- ARGV: job, owner, epoch, charged (0 or 1)
local job, owner, epoch = ARGV[1], ARGV[2], tonumber(ARGV[3])
if epoch < 1 or not holds(job, owner, epoch) then
  return 0
end
if tonumber(field(job, 'lease_epoch')) == epoch then
  return 1
end
redis.call('HSET', key('job', job), 'epoch', epoch, 'lease_epoch', epoch)
redis.call('HINCRBY', key('job', job), 'attempt', ARGV[4])
if tonumber(field(job, 'started')) == 0 then
  redis.call('HSET', key('job', job), 'started', now_ms())
end
-- A cancellation that came since acquire stays; the first beat tells the owner.
if field(job, 'state') == 'STARTING' then
  move(job, 'RUNNING', '')
end
return 1
