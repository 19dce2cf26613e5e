"""The scripts by which gateways that know of no details read and merge records on a Redis server: never changed."""

from __future__ import annotations

_RECORD = """
local function is_whole(value)
  return string.match(value, '^%d+$') and #value <= 16
end

local clock = {}

local function read_clock(key)
  local time = redis.call('TIME')
  local shown = redis.pcall('HMGET', key, 'at', 'ahead')
  clock.is_sound = not shown.err and shown[1] and shown[2] and is_whole(shown[1]) and is_whole(shown[2])
  clock.key, clock.ahead = key, clock.is_sound and tonumber(shown[2]) or 0
  clock.at = time[1] * 1000000 + time[2] + clock.ahead
  if clock.is_sound and clock.at < tonumber(shown[1]) then
    clock.ahead = clock.ahead + tonumber(shown[1]) - clock.at
    clock.at = tonumber(shown[1])
  end
end

local function keep_clock()
  if not clock.is_sound then redis.call('DEL', clock.key) end
  redis.call('HSET', clock.key, 'at', string.format('%.0f', clock.at), 'ahead', string.format('%.0f', clock.ahead))
end

local function holder(lease)
  local held = redis.pcall('GET', lease)
  return type(held) == 'string' and held
end

local FIELDS = {'generation', 'cooling_until_at', 'confirmed_at', 'is_retired', 'is_disabled', 'marked_at', 'reason',
                'status', 'limited_count', 'refused_count'}
local GENERATION, COOLING, CONFIRMED, RETIRED, DISABLED, MARKED, REASON, STATUS, LIMITED, REFUSED =
      1, 2, 3, 4, 5, 6, 7, 8, 9, 10

-- The record, and whether what stands there is none.
local function read(key)
  local record = redis.pcall('HMGET', key, unpack(FIELDS))
  if record.err then
    if not string.find(record.err, 'WRONGTYPE', 1, true) then error(record.err) end
    return nil, true
  end
  if not record[GENERATION] then return nil, false end
  for field = 1, #FIELDS do
    record[field] = record[field] or (field == REASON and '' or '0')
    local is_sound
    if field == REASON then
      is_sound = string.match(record[field], '^[%w_]*$') and #record[field] <= 64
    else
      is_sound = is_whole(record[field])
    end
    if not is_sound then return nil, true end
  end
  return record, false
end
"""

# What the server's clock shows, and the names of all keys. KEYS: clock, names.
LOOK = (
    _RECORD
    + """
read_clock(KEYS[1])
keep_clock()
return {string.format('%.0f', clock.at), redis.call('SMEMBERS', KEYS[2])}
"""
)

# The rules of gateway.keys.key_record.joined. Counts are told as what the server had said and what came on top.
# KEYS: clock, epoch, names, and for each name its record and its lease. ARGV: void after, a new epoch, and for each
# name itself, the lease given back or '', and the ten fields with the two counts' increments, or one ''.
# Answers the epoch, and for each name its record, nothing, or 'odd' for what is no record.
EXCHANGE = (
    _RECORD
    + """
local argument = 0
local function told()
  argument = argument + 1
  return ARGV[argument]
end

local function told_record()
  local first = told()
  if first == '' then return nil end
  local record = {first}
  for field = 2, #FIELDS do record[field] = told() end
  return record, told(), told()
end

local function greater(one, other, field)
  return tonumber(one[field]) > tonumber(other[field]) and one[field] or other[field]
end

local function is_permanent(record)
  return record[RETIRED] == '1' or record[DISABLED] == '1'
end

local function tells_more(one, other)
  if is_permanent(one) ~= is_permanent(other) then return is_permanent(one) end
  local difference = tonumber(one[MARKED]) - tonumber(other[MARKED])
  if difference ~= 0 then return difference > 0 end
  if one[REASON] ~= other[REASON] then return one[REASON] > other[REASON] end
  return tonumber(one[STATUS]) > tonumber(other[STATUS])
end

local function joined(one, other)
  local record = {}
  local generations = tonumber(one[GENERATION]) - tonumber(other[GENERATION])
  if generations == 0 then
    record[GENERATION] = one[GENERATION]
    for field = COOLING, DISABLED do record[field] = greater(one, other, field) end
    local telling = tells_more(one, other) and one or other
    for field = MARKED, STATUS do record[field] = telling[field] end
  else
    local newest = generations > 0 and one or other
    for field = GENERATION, STATUS do record[field] = newest[field] end
  end
  record[LIMITED] = greater(one, other, LIMITED)
  record[REFUSED] = greater(one, other, REFUSED)
  return record
end

local function is_same_state(one, other)
  for field = GENERATION, DISABLED do
    if one[field] ~= other[field] then return false end
  end
  return true
end

local function push(key, lease, held, is_odd, record, limited, refused)
  if is_odd then redis.call('DEL', key) end
  local merged = held and joined(held, record) or record
  merged[LIMITED] = string.format('%.0f', merged[LIMITED] + limited)
  merged[REFUSED] = string.format('%.0f', merged[REFUSED] + refused)
  local words = {}
  for field, name in ipairs(FIELDS) do
    words[#words + 1] = name
    words[#words + 1] = merged[field]
  end
  redis.call('HSET', key, unpack(words))
  if not held or not is_same_state(held, merged) then redis.call('DEL', lease) end
  return merged
end

read_clock(KEYS[1])
if clock.at > tonumber(told()) then return redis.error_reply('LATE the time for this exchange is over') end
keep_clock()
redis.call('SET', KEYS[2], told(), 'NX')
local answer = {redis.call('GET', KEYS[2])}
for at = 4, #KEYS, 2 do
  local key, lease, name, released = KEYS[at], KEYS[at + 1], told(), told()
  local held, is_odd = read(key)
  local record, limited, refused = told_record()
  if record then
    held = push(key, lease, held, is_odd, record, limited, refused)
    redis.call('SADD', KEYS[3], name)
  end
  if released ~= '' and holder(lease) == released then redis.call('DEL', lease) end
  answer[#answer + 1] = held or is_odd and {'odd'} or {}
end
return answer
"""
)

# A lease is granted unless the record says that the trial is over, or another process holds it: within one process
# its replica has seen to it that there is one at a time.
# KEYS: clock, record, lease. ARGV: void after, process, lease, milliseconds, the asker's generation and
# cooling_until_at.
LEASE = (
    _RECORD
    + """
local function is_over(record, generation, cooling)
  if tonumber(record[GENERATION]) ~= generation then return tonumber(record[GENERATION]) > generation end
  return record[RETIRED] == '1' or record[DISABLED] == '1' or tonumber(record[COOLING]) > clock.at
    or tonumber(record[CONFIRMED]) >= math.max(cooling, tonumber(record[COOLING]))
end

read_clock(KEYS[1])
if clock.at > tonumber(ARGV[1]) then return redis.error_reply('LATE the time for this lease is over') end
keep_clock()
local record = read(KEYS[2])
if record and is_over(record, tonumber(ARGV[5]), tonumber(ARGV[6])) then return {'over', record} end
local other = holder(KEYS[3])
if other and string.sub(other, 1, #ARGV[2]) ~= ARGV[2] then
  local left = redis.call('PTTL', KEYS[3])
  -- One that has longer to go than the one that is asked for outlives its time: the clock was set back. One without an
  -- end is none of ours.
  if left >= 0 and left <= ARGV[4] + 1000 then return {'held', left} end
end
redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[4])
return {'granted'}
"""
)
