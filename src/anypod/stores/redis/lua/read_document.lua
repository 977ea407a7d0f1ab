-- ARGV: offset, touch or ''
-- record: 'd', deadline, version, absolute deadline, ended, number of entries, length that calls for tidying
--   behind it entries, each a name and a value as MessagePack has them; of one name the last one counts
-- reply: version and µs left as doubles, and the entries with a map's head in front: nothing is taken apart here
local record, _, at, body = load(key, 'd')
if not record or record[5] then
  return false
end
local entries = string.sub(body, at + 1)
if ARGV[2] ~= '' and record[2] then
  local touch = tonumber(ARGV[2])
  local moved = sooner(now() + touch, record[4])
  if moved - record[2] >= math.floor(touch / 16) then
    record[2] = moved
    save(key, record, entries)
  end
end
local left = record[4] and record[4] - now() or math.huge
return struct.pack('>ddBI4', record[3], left, 223, record[6]) .. entries
