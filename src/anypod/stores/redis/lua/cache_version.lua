-- cache_version
-- ARGV: offset, keep
local record = load(key, 'k') or { 'k', 0, 0, '', false, 0, 0, 0, 0, 0 }
local keep = tonumber(ARGV[2])
local new = record[3] == 0
local moved = now() + keep - record[2] >= math.floor(keep / 16)
if new then
  record[3] = successor(record[9])
end
if moved then
  record[2] = now() + keep
end
if new or moved then
  save(key, record)
end
return record[3]
