"""The form of the file that holds the keys' records, and how it is read and written.

Owns: `keys.jsonl`. No locks, no threads. The first line says whose file it is, each other one what is
known of a key from then on. A mark adds a line, which costs no more than that; a file that has grown long is replaced,
at one stroke, by one that says the same in a line a key. So a reader reads on from where it was, and what has changed
shows in the file's number and length. (The time of the last change would not do: several marks may have the same.)

A process that is killed in the middle leaves half a line at the most: readers do not take it before its end has come,
and the next writer ends it with a mark that says it counts for nothing. Nothing is mapped into memory, so no other
program can harm a process by what it does to the file. Lines are not brought to the disk one by one: records outlive
processes, which is what counts; after a power failure the last seconds are missing.

Points in time are seconds of the machine's clock, which begins anew at each start of the machine. So the file says by
which start, and what the wall clock showed when it was begun: what is left of a cooldown is carried over, less the time
in between.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from gateway.keys.key_record import Record
from gateway.keys.subjects import is_sound
from gateway.runtime.machine_clock import boot_id, machine_time

FILE_NAME = "keys.jsonl"
ASIDE_NAME = "keys.jsonl.unusable"
_FRESH_NAME = "keys.jsonl.new"
LONG_BYTES = 512 * 1024
_LONGEST_BYTES = 64 * 1024 * 1024
_REMEMBERED_BYTES = 256
_CUT = b"\x18"  # "cancel": the line before it was not written to its end
# What opening raises where something is in the file's place that no gateway has put there.
_NOT_OURS = (errno.EACCES, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR)

# Device, inode, length, time of the last change.
Stamp = tuple[int, int, int, int]


class Unusable(Exception):
    """The file is not the gateway's, or was damaged; the message says how."""


@dataclass(frozen=True, slots=True)
class _Head:
    """Records go by keyed hashes under `salt`. The rest says when the file was begun, and how long it was then."""

    salt: str
    boot: str
    at: float
    wall_at: float
    begun_bytes: int = 0  # behind this line


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_entry = msgspec.json.Decoder(tuple[str, Record]).decode
_encode = msgspec.json.Encoder().encode


