-- ARGV: class, worker, machine JSON, ttl ms
redis.call('SADD', key('workers', ARGV[1]), ARGV[2])
redis.call('SET', key('machine', ARGV[1], ARGV[2]), ARGV[3], 'PX', ARGV[4])
return 1
