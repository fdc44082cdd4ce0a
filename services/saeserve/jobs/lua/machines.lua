-- ARGV: class. Returns what its workers told, by their names; forgets those that fell silent.
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
