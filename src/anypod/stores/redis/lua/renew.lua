-- ARGV: offset, token, lease
local record = load(key, 'c')
if not record or record[4] ~= tonumber(ARGV[2]) or record[7] then
  return 0
end
record[5] = now() + ARGV[3]
record[2] = record[2] and math.max(record[2], record[5])
save(key, record)
return 1
