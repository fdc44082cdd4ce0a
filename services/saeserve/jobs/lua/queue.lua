-- ARGV: class, limit. Returns the live workers of the class, its QUEUED jobs, and then of each
-- submitter the first `limit` in their order as: job, rank, number of the submitter, jobs running.
local class, limit = ARGV[1], tonumber(ARGV[2])
local workers, queued, answer = 0, 0, { 0, 0 }
for _, worker in ipairs(redis.call('SMEMBERS', key('workers', class))) do
  workers = workers + redis.call('EXISTS', key('machine', class, worker))
end
for number, submitter in ipairs(redis.call('SMEMBERS', key('submitters', class))) do
  local queue = key('queue', class, submitter)
  local running = redis.call('SCARD', key('held', class, submitter))
  queued = queued + redis.call('ZCARD', queue)
  local first = redis.call('ZRANGE', queue, 0, limit - 1, 'WITHSCORES')
  for at = 1, #first, 2 do
    answer[#answer + 1] = first[at]
    answer[#answer + 1] = first[at + 1]
    answer[#answer + 1] = number
    answer[#answer + 1] = running
  end
end
answer[1], answer[2] = workers, queued
return answer
