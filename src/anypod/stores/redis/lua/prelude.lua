-- Stands before every command's script but those of documents. The scripts are stores/specification/ in Lua: a
-- record that is absent, expired or of another kind means here what it means there.
--
-- ARGV[1] is the offset of the store's clock in µs, 0 outside tests. Times are µs, `false` is never.
-- A record is one byte of format version and a MessagePack array: kind, deadline, and the rest.
-- The engine's own expiry follows the deadline by a second: it collects garbage and decides nothing.

local key = KEYS[1]

local time
local function now()
  if not time then
    local t = redis.call('TIME')
    time = t[1] * 1000000 + t[2] + ARGV[1]
  end
  return time
end

local function expect(kind, wanted)
  if kind ~= wanted then
    error('ANYPOD-KIND ' .. tostring(kind) .. ' ' .. wanted)
  end
end

-- The living record at a place and its kind, which must be as wanted if anything is.
local function load(place, wanted)
  local body = redis.call('GET', place)
  if not body then
    return nil
  end
  if string.byte(body) ~= 1 then
    error('ANYPOD-FORMAT ' .. tostring(string.byte(body)))
  end
  local _, record = cmsgpack.unpack_one(body, 1)
  if record[2] and record[2] <= now() then
    return nil
  end
  if wanted then
    expect(record[1], wanted)
  end
  return record, record[1]
end

local function save(place, record)
  local body = '\1' .. cmsgpack.pack(record)
  if record[2] then
    local left = math.ceil((record[2] - now()) / 1000) + 1000
    redis.call('SET', place, body, 'PX', math.max(left, 1))
  else
    redis.call('SET', place, body)
  end
end

local function remove(place)
  redis.call('DEL', place)
end

-- A duration in µs as a deadline; the empty string is for ever.
local function deadline(duration)
  return duration ~= '' and now() + duration
end

local function successor(last)
  return math.max(last + 1, now())
end

