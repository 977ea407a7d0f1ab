-- ARGV: offset, keep
local there = deadline and ended == NOT_ENDED
local stands = now + ARGV[2]
if deadline and absolute < math.huge then
  stands = math.max(stands, absolute)
end
if deadline and ended == ENDED then
  stands = math.max(stands, deadline)
end
version = math.max((deadline and version or 0) + 1, now)
absolute = deadline and absolute or math.huge
deadline, ended, tidy, number = stands, ENDED, 0, 0
keep('')
return there and 1 or 0
