-- ARGV: job, owner, epoch, reason
local job, token = ARGV[1], ARGV[2] .. ':' .. ARGV[3]
if not holds(job, ARGV[2], tonumber(ARGV[3])) then
  return field(job, 'left') == token and 1 or 0
end
if field(job, 'state') == 'CANCELLING' then
  cancel_unsettled(job, ARGV[4])
else
  move(job, 'QUEUED', ARGV[4])
end
redis.call('HSET', key('job', job), 'left', token)
return 1
