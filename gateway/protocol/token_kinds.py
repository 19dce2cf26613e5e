"""The kinds of tokens that an answer is counted in, each named once.

Owns: the names, and what the API calls them (https://docs.claude.com/en/api/messages, `usage`). Prices, metrics,
records, reports and the access log have them from here. Pure.
"""

from __future__ import annotations

INPUT = "input"
OUTPUT = "output"
CACHE_READ = "cache_read"
CACHE_WRITE = "cache_write"  # all that was written to the cache, of whichever lifetime
CACHE_WRITE_5M = "cache_write_5m"
CACHE_WRITE_1H = "cache_write_1h"

# What every answer says, and what is said of a write's lifetime beside it.
COUNTED = (INPUT, OUTPUT, CACHE_READ, CACHE_WRITE)
LIFETIMES = (CACHE_WRITE_5M, CACHE_WRITE_1H)
# What has a rate of its own: a write of no lifetime is one of five minutes.
PRICED = (INPUT, CACHE_WRITE_5M, CACHE_WRITE_1H, CACHE_READ, OUTPUT)

# The members of a usage object, in the order of COUNTED, and those of its `cache_creation`.
API_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
API_LIFETIMES = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
API_CREATION = "cache_creation"


def field_of(kind: str) -> str:
    """What a count of this kind is called where it stands beside others, as in a record."""
    return f"{kind}_tokens"


FIELDS = tuple(map(field_of, COUNTED))
LIFETIME_FIELDS = tuple(map(field_of, LIFETIMES))
