-- ARGV: offset, token
local record = load(key, 's')
if not record then
  return 0
end
local kept = {}
for _, holder in ipairs(record[4]) do
  if holder[1] ~= tonumber(ARGV[2]) then
    kept[#kept + 1] = holder
  end
end
if #kept == #record[4] then
  return 0
end
record[4] = kept
announce(record)
keep(record)
save(key, record)
return 1
