-- ARGV: offset, touch or ''
-- reply: the record and its entries as they stand, and the time behind them: nothing is taken apart here
if not deadline or ended == ENDED then
  return false
end
if ARGV[2] ~= '' then
  local touch = tonumber(ARGV[2])
  local moved = math.min(now + touch, absolute)
  if moved - deadline >= math.floor(touch / 16) then
    deadline = moved
    keep(string.sub(body, HEAD_LENGTH + 1))
  end
end
return body .. struct.pack('>d', now)
