"""What a contender's processes use, from /proc: all of them together, the children with the parent."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_GONE = (FileNotFoundError, ProcessLookupError)


def tree(roots: Iterable[int]) -> list[int]:
    """These processes and all that descend from them."""
    found: list[int] = []
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        with suppress(*_GONE):
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting.extend(int(child) for child in (task / "children").read_text().split())
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that these processes have taken, threads that have ended included."""
    ticks = 0
    for pid in pids:
        with suppress(*_GONE):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_A_SECOND


@dataclass(frozen=True)
class Holdings:
    """What processes hold: memory as the proportional set size (shared pages count once), in bytes."""

    pss_bytes: int
    threads: int
    descriptors: int

    def as_json(self) -> dict[str, int]:
        """For a line of results."""
        return asdict(self)


def holdings(pids: Iterable[int]) -> Holdings:
    """What these processes hold now."""
    pss = threads = descriptors = 0
    for pid in pids:
        with suppress(*_GONE):
            pss += 1024 * sum(_kilobytes(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss:"))
            threads += len(os.listdir(f"/proc/{pid}/task"))
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
    return Holdings(pss, threads, descriptors)


def _kilobytes(text: str, name: str) -> Iterator[int]:
    for line in text.splitlines():
        if line.startswith(name):
            yield int(line.split()[1])


def wait_until_quiet(roots: Iterable[int], longest_seconds: float = 10.0) -> None:
    """Until these processes do next to nothing: what an earlier scenario left is not a later one's."""
    deadline = time.monotonic() + longest_seconds
    pids = tree(roots)
    before = cpu_seconds(pids)
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now = cpu_seconds(pids)
        if now - before <= 0.03:
            return
        before = now
