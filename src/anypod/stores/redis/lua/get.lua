-- record: see put.lua
local record = load(key, 'v')
return record and { record[4], record[3] }
