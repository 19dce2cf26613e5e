"""What the workers of a machine count together: the sliding minute, the days, and what kills and damage leave of it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.limit_rules import Limited, Limits
from gateway.limits.calendar import today
from gateway.limits.counters import Entry, MachineCounters
from gateway.limits.machine_file import FILE_NAME, MachineFile, PrivateMemory, read_slots
from gateway.limits.refusals import Refusal, first_refusal, surely_hold
from gateway.limits.slot import Facts
from gateway.limits.slots import PAGE_BYTES
from gateway.limits.statements import NOBODY
from gateway.limits.used import used_of
from tests.full_disk import SmallDisk
from tests.harness import wait_until
from tests.limit_worker import PICODOLLARS, RESEARCH, Judge, Worker
from tests.unit.fakes import NOW, FakeClock, race

PATIENT_SECONDS = 30.0
SOON_SECONDS = 30.0
DAY_SECONDS = 86_400.0
NO_LIMIT = Limits(concurrent=10**6)


def group(name: str = RESEARCH, **limits: int) -> Limited:
    return Limited("group", name, Limits(**limits) if limits else NO_LIMIT)


class Rig:
    """Counters of one machine under clocks that stand still."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock, self.wall = FakeClock(1_000_000.0), FakeClock(NOW)
        self._opened: list[MachineCounters] = []

    def open(self) -> MachineCounters:
        self._opened.append(MachineCounters(self.folder, self.clock, self.wall, PATIENT_SECONDS))
        return self._opened[-1]

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wall.advance(seconds)

    def close(self) -> None:
        for counters in self._opened:
            counters.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "data")
    yield made
    made.close()


def enter(counters: MachineCounters, *limited: Limited, is_paid: bool = True) -> bool:
    return isinstance(counters.enter(limited, is_paid=is_paid), Entry)


def refusal(counters: MachineCounters, *limited: Limited, is_paid: bool = True) -> Refusal:
    refused = counters.enter(limited, is_paid=is_paid)
    assert isinstance(refused, Refusal)
    return refused


# --- the minute


@given(
    limit=st.integers(1, 5),
    steps=st.lists(
        st.tuples(st.sampled_from([0.0, 0.3, 0.999, 1.0, 7.5, 59.0, 60.0, 61.0, 64.0, 130.0]), st.integers(1, 4)),
        max_size=30,
    ),
)
def test_there_are_never_more_requests_in_any_minute_than_allowed(limit: int, steps: list[tuple[float, int]]) -> None:
    """Given requests at any times, then what is let in is what a list of all times says, and after `retry_after` there
    is room."""
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder))
        counters, who = rig.open(), group(requests_per_minute=limit)
        taken: list[float] = []
        for pause, tries in steps:
            rig.advance(pause)
            for _ in range(tries):
                now = rig.clock.now
                is_free = sum(int(at) >= int(now) - 60 for at in taken) < limit
                assert enter(counters, who) is is_free
                if is_free:
                    taken.append(now)
        for at in taken:
            assert sum(at <= other <= at + 60 for other in taken) <= limit
        refused = counters.enter([who], is_paid=True)
        if isinstance(refused, Refusal):
            rig.advance(refused.retry_after_seconds - 1)
            assert isinstance(counters.enter([who], is_paid=True), Refusal)
            rig.advance(1)
            assert enter(counters, who)
        rig.close()


@given(
    steps=st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, 20.0, 60.0, 61.0]), st.integers(0, 900)), max_size=25),
)
def test_tokens_of_the_last_minute_stop_the_next_request(steps: list[tuple[float, int]]) -> None:
    """Given answers of any size at any times, then a request is refused while those of a minute reach the limit."""
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder))
        counters, who = rig.open(), group(tokens_per_minute=1000)
        told: list[tuple[float, int]] = []
        for pause, tokens in steps:
            rig.advance(pause)
            spoken = sum(count for at, count in told if int(at) >= int(rig.clock.now) - 60)
            assert enter(counters, who) is (spoken < 1000)
            if spoken < 1000:
                counters.settle([who], tokens, 0)
                told.append((rig.clock.now, tokens))
        rig.close()


