-- ARGV: offset, lease or '', schema, payload, soft, hard, load seconds
local record = load(key, 'k')
if ARGV[2] ~= '' and (not record or record[9] ~= tonumber(ARGV[2])) then
  return { 0, record and record[3] or 0 }
end
local version = successor(record and math.max(record[3], record[9]) or 0)
local hard = now() + ARGV[6]
save(key, { 'k', hard, version, ARGV[3], ARGV[4], tonumber(ARGV[7]), now() + ARGV[5], hard, 0, 0 })
return { 1, version }
