"""Counts that others say: of tokens, of uses, of what is left of a limit.

Owns: what is a count, and the one bound. Pure; any thread. JSON has no largest number: 10^310 is none that a float
holds, and 10^100 added to a metric swallows all that is added later. What is out of bounds is no count, and is
passed over.
"""

from __future__ import annotations

import re

# Far above what any answer or limit says, and low enough that millions of them add up exactly in a float, in SQLite's
# and in PostgreSQL's integers.
MOST = 10**12
_DIGITS = re.compile(r"[0-9]{1,13}")


def count_or_none(value: object) -> int | None:
    """The count that a JSON value is: a whole number from 0 to `MOST`; None for anything else, `true` and 1.0 too."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST else None


def count_in(text: str) -> int | None:
    """The count that a header's value is, in decimal digits alone."""
    return count_or_none(int(text)) if _DIGITS.fullmatch(text) else None
