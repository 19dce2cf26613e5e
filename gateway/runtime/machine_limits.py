"""What this machine, or this container, grants a process.

Owns: reading the limits of descriptors and memory. Any thread.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

_NO_LIMIT = 1 << 50
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def most_descriptors() -> int:
    """The hard limit of descriptors, up to which a process may raise its own."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _NO_LIMIT if hard == resource.RLIM_INFINITY else hard


def memory_bytes() -> int:
    """The machine's memory, or what its control group may have of it."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue  # this machine has the other version of control groups, or none
        if text.isdecimal():  # else `max`
            limits.append(int(text))
    return min(limits)
