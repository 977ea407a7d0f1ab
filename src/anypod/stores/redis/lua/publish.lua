-- ARGV: offset, message
return redis.call('PUBLISH', key, ARGV[2])
