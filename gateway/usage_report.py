"""The words of a usage report: what it can be broken down by, and what it measures.

Owns: the names, which are the columns of `gateway report`. Pure; immutable.
"""

from __future__ import annotations

from dataclasses import dataclass

DIMENSIONS = ("day", "model", "token", "key", "client", "session")

# Interceptions: all, those that did not complete, those of which not all usage is known. The rest are sums:
# tokens in the upstream's own words, but for `guessed_output`, what broken answers may have put out beyond that.
COUNTS = ("requests", "failed", "uncertain")
SUMS = (
    *("input", "cache_read", "cache_write", "cache_write_5m", "cache_write_1h", "output", "guessed_output"),
    "server_tools",
)
MEASURES = (*COUNTS, *SUMS)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The usage of one group: its values in the order that was asked for, None where nothing is known; the measures."""

    group: tuple[str | None, ...]
    measures: dict[str, int]
