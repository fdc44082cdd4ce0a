-- ARGV: job. Only a job that has ended is removed, with its events.
local job = ARGV[1]
if not known(job) or not TERMINAL[field(job, 'state')] then
  return 0
end
redis.call('SREM', key('state', field(job, 'state')), job)
redis.call('SREM', key('unsettled'), job)
redis.call('ZREM', key('ids'), job)
redis.call('DEL', key('job', job), key('events', job))
return 1
