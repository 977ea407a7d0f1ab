-- ARGV: offset, mode ('put' or 'delete'), value, ttl, expected version or ''
local record = load(key, 'v')
local standing = record and record[3] or 0
if ARGV[5] ~= '' and tonumber(ARGV[5]) ~= standing then
  return { 0, record and { record[4], record[3] } }
end
if ARGV[2] == 'delete' then
  remove(key)
  return { 1, false }
end
local version = successor(standing)
save(key, { 'v', deadline(ARGV[4]), version, ARGV[3] })
return { 1, { ARGV[3], version } }
