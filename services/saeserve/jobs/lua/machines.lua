-- ARGV: class. Returns the machines that its workers announced; forgets those of silent workers.
local told = {}
local workers = redis.call('SMEMBERS', key('workers', ARGV[1]))
table.sort(workers)
for _, worker in ipairs(workers) do
  local machine = redis.call('GET', key('machine', ARGV[1], worker))
  if machine then
    told[#told + 1] = machine
  else
    redis.call('SREM', key('workers', ARGV[1]), worker)
  end
end
return told
