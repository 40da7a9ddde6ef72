"""What Redis itself runs to give out turns under a rate: one step, by one clock, whatever the workers' clocks say.

Each returns whether a turn was taken, and in how many microseconds it comes. A turn further off than `ahead` is not
taken; with `take` 0 none is.
"""

_BEGIN = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local first, second, ahead, take = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
"""

PACED = (
    _BEGIN
    + """
local interval, slack = first, second
local due = tonumber(redis.call('GET', KEYS[1]) or 0)
-- Nothing is ever due later: this clock was set back, or the rate was slower before.
if due > now + ahead + interval then due = now end
local at = math.max(due, now - slack)
local wait = math.max(0, at - now)
if wait > ahead or not take then return {0, wait} end
local expires = math.ceil((at + interval + slack - now) / 1000) + 1
redis.call('SET', KEYS[1], string.format('%.0f', at + interval), 'PX', expires)
return {1, wait}
"""
)
"""Permits that follow each other by an interval, after the generic cell rate algorithm (ITU-T I.371): what is kept is
when the next one is due. RatePermits that were not taken are made up for as far as `slack` reaches back."""

ROLLING = (
    _BEGIN
    + """
local most, span = first, second
local kept = redis.call('LLEN', KEYS[1])
-- This clock was set back: as if all of them had been made just now.
if kept > 0 and tonumber(redis.call('LINDEX', KEYS[1], 0)) > now + ahead then
    redis.call('DEL', KEYS[1])
    for _ = 1, kept do redis.call('LPUSH', KEYS[1], string.format('%.0f', now)) end
    redis.call('PEXPIRE', KEYS[1], math.ceil(span / 1000) + 1)
end
local wait = 0
if kept >= most then wait = math.max(0, tonumber(redis.call('LINDEX', KEYS[1], most - 1)) + span - now) end
if wait > ahead or not take then return {0, wait} end
redis.call('LPUSH', KEYS[1], string.format('%.0f', now + wait))
redis.call('LTRIM', KEYS[1], 0, most - 1)
redis.call('PEXPIRE', KEYS[1], math.ceil((wait + span) / 1000) + 1)
return {1, wait}
"""
)
"""At most so many turns in any span: what is kept is when each of the last ones was."""
