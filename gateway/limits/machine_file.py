"""The file in which the workers of one machine count together: `limits.counts` in the data folder.

Owns: the file, its room, the lock on it, and which of its columns is this process's. One thread at a time.

The kernel keeps both kinds of lock, and takes them back when a process has ended, however it did: `flock` on the file
for whoever reads or writes, and a lock on one byte, far behind the file's end, for a column. To take the first and give
it back takes 1.4 µs, 0.3 % of a request. The blocks are allocated before they are written to, for the kernel would
kill who writes where the disk is full.

A file that is too short, damaged, or of another version is set aside. One that was removed, or stands no longer under
its name, is given up: `keep` tells.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from gateway.limits.slot import COLUMNS, SLOT_BYTES
from gateway.limits.slots import PAGE_BYTES, Slots, first_page, is_sound
from gateway.runtime.allocation import allocate
from gateway.runtime.data_folder import make_private

FILE_NAME = "limits.counts"
ASIDE_NAME = "limits.counts.unusable"

_FIRST_SLOTS = 64
_TRIES = 3
_FIRST_COLUMN_BYTE = 1 << 40
_SHORTEST_PAUSE_SECONDS = 0.00005
_LONGEST_PAUSE_SECONDS = 0.001
_LOCK_NOW = fcntl.LOCK_EX | fcntl.LOCK_NB
_LOCK = struct.Struct("hhqqi4x")  # struct flock, see fcntl(2)


class Memory(Protocol):
    """Where counts lie. Whoever has it may read and write until `release`."""

    slots: Slots
    column: int

    def make_room(self) -> None:
        """Let one more subject fit in. Raises OSError if there is no room."""

    def clear_dead(self) -> None:
        """Clear the columns of processes that have ended."""

    def release(self) -> None:
        """Let others have it."""


class PrivateMemory:
    """Counts that this process keeps to itself: new ones, or a copy of others."""

    def __init__(self, slots: Slots | None = None) -> None:
        if slots is None:
            content = bytearray(PAGE_BYTES + _FIRST_SLOTS * SLOT_BYTES)
            content[:PAGE_BYTES] = first_page(secrets.token_bytes(16))
            slots = Slots(memoryview(content))
            slots.take_column(0)
        self.slots = slots
        self.column = 0

    def hear(self, other: Memory) -> None:
        """Know what is counted there, but for what the process that has its column runs."""
        for counted in other.slots.all():
            self.make_room()
            self.slots.add(counted.subject).hear(counted.known(other.column))

    def make_room(self) -> None:
        """Double it, if it is full."""
        if self.slots.is_full:
            content = self.slots.memory.tobytes()
            twice = memoryview(bytearray(content + bytes(len(content) - PAGE_BYTES)))
            self.slots = Slots(twice, self.slots.places)

    def clear_dead(self) -> None:
        """There is no other process."""

    def release(self) -> None:
        """There is nobody else."""


class MachineFile:
    """The file, opened, with a column of its own; begun if it is not there. It is locked at first.

    Raises OSError if that cannot be.
    """

    def __init__(self, path: Path, patience_seconds: float) -> None:
        self._path = path
        make_private(path.parent)
        self._descriptor, self.has_set_aside = _opened(path, patience_seconds)
        try:
            self._size_bytes = os.fstat(self._descriptor).st_size
            self._memory = mmap.mmap(self._descriptor, self._size_bytes)
            self.slots = Slots(memoryview(self._memory))
            self.column = self._taken_column()
        except BaseException:
            os.close(self._descriptor)
            raise

    def take(self) -> bool:
        """Take the lock, and follow, if that is done at once, as nearly always; else False, without the lock."""
        try:
            fcntl.flock(self._descriptor, _LOCK_NOW)
            if os.lseek(self._descriptor, 0, os.SEEK_END) == self._size_bytes and self.slots.is_sound():
                return True
            self.release()
        except OSError:  # another process has it; what else is wrong is met again by `lock` and `follow`
            pass
        return False

    def lock(self, patience_seconds: float) -> bool:
        """Wait for the lock; False if another process keeps it for so long."""
        return _locked(self._descriptor, patience_seconds)

    def release(self) -> None:
        """Give the lock back."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def follow(self) -> bool:
        """See that all of the file is mapped, as others may have made it longer; False if it is no longer of use.

        Called under the lock, before anything is read or written.
        """
        size_bytes = os.lseek(self._descriptor, 0, os.SEEK_END)  # nobody reads or writes by way of the descriptor
        if size_bytes != self._size_bytes:
            if size_bytes < self._size_bytes:
                return False
            self._map(size_bytes)
        return self.slots.is_sound()

    def stands(self) -> bool:
        """Whether it is still what stands under its name; one that was removed holds counts that nobody finds."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except OSError:
            return False

    def make_room(self) -> None:
        """Let one more subject fit in. Under the lock. Raises OSError if the disk is full."""
        if self.slots.is_full:
            size_bytes = PAGE_BYTES + 2 * (self._size_bytes - PAGE_BYTES)
            allocate(self._descriptor, size_bytes)
            self._map(size_bytes)

    def clear_dead(self) -> None:
        """Clear the columns of processes that have ended. Under the lock."""
        for column in self.slots.taken_columns():
            if column != self.column and not self._is_alive(column):
                self.slots.drop_column(column)

    def set_aside(self) -> None:
        """Give it another name: it holds what no gateway has written. Raises nothing."""
        with suppress(OSError):
            os.rename(self._path, self._path.with_name(ASIDE_NAME))

    def close(self) -> None:
        """Let go of it, and of the column. What is mapped stays until nobody uses it."""
        os.close(self._descriptor)

    def _map(self, size_bytes: int) -> None:
        self._memory = mmap.mmap(self._descriptor, size_bytes)
        self._size_bytes = size_bytes
        self.slots = Slots(memoryview(self._memory), self.slots.places)

    def _taken_column(self) -> int:
        for column in range(COLUMNS):
            with suppress(BlockingIOError):
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _byte_of(column))
                self.slots.take_column(column)
                return column
        raise OSError(errno.EUSERS, f"{COLUMNS} processes use it", str(self._path))

    def _is_alive(self, column: int) -> bool:
        answer = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, _byte_of(column))
        return bool(_LOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def read_slots(path: Path, patience_seconds: float) -> Slots | None:
    """A copy of the counts as they are now, for who takes no part; None if there are none. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        _locked(descriptor, patience_seconds, fcntl.LOCK_SH)  # if not, some number may be half a request off
        content = bytearray(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    finally:
        os.close(descriptor)
    return Slots(memoryview(content)) if is_sound(bytes(content[:PAGE_BYTES]), len(content)) else None


def _opened(path: Path, patience_seconds: float) -> tuple[int, bool]:
    """A descriptor of a sound file, with the lock on it; and whether another one was set aside."""
    has_set_aside = False
    for _ in range(_TRIES):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _lock(path, descriptor, patience_seconds)
            if _stands(path, descriptor):
                if _is_usable(descriptor):
                    return descriptor, has_set_aside
                os.rename(path, path.with_name(ASIDE_NAME))
                has_set_aside = True
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise OSError(errno.ESTALE, "it is replaced again and again", str(path))


def _lock(path: Path, descriptor: int, patience_seconds: float) -> None:
    if not _locked(descriptor, patience_seconds):
        raise TimeoutError(errno.ETIMEDOUT, "another process holds its lock and does not let go", str(path))


def _stands(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _is_usable(descriptor: int) -> bool:
    """Whether the file can be used; it is begun if it is new."""
    size_bytes = os.fstat(descriptor).st_size
    page = os.pread(descriptor, PAGE_BYTES, 0)
    is_new = not any(page)
    if not is_new and not is_sound(page, size_bytes):
        return False
    allocate(descriptor, max(size_bytes, PAGE_BYTES + _FIRST_SLOTS * SLOT_BYTES))
    if is_new:
        os.pwrite(descriptor, first_page(secrets.token_bytes(16)), 0)
    return True


def _locked(descriptor: int, patience_seconds: float, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return _locked_later(descriptor, patience_seconds, kind)
    return True


def _locked_later(descriptor: int, patience_seconds: float, kind: int) -> bool:
    deadline = time.monotonic() + patience_seconds
    pause_seconds = _SHORTEST_PAUSE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(pause_seconds)
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
    return False


def _byte_of(column: int) -> bytes:
    return _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _FIRST_COLUMN_BYTE + column, 1, 0)
