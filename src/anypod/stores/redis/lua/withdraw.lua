-- ARGV: offset, waiter
local record = load(key, 's')
if not record then
  return 0
end
local kept = {}
for _, entry in ipairs(record[5]) do
  if entry[1] ~= ARGV[2] then
    kept[#kept + 1] = entry
  end
end
if #kept == #record[5] then
  return 0
end
record[5] = kept
announce(record)
keep(record)
save(key, record)
return 1
