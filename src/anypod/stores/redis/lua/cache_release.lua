-- ARGV: offset, lease
local record = load(key, 'k')
if not record or record[9] ~= tonumber(ARGV[2]) then
  return 0
end
record[9] = 0
record[10] = 0
save(key, record)
return 1
