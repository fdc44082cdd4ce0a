-- ARGV: jobs. Returns class, count, class, count...
local counts, answer = {}, {}
for _, job in ipairs(ARGV) do
  local class = field(job, 'class')
  if class then
    counts[class] = (counts[class] or 0) + 1
  end
end
for class, count in pairs(counts) do
  answer[#answer + 1] = class
  answer[#answer + 1] = count
end
return answer
