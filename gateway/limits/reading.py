"""What has been used of limits, as a command beside the running gateway reads it.

Owns: reading this machine's counts, and asking the store once for the other machines'.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.config.limit_rules import Limited
from gateway.limits.limiter import Used
from gateway.limits.machine_file import FILE_NAME, PrivateMemory, read_slots
from gateway.limits.used import used_of
from gateway.runtime.machine_clock import machine_time

_PATIENCE_SECONDS = 0.25


def read_used(
    folder: Path,
    everybody: Sequence[Limited],
    state_url: str | None = None,
    clock: Callable[[], float] = machine_time,
    wall_clock: Callable[[], float] = time.time,
) -> tuple[list[Used], str]:
    """What each of these has used, and what is wrong if the other machines' part is not known (else '').

    Raises OSError if this machine's counts cannot be read, and ValueError if the URL is none.
    """
    memory = PrivateMemory(read_slots(folder / FILE_NAME, _PATIENCE_SECONDS))
    trouble = ""
    if state_url is not None:
        from gateway.limits import hearing  # most gateways have no Redis, and need not load its client

        trouble = hearing.hear_all(memory, everybody, state_url, clock, wall_clock)
    return used_of(memory.slots, everybody, clock(), wall_clock() + memory.slots.clock_offset_seconds), trouble
