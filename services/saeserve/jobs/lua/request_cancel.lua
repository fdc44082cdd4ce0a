-- ARGV: job, reason. Returns the record, or nothing when the job is unknown.
local job = ARGV[1]
local state = field(job, 'state')
if state == 'BLOCKED' or state == 'QUEUED' or state == 'PAUSED' then
  cancel_unsettled(job, ARGV[2])
elseif state == 'STARTING' or state == 'RUNNING' or state == 'PAUSING' then
  move(job, 'CANCELLING', ARGV[2])
end
return record(job)
