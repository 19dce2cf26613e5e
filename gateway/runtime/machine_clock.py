"""The clock by which keys cool down: the machine's own seconds, which nobody sets.

Owns: reading it, and telling one start of the machine from another. Any thread. The wall clock may be set
back or forward at any moment, and a cooldown measured by it would grow or shrink by as much. The machine's clock only
runs, while the machine sleeps as well, and is the same for all its processes: so points in time may be shared between
workers.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # Linux has the first
# So that a moment before the machine's start is no negative number, and 0 stays free to mean "never".
_AT_START = 1_000_000_000.0


def machine_time() -> float:
    """Seconds since long before the machine's start; of use in differences alone, and until the next start."""
    return time.clock_gettime(_CLOCK) + _AT_START


@cache
def boot_id() -> str:
    """Which start of the machine this is; empty if the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
