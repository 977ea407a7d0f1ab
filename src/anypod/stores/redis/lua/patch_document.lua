-- ARGV: offset, existence (0 new, 1 existing, 2 either), idle or '', absolute or '', number of entries put,
--       those entries, then the names to drop
-- record: see read_document.lua
-- reply: version, or outcome (1 missing, 2 exists, 3 ended) in a list
local record, _, at, body = load(key, 'd')
local entries = ''
if record and record[5] then
  return { 3 }
end
if not record then
  if ARGV[2] == '1' then
    return { 1 }
  end
  local absolute = deadline(ARGV[4])
  record = { 'd', sooner(deadline(ARGV[3]), absolute), 0, absolute, false, 0, 0 }
elseif ARGV[2] == '0' then
  return { 2 }
else
  if ARGV[4] ~= '' then
    record[4] = sooner(record[4], deadline(ARGV[4]))
  end
  record[2] = sooner(deadline(ARGV[3]) or record[2], record[4])
  entries = string.sub(body, at + 1)
end
record[3] = successor(record[3])
-- What is put is put behind, so that a patch costs what it changes. Once there is twice as much as there
-- was, or when a name is dropped, each name keeps its last entry only.
if #entries + #ARGV[6] <= record[7] and #ARGV == 6 then
  entries = entries .. ARGV[6]
  record[6] = record[6] + ARGV[5]
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
  record[6], record[7] = #kept, 2 * #entries + 256
end
save(key, record, entries)
return record[3]
