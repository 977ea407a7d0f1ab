-- How each algorithm answers to a cost, for the scripts that take from limits; the states are those of
-- stores/specification/limits.py.
-- A policy in ARGV: name, algorithm, limit, period, burst.
-- An algorithm answers: admitted, new state, remaining, reset in µs, retry in µs (-1 is never).

local NEVER = -1

local function gcra(policy, state, cost)
  local unit = math.ceil(policy.period / policy.limit)
  local capacity = policy.burst * unit
  local arrival = math.max(state[1] or 0, now())
  local after = math.max(arrival + cost * unit, now())
  local admitted = after - now() <= capacity or cost <= 0
  local stands = admitted and after or arrival
  local retry = 0
  if not admitted then
    retry = cost > policy.burst and NEVER or after - capacity - now()
  end
  local remaining = math.floor(math.max(0, capacity - (stands - now())) / unit)
  return admitted, { stands }, remaining, stands - now(), retry
end

local function fixed_window(policy, state, cost)
  local period, limit = policy.period, policy.limit
  local window = math.max(math.floor(now() / period), state[1] or 0)
  local count = state[1] == window and state[2] or 0
  local left = (window + 1) * period - now()
  local admitted = count + cost <= limit or cost <= 0
  if admitted then
    count = math.max(0, count + cost)
  end
  local retry = 0
  if not admitted then
    retry = cost > limit and NEVER or left
  end
  return admitted, { window, count }, math.max(0, limit - count), count > 0 and left or 0, retry
end

local function sliding_counter(policy, state, cost)
  local period, limit = policy.period, policy.limit
  local window = math.max(math.floor(now() / period), state[1] or 0)
  local count = state[1] == window and state[2] or 0
  local before = 0
  if state[1] == window then
    before = state[3]
  elseif state[1] == window - 1 then
    before = state[2]
  end
  local gone = math.max(0, now() - window * period)
  local estimate = count + before * ((period - gone) / period)
  local admitted = estimate + cost <= limit or cost <= 0
  local retry = 0
  if admitted then
    local taken = math.max(0, count + cost)
    estimate = estimate + (taken - count)
    count = taken
  elseif cost > limit then
    retry = NEVER
  elseif count + cost <= limit then
    retry = math.ceil(period * (1 - (limit - count - cost) / before)) - gone
  else
    retry = period - gone
    if count > limit - cost then
      retry = retry + math.ceil(period * (1 - (limit - cost) / count))
    end
  end
  local reset = 0
  if count > 0 then
    reset = 2 * period - gone
  elseif before > 0 then
    reset = period - gone
  end
  if retry ~= NEVER then
    retry = math.max(0, retry)
  end
  local remaining = math.max(0, math.floor(limit - estimate))
  return admitted, { window, count, before }, remaining, reset, retry
end

local function sliding_log(policy, state, cost)
  local period, limit = policy.period, policy.limit
  local log, used = {}, 0
  for i = 1, #state, 2 do
    if state[i] > now() - period then
      log[#log + 1] = state[i]
      log[#log + 1] = state[i + 1]
      used = used + state[i + 1]
    end
  end
  local admitted = used + cost <= limit or cost <= 0
  local retry = 0
  if admitted then
    if cost > 0 then
      log[#log + 1] = now()
      log[#log + 1] = cost
    end
    local back = -cost
    while back > 0 and #log > 0 do
      local taken = table.remove(log)
      if taken > back then
        log[#log + 1] = taken - back
      else
        table.remove(log)
      end
      back = back - taken
    end
    used = 0
    for i = 2, #log, 2 do
      used = used + log[i]
    end
  elseif cost > limit then
    retry = NEVER
  else
    local free = limit - used
    for i = 1, #log, 2 do
      free = free + log[i + 1]
      if free >= cost then
        retry = log[i] + period - now()
        break
      end
    end
  end
  local reset = #log > 0 and log[#log - 1] + period - now() or 0
  return admitted, log, math.max(0, limit - used), reset, retry
end

local algorithms = { gcra, fixed_window, sliding_counter, sliding_log }

-- How the policies that stand in ARGV from `first` to `last` answer to a cost, by the states of a record.
local function ask(states, first, last, units)
  local answers, admitted = {}, true
  for i = first, last, 5 do
    local policy = {
      limit = tonumber(ARGV[i + 2]),
      period = tonumber(ARGV[i + 3]),
      burst = tonumber(ARGV[i + 4]),
    }
    local fits, state, remaining, reset, retry =
      algorithms[tonumber(ARGV[i + 1])](policy, states[ARGV[i]] or {}, units)
    admitted = admitted and fits
    answers[#answers + 1] =
      { name = ARGV[i], state = state, remaining = remaining, reset = reset, retry = retry }
  end
  return admitted, answers
end

-- Keep what the answers have made of a record.
local function keep(place, record, answers)
  local longest, kept = 0, {}
  for _, answer in ipairs(answers) do
    longest = math.max(longest, answer.reset)
    kept[answer.name] = answer.state
  end
  if longest > 0 then
    save(place, { 't', now() + longest, kept })
  elseif record then
    remove(place)
  end
end

