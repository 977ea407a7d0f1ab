local record = load(key, 'n')
return record and record[3] or 0
