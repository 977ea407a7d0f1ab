-- record and reply: see claim.lua
local record = load(key, 'c')
if not record then
  return false
end
if record[7] then
  return { 2, record[4], record[7], 0, record[6] }
end
return { 1, record[4], false, math.max(0, record[5] - now()), record[6] }
