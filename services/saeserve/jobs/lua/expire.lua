-- ARGV: reason, then job, mark, job, mark... Returns the ids whose lease was not renewed since.
local lost = {}
for at = 2, #ARGV, 2 do
  local job = ARGV[at]
  if redis.call('ZSCORE', key('leases'), job) == ARGV[at + 1] then
    local state = field(job, 'state')
    if state == 'CANCELLING' then
      cancel_unsettled(job, ARGV[1])
    else
      move(job, state == 'PAUSING' and 'PAUSED' or 'QUEUED', ARGV[1])
    end
    table.insert(lost, job)
  end
end
return lost