class KeysFile:
    """A file that was opened, read from time to time. Not thread-safe.

    As long as it is open no later file gets its inode's number. `stamp` is what it looked like when it was last read.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.stamp: Stamp = _stamp_of(os.fstat(descriptor))
        self._read_bytes = 0
        self._last_bytes = b""  # of those that were read: one who writes over the file does not leave them as they were
        self._begun_bytes = 0
        self.salt = ""
        self.is_of_this_start = True

    @classmethod
    def opened(cls, path: Path) -> KeysFile:
        """Raises FileNotFoundError, Unusable, and other OSErrors, which say nothing of the file."""
        try:
            # A named pipe in its place would keep whoever opens it waiting.
            return cls(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in _NOT_OURS:
                raise Unusable(error.strerror) from error
            raise

    @classmethod
    def begun(cls, folder: int, salt: str, records: Mapping[str, Record]) -> KeysFile:
        """A new one in place of what is there, in the folder that is open as this descriptor. Raises OSError."""
        lines = _lines(records.items())
        head = _Head(salt, boot_id(), machine_time(), time.time(), len(lines))
        with suppress(FileNotFoundError):
            os.unlink(_FRESH_NAME, dir_fd=folder)  # a killed process has left it
        descriptor = os.open(_FRESH_NAME, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            owner = os.fstat(folder)
            if os.geteuid() == 0 and owner.st_uid != 0:  # an operator's command; the gateway must be able to read it
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            _write(descriptor, _encode(head) + b"\n" + lines)
            os.rename(_FRESH_NAME, FILE_NAME, src_dir_fd=folder, dst_dir_fd=folder)
            file = cls(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        file.salt, file._begun_bytes = salt, head.begun_bytes
        file._lines_behind(0)
        return file

    @property
    def is_long(self) -> bool:
        """Whether it is time to begin another."""
        return self._read_bytes > max(LONG_BYTES, 2 * self._begun_bytes)

    def read_on(self) -> tuple[dict[str, Record], bool]:
        """What has been written since the last time, and whether that is all there is. Raises Unusable and OSError."""
        stamp = _stamp_of(os.fstat(self._descriptor))
        was_touched = stamp[2] == self.stamp[2] and stamp != self.stamp
        self.stamp = stamp
        if self._read_bytes and not was_touched:
            lines = self._lines_behind(self._read_bytes)
            if lines is not None:
                return _entries(lines), False
        lines = self._lines_behind(0) or []
        return self._of_this_start(_head(lines), _entries(lines[1:])), True

    def append(self, folder: int, entries: Iterable[tuple[str, Record]]) -> None:
        """Add to it, in a folder whose lock is held, when all that it says was read. Raises OSError."""
        descriptor = os.open(FILE_NAME, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            stamp = _stamp_of(os.fstat(descriptor))
            if stamp != self.stamp:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), FILE_NAME)
            data = (_CUT + b"\n" if stamp[2] > self._read_bytes else b"") + _lines(entries)
            _write(descriptor, data)
            self.stamp = _stamp_of(os.fstat(descriptor))
            self._read_bytes, self._last_bytes = self.stamp[2], data[-_REMEMBERED_BYTES:]
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)

    def _lines_behind(self, start: int) -> list[bytes] | None:
        """The whole lines from there on; None if what stood before them no longer does."""
        if not start and not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise Unusable("it is not a regular file")
        before = self._last_bytes if start else b""
        size_bytes = self.stamp[2] - start + len(before)
        if size_bytes > _LONGEST_BYTES:
            raise Unusable(f"it is longer than {_LONGEST_BYTES} bytes")
        data = os.pread(self._descriptor, max(0, size_bytes), start - len(before))
        if not data.startswith(before):
            return None
        end = data.rfind(b"\n") + 1
        self._read_bytes = start - len(before) + end
        self._last_bytes = data[max(0, end - _REMEMBERED_BYTES) : end]
        return data[len(before) : end].split(b"\n")[:-1]

    def _of_this_start(self, head: _Head, records: dict[str, Record]) -> dict[str, Record]:
        """The same, with points in time of this start of the machine."""
        self.salt, self._begun_bytes = head.salt, head.begun_bytes
        now = machine_time()
        self.is_of_this_start = head.boot == boot_id() and head.at <= now
        if self.is_of_this_start:
            return records
        # What the former clock would show now: not less than what it has shown, whatever the wall clock says.
        known_at = max((max(record.marked_at, record.confirmed_at) for record in records.values()), default=0.0)
        ahead_seconds = now - max(head.at + time.time() - head.wall_at, head.at, known_at)
        return {name: moved(record, ahead_seconds) for name, record in records.items()}


def stamp_at(path: Path) -> Stamp | None:
    """The stamp of what stands there now; None if that is nothing that can be seen."""
    try:
        return _stamp_of(os.stat(path))
    except OSError:
        return None


def set_aside(folder: int) -> None:
    """Give what stands in the file's place another name. Raises OSError."""
    os.rename(FILE_NAME, ASIDE_NAME, src_dir_fd=folder, dst_dir_fd=folder)


def moved(record: Record, ahead_seconds: float) -> Record:
    """A record by another clock, which is ahead of the record's by so much; a lease does not outlive its clock."""

    def at(moment: float) -> float:
        return moment + ahead_seconds if moment else 0.0

    return replace(
        record,
        cooling_until_at=at(record.cooling_until_at),
        confirmed_at=at(record.confirmed_at),
        marked_at=at(record.marked_at),
        lease_until_at=0.0,
    )


def _stamp_of(status: os.stat_result) -> Stamp:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _lines(entries: Iterable[tuple[str, Record]]) -> bytes:
    return b"".join(_encode(entry) + b"\n" for entry in entries)


def _write(descriptor: int, data: bytes) -> None:
    if os.write(descriptor, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), FILE_NAME)


def _head(lines: list[bytes]) -> _Head:
    if not lines:
        raise Unusable("it is empty")
    try:
        return _decode_head(lines[0])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise Unusable(f"line 1: {error}") from error


def _entries(lines: Iterable[bytes]) -> dict[str, Record]:
    """By name, the last one of each."""
    try:
        entries = dict(_decode_entry(line) for line in lines if not line.endswith(_CUT))
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise Unusable(str(error)) from error
    if not all(map(is_sound, entries)):
        raise Unusable("a name is not one of a key")
    return entries
