-- ARGV: job, submission JSON. Puts a shortened submission in the place of one that is too large.
if not known(ARGV[1]) then
  return 0
end
redis.call('HSET', key('job', ARGV[1]), 'submission', ARGV[2], 'spec_cut', 1)
return 1
