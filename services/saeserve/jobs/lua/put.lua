-- ARGV: job, lease ttl ms, number of field pairs, pairs..., then (epoch, op, event) triples
local job, ttl_ms, pairs_count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if known(job) then
  return 0
end
local first = 4 + 2 * pairs_count
redis.call('HSET', key('job', job), unpack(ARGV, 4, first - 1))
redis.call('ZADD', key('ids'), 0, job)
for at = first, #ARGV, 3 do
  local mark, op = op_mark(ARGV[at], tonumber(ARGV[at + 1]))
  redis.call('HSET', key('job', job), mark, op)
  append(job, ARGV[at + 2])
end
local values = redis.call('HMGET', key('job', job), 'state', 'class', 'submitter', 'owner', 'epoch')
local state = values[1]
enter(job, state, values[2], values[3])
if LEASED[state] then
  grant(job, values[4], values[5], ttl_ms)
end
note(job, state, '')
return 1
