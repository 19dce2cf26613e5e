"""What this machine's workers have counted together, and the decision over it.

Owns: taking a request's counts for all of its limits or for none. Edge layer; thread-safe. A call holds the locks for
a few microseconds; no network, no log and no callback is under them.

Where the file cannot be used (a full disk, a process that was stopped while it held the lock), this process counts by
itself, and adds what it has counted when the file can be had again. Nothing here raises OSError.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gateway.limit_rules import Limited
from gateway.limits.calendar import Today, today
from gateway.limits.limiter import Used
from gateway.limits.machine_file import ASIDE_NAME, FILE_NAME, MachineFile, Memory, PrivateMemory
from gateway.limits.refusals import CONCURRENT, Crossing, Held, Refusal, crossings, first_refusal
from gateway.limits.slots import NOBODY, Slot
from gateway.limits.used import used_of
from gateway.machine_clock import machine_time

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 0.25
_STUCK_PATIENCE_SECONDS = 0.002

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that was counted: for whom, and in which second."""

    limited: Sequence[Limited]
    second: int


class MachineCounters:
    """The counts of this machine's workers. Made after the fork, one a process, in a folder that is the gateway's."""

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float] = machine_time,
        wall_clock: Callable[[], float] = time.time,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._path = folder / FILE_NAME
        self._clock = clock
        self._wall_clock = wall_clock
        self._patience_seconds = patience_seconds
        self._guard = threading.Lock()  # guards what follows
        self._file: MachineFile | None = None
        self._private: PrivateMemory | None = None  # what this process has counted by itself
        self._running: dict[str, int] = {}  # what this process runs, by subject
        self._trouble: OSError | None = None
        self._is_stuck = False
        self._is_aside = False  # a file was, and nobody was told
        self._is_told = False  # that there is trouble
        self.tidy()

    def enter(self, limited: Sequence[Limited], *, is_paid: bool, with_others: bool = True) -> Entry | Refusal:
        """Count a request that begins, if all limits hold; else nothing.

        `is_paid`: money and tokens matter. `with_others`: so does what other machines run, and their last minute.
        """
        return self._counted(lambda memory: self._enter(memory, limited, is_paid, with_others))

    def settle(self, limited: Sequence[Limited], tokens: int, picodollars: int) -> list[Crossing]:
        """A request that was counted has ended, and has used so much. Tells whose money comes to its end by that."""
        return self._counted(lambda memory: self._settle(memory, limited, tokens, picodollars))

    def undo(self, entry: Entry) -> None:
        """A request that was counted does not take place."""
        self._counted(lambda memory: self._undo(memory, entry))

    def used(self, everybody: Sequence[Limited]) -> list[Used]:
        """What each of these has used."""
        return self._counted(lambda memory: used_of(memory.slots, everybody, self._clock(), self._wall_at(memory)))

    def tidy(self) -> None:
        """To be called about once a second: what dead processes ran no longer counts, and a file that has gone or could
        not be used is tried again."""
        with self._guard:
            if self._file is None or not self._file.stands():
                self._open()
            memory = self._usable()
            try:
                memory.clear_dead()
                if memory is not self._private:
                    self._merge(memory)
                    self._trouble = None
            except OSError as error:
                self._trouble = error
            finally:
                memory.release()
            trouble, is_aside, self._is_aside = self._trouble, self._is_aside, False
        self._tell(trouble, is_aside)

    def close(self) -> None:
        """Let go of the file: what this process runs counts no longer. What comes later is counted apart."""
        with self._guard:
            self._drop_file()

    # With the guard held

    def _enter(self, memory: Memory, limited: Sequence[Limited], is_paid: bool, with_others: bool) -> Entry | Refusal:
        now, wall_at = self._clock(), self._wall_at(memory)
        day = today(wall_at)
        held = self._all_held(memory, limited, now, day, with_others)
        refusal = first_refusal(held, day, wall_at, is_paid=is_paid)
        if refusal is not None and refusal.limit == CONCURRENT:
            memory.clear_dead()
            for one in held:
                one.slot.recount()
            refusal = first_refusal(held, day, wall_at, is_paid=is_paid)
        if refusal is None:
            sequence = self._sequence(memory)
            for one in held:
                one.slot.count(1, 0)
                self._run(memory, one, 1)
                one.slot.changed = sequence
        for one in held:
            one.slot.save()
        return Entry(limited, int(now)) if refusal is None else refusal

    def _settle(self, memory: Memory, limited: Sequence[Limited], tokens: int, picodollars: int) -> list[Crossing]:
        now = self._clock()
        held = self._all_held(memory, limited, now, today(self._wall_at(memory)), True)
        sequence = self._sequence(memory)
        crossed: list[Crossing] = []
        for one in held:
            slot = one.slot
            slot.count(0, tokens)
            self._run(memory, one, -1)
            if picodollars:
                slot.spend(picodollars, picodollars)
                crossed += crossings(one)
            slot.changed = sequence
            slot.save()
        return crossed

    def _undo(self, memory: Memory, entry: Entry) -> None:
        sequence = self._sequence(memory)
        for one in self._all_held(memory, entry.limited, self._clock(), today(self._wall_at(memory)), False):
            one.slot.uncount_request(entry.second)
            self._run(memory, one, -1)
            one.slot.changed = sequence
            one.slot.save()

    def _all_held(
        self, memory: Memory, limited: Sequence[Limited], now: float, day: Today, with_others: bool
    ) -> list[Held]:
        second = int(now)
        held = []
        for one, slot in zip(limited, self._slots_of(memory, [one.subject for one in limited]), strict=True):
            slot.roll(second, day)
            others = slot.others
            if others is not NOBODY:
                others = others.at(now) if with_others else others.money
            held.append(Held(one, slot, others))
        return held

    def _slots_of(self, memory: Memory, subjects: Sequence[str]) -> list[Slot]:
        found = [memory.slots.find(subject) for subject in subjects]
        if None in found:
            for subject in subjects:
                if memory.slots.find(subject) is None:
                    memory.make_room()
                    memory.slots.add(subject)
            found = [memory.slots.find(subject) for subject in subjects]  # it may lie elsewhere now
        return [slot for slot in found if slot is not None]

    def _run(self, memory: Memory, one: Held, more: int) -> None:
        subject = one.limited.subject
        count = max(0, self._running.get(subject, 0) + more)
        self._running[subject] = count
        one.slot.run(memory.column, count)

    def _sequence(self, memory: Memory) -> int:
        # By the clock, so that a file that is older than what others have heard goes on behind it.
        return memory.slots.next_sequence(int(self._wall_clock() * 1e6))

    def _wall_at(self, memory: Memory) -> float:
        return self._wall_clock() + memory.slots.clock_offset_seconds

    # Which memory

    def _counted(self, act: Callable[[Memory], T]) -> T:
        with self._guard:
            memory = self._usable()
            try:
                return act(memory)
            except OSError as error:  # there is no room for one more subject
                self._trouble = error
            finally:
                memory.release()
            return act(self._own())

    def _usable(self) -> Memory:
        """The machine's memory, locked; or this process's own."""
        if self._file is None:
            return self._own()
        if not self._file.lock(_STUCK_PATIENCE_SECONDS if self._is_stuck else self._patience_seconds):
            self._is_stuck = True
            self._trouble = TimeoutError("another process holds its lock and does not let go")
            return self._own()
        self._is_stuck = False
        if self._file.follow():
            return self._file
        self._file.release()
        self._open()
        if self._file is None or not self._file.lock(self._patience_seconds):
            return self._own()
        return self._file

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
            running = {subject: count for subject, count in self._running.items() if count}
            for slot, count in zip(self._slots_of(file, list(running)), running.values(), strict=True):
                slot.run(file.column, count)
                slot.save()
        except OSError as error:
            self._trouble = error
            file.close()
            return
        file.release()
        self._file = file

    def _drop_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _own(self) -> PrivateMemory:
        if self._private is None:
            self._private = PrivateMemory()
        return self._private

    def _merge(self, memory: Memory) -> None:
        """Add what this process has counted by itself. Raises OSError, and has added nothing, if there is no room."""
        if self._private is None:
            return
        own = self._private.slots.all()
        now, day = self._clock(), today(self._wall_at(memory))
        sequence = self._sequence(memory)
        for (subject, mine), slot in zip(own, self._slots_of(memory, [name for name, _ in own]), strict=True):
            for one in (mine, slot):
                one.roll(int(now), day)
            slot.count(mine.requests, mine.tokens)
            slot.spend(mine.picodollars_today, mine.picodollars_this_month)
            slot.run(memory.column, self._running.get(subject, 0))
            slot.changed = sequence
            slot.save()
        self._private = None

    def _tell(self, trouble: OSError | None, is_aside: bool) -> None:
        if is_aside:
            log.warning("%s held no counts of limits: it was set aside as %s, and begun again", self._path, ASIDE_NAME)
        was_told, self._is_told = self._is_told, trouble is not None
        if trouble is not None and not was_told:
            log.warning(
                "%s cannot be used (%s): this process counts for limits by itself until then", self._path, trouble
            )
        elif trouble is None and was_told:
            log.info("%s can be used again: what this process has counted for limits by itself is added", self._path)
