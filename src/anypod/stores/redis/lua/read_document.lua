-- ARGV: offset, touch or ''
-- record: 'd', deadline, version, absolute deadline, ended, fields
-- reply: version, µs left or false, name, value, name, value, …
local record = load(key, 'd')
if not record or record[5] then
  return false
end
if ARGV[2] ~= '' and record[2] then
  local touch = tonumber(ARGV[2])
  local moved = sooner(now() + touch, record[4])
  if moved - record[2] >= math.floor(touch / 16) then
    record[2] = moved
    save(key, record)
  end
end
local reply = { record[3], record[4] and record[4] - now() }
for name, value in pairs(record[6]) do
  reply[#reply + 1] = name
  reply[#reply + 1] = value
end
return reply
