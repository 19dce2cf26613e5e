"""One file of counts: named numbers in mapped memory, which others read while they change.

Owns: the format, and the file's room. One thread at a time writes. The format is prometheus-client's
(`mmap_dict`), which merges such files:

    used bytes (4, and 4 unused), then entries: length (4), key (padded to a multiple of 8), value (8), timestamp (8)
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from gateway.runtime.allocation import allocate

# prometheus-client reads off a file's name what kind of numbers it holds. Gauges of LIVE_KINDS count only while their
# process lives. A file begins with so many bytes, and doubles.
LIVE_KINDS = ("gauge_livesum", "gauge_livemax", "gauge_livemin")
FIRST_BYTES = {"counter": 1 << 18, "histogram": 1 << 18} | dict.fromkeys(
    (*LIVE_KINDS, "gauge_max", "gauge_mostrecent"), 1 << 15
)

_HEAD = struct.Struct("=i4x")
_LENGTH = struct.Struct("=i")
_VALUE = struct.Struct("=dd")
_WORD_BYTES = 8


class CountsFile:
    """A file of counts, with blocks for all of it; it doubles when it is full. What is there already stays.

    Raises OSError if there is no room for it. A key's place is counted in words of 8 bytes: in `words` its number
    stands there, and its timestamp behind. A word is written at a stroke, so that no reader sees half of it.
    """

    def __init__(self, path: Path, first_bytes: int) -> None:
        self._path = path
        self._descriptor = _opened(path, first_bytes)
        try:
            self._memory = mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size)
        except BaseException:
            os.close(self._descriptor)
            raise
        try:
            self._used, self._places = _read(self._memory)
        except (ValueError, struct.error):  # whatever wrote it, it is not ours
            self._used, self._places = _HEAD.size, {}
        self._memory[: _HEAD.size] = _HEAD.pack(self._used)
        self.words = self._in_words()

    def place(self, key: bytes) -> int:
        """Where a key's number is, from now on if it was not there. Raises OSError if there is no room."""
        place = self._places.get(key)
        return self._begun(key) if place is None else place

    def is_gone(self) -> bool:
        """Whether somebody has removed the file, or put another in its place."""
        try:
            return self._path.stat().st_ino != os.fstat(self._descriptor).st_ino
        except OSError:
            return True

    def close(self) -> None:
        """Let go of it."""
        self.words.release()
        self._memory.close()
        os.close(self._descriptor)

    def _begun(self, key: bytes) -> int:
        padded = key + b" " * (8 - (len(key) + _LENGTH.size) % 8)
        entry = _LENGTH.pack(len(key)) + padded + _VALUE.pack(0.0, 0.0)
        end = self._used + len(entry)
        if end > len(self._memory):
            size_bytes = len(self._memory)
            while size_bytes < end:
                size_bytes *= 2
            allocate(self._descriptor, size_bytes)
            self.words.release()  # what somebody looks at cannot be resized
            self._memory.resize(size_bytes)
            self.words = self._in_words()
        self._memory[self._used : end] = entry
        self._memory[: _HEAD.size] = _HEAD.pack(end)  # from here on it is read
        self._used = end
        self._places[key] = place = (end - _VALUE.size) // _WORD_BYTES
        return place

    def _in_words(self) -> memoryview[float]:
        whole = len(self._memory) // _WORD_BYTES * _WORD_BYTES
        return memoryview(self._memory)[:whole].cast("d")


def counts_path(folder: Path, kind: str, row: int) -> Path:
    """A worker's file of one kind."""
    return folder / f"{kind}_{row}.db"


def make_room(path: Path, first_bytes: int) -> None:
    """Make a file with blocks for all of it, and nothing in it. Raises OSError."""
    os.close(_opened(path, first_bytes))


def make_empty(path: Path) -> None:
    """Forget what is in a file; its room stays."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.pwrite(descriptor, _HEAD.pack(_HEAD.size), 0)
    finally:
        os.close(descriptor)


def _opened(path: Path, first_bytes: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        allocate(descriptor, max(os.fstat(descriptor).st_size, first_bytes))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _read(memory: mmap.mmap) -> tuple[int, dict[bytes, int]]:
    """How much of a file is used, and the places of the numbers in it. Raises ValueError and struct.error."""
    (used,) = _HEAD.unpack_from(memory, 0)
    return used or _HEAD.size, dict(_entries(memory, used or _HEAD.size))


def _entries(memory: mmap.mmap, used: int) -> Iterator[tuple[bytes, int]]:
    at = _HEAD.size
    if not at <= used <= len(memory):
        raise ValueError("it says that it is longer than it is")
    while at < used:
        (length,) = _LENGTH.unpack_from(memory, at)
        begin = at + _LENGTH.size
        position = begin + length + 8 - (length + _LENGTH.size) % 8
        at = position + _VALUE.size
        if length < 0 or at > used:
            raise ValueError("an entry is longer than the file")
        yield memory[begin : begin + length], position // _WORD_BYTES
