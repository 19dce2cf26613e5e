"""The script that tells a Redis server what a machine has used, and answers what the others have.

Owns: the form of the counts there. Constants only. Under a prefix: `limits:<subject>`, a hash, has a field a machine,
named by its id; `limits-epoch` is a random number that is gone when the data are. A field is nine numbers:

    sequence, expiry, running, requests, tokens, day, picodollars of the day, month, picodollars of the month

A machine tells its own numbers whole, never differences, and of two statements the one with the greater sequence
counts: so one that comes late, or twice, does no harm, and what a server has lost is there again with the next one.
Money is never added up here, for numbers in Lua are doubles.

What a machine runs, and its last minute, count until the expiry (microseconds of the server's clock). One that is
further away than it can be was written before the clock was set back, and has passed. Money counts until its day and
month are over. A field that nobody renews goes when it is of no use: at once if it holds no money, else after 32 days.
"""

from __future__ import annotations

# KEYS: the epoch; a hash a subject. ARGV, each one of words with spaces between: `tell`, `ask` or `look`, the machine's
# id, a new epoch, how long running and the last minute count (microseconds); then for each subject: its numbers as in a
# field, without the expiry; for how many seconds the hash is kept, and two limits, of running and of requests, or `-`.
# `ask`: the statement counts one more request of each subject, which is let in if all limits hold; else it is stored
# without that request. `look`: nothing is stored.
# Answers the epoch, the clock; '', or which limit does not hold, as the number of the subject and its name; and for
# each subject the other machines' fields.
EXCHANGE = """
local act, machine, new_epoch, lasts = string.match(ARGV[1], '^(%S+) (%S+) (%S+) (%S+)$')
lasts = tonumber(lasts)
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function numbers_of(field)
  local sequence, expiry, running, requests, today, this_month =
    string.match(field, '^(%d+) (%d+) (%d+) (%d+) %d+ %d+ (%d+) %d+ (%d+)$')
  if not sequence or #field > 200 then return nil end
  local left = tonumber(expiry) - now
  local has_money = tonumber(today) > 0 or tonumber(this_month) > 0
  local counts = left > 0 and left <= lasts
  return {sequence = tonumber(sequence), running = tonumber(running), requests = tonumber(requests),
          counts = counts, is_kept = counts or has_money and left > -2764800000000}
end

local function fields_of(key)
  local fields = redis.pcall('HGETALL', key)
  if not fields.err then return fields end
  if not string.find(fields.err, 'WRONGTYPE', 1, true) then error(fields.err) end
  if act ~= 'look' then redis.call('DEL', key) end
  return {}
end

local function read(key)
  local all, mine, heard, running, requests = fields_of(key), nil, {}, 0, 0
  for index = 1, #all, 2 do
    local numbers = numbers_of(all[index + 1])
    if all[index] == machine then
      mine = numbers
    elseif numbers and numbers.is_kept then
      heard[#heard + 1] = all[index + 1]
      if numbers.counts then
        running, requests = running + numbers.running, requests + numbers.requests
      end
    elseif act ~= 'look' then
      redis.call('HDEL', key, all[index])
    end
  end
  return mine, heard, running, requests
end

local epoch = redis.pcall('GET', KEYS[1])
if type(epoch) ~= 'string' or not string.match(epoch, '^%d+$') or #epoch > 19 then
  epoch = new_epoch
  if act ~= 'look' then
    redis.call('DEL', KEYS[1])
    redis.call('SET', KEYS[1], epoch)
  end
end

local over, told, answer = '', {}, {epoch, string.format('%.0f', now), ''}
for number = 1, #KEYS - 1 do
  local sequence, own_running, own_requests, rest, keep, most_running, most_requests =
    string.match(ARGV[number + 1], '^(%d+) (%d+) (%d+) (%d+ %d+ %d+ %d+ %d+) (%d+) (%S+) (%S+)$')
  local tell = {key = KEYS[number + 1], sequence = sequence, running = tonumber(own_running),
                requests = tonumber(own_requests), rest = rest, keep = keep}
  local mine, heard, running, requests = read(tell.key)
  tell.is_late = mine and mine.sequence >= tonumber(sequence)
  running = running + (tell.is_late and mine.running or tell.running)
  requests = requests + (tell.is_late and mine.requests or tell.requests)
  if act == 'ask' and over == '' then
    most_running, most_requests = tonumber(most_running), tonumber(most_requests)
    if most_requests and requests > most_requests then over = number .. ' requests_per_minute'
    elseif most_running and running > most_running then over = number .. ' concurrent' end
  end
  told[number] = tell
  answer[3 + number] = heard
end

answer[3] = over
if act == 'look' then return answer end
local less = over == '' and 0 or 1
for _, tell in ipairs(told) do
  if not tell.is_late then
    redis.call('HSET', tell.key, machine, string.format('%s %.0f %.0f %.0f %s', tell.sequence, now + lasts,
               math.max(0, tell.running - less), math.max(0, tell.requests - less), tell.rest))
    redis.call('EXPIRE', tell.key, tell.keep)
  end
end
return answer
"""
