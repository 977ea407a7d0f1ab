-- ARGV: offset, cost, then the policies
-- record: 't', deadline, {name = state}
-- reply: admitted, then for each policy: remaining, reset, retry

local record = load(key, 't')
local states = record and record[3] or {}
local cost = tonumber(ARGV[2])
local admitted, answers = ask(states, 3, #ARGV, cost)
local reply = { admitted and 1 or 0 }
local standing = answers
if not admitted then
  local _
  _, standing = ask(states, 3, #ARGV, 0)
end
for i, answer in ipairs(standing) do
  reply[#reply + 1] = answer.remaining
  reply[#reply + 1] = answer.reset
  reply[#reply + 1] = admitted and 0 or answers[i].retry
end
if admitted and cost ~= 0 then
  keep(key, record, answers)
end
return reply
