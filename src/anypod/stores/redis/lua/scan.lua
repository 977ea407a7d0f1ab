-- ARGV: offset, cursor, pattern, limit, the server that gave the cursor (empty if unknown)
-- reply: cursor, server, key, value, version, key, value, version, …
-- Every record that the engine shows is looked at; what is not a living value is passed over.
-- A cursor is worth nothing to another server, nor to the same one after a restart: then it is the first again.
local information = redis.pcall('INFO', 'server')
local server = type(information) == 'string' and string.match(information, 'run_id:(%w+)') or ''
local cursor = ARGV[5] == server and ARGV[2] or '0'
local page = redis.call('SCAN', cursor, 'MATCH', ARGV[3], 'COUNT', ARGV[4], 'TYPE', 'string')
local reply = { page[1], server }
for _, place in ipairs(page[2]) do
  local fine, record, kind = pcall(load, place)
  if not fine then
    -- On a cluster a key may lie here that another node has to answer for.
    local text = type(record) == 'table' and record.err or tostring(record)
    if not string.find(text, 'non local key', 1, true) then
      error(record)
    end
  elseif record and kind == 'v' then
    reply[#reply + 1] = place
    reply[#reply + 1] = record[4]
    reply[#reply + 1] = record[3]
  end
end
return reply
