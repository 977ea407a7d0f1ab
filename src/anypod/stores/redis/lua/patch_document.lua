-- ARGV: offset, existence (0 new, 1 existing, 2 either), idle or '', absolute or '', number of dropped
--       names, those names, then name, value, name, value, …
-- record: see read_document.lua
-- reply: outcome (0 patched, 1 missing, 2 exists, 3 ended), version
local record, _, at, body = load(key, 'd')
local fields
if record and record[5] then
  return { 3, 0 }
end
if not record then
  if ARGV[2] == '1' then
    return { 1, 0 }
  end
  local absolute = deadline(ARGV[4])
  record = { 'd', sooner(deadline(ARGV[3]), absolute), 0, absolute, false }
  fields = {}
elseif ARGV[2] == '0' then
  return { 2, 0 }
else
  record[4] = sooner(record[4], deadline(ARGV[4]))
  record[2] = sooner(deadline(ARGV[3]) or record[2], record[4])
  at, fields = cmsgpack.unpack_one(body, at)
end
local first = 6 + ARGV[5]
for i = 6, first - 1 do
  fields[ARGV[i]] = nil
end
for i = first, #ARGV, 2 do
  fields[ARGV[i]] = ARGV[i + 1]
end
record[3] = successor(record[3])
save(key, record, cmsgpack.pack(fields))
return { 0, record[3] }
