"""A segment of the spool: a file of one JSON record a line, only ever appended to.

Owns: what counts as a segment, opening one without ever waiting, its lock, reading it. A segment is used by
one thread at a time. A folder may hold anything: a name that looks like a segment's may be a directory, a FIFO, a
device, somebody else's file. Such an entry is odd: it is named, and all others are used as if it were not there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path

from gateway.records.interception_record import InterceptionRecord, decode_record
from gateway.runtime.background import make_way

SUFFIX = ".jsonl"
# Far more than any worker writes to one, which goes on with another behind a few MiB.
LONGEST_BYTES = 64 * 1024 * 1024
_BATCH = 500

# Called for each odd entry, with its name and why it is left out.
Odd = Callable[[str, str], None]


class HeldSegment:
    """A segment under this process's lock."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.size_bytes = os.fstat(descriptor).st_size
        self.is_written_again = False  # its file was removed, and another has its records, too
        self._descriptor = descriptor

    @classmethod
    def begun(cls, path: Path) -> HeldSegment:
        """A new one; it has its name only once it is locked, so that nobody adopts it before."""
        unnamed = path.with_suffix(".new")
        descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            unnamed.rename(path)
        except OSError:
            os.close(descriptor)
            unnamed.unlink(missing_ok=True)
            raise
        return cls(path, descriptor)

    @classmethod
    def adopted(cls, path: Path) -> HeldSegment | None:
        """One that is there, if nobody else holds it. Raises OSError for an odd one."""
        try:
            descriptor = _opened(path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:  # else it was shipped and removed a moment ago
                return cls(path, descriptor)
        except BlockingIOError:
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    @property
    def identity(self) -> tuple[int, int]:
        """What tells it from every other file, whatever their names."""
        status = os.fstat(self._descriptor)
        return status.st_dev, status.st_ino

    def is_in_place(self) -> bool:
        """Whether it can be found under its name: nobody has removed or replaced it, or its folder."""
        try:
            return os.path.samestat(os.lstat(self.path), os.fstat(self._descriptor))
        except OSError:
            return False

    def append(self, data: bytes) -> None:
        """Write all of it or, raising OSError, none."""
        try:
            written = os.write(self._descriptor, data)
        except OSError:
            written = 0
            raise
        finally:
            if written < len(data):
                os.ftruncate(self._descriptor, self.size_bytes)
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size_bytes += written

    def secure(self) -> None:
        """It may have to wait long: bring it to the disk."""
        os.fdatasync(self._descriptor)

    def content(self) -> bytes:
        """All of it, as it is. Raises OSError."""
        return _content(self._descriptor, self.size_bytes)

    def read(self) -> Iterator[tuple[list[InterceptionRecord], int]]:
        """Its records, some at a time, each time with the number of lines that cannot be read. Raises OSError.

        Half a line at its end is none: nobody was told that it had been written.
        """
        return _parsed(self.content())

    def remove(self) -> None:
        """Delete it, and with it the lock. Raises OSError if its name stays, with nothing behind it any more."""
        try:
            if self.is_in_place():
                self.path.unlink(missing_ok=True)
        except OSError:
            os.ftruncate(self._descriptor, 0)  # or its records would be shipped again and again
            raise
        finally:
            self.release()

    def release(self) -> None:
        """Leave it to others."""
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


def segments(folder: Path, odd: Odd) -> list[tuple[Path, int]]:
    """The segments in a folder and their sizes in bytes; none if there is no folder. Raises OSError."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.endswith(SUFFIX):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                    _refuse_odd(status)
                except FileNotFoundError:
                    continue  # shipped a moment ago
                except OSError as error:
                    odd(entry.name, words_of(error))
                    continue
                found.append((Path(entry.path), status.st_size))
    except FileNotFoundError:
        return []
    return sorted(found)


def records_in(path: Path) -> Iterator[InterceptionRecord]:
    """The records of a segment, whoever holds it; none if it is gone. Raises OSError for an odd one."""
    try:
        descriptor = _opened(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        data = _content(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)
    for records, _ in _parsed(data):
        yield from records


def words_of(error: OSError) -> str:
    """What went wrong, without the path."""
    return error.strerror or type(error).__name__


def _opened(path: Path, flags: int) -> int:
    """A descriptor of it. Raises OSError if it is odd: opening must not wait, as for a FIFO, nor follow a link."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _refuse_odd(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_odd(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if status.st_size > LONGEST_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {LONGEST_BYTES >> 20} MiB, which no gateway writes")


def _content(descriptor: int, size_bytes: int) -> bytes:
    pieces = []
    at = 0
    while at < size_bytes and (piece := os.pread(descriptor, size_bytes - at, at)):
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces)


def _parsed(data: bytes) -> Iterator[tuple[list[InterceptionRecord], int]]:
    lines = (line for line in BytesIO(data) if line.endswith(b"\n"))
    while some := list(islice(lines, _BATCH)):
        records, damaged = [], 0
        for line in some:
            try:
                records.append(decode_record(line))
            except ValueError:
                damaged += 1
            make_way()
        yield records, damaged
