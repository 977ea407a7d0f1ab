-- ARGV: offset, by, floor, ceiling, ttl, and with an operation id: once_ttl
-- ttl: µs; with `/` in front, to the end of the current window of so many µs; empty: for ever
-- KEYS: the counter, and with an operation id where its reply is kept
-- counter: 'n', deadline, value
-- operation: 'o', deadline, argument, value, outcome (0 added, 1 refused, 2 reused)
local function ends(lives)
  if string.sub(lives, 1, 1) ~= '/' then
    return deadline(lives)
  end
  local window = tonumber(string.sub(lives, 2))
  return now() - now() % window + window
end

local function step()
  local record = load(key, 'n')
  local value = record and record[3] or 0
  local sum = value + ARGV[2]
  if sum < tonumber(ARGV[3]) or sum > tonumber(ARGV[4]) then
    return { value, 1 }
  end
  if record then
    record[3] = sum
    save(key, record)
  else
    save(key, { 'n', ends(ARGV[5]), sum })
  end
  return sum
end

local place = KEYS[2]
if not place then
  return step()
end

local argument = ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4]
local earlier = load(place, 'o')
if earlier then
  if earlier[3] == argument then
    return { earlier[4], earlier[5] }
  end
  local record = load(key, 'n')
  return { record and record[3] or 0, 2 }
end
local reply = step()
local value, outcome = reply, 0
if type(reply) == 'table' then
  value, outcome = reply[1], reply[2]
end
save(place, { 'o', deadline(ARGV[6]), argument, value, outcome })
return { value, outcome }
