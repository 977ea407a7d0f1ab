-- record: 'v', deadline, version, value
local record = load(key, 'v')
return record and { record[4], record[3] }
