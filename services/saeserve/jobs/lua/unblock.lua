-- ARGV: job
if field(ARGV[1], 'state') ~= 'BLOCKED' then
  return 0
end
move(ARGV[1], 'QUEUED', '')
return 1
