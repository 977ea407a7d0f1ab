-- ARGV: offset, token
local record = load(key, 'c')
if not record or record[4] ~= tonumber(ARGV[2]) or record[7] then
  return 0
end
remove(key)
return 1
