"""Short entries that processes leave for each other, the latest ones of each.

Owns: the memory, which is anonymous, shared, and made before the fork; a page of it is taken when it is first written.
Each part has one process that writes it; all processes read all parts. An entry that is read in the middle of being
written does not fit its checksum, and is read again. A process that takes over a dead one's part goes on in it.
"""

from __future__ import annotations

import mmap
import struct
import threading
import zlib
from collections.abc import Iterator

_COUNT = struct.Struct("@q")
_HEAD = struct.Struct("@II")  # checksum, length
_READINGS = 5


class SharedRing:
    """So many parts with so many entries of so many bytes at most. Thread-safe."""

    def __init__(self, parts: int, entries: int, entry_bytes: int) -> None:
        self._parts = parts
        self._entries = entries
        self._entry_bytes = entry_bytes + _HEAD.size
        self._counts = mmap.mmap(-1, parts * _COUNT.size)  # entries ever added, by part
        self._memory = mmap.mmap(-1, parts * entries * self._entry_bytes)
        self._lock = threading.Lock()  # guards what this process writes

    def add(self, part: int, entry: bytes) -> None:
        """Leave an entry, at last in the place of the part's oldest. Raises ValueError if it is too long."""
        with self._lock:
            count = self._count(part)
            self._write(part, count, entry)
            _COUNT.pack_into(self._counts, part * _COUNT.size, count + 1)

    def replace_last(self, part: int, entry: bytes) -> None:
        """Put an entry in the place of the latest. Raises ValueError if it is too long, or there is none."""
        with self._lock:
            count = self._count(part)
            if not count:
                raise ValueError("there is no entry")
            self._write(part, count - 1, entry)

    def read(self) -> Iterator[bytes]:
        """All entries of all parts."""
        for part, (count,) in enumerate(_COUNT.iter_unpack(self._counts[:])):
            for number in range(max(0, count - self._entries), count):
                entry = self._read(part, number)
                if entry is not None:
                    yield entry

    def _count(self, part: int) -> int:
        (count,) = _COUNT.unpack_from(self._counts, part * _COUNT.size)
        return int(count)

    def _position(self, part: int, number: int) -> int:
        return (part * self._entries + number % self._entries) * self._entry_bytes

    def _write(self, part: int, number: int, entry: bytes) -> None:
        if len(entry) + _HEAD.size > self._entry_bytes:
            raise ValueError(f"an entry of {len(entry)} bytes is too long")
        position = self._position(part, number)
        written = _HEAD.pack(zlib.crc32(entry), len(entry)) + entry
        self._memory[position : position + len(written)] = written

    def _read(self, part: int, number: int) -> bytes | None:
        position = self._position(part, number)
        for _ in range(_READINGS):
            whole = self._memory[position : position + self._entry_bytes]
            checksum, length = _HEAD.unpack_from(whole)
            entry = whole[_HEAD.size : _HEAD.size + length]
            if zlib.crc32(entry) == checksum:
                return entry
        return None  # its writer died in the middle of it, or writes all the time
