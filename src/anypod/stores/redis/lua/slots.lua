-- Slots: who holds one, and who waits, in order. Stands before the scripts about slots.
-- record: 's', deadline, last token, holders {token, lease until, waiter}, queue {waiter, alive until}

local REMEMBERED = 86400000000

local function keep(record)
  local last = now()
  for _, holder in ipairs(record[4]) do
    last = math.max(last, holder[2])
  end
  for _, entry in ipairs(record[5]) do
    last = math.max(last, entry[2])
  end
  record[2] = last + REMEMBERED
end

-- Tell the first living waiter, in its mailbox; whether a slot is free it finds out by asking.
local function announce(record)
  for _, entry in ipairs(record[5]) do
    if entry[2] > now() then
      local box = '{' .. key .. '}#' .. entry[1]
      redis.call('DEL', box)
      redis.call('RPUSH', box, '1')
      redis.call('PEXPIRE', box, string.format('%.0f', math.ceil((entry[2] - now()) / 1000) + 1000))
      return
    end
  end
end

