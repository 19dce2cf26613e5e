"""What a worker process asks of the system for itself: its processor, and how memory is returned.

Owns: the calls. A worker's start. What a system does not grant is gone without.
"""

from __future__ import annotations

import ctypes
import logging
import os

log = logging.getLogger(__name__)

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # see mallopt(3)
_LARGE_BYTES = 1024 * 1024


def keep_to(processor: int) -> None:
    """Have this process's threads, those to come included, take turns at one processor, and let each other finish.

    Threads that share an interpreter lose half their time when each turn is on another processor. One that wakes while
    another is at work would only find the interpreter taken: under SCHED_BATCH (sched(7)) it does not interrupt.
    """
    try:
        os.sched_setaffinity(0, {processor})
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:  # a sandbox may forbid it
        log.warning("the worker's threads go where the system puts them: %s", error.strerror)


def spare_memory() -> None:
    """Have the C library return the memory of large bodies, and share the rest among all threads.

    glibc would keep up to 64 MB in each of many arenas; as threads take turns at the interpreter, two are enough.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not every C library has it, nor needs it
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_ARENA_MAX, 2)
