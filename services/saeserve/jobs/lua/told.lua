-- ARGV: job. Returns epoch, highest op, epoch, highest op...
local answer = {}
local fields = record(ARGV[1])
for at = 1, #fields, 2 do
  local epoch = string.match(fields[at], '^op:(%d+)$')
  if epoch then
    table.insert(answer, epoch)
    table.insert(answer, fields[at + 1])
  end
end
return answer
