-- ARGV: offset, cursor, pattern, limit
-- reply: cursor, key, value, version, key, value, version, …
-- Every record that the engine shows is looked at; what is not a living value is passed over.
local page = redis.call('SCAN', ARGV[2], 'MATCH', ARGV[3], 'COUNT', ARGV[4], 'TYPE', 'string')
local reply = { page[1] }
for _, place in ipairs(page[2]) do
  local record, kind = load(place)
  if record and kind == 'v' then
    reply[#reply + 1] = place
    reply[#reply + 1] = record[4]
    reply[#reply + 1] = record[3]
  end
end
return reply