def test_retry_after_is_when_enough_tokens_have_left(rig: Rig) -> None:
    """Given 600 tokens and, 20 s later, 700 on a limit of 1000, then there is room when the first have left: 40 s and
    the second that runs."""
    counters, who = rig.open(), group(tokens_per_minute=1000)
    for pause, tokens in ((0, 600), (20, 700)):
        rig.advance(pause)
        assert enter(counters, who)
        counters.settle([who], tokens, 0)
    assert refusal(counters, who).retry_after_seconds == 41
    rig.advance(41)
    assert enter(counters, who)


def test_clock_that_begins_again_empties_the_minute_and_keeps_the_money(rig: Rig) -> None:
    """Given counts of before the machine's restart, then its last minute is forgotten, and what was spent is not."""
    counters, who = rig.open(), group(requests_per_minute=1, picodollars_per_day=100)
    assert enter(counters, who)
    counters.settle([who], 5, 60)
    counters.close()
    rig.clock.now -= 5000
    restarted = rig.open()
    assert enter(restarted, who)
    (used,) = restarted.used([who])
    assert (used.requests, used.tokens, used.picodollars_today) == (1, 0, 60)


def test_what_is_over_is_no_longer_told(rig: Rig) -> None:
    """Given a request that has ended, then it is active for a minute, however often it is told meanwhile and after."""
    counters, who = rig.open(), group(requests_per_minute=9)
    assert enter(counters, who)
    counters.settle([who], 5, 60)
    rig.advance(59)
    assert counters.active() == [who.subject]
    for _ in range(200):
        assert [statement.subject for statement in counters.report([who.subject]).statements] == [who.subject]
        rig.advance(0.4)
    assert counters.active() == []
    assert counters.used([who])[0].picodollars_today == 60


# --- all or none


def test_a_request_that_one_limit_refuses_counts_for_none(rig: Rig) -> None:
    """Given a group with room and a token without, then the refused request is counted for neither."""
    counters = rig.open()
    team, alice = group(concurrent=10, requests_per_minute=10), Limited("token", "alice", Limits(concurrent=1))
    assert enter(counters, team, alice)
    for _ in range(5):
        refused = refusal(counters, team, alice)
        assert (refused.limited, refused.limit, refused.retry_after_seconds) == (alice, "concurrent", 1)
    assert [(used.requests, used.running) for used in counters.used([team, alice])] == [(1, 1), (1, 1)]


def test_undone_request_leaves_nothing(rig: Rig) -> None:
    """Given a request that was counted and undone a while later, then there is room as before."""
    counters, who = rig.open(), group(concurrent=1, requests_per_minute=1)
    entry = counters.enter([who], is_paid=True)
    assert isinstance(entry, Entry)
    rig.advance(2)
    counters.undo(entry)
    assert enter(counters, who)


def test_money_and_tokens_stop_only_what_is_paid(rig: Rig) -> None:
    """Given everything spent, then a request that costs nothing still goes, and counts."""
    counters, who = rig.open(), group(picodollars_per_day=10, tokens_per_minute=10)
    assert enter(counters, who)
    counters.settle([who], 50, 50)
    assert refusal(counters, who).limit == "dollars_per_day"
    assert enter(counters, who, is_paid=False)
    assert counters.used([who])[0].requests == 2


def test_threads_of_all_workers_share_a_limit(rig: Rig) -> None:
    """Given forty threads over four workers that race for ten places, then ten get in."""
    workers = [rig.open() for _ in range(4)]
    who = group(concurrent=10)
    assert sum(race(40, lambda number: enter(workers[number % 4], who))) == 10


