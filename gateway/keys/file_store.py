"""The records of the keys in a file that all workers of one machine share; no server to run.

Owns: what this process knows of the keys, and when it reads and writes the file (its form is in keys_file). A request
reads what is in memory, and looks by one system call whether another process has written to the file meanwhile. A mark
is made under the folder's lock: what the file says is taken in, the record changed, and a line added to the file.

Nothing that happens to the file, the folder or another process keeps a request from being served. If the lock cannot be
had in time, or the file not be read or written, a mark is made in memory and is news: it is written as soon as that
works. What was removed is written again, and what is unusable is set aside first; so each worker brings along what it
knew, and the rules of gateway.keys.key_record.joined put it together. (Two counts that were made apart may be told as
one.)

The file holds no secret: a key is known by a keyed hash of its fingerprint, under a salt of the file's own.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.keys import keys_file
from gateway.keys.key_record import NEVER_SEEN, Record, started_anew
from gateway.keys.keys_file import KeysFile, Stamp, Unusable, stamp_at
from gateway.keys.known_keys import Known
from gateway.keys.store import Change, MergingStore
from gateway.keys.subjects import MOST_DETAILED, has_detail
from gateway.runtime.folder_lock import FolderLock
from gateway.runtime.machine_clock import machine_time

log = logging.getLogger("gateway.file_store")

_PATIENCE_SECONDS = 0.1
_FLUSH_SECONDS = 1.0
_START_SECONDS = 5.0
_NOTHING_SEEN: Stamp = (-1, -1, -1, -1)


class FileStore(MergingStore):
    """A Store for the workers of one machine. Made after the fork, one a process.

    `folder` is private to the gateway (mode 0700). A call waits for other processes for `patience_seconds` at most, and
    raises no OSError: whether the last change could be shared is what `is_up` tells.
    """

    def __init__(self, folder: Path, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._path = folder / keys_file.FILE_NAME
        self._lock = FolderLock(folder, patience_seconds)
        self._guard = threading.Lock()  # guards what follows; nobody waits for another process under it
        self._known = Known(secrets.token_hex(32), {})
        self._changes = 0
        self._file: KeysFile | None = None
        self._seen: Stamp | None = _NOTHING_SEEN
        self._flaw = ""  # why the file has to be begun anew, if somebody should be told
        self._must_begin = False
        self._news: set[str] = set()  # of these keys something is known here that the file does not say
        self._trouble: OSError | None = None
        self.read(())

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether a gateway has kept its keys' records in this folder."""
        return (folder / keys_file.FILE_NAME).exists()

    @property
    def is_up(self) -> bool:
        """Whether what this process knows and what the file says are the same, as far as it has tried."""
        return self._trouble is None

    @property
    def trouble(self) -> OSError | None:
        """Why it is not up."""
        return self._trouble

    def read(self, fingerprints: Sequence[str]) -> list[Record]:
        self.glance()
        known = self._known
        return [known.record(fingerprint) for fingerprint in fingerprints]

    def glance(self) -> int:
        if stamp_at(self._path) != self._seen:
            self._catch_up()
        return self._changes

    def details(self, base: str) -> list[str]:
        return self._known.details(base)

    def start_anew(self, now: float, former: Known | None = None) -> None:
        """The gateway restarts: give every refused key its one trial. Before any worker runs.

        What is known of subjects with details stays as it is.

        `former` is what a store of another kind has kept here, for a folder without a file.
        """

        def begun(known: Known) -> Known:
            if former is not None and self._file is None:
                known = former
            self._must_begin = True
            return known.having(
                {
                    name: record if has_detail(name) else started_anew(record, now)
                    for name, record in known.records.items()
                }
            )

        self._exchange(begun, patience_seconds=_START_SECONDS)

    def _change(self, fingerprint: str, change: Change) -> tuple[Record, Record]:
        before = after = NEVER_SEEN

        def changed(known: Known) -> Known:
            nonlocal before, after
            before = known.record(fingerprint)
            after = change(before)
            if after is before:
                return known
            name = known.name(fingerprint)
            self._news.add(name)
            return known.with_one(name, after)

        self._exchange(changed)
        return before, after

    def flush(self) -> bool:
        if self._has_news:
            self._exchange(patience_seconds=_FLUSH_SECONDS)
        return self.is_up and not self._has_news

    def tick(self) -> None:
        """Hand on what could not be written; and read on, for what this worker has read outlives the file."""
        self.read(())
        if self._has_news or self._trouble is not None:
            self._exchange(patience_seconds=0.0)

    @property
    def _has_news(self) -> bool:
        return self._must_begin or bool(self._news)

    def close(self) -> None:
        """Let go of the file; the store is not used again."""
        with self._guard:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _catch_up(self) -> None:
        """Take in what another has written. Needs no lock: a file is whole whenever it is read."""
        try:
            with self._guard:
                self._look()
        except OSError as error:
            self._note(error)
        else:
            if self._has_news:
                self._exchange(patience_seconds=0.0)

    def _exchange(
        self, change: Callable[[Known], Known] | None = None, *, patience_seconds: float | None = None
    ) -> None:
        """Take in what the file says, change what is known, and write it; in memory alone if that is not possible."""
        told = ""
        folder, trouble = self._locked(patience_seconds)
        if folder is None and change is None and isinstance(trouble, TimeoutError) and patience_seconds == 0.0:
            return  # another is just writing; there will be a next time
        try:
            with self._guard:
                try:
                    if folder is not None and stamp_at(self._path) != self._seen:
                        self._look()
                except OSError as error:
                    trouble = error
                if change is not None:
                    self._know(change(self._known))
                if folder is not None and trouble is None and self._has_news:
                    try:
                        told = self._write(folder)
                    except OSError as error:
                        trouble = error
        finally:
            if folder is not None:
                self._lock.release(folder)
        if told:
            log.warning("%s %s, and begun anew with what this process knows", self._path, told)
        self._note(trouble)

    def _locked(self, patience_seconds: float | None) -> tuple[int | None, OSError | None]:
        """The folder under its lock, or why not."""
        try:
            return self._lock.acquire(patience_seconds), None
        except OSError as error:
            return None, error

    # Under the guard.

    def _look(self) -> None:
        """Read the file, whatever it has become. Raises OSError if that says nothing of the file."""
        seen = stamp_at(self._path)
        try:
            if self._file is None or seen is None or seen[:2] != self._file.stamp[:2]:
                self._hold(KeysFile.opened(self._path))
            assert self._file is not None
            self._take_in(self._file)
            seen = self._file.stamp
        except FileNotFoundError:
            if self._file is not None:
                self._must_begin, self._flaw = True, "was removed"
        except Unusable as error:
            self._must_begin, self._flaw = True, f"cannot be used ({error})"
        self._seen = seen

    def _take_in(self, file: KeysFile) -> None:
        records, is_whole = file.read_on()
        if is_whole:
            self._know(self._known.under(file.salt).without_spent(machine_time()))
            self._news = set(self._known.records.keys() - records.keys())
            self._must_begin, self._flaw = not file.is_of_this_start, ""
        self._know(self._known.with_what(records))
        self._news -= records.keys()
        self._news |= {name for name, record in records.items() if record != self._known.records.get(name, record)}

    def _know(self, known: Known) -> None:
        """Know this from now on, and no more than a store may hold."""
        if len(known.records) > MOST_DETAILED:
            known = known.without_spent(machine_time())
        is_news = known.records is not self._known.records
        self._known = known
        self._changes += is_news  # last: whoever sees the new number reads what is known now

    def _write(self, folder: int) -> str:
        """Write what is news; what was wrong with the file before, if something was. Raises OSError."""
        told = self._flaw
        if self._must_begin or self._file is None or self._file.is_long:
            self._know(self._known.without_spent(machine_time()))
            if told and stamp_at(self._path) is not None:
                keys_file.set_aside(folder)
                told = f"{told}: it was set aside as {keys_file.ASIDE_NAME}"
            self._hold(KeysFile.begun(folder, self._known.salt, self._known.records))
        else:
            known = self._known.records
            self._file.append(folder, [(name, known[name]) for name in self._news if name in known])
        assert self._file is not None
        self._seen, self._flaw, self._must_begin = self._file.stamp, "", False
        self._news = set()
        return told

    def _hold(self, file: KeysFile) -> None:
        if self._file is not None:
            self._file.close()
        self._file = file

    def _note(self, trouble: OSError | None) -> None:
        with self._guard:
            before, self._trouble = self._trouble, trouble
        if trouble is not None and before is None:
            log.error(
                "the keys' state cannot be shared (%s): this worker goes on with what it knows, and writes its marks "
                "as soon as it can",
                trouble,
            )
        elif trouble is None and before is not None:
            log.info("the keys' state is shared again; marks made meanwhile are in it")

    def __repr__(self) -> str:
        return f"<FileStore {self._path}>"
