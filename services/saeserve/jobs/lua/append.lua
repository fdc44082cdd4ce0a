-- ARGV: job, epoch, op, event JSON, op of the attempt's event before this one (-1: the first)
-- An attempt's ops come in order from one writer, so the highest one seen tells all. A server that
-- restarted without its last writes has not seen the one before: then all of them come again.
local job, mark, op, before = ARGV[1], 'op:' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
if not known(job) then
  return '0'
end
local highest = tonumber(field(job, mark) or '-1')
if op <= highest then
  return '0'
end
if highest < before then
  return 'behind'
end
redis.call('HSET', key('job', job), mark, op)
append(job, ARGV[4])
return '1'
