"""How the status page words times and lists of names.

Owns: that, for the headline, the templates and the page's script, which words times alike. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST_NAMED = 3  # of more there is the number


def countdown(seconds: float) -> str:
    """`9 s`, `4:05`, `2 h 30 min`, `3 d 4 h`; rounded up, so that 0 means over. The script words it alike."""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def ago(seconds: float) -> str:
    """`9 s ago`, `4 min ago`, `2 h ago`, `3 d ago`: rounded down. The script words it alike."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(max(seconds, 0))} s ago"


def span(seconds: float) -> str:
    """`9 s`, `5 min`: a length of time that nothing hangs on."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


def named(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b, c and 4 more`."""
    shown, more = list(names[:MOST_NAMED]), len(names) - MOST_NAMED
    if more > 0:
        shown.append(f"{more} more")
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))
