-- ARGV: offset, mode ('put' or 'delete'), value, ttl, expected version or '', fence
-- record: 'v', deadline, version, value, fence (absent: 0)
local record = load(key, 'v')
local standing = record and record[3] or 0
local fence, last = tonumber(ARGV[6]), record and record[5] or 0
if (ARGV[5] ~= '' and tonumber(ARGV[5]) ~= standing) or (0 < fence and fence < last) then
  return { 0, record and { record[4], record[3] } or false }
end
if ARGV[2] == 'delete' then
  remove(key)
  return { 1, false }
end
local version = successor(standing)
save(key, { 'v', deadline(ARGV[4]), version, ARGV[3], math.max(fence, last) })
return { 1, { ARGV[3], version } }
