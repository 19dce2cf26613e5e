"""What this machine's workers have counted together, and the decision over it.

Owns: taking a request's counts for all of its limits or for none. Thread-safe. A call holds the locks for
a few microseconds; no network, no log and no callback is under them.

Nothing here raises OSError: see machine_memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from gateway.config.limit_rules import Limited
from gateway.limits.calendar import Today, today
from gateway.limits.limiter import Used
from gateway.limits.machine_file import FILE_NAME, Memory, PrivateMemory
from gateway.limits.machine_memory import MachineMemory, slots_of
from gateway.limits.refusals import (
    CONCURRENT,
    Crossing,
    Held,
    Read,
    Refusal,
    crossings,
    first_refusal,
    is_guess,
    surely_hold,
)
from gateway.limits.slot import MOST, unpack_counts
from gateway.limits.slots import CLOCK_OFFSET_AT, Slots
from gateway.limits.statements import Others, Report, Statement
from gateway.limits.used import used_of
from gateway.runtime.machine_clock import machine_time

_PATIENCE_SECONDS = 0.25
_CLOCK_TOLERANCE_SECONDS = 0.05
_MOST_TOKENS = 2**48  # an answer's; more of them than can be fit into a word


class Entry(msgspec.Struct, frozen=True):
    """A request that was counted: for whom, in which second, and what there is to say of them since.

    `is_guess`: what other machines have used of money or tokens was heard too long ago.
    """

    limited: Sequence[Limited]
    second: int
    report: Report = Report()
    is_guess: bool = False


# When a call takes place: by the machine's clock, by the store's, and on which day.
Moment = tuple[float, float, Today]


class MachineCounters:
    """The counts of this machine's workers. Made after the fork, one a process, in a folder that is the gateway's."""

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float] = machine_time,
        wall_clock: Callable[[], float] = time.time,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._memory = MachineMemory(folder / FILE_NAME, patience_seconds)
        self._day = today(wall_clock())  # a cache; used within the memory's locks
        self.tidy()

    def enter(self, limited: Sequence[Limited], *, is_paid: bool, asks: bool = False) -> Entry | Refusal:
        """Count a request that begins, if all limits hold; else nothing.

        `is_paid`: money and tokens matter. `asks`: the store is asked next about what runs and the last minute's
        requests, so what other machines had of these does not count here.
        """
        return self._memory.use(self._enter, limited, is_paid, asks)

    def settle(self, limited: Sequence[Limited], tokens: int, picodollars: int) -> list[Crossing]:
        """A request that was counted has ended, and has used so much. Tells whose money comes to its end by that."""
        if tokens < 0 or tokens > _MOST_TOKENS or picodollars < 0:
            tokens, picodollars = min(max(0, tokens), _MOST_TOKENS), max(0, picodollars)
        return self._memory.use(self._settle, limited, tokens, picodollars)

    def check(self, limited: Sequence[Limited], *, is_paid: bool) -> Refusal | None:
        """Which limit would let no further request in, by what is known here."""
        return self._memory.use(self._check, limited, is_paid)

    def undo(self, entry: Entry) -> None:
        """A request that was counted does not take place."""
        self._memory.use(self._undo, entry)

    def used(self, everybody: Sequence[Limited]) -> list[Used]:
        """What each of these has used."""
        # A copy, for reckoning with it takes longer than others should wait.
        content, wall_at = self._memory.use(self._copied)
        return used_of(Slots(memoryview(bytearray(content))), everybody, self._clock(), wall_at)

    def tidy(self) -> None:
        """To be called now and then: what dead processes ran no longer counts, and a file that has gone or could
        not be used is tried again."""
        self._memory.tidy(self._merge)

    def close(self) -> None:
        """Let go of the file: what this process runs counts no longer. What comes later is counted apart."""
        self._memory.close()

    # For the link

    def report(self, subjects: Sequence[str]) -> Report:
        """What there is to say of these now, as far as there is anything."""
        return self._memory.use(self._report, subjects)

    def begin(self, subjects: Sequence[str]) -> None:
        """Have a place for these, so that what others have used of them can be heard."""
        self._memory.use(slots_of, subjects)

    def active(self) -> list[str]:
        """The subjects of which something changes by itself, and who has to be told of it."""
        return self._memory.use(lambda memory: memory.slots.active())

    def everybody(self) -> list[str]:
        """All subjects."""
        return self._memory.use(lambda memory: memory.slots.names())

    def hear(self, heard: Mapping[str, Others], ahead_seconds: float) -> None:
        """Other machines have used this, and the store's clock is ahead of the wall clock by so much."""
        self._memory.use(self._hear, heard, ahead_seconds)

    def claim_round(self, every_seconds: float) -> bool:
        """Whether it is time to tell all other machines of all that is active; then it is the caller's to do."""
        return self._memory.use(lambda memory: memory.slots.claim_round(self._clock(), every_seconds))

    def is_filled(self, epoch: int) -> bool:
        """Whether these data of the store were told of everybody."""
        return self._memory.use(lambda memory: memory.slots.epoch == epoch)

    def set_filled(self, epoch: int) -> None:
        """They were; 0: nobody knows."""
        self._memory.use(lambda memory: memory.slots.set_epoch(epoch))

    @property
    def clock(self) -> Callable[[], float]:
        """The machine's clock."""
        return self._clock

    @property
    def wall_clock(self) -> Callable[[], float]:
        """The wall clock."""
        return self._wall_clock

    # With the guard held

    def _copied(self, memory: Memory) -> tuple[bytes, float]:
        _, wall_at, _ = self._moment(memory)
        return memory.slots.memory.tobytes(), wall_at

    def _enter(self, memory: Memory, limited: Sequence[Limited], is_paid: bool, asks: bool) -> Entry | Refusal:
        now, wall_at, day = moment = self._moment(memory)
        second = int(now)
        read = self._read(memory, limited, second, day)
        if not surely_hold(read, is_paid):
            refusal = self._refusal(memory, limited, moment, is_paid, asks)
            if refusal is not None:
                return refusal
            read = self._read(memory, limited, second, day)
        running, column, runs = self._memory.running, memory.column, {}
        for one, slot, counts in read:
            subject = one.subject
            runs[subject] = count = running.get(subject, 0) + 1
            slot.begin(counts, column, count)
        running.update(runs)  # the memory has all of them, and has not failed
        if not asks:
            return Entry(limited, second)
        held = self._held(memory, limited, moment, asks)
        report = self._by_machine(memory, [slot.told(wall_at) for _, slot, _ in read])
        return Entry(limited, second, report, is_paid and any(is_guess(one, now) for one in held))

    def _refusal(
        self, memory: Memory, limited: Sequence[Limited], moment: Moment, is_paid: bool, asks: bool
    ) -> Refusal | None:
        """Which limit says no. Before that is one of running requests, they are counted once more."""
        _, wall_at, day = moment
        refusal = first_refusal(self._held(memory, limited, moment, asks), day, wall_at, is_paid=is_paid)
        if refusal is None or refusal.limit != CONCURRENT:
            return refusal
        memory.clear_dead()
        for slot in slots_of(memory, [one.subject for one in limited]):
            self._memory.recount(memory, slot)
        return first_refusal(self._held(memory, limited, moment, asks), day, wall_at, is_paid=is_paid)

    def _check(self, memory: Memory, limited: Sequence[Limited], is_paid: bool) -> Refusal | None:
        moment = self._moment(memory)
        _, wall_at, day = moment
        return first_refusal(self._held(memory, limited, moment), day, wall_at, is_paid=is_paid)

    def _settle(self, memory: Memory, limited: Sequence[Limited], tokens: int, picodollars: int) -> list[Crossing]:
        moment = now, _, day = self._moment(memory)
        crossed: list[Crossing] = []
        running, column, runs = self._memory.running, memory.column, {}
        for one, slot, counts in self._read(memory, limited, int(now), day):
            subject = one.subject
            runs[subject] = count = (running.get(subject) or 1) - 1
            today, this_month = slot.end(counts, column, count, tokens, picodollars)
            told_today, told_this_month = one.first_told
            if today >= told_today or this_month >= told_this_month or counts[2] or counts[3] or counts[11]:
                crossed += self._crossings(memory, one, moment) if picodollars else ()
        running.update(runs)
        return crossed

    def _crossings(self, memory: Memory, one: Limited, moment: Moment) -> list[Crossing]:
        ((_, slot, _, others),) = self._held(memory, [one], moment)
        return crossings(one, slot, others)

    def _undo(self, memory: Memory, entry: Entry) -> None:
        moment, running, runs = self._moment(memory), self._memory.running, {}
        now, _, day = moment
        for one, slot, _, _ in self._held(memory, entry.limited, moment):
            slot.take_back(entry.second)
            count = runs[one.subject] = (running.get(one.subject) or 1) - 1
            slot.end(slot.counts_at(int(now), day), memory.column, count, 0, 0)
        running.update(runs)

    def _report(self, memory: Memory, subjects: Sequence[str]) -> Report:
        now, wall_at, day = self._moment(memory)
        found = []
        for subject in subjects:
            slot = memory.slots.find(subject)
            if slot is not None:
                slot.facts_at(int(now), day)
                found.append(slot.told(wall_at))
        return self._by_machine(memory, found)

    def _by_machine(self, memory: Memory, statements: list[Statement]) -> Report:
        return Report() if self._memory.is_private(memory) else Report(memory.slots.machine, statements)

    def _hear(self, memory: Memory, heard: Mapping[str, Others], ahead_seconds: float) -> None:
        if abs(memory.slots.clock_offset_seconds - ahead_seconds) > _CLOCK_TOLERANCE_SECONDS:
            memory.slots.set_clock_offset(ahead_seconds)
        for subject, others in heard.items():
            slot = memory.slots.find(subject)
            if slot is not None:
                slot.hear(others)

    def _moment(self, memory: Memory) -> Moment:
        wall_at, day, slots = self._wall_clock(), self._day, memory.slots
        if slots.words[CLOCK_OFFSET_AT]:
            wall_at += slots.clock_offset_seconds
        if not day.begins_at <= wall_at < day.ends_at:
            day = self._day = today(wall_at)
        return self._clock(), wall_at, day

    def _read(self, memory: Memory, limited: Sequence[Limited], second: int, day: Today) -> list[Read]:
        number, slots, read = day.day, memory.slots, []
        known, content = slots.known, slots.memory
        for one in limited:
            slot = known.get(one.subject)
            if slot is None:
                slots_of(memory, [each.subject for each in limited])
                return self._read(memory, limited, second, day)  # all may lie elsewhere now
            counts = unpack_counts(content, slot.at_byte)
            if counts[0] != second or counts[1] != number:
                counts = slot.counts_at(second, day)
            read.append((one, slot, counts))
        return read

    def _held(self, memory: Memory, limited: Sequence[Limited], moment: Moment, asks: bool = False) -> list[Held]:
        now, _, day = moment
        held = []
        for one, slot, counts in self._read(memory, limited, int(now), day):
            others = slot.others.at(now).on(day.day, day.month)
            held.append((one, slot, counts, others.amounts if asks else others))
        return held

    def _merge(self, own: PrivateMemory, memory: Memory) -> None:
        counted = own.slots.all()
        now, _, day = self._moment(memory)
        for mine, slot in zip(counted, slots_of(memory, [one.subject for one in counted]), strict=True):
            more, facts = mine.facts_at(int(now), day), slot.facts_at(int(now), day)
            slot.write(
                facts._replace(
                    requests_now=facts.requests_now + more.requests,
                    tokens_now=facts.tokens_now + more.tokens,
                    picodollars_today=min(MOST, facts.picodollars_today + more.picodollars_today),
                    picodollars_this_month=min(MOST, facts.picodollars_this_month + more.picodollars_this_month),
                )
            )
