-- ARGV: job, epoch, op, event JSON, op of the attempt's event before this one (-1: the first)
-- The ops of an attempt's writer come in order, so the highest one seen tells all. A server that
-- restarted without its last writes has not seen the one before: then all of them come again.
local job, before = ARGV[1], tonumber(ARGV[5])
local mark, op = op_mark(ARGV[2], tonumber(ARGV[3]))
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
