"""Records on disk that the database has not got yet.

Owns: the folder of segments and who may touch which. A Spool is thread-safe. Each worker writes to a
segment of its own and holds it, and those that it has filled, by a file lock that the kernel takes back when the
process ends, however it does; so a segment that can be locked is one that a dead worker has left behind. Files are
private. They are not synchronised with the disk at every write: a killed process loses nothing by that, a machine that
loses its power the last seconds.

Nothing in the folder stops the rest: an entry that is no segment, or cannot be used, is told once and left out. If the
folder is removed or replaced, a new one is begun, and what this process still holds is written there again.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from itertools import accumulate, count
from pathlib import Path

from gateway.records.interception_record import InterceptionRecord, encode_record
from gateway.records.segment import SUFFIX, HeldSegment, Odd, records_in, segments, words_of
from gateway.runtime.data_folder import make_private

log = logging.getLogger(__name__)

LIMIT_BYTES = 256 * 1024 * 1024
_SEGMENT_BYTES = 4 * 1024 * 1024


class FileSpool:
    """The spool in one folder, as one process sees it. `limit_bytes` bounds the folder, all processes together."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._segment_bytes = segment_bytes
        self._numbers = count(1)
        self._lock = threading.Lock()  # guards what follows, and the writing to _open
        self._open: HeldSegment | None = None  # the one that is appended to
        self._held: list[HeldSegment] = []  # those that are full, sealed or adopted
        self._others_bytes = 0
        self._told: set[str] = set()  # the names of odd entries; the forwarder's thread alone
        self._given_up: set[tuple[int, int]] = set()  # unreadable, unremovable: the forwarder's thread alone

    def append(self, records: Sequence[InterceptionRecord]) -> int:
        """Write records; how many of them found room below the limit."""
        lines = [encode_record(record) for record in records]
        with self._lock:
            if self._open is not None and not self._open.is_in_place():
                self._seal()
                self._write_removed_again()
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
        odd: dict[str, str] = {}
        with self._lock:
            self._seal()
            self._write_removed_again()
            self._adopt(odd.__setitem__)
            taken = list(self._held)
        for name in sorted(odd.keys() - self._told):
            log.warning("%r in %s is left out: %s; the rest of the spool goes on", name, self._folder, odd[name])
        self._told = set(odd)
        return taken

    def remove(self, segment: HeldSegment) -> None:
        """Delete a segment whose records are in the database."""
        if not self._let_go(segment):
            return
        identity = segment.identity
        try:
            segment.remove()
        except OSError as error:
            self._given_up.add(identity)  # or it would be taken, and told of, again and again
            log.warning("%s cannot be removed: %s; its records are stored", segment.path, words_of(error))

    def give_up(self, segment: HeldSegment, error: OSError) -> None:
        """A segment cannot be read: this process leaves it where it is."""
        if not self._let_go(segment):
            return
        self._given_up.add(segment.identity)
        segment.release()
        log.error("%s cannot be read: %s; what waits in it is not stored", segment.path, error.strerror)

    def close(self) -> None:
        """Leave what there is to others."""
        with self._lock:
            self._seal()
            self._write_removed_again()
            for segment in self._held:
                segment.release()
            self._held.clear()

    def _let_go(self, segment: HeldSegment) -> bool:
        """Whether it was still held: a stop that waits for nobody may have left it to others."""
        with self._lock:
            is_held = segment in self._held
            if is_held:
                self._held.remove(segment)
        return is_held

    def _begun(self) -> HeldSegment:
        make_private(self._folder.parent)
        make_private(self._folder)
        self._others_bytes = sum(size_bytes for _, size_bytes in _found(self._folder, lambda name, why: None))
        return HeldSegment.begun(self._folder / f"{os.getpid()}-{next(self._numbers)}-{os.urandom(4).hex()}{SUFFIX}")

    def _seal(self) -> None:
        if self._open is not None:
            self._held.append(self._open)
            self._open = None

    def _adopt(self, odd: Odd) -> None:
        held = {segment.path for segment in self._held}
        for path, _ in _found(self._folder, odd):
            if path in held:
                continue
            try:
                segment = HeldSegment.adopted(path)
            except OSError as error:
                odd(path.name, words_of(error))
                continue
            if segment is not None and segment.identity in self._given_up:
                segment.release()
            elif segment is not None:
                self._held.append(segment)

    def _write_removed_again(self) -> None:
        """Segments that somebody has removed, or their folder, live on in this process alone: not for longer.

        Each stays held besides, for it may be on its way to the database; there it counts once, whoever brings it.
        """
        removed = [segment for segment in self._held if not (segment.is_written_again or segment.is_in_place())]
        for segment in removed:
            try:
                again = self._begun()
            except OSError:
                return  # appending meets the same, and tells it
            self._held.append(again)
            try:
                again.append(segment.content())
            except OSError:
                return
            segment.is_written_again = True
            log.warning("%s was removed while its records waited: they are in a new segment", segment.path)


def waiting_records(folder: Path, odd: Odd | None = None) -> Iterator[InterceptionRecord]:
    """All records in the spools of a folder, whoever holds them; `odd` is told what is left out. Raises OSError."""
    told = odd if odd is not None else lambda name, why: None
    for path, _ in segments(folder, told):
        try:
            yield from records_in(path)
        except OSError as error:
            told(path.name, words_of(error))


def _found(folder: Path, odd: Odd) -> list[tuple[Path, int]]:
    """The segments in a folder; if nobody may look into it, that is told like an odd entry."""
    try:
        return segments(folder, odd)
    except OSError as error:
        odd(".", words_of(error))
        return []


def _fitting(lines: list[bytes], room_bytes: int) -> list[bytes]:
    """As many of the first lines as there is room for."""
    ends = accumulate(map(len, lines))
    return [line for line, end in zip(lines, ends, strict=True) if end <= room_bytes]
