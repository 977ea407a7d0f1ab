-- KEYS: the subjects, all in one slot. ARGV: offset, cost, then for each subject: the number of its
-- policies, and these
-- record and reply: those of take.lua, the policies of all subjects one after the other

local cost = tonumber(ARGV[2])
local subjects, admitted, at = {}, true, 3
for i, place in ipairs(KEYS) do
  local record = load(place, 't')
  local first, last = at + 1, at + 5 * tonumber(ARGV[at])
  local states = record and record[3] or {}
  local fits, answers = ask(states, first, last, cost)
  admitted = admitted and fits
  subjects[i] = { record = record, states = states, first = first, last = last, answers = answers }
  at = last + 1
end
local reply = { admitted and 1 or 0 }
for i, place in ipairs(KEYS) do
  local subject = subjects[i]
  local standing = subject.answers
  if not admitted then
    local _
    _, standing = ask(subject.states, subject.first, subject.last, 0)
  elseif cost ~= 0 then
    keep(place, subject.record, subject.answers)
  end
  for number, answer in ipairs(standing) do
    reply[#reply + 1] = answer.remaining
    reply[#reply + 1] = answer.reset
    reply[#reply + 1] = admitted and 0 or subject.answers[number].retry
  end
end
return reply