@given(
    used=st.tuples(*[st.integers(0, 3)] * 7),
    most=st.tuples(*[st.none() | st.integers(1, 5)] * 3, *[st.none() | st.integers(0, 3)] * 2),
    is_paid=st.booleans(),
)
def test_all_limits_hold_exactly_when_none_refuses(
    used: tuple[int, ...], most: tuple[int | None, ...], is_paid: bool
) -> None:
    """Given any counts and limits, then the quick look lets in whoever no single limit refuses, and nobody else."""
    day, who = today(NOW), Limited("group", RESEARCH, Limits(*most))
    requests, requests_before, tokens, tokens_before, running, of_day, of_month = used
    slot = PrivateMemory().slots.add(who.subject)
    slot.write(
        Facts(
            *(100, day.day, 0, 0, requests_before, tokens_before, requests, running, tokens, of_day, of_month),
            month=day.month,
        )
    )
    counts = slot.counts_at(100, day)
    refused = first_refusal([(who, slot, counts, NOBODY)], day, NOW, is_paid=is_paid)
    assert surely_hold([(who, slot, counts)], is_paid) is (refused is None)


def test_what_is_told_has_a_greater_number_each_time(rig: Rig) -> None:
    """Given statements of one moment, then the later has the greater number, and what it says is what was counted."""
    counters, who = rig.open(), group(requests_per_minute=9)
    told = []
    for _ in range(2):
        entry = counters.enter([who], is_paid=True, asks=True)
        assert isinstance(entry, Entry)
        told += entry.report.statements
        counters.settle([who], 5, 60)
        told += counters.report([who.subject]).statements
    assert [one.sequence for one in told] == sorted({one.sequence for one in told})
    assert [(one.requests, one.running, one.tokens) for one in told] == [(1, 1, 0), (1, 0, 5), (2, 1, 5), (2, 0, 10)]


# --- days and months


@pytest.mark.parametrize(
    ("wall_at", "day_seconds", "month_seconds"),
    [(1_798_761_599.0, 1, 1), (1_798_761_600.0, 86_400, 31 * 86_400), (1_803_772_800.0, 86_400, 86_400)],
    ids=["the year's last second", "the year's first", "the 28th of February"],
)
def test_money_is_free_again_when_its_day_or_month_ends(
    rig: Rig, wall_at: float, day_seconds: int, month_seconds: int
) -> None:
    """Given a day's and a month's money spent, then each resets with its period in UTC, and until then it says when."""
    rig.wall.now = wall_at
    counters = rig.open()
    daily, monthly = group("daily", picodollars_per_day=10), group("monthly", picodollars_per_month=10)
    for who, seconds in ((daily, day_seconds), (monthly, month_seconds)):
        assert enter(counters, who)
        counters.settle([who], 0, 10)
        assert refusal(counters, who).retry_after_seconds == seconds
    rig.wall.now = wall_at + day_seconds
    assert enter(counters, daily)
    rig.wall.now = wall_at + month_seconds
    assert enter(counters, monthly)


@pytest.mark.parametrize("days", [1, 2, 40, 400, -1, -40], ids=str)
def test_wall_clock_that_is_wrong_for_a_moment_loses_no_money(rig: Rig, days: int) -> None:
    """Given money of today, a clock that shows another day for one request, and is right again, then today's and this
    month's money are what they were, and what was spent meanwhile is the other day's."""
    counters, who = rig.open(), group(picodollars_per_day=100, picodollars_per_month=100)
    assert enter(counters, who)
    counters.settle([who], 0, 60)
    rig.wall.now += days * DAY_SECONDS
    assert enter(counters, who)
    counters.settle([who], 0, 10)
    assert counters.used([who])[0].picodollars_today == 10
    rig.wall.now -= days * DAY_SECONDS
    (used,) = counters.used([who])
    assert (used.picodollars_today, used.picodollars_this_month) == (60, 70 if abs(days) < 3 else 60)


def test_failed_write_counts_no_request_twice(rig: Rig) -> None:
    """Given a number that no gateway has written where the second of two subjects is counted, then the request is
    counted apart, once, and its end leaves nothing running."""
    counters, team, alice = rig.open(), group(concurrent=5), Limited("token", "alice", Limits(concurrent=5))
    assert enter(counters, team, alice)
    counters.settle([team, alice], 0, 0)
    memory = counters._memory._file
    assert memory is not None
    slot = memory.slots.find(alice.subject)
    assert slot is not None
    slot.write(slot.facts._replace(requests_now=2**64 - 1))
    assert enter(counters, team, alice)
    for _ in range(2):  # the file is set aside; then there is a new one
        counters.tidy()
    assert [used.running for used in counters.used([team, alice])] == [1, 1]
    counters.settle([team, alice], 0, 0)
    assert [used.running for used in counters.used([team, alice])] == [0, 0]


