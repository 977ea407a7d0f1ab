-- ARGV: offset, limit, lease, patience, waiter
-- reply: token or false, position, wait in µs, held
local record = load(key, 's') or { 's', false, 0, {}, {} }
local held = 0
for _, holder in ipairs(record[4]) do
  if holder[2] > now() then
    held = held + 1
  end
end
for _, holder in ipairs(record[4]) do
  if holder[3] == ARGV[5] and holder[2] > now() then
    return { holder[1], 0, 0, held }
  end
end
local queue, place, found = {}, nil, false
for _, entry in ipairs(record[5]) do
  if entry[2] > now() then
    queue[#queue + 1] = entry
    if entry[1] == ARGV[5] and not found then
      place, found = #queue - 1, true
    end
  end
end
place = place or #queue
if held + place < tonumber(ARGV[2]) then
  if found then
    table.remove(queue, place + 1)
  end
  local token = successor(record[3])
  local holders = {}
  for _, holder in ipairs(record[4]) do
    if holder[2] > now() then
      holders[#holders + 1] = holder
    end
  end
  holders[#holders + 1] = { token, now() + ARGV[3], ARGV[5] }
  record[3], record[4], record[5] = token, holders, queue
  keep(record)
  save(key, record)
  return { token, 0, 0, held + 1 }
end
local soonest = math.huge
for _, holder in ipairs(record[4]) do
  if holder[2] > now() then
    soonest = math.min(soonest, holder[2])
  end
end
for i = 1, place do
  if queue[i][1] ~= ARGV[5] then
    soonest = math.min(soonest, queue[i][2])
  end
end
local wait = soonest - now()
if tonumber(ARGV[4]) <= 0 then
  return { false, 0, wait, held }
end
queue[place + 1] = { ARGV[5], now() + ARGV[4] }
record[5] = queue
keep(record)
save(key, record)
return { false, place + 1, wait, held }
