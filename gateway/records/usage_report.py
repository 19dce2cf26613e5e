"""The words of a usage report: what it can be broken down by, and what it measures.

Owns: the names, which are the columns of `gateway report`. Pure; immutable.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.pricing.money import dollars
from gateway.protocol.token_kinds import CACHE_READ, CACHE_WRITE, INPUT, LIFETIMES, OUTPUT

DIMENSIONS = ("day", "model", "token", "group", "key", "client", "session")

# Interceptions: all, those that did not complete, those of which not all usage is known, those whose cost is an
# estimate, or is missing although the pool paid.
COUNTS = ("requests", "failed", "uncertain", "cost_estimated")
# Sums of tokens in the upstream's own words, but for GUESSED_OUTPUT: what broken answers may have put out beyond.
GUESSED_OUTPUT = "guessed_output"
SERVER_TOOLS = "server_tools"
SUMS = (INPUT, CACHE_READ, CACHE_WRITE, *LIFETIMES, OUTPUT, GUESSED_OUTPUT, SERVER_TOOLS)
COST = "cost"
# As they are printed.
MEASURES = ("requests", "failed", "uncertain", *SUMS, COST, "cost_estimated")


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The usage of one group: its values in the order that was asked for, None where nothing is known; the measures.

    The cost is in picodollars; `told` has it in dollars.
    """

    group: tuple[str | None, ...]
    measures: dict[str, int]

    def told(self) -> dict[str, int | str]:
        """The measures as they are printed: the cost is a decimal text, to the microdollar."""
        return {name: dollars(self.measures[name]) if name == COST else self.measures[name] for name in MEASURES}
