"""The scripts that read and write the records of keys on a Redis server.

Owns: the records' form there. Constants only. How records are merged is not written here: whoever writes has merged,
and says what he found before; if something else stands there by then, nothing is written, and he merges once more.
The server runs one script at a time, so nobody comes between comparing and writing
(https://redis.io/docs/latest/develop/programmability/eval-intro/). Nothing here needs more than Redis 6 or Valkey.

Under a prefix: `key:<name>`, a hash, is a record; `lease:<name>` expires with the prober's lease; `keys` is the set
of the names of bases; `epoch` is a random value that is gone when the data are. Points in time are whole microseconds
of the server's clock, 0 for never.

Earlier gateways know of no details and share the server with later ones. So names with details are in a set of their
own, `details`, sorted by the number that `version` showed when the record was last changed: what has changed since a
number that a process has seen is a range of it. Records of bases are few, and earlier gateways change them without
counting: whether they have changed shows in a digest of them all, which is made on the server. Records of subjects with
details expire a day after they were written, or after their cooldown, whatever is later; permanent ones do not. Each
look takes some names whose records are gone out of `details`.

Whoever changes what a key may be used for has this published, so that others need not wait for their next look. Where a
server's user may not publish, they do.

The server's own clock may be set. So `clock` holds what it showed last: if it shows less than that it was set back, and
from then on as much is added to it. What stands there but was not written by a gateway (a record with odd fields, a key
of another type) is passed over, and replaced when it is written next.

A command may be run long after it was sent: a server that was paused finds it in its socket. So times cross the
wire as points of the server's clock, not as spans from its arrival, and every script is told until when it is
wanted, and refuses after that.
"""

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
local GENERATION, COOLING, REASON = 1, 2, 7

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

# KEYS: epoch. Each gateway sees to it that there is one when it first connects.
IS_THERE = "return redis.call('EXISTS', KEYS[1])"

_VERSION = """
-- The number of the last change to a record with a detail. If it was lost, the highest that is still to be seen.
local function read_version(key, details)
  local value = redis.pcall('GET', key)
  if type(value) == 'string' and is_whole(value) then return tonumber(value) end
  local top = redis.call('ZREVRANGE', details, 0, 0, 'WITHSCORES')
  return top[2] and is_whole(top[2]) and tonumber(top[2]) or 0
end
"""

# KEYS: clock, epoch, names, version, details. ARGV: what the records' keys begin with, the digest that was last seen,
# the version that was last seen, how far the names with details have been looked through for those whose records are
# gone, how many of these to look at now, and how many changed ones to name.
# Answers what the clock shows, the epoch or '', the digest, the version, all names of bases if the digest is another
# one, changed names with details and their versions, how far it has looked, and the names that it took out.
LOOK = (
    _RECORD
    + _VERSION
    + """
local function digest_of(names)
  local shown = {}
  table.sort(names)
  for _, name in ipairs(names) do
    local record, is_odd = read(ARGV[1] .. name)
    shown[#shown + 1] = name .. ' ' .. (record and table.concat(record, ' ') or is_odd and 'odd' or 'none')
  end
  return redis.sha1hex(table.concat(shown, '\\n'))
end

local function swept(details, version)
  local gone, at = {}, '0'
  local some = redis.call('ZRANGEBYSCORE', details, '(' .. ARGV[4], version, 'WITHSCORES', 'LIMIT', 0, ARGV[5])
  for index = 1, #some, 2 do
    if redis.call('EXISTS', ARGV[1] .. some[index]) == 0 then
      redis.call('ZREM', details, some[index])
      gone[#gone + 1] = some[index]
    end
    at = some[index + 1]
  end
  return #some < 2 * ARGV[5] and '0' or at, gone
end

read_clock(KEYS[1])
keep_clock()
local names = redis.call('SMEMBERS', KEYS[3])
local digest = digest_of(names)
if digest == ARGV[2] then names = {} end
local version = string.format('%.0f', read_version(KEYS[4], KEYS[5]))
local changed = redis.call('ZRANGEBYSCORE', KEYS[5], '(' .. ARGV[3], version, 'WITHSCORES', 'LIMIT', 0, ARGV[6])
local at, gone = swept(KEYS[5], version)
return {string.format('%.0f', clock.at), redis.call('GET', KEYS[2]) or '', digest, version, names, changed, at, gone}
"""
)

