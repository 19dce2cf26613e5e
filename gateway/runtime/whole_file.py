"""Files that others write, read when they are whole.

Owns: which content of a file counts. A WatchedFile belongs to one thread at a time. A file that is written
in place is empty first and then half there, and nothing marks its end: it counts once nobody has changed it for a
while. What is no regular file is not opened: to open a pipe may take for ever, and a device has no end.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass

# How long a file must not have changed, when it is asked for once, and how long that is waited for.
_SETTLE_SECONDS = 0.5
_PATIENCE_SECONDS = 2.0
_PAUSE_SECONDS = 0.05
_LARGEST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file does: a file written in place gets another time, a file replaced another inode."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int


class WatchedFile:
    """A file that is looked at again and again. `clock` is monotonic, `wall_clock` that of the file's times."""

    def __init__(
        self,
        path: str,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._clock = clock
        self._wall_clock = wall_clock
        self._stamp: Stamp | None = None
        self._seen_at = 0.0
        self._looked_at = self._other_until_at = float("-inf")

    def look(self) -> tuple[Stamp, float]:
        """The file's stamp, and for how many seconds it has been so.

        By the file's own time, as far as it can be true: a clock is set, and a file may have another machine's times.
        So it is no less than this object has seen it so, and no more than since it was seen otherwise. Raises OSError
        if there is no regular file.
        """
        stamp, now = stamp_now(self.path), self._clock()
        if stamp != self._stamp:
            self._stamp, self._seen_at, self._other_until_at = stamp, now, self._looked_at
        self._looked_at = now
        told_seconds = self._wall_clock() - stamp.modified_ns / 1e9
        return stamp, max(now - self._seen_at, min(told_seconds, now - self._other_until_at))

    def read(self, stamp: Stamp) -> bytes | None:
        """The content that belongs to this stamp; None if the file has changed since, or does so now."""
        found = _read(self.path)
        return found[0] if found[1:] == (stamp, stamp) else None


def read_whole(path: str) -> bytes:
    """A file's content when nobody has changed it for half a second; that is waited for.

    Raises OSError, also if there is no regular file, and if it goes on changing.
    """
    file = WatchedFile(path)
    gives_up_at = time.monotonic() + _PATIENCE_SECONDS
    while True:
        stamp, settled_seconds = file.look()
        if settled_seconds >= _SETTLE_SECONDS and (content := file.read(stamp)) is not None:
            return content
        if time.monotonic() >= gives_up_at:
            raise OSError(errno.EBUSY, "it is being written, without end")
        time.sleep(_PAUSE_SECONDS)


def read_now(path: str) -> bytes:
    """A regular file's content as it is. Raises OSError."""
    return _read(path)[0]


def read_stamped(path: str) -> tuple[bytes, Stamp]:
    """The same, and the file's stamp from before."""
    return _read(path)[:2]


def stamp_now(path: str) -> Stamp:
    """The present stamp of a regular file. Raises OSError if there is none."""
    return _stamp(os.stat(path))


def _read(path: str) -> tuple[bytes, Stamp, Stamp]:
    """The content of a file, and its stamps before and after."""
    stamp_now(path)  # a device may act on being opened
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        before = _stamp(os.fstat(file.fileno()))
        content = file.read(_LARGEST_BYTES)
        return content, before, _stamp(os.fstat(file.fileno()))


def _stamp(status: os.stat_result) -> Stamp:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if status.st_size > _LARGEST_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {_LARGEST_BYTES} bytes")
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
