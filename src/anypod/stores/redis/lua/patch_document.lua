-- ARGV: offset, existence (0 new, 1 existing, 2 either), idle or '', absolute or '', number of entries put,
--       those entries, then the names to drop
-- reply: version, or outcome (1 missing, 2 exists, 3 ended) in a list
local entries = ''
if deadline then
  if ended == ENDED then
    return { 3 }
  end
  if ARGV[2] == '0' then
    return { 2 }
  end
  entries = string.sub(body, HEAD_LENGTH + 1)
elseif ARGV[2] == '1' then
  return { 1 }
else
  deadline, version, absolute, ended, tidy, number = math.huge, 0, math.huge, NOT_ENDED, 0, 0
end
if ARGV[4] ~= '' then
  absolute = math.min(absolute, now + ARGV[4])
end
deadline = math.min(ARGV[3] ~= '' and now + ARGV[3] or deadline, absolute)
version = math.max(version + 1, now)
-- What is put is put behind, so that a patch costs what it changes. Once there is twice as much as there
-- was, or when a name is dropped, each name keeps its last entry only.
if #entries + #ARGV[6] <= tidy and #ARGV == 6 then
  entries = entries .. ARGV[6]
  number = number + ARGV[5]
else
  local last = {}
  local function gather(from_these)
    local from = 0
    while from < #from_these do
      local value, name = cmsgpack.unpack_one(from_these, from)
      local kind = string.byte(from_these, value + 1)
      local width = kind == 196 and 1 or kind == 197 and 2 or 4
      local behind = value + 1 + width + struct.unpack('>I' .. width, from_these, value + 2)
      last[name] = string.sub(from_these, from + 1, behind)
      from = behind
    end
  end
  gather(entries)
  for i = 7, #ARGV do
    last[ARGV[i]] = nil
  end
  gather(ARGV[6])
  local kept = {}
  for _, entry in pairs(last) do
    kept[#kept + 1] = entry
  end
  entries = table.concat(kept)
  number, tidy = #kept, math.floor(1.25 * #entries) + 128
end
keep(entries)
return version
