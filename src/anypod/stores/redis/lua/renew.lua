-- ARGV: offset, token, lease
-- A claim ('c') or a slot ('s'): see claim.lua and slots.lua.
local record, kind = load(key)
local token, lease_until = tonumber(ARGV[2]), now() + ARGV[3]
if not record then
  return 0
end
if kind == 's' then
  for _, holder in ipairs(record[4]) do
    if holder[1] == token then
      holder[2] = lease_until
      keep(record)
      save(key, record)
      return 1
    end
  end
  return 0
end
expect(kind, 'c')
if record[4] ~= token or record[7] then
  return 0
end
record[5] = lease_until
record[2] = record[2] and math.max(record[2], lease_until)
save(key, record)
return 1
