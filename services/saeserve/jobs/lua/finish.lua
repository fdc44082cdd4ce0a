-- ARGV: job, epoch, state, outputs JSON, failure JSON ('' for none), reason, final progress JSON
-- ('' keeps the last), its step
local job, epoch, to = ARGV[1], tonumber(ARGV[2]), ARGV[3]
if not known(job) or field(job, 'settled') == '1' then
  return 0
end
local from = field(job, 'state')
if ARGV[7] ~= '' then
  redis.call('HSET', key('job', job), 'progress', ARGV[7], 'step', ARGV[8])
end
-- The ways that states.TRANSITIONS leaves open when it has no direct one.
if to == 'CANCELLED' and LEASED[from] and from ~= 'CANCELLING' then
  move(job, 'CANCELLING', ARGV[6])
elseif to ~= 'CANCELLED' and (from == 'PAUSED' or (from == 'BLOCKED' and to == 'SUCCEEDED')) then
  move(job, 'QUEUED', ARGV[6])
end
redis.call('HSET', key('job', job), 'outputs', ARGV[4], 'failure', ARGV[5], 'settled', 1)
if epoch > tonumber(field(job, 'epoch')) then
  redis.call('HSET', key('job', job), 'epoch', epoch)
end
redis.call('SREM', key('unsettled'), job)
if from == to then
  return 0
end
move(job, to, ARGV[6])
return 1
