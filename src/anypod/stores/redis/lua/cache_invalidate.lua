-- ARGV: offset, keep
local record = load(key, 'k')
local version = successor(record and math.max(record[3], record[9]) or 0)
local schema = record and record[4] or ''
save(key, { 'k', now() + ARGV[2], version, schema, false, 0, 0, 0, 0, 0 })
return version
