-- ARGV: offset, token, outcome, ttl
local record = load(key, 'c')
if not record or record[4] ~= tonumber(ARGV[2]) then
  return 0
end
if record[7] then
  return record[7] == ARGV[3] and 1 or 0
end
record[7] = ARGV[3]
record[2] = deadline(ARGV[4])
save(key, record)
return 1
