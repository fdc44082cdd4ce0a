-- ARGV: class, owner, ttl ms. Returns the record, or nothing.
local class, owner, ttl_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local offer = key('offer', class, owner)

local offered = redis.call('GET', offer)
if offered and field(offered, 'state') == 'STARTING' and holds(offered, owner, 0) then
  renew(offered, ttl_ms)
  return record(offered)
end

local best
for _, submitter in ipairs(redis.call('SMEMBERS', key('submitters', class))) do
  local head = redis.call('ZRANGE', key('queue', class, submitter), 0, 0, 'WITHSCORES')
  if #head > 0 then
    local rival = {
      job = head[1],
      rank = tonumber(head[2]),
      running = redis.call('SCARD', key('held', class, submitter)),
    }
    if not best or rival.rank < best.rank
      or (rival.rank == best.rank and (rival.running < best.running
        or (rival.running == best.running and rival.job < best.job))) then
      best = rival
    end
  else
    redis.call('SREM', key('submitters', class), submitter)
  end
end
if not best then
  return {}
end
move(best.job, 'STARTING', '')
grant(best.job, owner, 0, ttl_ms)
redis.call('SET', offer, best.job, 'PX', ttl_ms)
return record(best.job)
