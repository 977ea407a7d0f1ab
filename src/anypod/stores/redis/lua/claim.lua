-- ARGV: offset, lease, ttl, fingerprint
-- record: 'c', deadline, fingerprint, token, end of the lease, attempt, outcome or false
-- reply: status (0 granted, 1 in flight, 2 complete, 3 reused), token, outcome, wait in µs, attempt
local record = load(key, 'c')
if record then
  if record[3] ~= ARGV[4] then
    return { 3, 0, false, 0, 0 }
  end
  if record[7] then
    return { 2, 0, record[7], 0, record[6] }
  end
  if record[5] > now() then
    return { 1, 0, false, record[5] - now(), record[6] }
  end
end
local token = successor(record and record[4] or 0)
local attempt = (record and record[6] or 0) + 1
local lease_until = now() + ARGV[2]
local keep = math.max(now() + ARGV[3], lease_until)
save(key, { 'c', keep, ARGV[4], token, lease_until, attempt, false })
return { 0, token, false, 0, attempt }
