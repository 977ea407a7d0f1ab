-- ARGV: offset, schema, lease, early
-- record: 'k', deadline, version, schema, payload or false, load seconds, soft, hard, lease, end of the lease
-- reply: payload, version, soft left, hard left (µs), load seconds, lease or false, µs left of the lease
local record = load(key, 'k')
local payload, soft_left, hard_left, load_seconds = false, 0, 0, 0
if record and record[5] and record[4] == ARGV[2] and record[8] > now() then
  payload = record[5]
  soft_left = record[7] - now()
  hard_left = record[8] - now()
  load_seconds = record[6]
end
local wanted = not payload or soft_left <= 0 or ARGV[4] * load_seconds >= soft_left / 1e6
local lease, lease_left = false, 0
if record and record[10] > now() then
  lease_left = record[10] - now()
elseif wanted and tonumber(ARGV[3]) > 0 then
  record = record or { 'k', false, 0, ARGV[2], false, 0, 0, 0, 0, 0 }
  lease = successor(math.max(record[3], record[9]))
  record[9] = lease
  record[10] = now() + ARGV[3]
  record[2] = math.max(record[8], record[2] or 0, record[10])
  save(key, record)
end
return {
  payload,
  record and record[3] or 0,
  soft_left,
  hard_left,
  string.format('%.17g', load_seconds),
  lease,
  lease_left,
}
