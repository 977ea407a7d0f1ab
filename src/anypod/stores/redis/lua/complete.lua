-- ARGV: offset, ttl, token, outcome
local record = load(key, 'c')
if not record or record[4] ~= tonumber(ARGV[3]) then
  return 0
end
if record[7] then
  return record[7] == ARGV[4] and 1 or 0
end
record[7] = ARGV[4]
record[2] = deadline(ARGV[2])
save(key, record)
return 1
