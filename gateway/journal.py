"""Records on disk that the database has not got yet.

Owns: the files, their format and who may touch them. Edge layer; a Journal is thread-safe. A segment is a file of one
JSON record a line, only ever appended to. Each worker writes to a segment of its own and holds it, and those that it
has filled, by a file lock that the kernel takes back when the process ends, however it does; so a segment that can be
locked is one that a dead worker has left behind. Files are private. They are not synchronised with the disk at every
write: a killed process loses nothing by that, a machine that loses its power the last seconds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, count
from pathlib import Path

from gateway.interception_record import InterceptionRecord, decode_record, encode_record

LIMIT_BYTES = 256 * 1024 * 1024
_SEGMENT_BYTES = 4 * 1024 * 1024
_SUFFIX = ".jsonl"


class HeldSegment:
    """A segment under this process's lock."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.size_bytes = os.fstat(descriptor).st_size
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
            raise
        return cls(path, descriptor)

    @classmethod
    def adopted(cls, path: Path) -> HeldSegment | None:
        """One that is there, if nobody else holds it."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:  # else it was shipped and removed a moment ago
                return cls(path, descriptor)
        except BlockingIOError:
            pass
        os.close(descriptor)
        return None

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

    def read(self) -> tuple[list[InterceptionRecord], int]:
        """Its records, and the number of lines that cannot be read; half a line at its end is none."""
        return _parse(os.pread(self._descriptor, self.size_bytes, 0))

    def remove(self) -> None:
        """Delete it, and with it the lock."""
        self.path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Leave it to others."""
        os.close(self._descriptor)


class FileJournal:
    """The journal in one folder, as one process sees it. `limit_bytes` bounds the folder, all processes together."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._segment_bytes = segment_bytes
        self._numbers = count(1)
        self._lock = threading.Lock()  # guards what follows, and the writing to _open
        self._open: HeldSegment | None = None  # the one that is appended to
        self._held: list[HeldSegment] = []  # those that are full, sealed or adopted
        self._others_bytes = 0

    def append(self, records: Sequence[InterceptionRecord]) -> int:
        """Write records; how many of them found room below the limit."""
        lines = [encode_record(record) for record in records]
        with self._lock:
            if self._open is None:
                self._open = self._begun()
            room_bytes = self._limit_bytes - self._others_bytes - self._open.size_bytes
            fitting = _fitting(lines, room_bytes)
            if fitting:
                self._open.append(b"".join(fitting))
            if self._open.size_bytes >= self._segment_bytes:
                self._open.secure()
                self._seal()
        return len(fitting)

    def take(self) -> list[HeldSegment]:
        """This process's segments and those that dead ones have left behind; nothing more is appended to them."""
        with self._lock:
            self._seal()
            for path, _ in _segments(self._folder):
                segment = HeldSegment.adopted(path)
                if segment is not None:
                    self._held.append(segment)
            return list(self._held)

    def remove(self, segment: HeldSegment) -> None:
        """Delete a segment whose records are in the database."""
        segment.remove()
        with self._lock:
            self._held.remove(segment)

    def close(self) -> None:
        """Leave what there is to others."""
        with self._lock:
            self._seal()
            for segment in self._held:
                segment.release()
            self._held.clear()

    def _begun(self) -> HeldSegment:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._others_bytes = sum(size_bytes for _, size_bytes in _segments(self._folder))
        return HeldSegment.begun(self._folder / f"{os.getpid()}-{next(self._numbers)}-{os.urandom(4).hex()}{_SUFFIX}")

    def _seal(self) -> None:
        if self._open is not None:
            self._held.append(self._open)
            self._open = None


def waiting_records(folder: Path) -> Iterator[InterceptionRecord]:
    """All records in the journals of a folder, whoever holds them. Raises OSError."""
    for path, _ in _segments(folder):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue  # shipped a moment ago
        yield from _parse(data)[0]


def _segments(folder: Path) -> list[tuple[Path, int]]:
    """The segments in a folder and their sizes in bytes."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIX):
                    with suppress(FileNotFoundError):  # shipped a moment ago
                        found.append((Path(entry.path), entry.stat().st_size))
    except FileNotFoundError:
        return []
    return sorted(found)


def _fitting(lines: list[bytes], room_bytes: int) -> list[bytes]:
    """As many of the first lines as there is room for."""
    ends = accumulate(map(len, lines))
    return [line for line, end in zip(lines, ends, strict=True) if end <= room_bytes]


def _parse(data: bytes) -> tuple[list[InterceptionRecord], int]:
    whole = data[: data.rfind(b"\n") + 1]
    records, damaged = [], 0
    for line in whole.splitlines():
        try:
            records.append(decode_record(line))
        except ValueError:
            damaged += 1
    return records, damaged
