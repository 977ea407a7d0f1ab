-- ARGV: offset, keep
-- record: see read_document.lua; a tombstone has nothing behind it
local record = load(key, 'd')
local absolute = record and record[4] or false
local keep = now() + ARGV[2]
if absolute then
  keep = math.max(keep, absolute)
end
if record and record[5] and record[2] then
  keep = math.max(keep, record[2])
end
save(key, { 'd', keep, successor(record and record[3] or 0), absolute, true })
return record and not record[5] and 1 or 0
