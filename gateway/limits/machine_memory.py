"""Which memory this process counts in: the machine's, or for a while its own.

Owns: the two locks around every look at counts, the return from one memory to the other, and what the log says of it.
Thread-safe. The machine's memory cannot be used while the disk is full, for instance, or while a process
that was stopped holds its lock. Then this process counts by itself; what it has counted is added to the machine's when
that can be had again. Nothing here raises OSError.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from gateway.limits.machine_file import ASIDE_NAME, MachineFile, Memory, PrivateMemory
from gateway.limits.slot import Slot

log = logging.getLogger(__name__)

_STUCK_PATIENCE_SECONDS = 0.002
# There is no room; or a number is there that no gateway has written.
_TROUBLES = (OSError, ValueError, struct.error)

T = TypeVar("T")
More = TypeVarTuple("More")


class MachineMemory:
    """The memory at a path, with this process's column in it. `patience_seconds`: how long to wait for its lock."""

    def __init__(self, path: Path, patience_seconds: float) -> None:
        self._path = path
        self._patience_seconds = patience_seconds
        self._guard = threading.Lock()  # guards what follows, and all that is done with a memory
        self._file: MachineFile | None = None
        self._private: PrivateMemory | None = None  # if this process has counted by itself
        self.running: dict[str, int] = {}  # what this process runs, by subject; to be changed within `use`
        self._trouble: Exception | None = None
        self._is_stuck = False
        self._is_aside = False  # a file was set aside, and nobody was told
        self._is_told = False  # that there is trouble

    def use(self, act: Callable[[Memory, *More], T], *more: *More) -> T:
        """Do something with the counts, with nobody between. It takes microseconds, and neither logs nor waits."""
        self._guard.acquire()  # every request comes here twice, and `with` takes longer
        try:
            file = self._file
            memory = file if file is not None and not self._is_stuck and file.take() else self._usable()
            try:
                return act(memory, *more)
            except _TROUBLES as error:
                if memory is self._private:
                    raise
                self._trouble = error
            finally:
                memory.release()
            return act(self._own(), *more)
        finally:
            self._guard.release()

    def tidy(self, merge: Callable[[PrivateMemory, Memory], None]) -> None:
        """Clear what dead processes ran; look whether the file is still there, and can be used if it could not.

        `merge` adds what this process has counted by itself to the machine's counts: all of it, or it raises.
        """
        with self._guard:
            if self._file is None or not self._file.stands():
                self._open()
            memory = self._usable()
            try:
                if memory is not self._private:
                    memory.clear_dead()
                    self._recount_all(memory)
                    if self._private is not None:
                        merge(self._private, memory)
                    self._private = self._trouble = None
            except _TROUBLES as error:
                self._trouble = error
                if not isinstance(error, OSError) and self._file is not None:
                    self._file.set_aside()
            finally:
                memory.release()
            trouble, is_aside, self._is_aside = self._trouble, self._is_aside, False
        self._tell(trouble, is_aside)

    def close(self) -> None:
        """Let go of the machine's memory: what this process runs no longer counts there."""
        with self._guard:
            self._drop_file()

    # Within `use`

    def is_private(self, memory: Memory) -> bool:
        """Whether it is this process's own."""
        return memory is self._private

    def recount(self, memory: Memory, slot: Slot) -> None:
        """Add up once more what all processes run of a subject's requests."""
        slot.run(memory.column, self.running.get(slot.subject, 0))
        slot.recount(memory.slots.taken_columns())

    # With the guard held

    def _usable(self) -> Memory:
        file = self._file
        try:
            if file is not None and self._is_locked(file):
                if file.follow():
                    return file
                file.release()
                self._open()
                if self._file is not None and self._is_locked(self._file):
                    return self._file
        except OSError as error:  # no memory to map it with, or no locks
            self._trouble = error
            with suppress(OSError):
                if self._file is not None:
                    self._file.release()  # what is mapped keeps it open, and so the lock
            self._drop_file()
        return self._own(self._file if self._is_stuck else None)

    def _is_locked(self, file: MachineFile) -> bool:
        if file.lock(_STUCK_PATIENCE_SECONDS if self._is_stuck else self._patience_seconds):
            self._is_stuck = False
            return True
        self._is_stuck = True
        self._trouble = TimeoutError("another process holds its lock and does not let go")
        return False

    def _own(self, known: MachineFile | None = None) -> PrivateMemory:
        if self._private is None:
            self._private = PrivateMemory()
            if known is not None:  # it can be read without its lock; else what was spent would be forgotten
                with suppress(*_TROUBLES):
                    self._private.hear(known)
        return self._private

    def _open(self) -> None:
        """Open the file that stands under the name now, or begin it; what this process runs is written to it."""
        self._drop_file()
        try:
            file = MachineFile(self._path, self._patience_seconds)
        except OSError as error:
            self._trouble = error
            return
        self._is_aside = self._is_aside or file.has_set_aside
        try:
            self._recount_all(file)
        except _TROUBLES as error:
            self._trouble = error
            file.close()
            return
        file.release()
        self._file = file

    def _recount_all(self, memory: Memory) -> None:
        for slot in slots_of(memory, [subject for subject, count in self.running.items() if count]):
            self.recount(memory, slot)

    def _drop_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _tell(self, trouble: Exception | None, is_aside: bool) -> None:
        if is_aside:
            log.warning(
                "%s did not hold counts of limits: it was set aside as %s, and a new one was made",
                self._path,
                ASIDE_NAME,
            )
        was_told, self._is_told = self._is_told, trouble is not None
        if trouble is not None and not was_told:
            log.warning("%s cannot be used (%s): until it can, this process counts by itself", self._path, trouble)
        elif trouble is None and was_told:
            log.info("%s can be used again, and has what this process has counted by itself", self._path)


def slots_of(memory: Memory, subjects: Sequence[str]) -> list[Slot]:
    """The counts of these, which are begun if there are none. Raises OSError if there is no room for them."""
    found = []
    for subject in subjects:
        slot = memory.slots.find(subject)
        if slot is None:
            return _begun(memory, subjects)
        found.append(slot)
    return found


def _begun(memory: Memory, subjects: Sequence[str]) -> list[Slot]:
    for subject in subjects:
        if memory.slots.find(subject) is None:
            memory.make_room()
            memory.slots.add(subject)
    found = (memory.slots.find(subject) for subject in subjects)  # all may lie elsewhere now
    return [slot for slot in found if slot is not None]