def test_request_belongs_to_the_day_of_its_end(rig: Rig) -> None:
    """Given a request over midnight, then the new day has its money."""
    counters, who = rig.open(), group(picodollars_per_day=100)
    assert enter(counters, who)
    rig.advance(DAY_SECONDS)
    counters.settle([who], 0, 70)
    assert counters.used([who])[0].picodollars_today == 70


def test_store_s_clock_says_which_day_it_is(rig: Rig) -> None:
    """Given a store whose clock is twelve hours ahead, then the day ends twelve hours earlier."""
    counters, who = rig.open(), group(picodollars_per_day=100)
    before = counters.used([who])[0].day_resets_in_seconds
    counters.hear({}, 43_200.0)
    after = counters.used([who])[0].day_resets_in_seconds
    assert (before - after) % DAY_SECONDS == pytest.approx(43_200.0)


def test_amounts_add_up_exactly_up_to_the_greatest(rig: Rig) -> None:
    """Given millions of dollars and single picodollars, then no picodollar is lost; what is too much stays the most."""
    counters, who = rig.open(), group()
    counters.settle([who], 0, 9 * 10**18)
    counters.settle([who], 0, 1)
    assert counters.used([who])[0].picodollars_this_month == 9 * 10**18 + 1
    counters.settle([who], 0, 10**30)
    assert counters.used([who])[0].picodollars_this_month == 2**63 - 1


# --- telling


def test_shares_of_a_budget_are_told_once_a_period_by_all_workers(rig: Rig) -> None:
    """Given money that is spent by and by, then each share is told once, by one worker, and again the next day."""
    workers = [rig.open() for _ in range(2)]
    who = group(picodollars_per_day=50 * 10**12)
    for _ in range(2):
        told = [
            str(crossing)
            for number, dollars in enumerate((30, 8, 1, 8, 1, 1, 1, 1))
            for crossing in workers[number % 2].settle([who], 0, dollars * 10**12)
        ]
        assert told == [f"group research has spent {share} % of its 50.00 dollars a day" for share in (75, 95, 100)]
        rig.advance(DAY_SECONDS)


# --- the file


def test_file_is_private_and_outlives_its_workers(rig: Rig) -> None:
    """Given money spent and all workers gone, then the next one knows of it; what they ran is forgotten."""
    counters, who = rig.open(), group()
    assert enter(counters, who)
    assert enter(counters, who)
    counters.settle([who], 3, 4)
    path = rig.folder / FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    counters.close()
    (used,) = rig.open().used([who])
    assert (used.requests, used.running, used.tokens, used.picodollars_today) == (2, 0, 3, 4)


def test_many_subjects_find_their_counts_in_all_workers(rig: Rig) -> None:
    """Given more subjects than the file had room for at first, some with very long names, then each has its own count,
    whichever worker asks."""
    workers = [rig.open() for _ in range(3)]
    names = [f"{number}" * (number % 90 + 1) for number in range(300)]
    subjects = [Limited("token", name, NO_LIMIT) for name in names] + [Limited("token", "", NO_LIMIT)]
    for number, who in enumerate(subjects):
        for _ in range(number % 3 + 1):
            assert enter(workers[number % 3], who)
    for counters in workers:
        assert [used.requests for used in counters.used(subjects)] == [number % 3 + 1 for number in range(301)]
    slots = read_slots(rig.folder / FILE_NAME, 1.0)
    assert slots is not None
    assert [used.requests for used in used_of(slots, subjects, rig.clock(), rig.wall())] == [
        number % 3 + 1 for number in range(301)
    ]


def test_reading_takes_no_part(rig: Rig) -> None:
    """Given no file, then reading makes none; given one, then a copy shows what is in it."""
    assert read_slots(rig.folder / FILE_NAME, 1.0) is None
    assert not rig.folder.exists()
    assert enter(rig.open(), group())
    slots = read_slots(rig.folder / FILE_NAME, 1.0)
    assert slots is not None
    assert [used.running for used in used_of(slots, [group(), group("unknown")], rig.clock(), rig.wall())] == [1, 0]