# KEYS: clock, epoch, names, version, details, and for each name its record and its lease.
# ARGV: void after, a new epoch, what the records' and the leases' keys begin with, for how many milliseconds a record
# with a detail is kept, how many of them at most, where to publish that something has changed and who says so, and for
# each name itself, the lease given back or '', and: the record as it was found, its fields joined by blanks, or '' for
# none; the ten fields that it is to have, `lasting` if it does not expire, and `over` if what the key may be used for
# has changed, which ends a trial under a lease; or one '-' for a question.
# Answers the epoch, and for each name whether the record is as told, and the record, nothing, or 'odd' for what is no
# record.
EXCHANGE = (
    _RECORD
    + _VERSION
    + """
local argument = 0
local function told()
  argument = argument + 1
  return ARGV[argument]
end

local function told_record()
  local found = told()
  if found == '-' then return nil end
  local record = {}
  for field = 1, #FIELDS do record[field] = told() end
  return record, found, told() == 'lasting', told() == 'over'
end

local is_news = false

local function put(key, record, is_odd)
  if is_odd then redis.call('DEL', key) end
  local words = {}
  for field, name in ipairs(FIELDS) do
    words[#words + 1] = name
    words[#words + 1] = record[field]
  end
  redis.call('HSET', key, unpack(words))
end

local version = read_version(KEYS[4], KEYS[5])
local first_version = version

local function has_detail(name)
  return string.find(name, '/', 1, true)
end

local function keep_name(name, key, record, is_changed, is_lasting, kept_ms)
  if not has_detail(name) then return redis.call('SADD', KEYS[3], name) end
  if is_changed then
    if is_lasting then
      redis.call('PERSIST', key)
    else
      local left_ms = math.max(0, tonumber(record[COOLING]) - clock.at) / 1000
      redis.call('PEXPIRE', key, string.format('%.0f', left_ms + kept_ms))
    end
  end
  if is_changed or not redis.call('ZSCORE', KEYS[5], name) then
    version = version + 1
    redis.call('ZADD', KEYS[5], string.format('%.0f', version), name)
  end
end

local function end_version(key_start, lease_start, most)
  if version == first_version then return end
  redis.call('SET', KEYS[4], string.format('%.0f', version))
  local surplus = redis.call('ZCARD', KEYS[5]) - most
  if surplus <= 0 then return end
  for _, name in ipairs(redis.call('ZRANGE', KEYS[5], 0, surplus - 1)) do
    redis.call('DEL', key_start .. name, lease_start .. name)
    redis.call('ZREM', KEYS[5], name)
  end
end

read_clock(KEYS[1])
if clock.at > tonumber(told()) then return redis.error_reply('LATE the time for this exchange is over') end
keep_clock()
redis.call('SET', KEYS[2], told(), 'NX')
local key_start, lease_start, kept_ms, most = told(), told(), tonumber(told()), tonumber(told())
local channel, sender = told(), told()
local answer = {redis.call('GET', KEYS[2])}
for at = 6, #KEYS, 2 do
  local key, lease, name, released = KEYS[at], KEYS[at + 1], told(), told()
  local held, is_odd = read(key)
  local held_words = held and table.concat(held, ' ') or ''
  local record, found, is_lasting, is_over = told_record()
  local is_as_told = true
  if record then
    is_as_told = found == held_words
    if is_as_told then
      if is_over then
        redis.call('DEL', lease)
        is_news = true
      end
      local is_changed = table.concat(record, ' ') ~= held_words
      if is_changed then put(key, record, is_odd) end
      keep_name(name, key, record, is_changed, is_lasting, kept_ms)
      held, is_odd = record, false
    end
  elseif not held and not is_odd and has_detail(name) then
    redis.call('ZREM', KEYS[5], name)
  end
  if released ~= '' and holder(lease) == released then redis.call('DEL', lease) end
  answer[#answer + 1] = is_as_told and 1 or 0
  answer[#answer + 1] = held or is_odd and {'odd'} or {}
end
end_version(key_start, lease_start, most)
if is_news then redis.pcall('PUBLISH', channel, sender) end
return answer
"""
)

# A lease is granted unless another process holds it: within one process its replica has seen to it that there is one at
# a time. What the record says, the asker looks at himself.
# KEYS: clock, record, lease. ARGV: void after, process, lease, milliseconds.
# Answers for how many milliseconds another holds it, or -1 if it is granted; and the record, or nothing.
LEASE = (
    _RECORD
    + """
read_clock(KEYS[1])
if clock.at > tonumber(ARGV[1]) then return redis.error_reply('LATE the time for this lease is over') end
keep_clock()
local record = read(KEYS[2]) or {}
local other = holder(KEYS[3])
if other and string.sub(other, 1, #ARGV[2]) ~= ARGV[2] then
  local left = redis.call('PTTL', KEYS[3])
  -- One that has longer to go than the one that is asked for outlives its time: the clock was set back. One without an
  -- end is none of ours.
  if left >= 0 and left <= ARGV[4] + 1000 then return {left, record} end
end
redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[4])
return {-1, record}
"""
)
