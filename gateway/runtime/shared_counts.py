"""What workers have counted, where all of them can read it and no full disk can hurt.

Owns: a worker's values, and its files of them. Thread-safe. prometheus-client's own files
would lie on a disk and grow by pages without blocks, so that a full disk kills who counts (SIGBUS); and each process
that ever lived leaves its own. Here they lie in a memory file system, every page is allocated before it is used, and a
worker goes on in the files of the dead one that had its row: so they are as many as there are workers.

A value is kept in its worker's memory and copied to its place in a file. One for which there is no room counts on, and
is shown as soon as it has a place; files that are removed under a running worker are written again.
"""

from __future__ import annotations

import logging
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

from prometheus_client.mmap_dict import mmap_key

from gateway.runtime.counts_file import FIRST_BYTES, CountsFile, counts_path

log = logging.getLogger(__name__)


class SharedValue:
    """One number, as prometheus-client wants it. Its place in a file may be none, for lack of room."""

    __slots__ = ("_lock", "amount", "file", "is_heir", "key", "kind", "place", "timestamp")

    _multiprocess = True  # prometheus-client looks for it

    def __init__(self, lock: threading.Lock, kind: str, key: bytes) -> None:
        self._lock = lock
        self.kind = kind
        self.key = key
        self.amount = self.timestamp = 0.0
        self.file: CountsFile | None = None
        self.place = 0
        self.is_heir = True  # until it has had a place: what is found there was counted by an earlier worker

    def inc(self, amount: float) -> None:
        """Add to it. Every request does so twenty times: as `with` and `write` it would take twice as long."""
        self._lock.acquire()
        try:
            self.amount += amount
            if self.file is not None:
                self.file.words[self.place] = self.amount
        finally:
            self._lock.release()

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Replace it."""
        with self._lock:
            self.amount = value
            self.timestamp = timestamp or 0.0
            self.write()

    def get(self) -> float:
        """What it is now."""
        return self.amount

    def set_exemplar(self, exemplar: object) -> None:
        """They are not kept."""

    def get_exemplar(self) -> None:
        """They are not kept."""

    def write(self) -> None:
        """Copy it to its place. The lock is held."""
        if self.file is not None:
            self.file.words[self.place] = self.amount
            self.file.words[self.place + 1] = self.timestamp  # last: it says which worker's number is the latest

    def settle(self, file: CountsFile) -> None:
        """Have a place in a file. The lock is held. Raises OSError if there is no room."""
        place = file.place(self.key)
        if self.is_heir:
            amount, timestamp = file.words[place], file.words[place + 1]
            if not self.kind.startswith("gauge"):
                self.amount += amount
            elif not self.amount:
                self.amount, self.timestamp = amount, timestamp
            self.is_heir = False
        self.file, self.place = file, place
        self.write()


class SharedCounts:
    """One worker's values, in its files of the folder."""

    def __init__(self, folder: Path, row: int) -> None:
        self._folder = folder
        self._row = row
        self._lock = threading.Lock()  # guards all values, files and what follows
        self._files: dict[str, CountsFile] = {}
        self._values: list[SharedValue] = []
        self._homeless: list[SharedValue] = []
        self._is_short = False

    def value(
        self,
        kind: str,
        metric_name: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_: object,
    ) -> SharedValue:
        """Make a value; this is what prometheus-client calls (`values.ValueClass`)."""
        key = mmap_key(metric_name, name, list(labelnames), list(labelvalues), help_text).encode()
        value = SharedValue(self._lock, f"{kind}_{multiprocess_mode}" if kind == "gauge" else kind, key)
        with self._lock:
            self._values.append(value)
            self._homeless.append(value)
        if not self._is_short:  # else the next round of housekeeping looks whether there is room
            self.settle()
        return value

    def settle(self) -> None:
        """Find a place for what has none; also for what had one in a file that was removed."""
        if not self._homeless and not self._has_lost_files():
            return
        with self._lock:
            has_lost_files = self._has_lost_files()
            if has_lost_files:
                self._leave_files()
            error = self._find_places()
            was_short, self._is_short = self._is_short, error is not None
        if has_lost_files:
            log.warning("files of counts were removed from %s: they are written again", self._folder)
        if error is not None and not was_short:
            log.error("there is no room for counts in %s (%s): new ones are shown when there is", self._folder, error)
        elif error is None and was_short:
            log.info("there is room for all counts in %s again", self._folder)

    def paths(self) -> list[str]:
        """The files of all workers that have something in them."""
        files = self._folder.glob("*.db")
        return [str(file) for file in files if file.name.rpartition("_")[0] in FIRST_BYTES and _size_of(file)]

    def _find_places(self) -> OSError | None:
        failures: dict[str, OSError] = {}
        waiting, self._homeless = self._homeless, []
        for value in waiting:
            if value.kind not in failures:
                try:
                    value.settle(self._file(value.kind))
                    continue
                except OSError as error:
                    failures[value.kind] = error
            self._homeless.append(value)
        return next(iter(failures.values()), None)

    def _file(self, kind: str) -> CountsFile:
        file = self._files.get(kind)
        if file is None:
            self._folder.mkdir(mode=0o700, exist_ok=True)  # whoever cleans up there does not know us
            file = self._files[kind] = CountsFile(counts_path(self._folder, kind, self._row), FIRST_BYTES[kind])
        return file

    def _has_lost_files(self) -> bool:
        return any(file.is_gone() for file in list(self._files.values()))

    def _leave_files(self) -> None:
        for value in self._values:
            value.file = None
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._homeless = list(self._values)


def _size_of(file: Path) -> int:
    try:
        status = file.lstat()
    except FileNotFoundError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
