-- Stands before the scripts of documents, and the prelude does not: a document is read at each request of a user,
-- so they run straight on, and do not make functions that none of them calls.
-- ARGV[1], times and the engine's own expiry are as the prelude has them.
--
-- A document's record has a fixed layout, which is taken apart in one step:
--   'd', deadline, version, absolute deadline, ended, length that calls for tidying
-- as MessagePack has them, so that other scripts read its kind, but each number in its full width, and infinity for
-- never. Behind the record stands a map, as MessagePack has it: a head with the number of entries, and the entries,
-- each a name and a value. Of one name the last entry counts.
local HEAD, HEAD_LENGTH, MARK = '>I4BdBdBdBBI4BI4', 42, 0x0196A164
local NOT_ENDED, ENDED = 194, 195

local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2] + ARGV[1]

-- The living document or tombstone; without one, `deadline` is nil.
local body = redis.call('GET', key)
local deadline, version, absolute, ended, tidy, number, _
if body and #body >= HEAD_LENGTH and struct.unpack('>I4', body) == MARK then
  _, _, deadline, _, version, _, absolute, ended, _, tidy, _, number = struct.unpack(HEAD, body)
  if deadline <= now then
    deadline = nil
  end
elseif body then
  if string.byte(body) ~= 1 then
    error('ANYPOD-FORMAT ' .. tostring(string.byte(body)))
  end
  local _, other = cmsgpack.unpack_one(body, 1)
  if not other[2] or other[2] > now then
    error('ANYPOD-KIND ' .. tostring(other[1]) .. ' d')
  end
end

local function keep(entries)
  local record =
    struct.pack(HEAD, MARK, 203, deadline, 203, version, 203, absolute, ended, 206, tidy, 223, number) .. entries
  if deadline < math.huge then
    redis.call('SET', key, record, 'PX', math.max(math.ceil((deadline - now) / 1000) + 1000, 1))
  else
    redis.call('SET', key, record)
  end
end

