-- ARGV: offset, touch or ''
-- record: 'd', deadline, version, absolute deadline, ended; behind it the fields, a map
-- reply: version, µs left or false, the map as it is stored
local record, _, at, body = load(key, 'd')
if not record or record[5] then
  return false
end
local fields = string.sub(body, at + 1)
if ARGV[2] ~= '' and record[2] then
  local touch = tonumber(ARGV[2])
  local moved = sooner(now() + touch, record[4])
  if moved - record[2] >= math.floor(touch / 16) then
    record[2] = moved
    save(key, record, fields)
  end
end
return { record[3], record[4] and record[4] - now(), fields }
