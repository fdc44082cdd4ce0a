-- ARGV: job, owner, epoch, ttl ms, progress JSON ('' keeps the last), step
local job = ARGV[1]
if not known(job) then
  return 'UNKNOWN'
end
if not holds(job, ARGV[2], tonumber(ARGV[3])) then
  return 'FENCED'
end
renew(job, tonumber(ARGV[4]))
if ARGV[5] ~= '' then
  redis.call('HSET', key('job', job), 'progress', ARGV[5], 'step', ARGV[6])
end
return field(job, 'state') == 'CANCELLING' and 'CANCEL' or 'OK'
