-- Returns job, mark, ttl ms ('' when a release without it wrote the lease), job, ...
local answer = {}
local held = redis.call('ZRANGE', key('leases'), 0, -1, 'WITHSCORES')
for at = 1, #held, 2 do
  table.insert(answer, held[at])
  table.insert(answer, held[at + 1])
  table.insert(answer, field(held[at], 'lease_ttl') or '')
end
return answer