def overwrite(content: bytes, at: int = 0) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(content)

    return act


UNUSABLE: dict[str, Callable[[Path], object]] = {
    "too short": lambda path: os.truncate(path, 100),
    "half": lambda path: os.truncate(path, PAGE_BYTES - 8),
    "another version": overwrite(b"\x63", at=8),
    "not ours": overwrite(b"something else"),
    "more subjects than it has room for": overwrite(b"\xff" * 8, at=40),
}


@pytest.mark.parametrize("damage", UNUSABLE.values(), ids=list(UNUSABLE))
def test_file_of_no_use_is_set_aside(
    rig: Rig, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    """Given a file that no gateway of this version has written, then it is kept under another name, the log says so in
    one line, and counting begins again."""
    counters, who = rig.open(), group(concurrent=1)
    assert enter(counters, who)
    counters.close()
    path = rig.folder / FILE_NAME
    damage(path)
    content = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        assert enter(rig.open(), who)
    assert len(caplog.records) == 1
    assert "set aside" in caplog.text
    assert (rig.folder / f"{FILE_NAME}.unusable").read_bytes() == content


RUNNING_DAMAGE: dict[str, Callable[[Path], object]] = {
    "removed": lambda path: path.unlink(),
    "removed with its folder": lambda path: shutil.rmtree(path.parent),
    "folder moved away": lambda path: path.parent.rename(path.parent.with_name("moved")),
    "replaced": lambda path: (path.unlink(), path.write_bytes(b"")),
    "cut": lambda path: os.truncate(path, PAGE_BYTES),
    "emptied": lambda path: os.truncate(path, 0),
    "overwritten": overwrite(b"something else"),
    "overwritten all through": lambda path: path.write_bytes(b"\xff" * path.stat().st_size),
    "slots overwritten": lambda path: overwrite(b"\xff" * 4000, at=PAGE_BYTES + 128)(path),
}


@pytest.mark.parametrize("damage", RUNNING_DAMAGE.values(), ids=list(RUNNING_DAMAGE))
def test_file_that_goes_under_running_workers_is_begun_again(rig: Rig, damage: Callable[[Path], object]) -> None:
    """Given a file that is removed or spoilt while two workers run requests, then these count again after a round of
    housekeeping, and the limit holds."""
    workers, who = [rig.open() for _ in range(2)], group(concurrent=3)
    for counters in workers:
        assert enter(counters, who)
    damage(rig.folder / FILE_NAME)
    for counters in workers * 2:
        counters.tidy()
    assert [counters.used([who])[0].running for counters in workers] == [2, 2]
    for counters in workers:
        counters.settle([who], 0, 0)
    assert [enter(workers[number % 2], who) for number in range(4)] == [True, True, True, False]


def test_full_disk_lets_each_process_count_by_itself_until_there_is_room(
    small_disk: SmallDisk, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a disk without room for the file, then a process counts alone, and says so once; when there is room its
    counts are the machine's."""
    small_disk.fill()
    rig = Rig(small_disk.folder / "data")
    with caplog.at_level(logging.INFO):
        small_disk.free()
        rig.folder.mkdir()
        small_disk.fill()
        counters, who = rig.open(), group(concurrent=2)
        assert enter(counters, who)
        assert enter(counters, who)
        assert not enter(counters, who)
        counters.settle([who], 5, 6)
        counters.tidy()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        small_disk.free()
        counters.tidy()
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    (used,) = rig.open().used([who])
    assert (used.requests, used.running, used.tokens, used.picodollars_today) == (2, 1, 5, 6)
    rig.close()


def test_disk_that_fills_up_keeps_the_subjects_that_are_there(small_disk: SmallDisk) -> None:
    """Given a file that cannot grow, then known subjects count on in it, and further ones by each process."""
    rig = Rig(small_disk.folder / "data")
    counters = rig.open()
    known, subjects = group(concurrent=1), [group(f"g{number}", concurrent=1) for number in range(100)]
    assert enter(counters, known)
    small_disk.fill()
    for who in subjects:
        assert enter(counters, who)
        assert not enter(counters, who)
    assert not enter(rig.open(), known)
    small_disk.free()
    counters.tidy()
    assert [used.running for used in rig.open().used([known, *subjects])] == [1] * 101
    rig.close()


def test_stopped_process_that_holds_the_lock_stops_nobody(tmp_path: Path) -> None:
    """Given a process that was stopped while it held the lock, then others go on by themselves, and their counts are
    there when it lets go."""
    import fcntl

    holder = MachineCounters(tmp_path)
    counters, who = MachineCounters(tmp_path, patience_seconds=0.01), group(concurrent=1)
    descriptor = os.open(tmp_path / FILE_NAME, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert enter(counters, who)
    assert not enter(counters, who)
    counters.settle([who], 0, 5)
    os.close(descriptor)
    counters.tidy()
    assert holder.used([who])[0].picodollars_today == 5
    for one in (holder, counters):
        one.close()


# --- processes


@pytest.fixture
def judge() -> Iterator[Judge]:
    made = Judge()
    yield made
    made.close()


def test_what_was_spent_counts_while_the_lock_cannot_be_had(rig: Rig) -> None:
    """Given a spent budget, when another process keeps the lock, then it is spent all the same; what is counted
    meanwhile is added once the lock is free."""
    counters = MachineCounters(rig.folder, rig.clock, rig.wall, patience_seconds=0.01)
    poor, rich = group("poor", picodollars_per_day=100), group("rich", picodollars_per_day=1000, concurrent=2)
    assert enter(counters, poor)
    assert enter(counters, rich)
    counters.settle([poor], 0, 100)
    counters.settle([rich], 0, 100)
    descriptor = os.open(rig.folder / FILE_NAME, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert refusal(counters, poor).limit == "dollars_per_day"
    assert enter(counters, rich)
    counters.settle([rich], 0, 7)
    assert counters.used([rich])[0].picodollars_today == 107
    os.close(descriptor)
    counters.tidy()
    assert [used.picodollars_today for used in counters.used([poor, rich])] == [100, 107]
    counters.close()


def test_memory_that_cannot_be_mapped_keeps_nobody_from_the_lock(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a file that grew and no memory to map it with, then the process counts by itself, and others go on."""
    counters, others, who = rig.open(), rig.open(), group(concurrent=5)

    def fail(self: MachineFile) -> bool:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patched:
        patched.setattr(MachineFile, "follow", fail)
        assert enter(counters, who)
    assert enter(others, who)
    counters.tidy()
    assert [used.running for used in others.used([who])] == [2]


def test_limit_holds_over_processes_that_are_killed(tmp_path: Path, judge: Judge) -> None:
    """Given eight processes of eight threads on a limit of ten, some killed at any moment, then never more than ten
    are inside; the dead ones' places come back, and each picodollar that was settled is there."""
    workers = [Worker(judge, number, tmp_path, limit=10, threads=8) for number in range(8)]
    try:
        for number, victim in enumerate(workers[:4]):
            assert wait_until(lambda number=number: judge.entered > 60 * (number + 1), SOON_SECONDS)
            victim.kill()
        before = judge.entered
        assert wait_until(lambda: judge.entered > before + 100, SOON_SECONDS)
    finally:
        for worker in workers:
            worker.stop()
    assert wait_until(lambda: not any(judge.inside.values()), SOON_SECONDS)
    assert judge.most == 10
    counters, who = MachineCounters(tmp_path), group()
    (used,) = counters.used([who])
    assert used.running == 0
    # A killed thread may have settled without telling so, or have died before it could settle.
    lost = judge.settled * PICODOLLARS - used.picodollars_today
    assert -8 * 4 * PICODOLLARS <= lost <= 4 * PICODOLLARS
    counters.close()


def test_nobody_is_refused_while_there_is_room(tmp_path: Path, judge: Judge) -> None:
    """Given ten threads in five processes on a limit of ten, then none is ever refused."""
    workers = [Worker(judge, number, tmp_path, limit=10, threads=2) for number in range(5)]
    try:
        assert wait_until(lambda: judge.entered > 500, SOON_SECONDS)
    finally:
        for worker in workers:
            worker.stop()
    assert judge.refused == 0
