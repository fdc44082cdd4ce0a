-- ARGV: job, epoch, op, event JSON
-- An attempt's ops come in order from one writer, so the highest one seen tells all.
local job, mark, op = ARGV[1], 'op:' .. ARGV[2], tonumber(ARGV[3])
if not known(job) then
  return 0
end
local highest = tonumber(field(job, mark) or '-1')
if op <= highest then
  return 0
end
redis.call('HSET', key('job', job), mark, op)
append(job, ARGV[4])
return 1
