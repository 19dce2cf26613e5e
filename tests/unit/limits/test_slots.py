"""How all subjects' counts lie in one piece of memory: who is found in it, which processes take part, what is sound."""

from __future__ import annotations

from hashlib import sha256

import pytest

from gateway.config.limit_rules import Limited, Limits
from gateway.limits.calendar import today
from gateway.limits.limiter import Used
from gateway.limits.slot import COLUMNS, SLOT_BYTES, Facts
from gateway.limits.slots import CLOCK_OFFSET_AT, PAGE_BYTES, Slots, first_page, is_sound, name_of
from gateway.limits.statements import Others
from gateway.limits.used import used_of
from tests.unit.fakes import NOW

MACHINE = bytes(range(16))
ROOM = 3


def memory_of(room: int = ROOM) -> memoryview:
    return memoryview(bytearray(first_page(MACHINE) + bytes(room * SLOT_BYTES)))


def slots_of(*subjects: str, room: int = ROOM) -> Slots:
    slots = Slots(memory_of(room))
    for subject in subjects:
        slots.add(subject)
    return slots


def test_subjects_are_found_by_whoever_shares_the_memory() -> None:
    """Given subjects that one process adds, then another finds each, with its counts, also those added later."""
    memory = memory_of()
    one, other = Slots(memory), Slots(memory)
    assert (one.find("a"), one.names(), one.is_full) == (None, [], False)
    one.add("a").write(Facts(requests_now=1))
    found = other.find("a")
    assert found is not None
    assert (found.subject, found.facts.requests_now) == ("a", 1)
    one.add("b").write(Facts(requests_now=2))
    assert other.find("c") is None
    added = other.find("b")
    assert added is not None
    assert (added.facts.requests_now, found.facts.requests_now) == (2, 1)
    assert other.find("b") is added
    assert (other.names(), [slot.subject for slot in other.all()]) == (["a", "b"], ["a", "b"])
    assert [slot.facts.requests_now for slot in other.all()] == [1, 2]
    assert not other.is_full
    other.add("c")
    assert one.is_full
    again = one.find("a")
    assert again is not None
    assert again.facts.requests_now == 1


def test_places_that_are_known_are_kept_when_the_memory_grows() -> None:
    """Given memory that has grown, then what was found before is found at its place, and there is more room."""
    small = slots_of("a", "b", "c")
    assert small.is_full
    memory = memoryview(bytearray(bytes(small.memory) + bytes(SLOT_BYTES)))
    large = Slots(memory, small.places)
    assert not large.is_full
    large.add("d").write(Facts(running=4))
    assert sorted(large.places) == ["a", "b", "c", "d"]
    slot = Slots(memory, dict(large.places)).find("d")
    assert slot is not None
    assert slot.facts.running == 4


def test_a_new_subject_has_counted_nothing_even_where_something_lay() -> None:
    """Given memory that is not empty behind its subjects, then a new subject begins with nothing."""
    memory = memory_of()
    memory[PAGE_BYTES:] = b"\xff" * (ROOM * SLOT_BYTES)
    slot = Slots(memory).add("a")
    assert slot.facts == Facts()
    slot.recount(range(COLUMNS))
    assert slot.facts.running == 0
    assert memory[PAGE_BYTES + SLOT_BYTES :] == b"\xff" * ((ROOM - 1) * SLOT_BYTES)


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        pytest.param("token/ann", b"token/ann", id="short"),
        pytest.param("x" * 128, b"x" * 128, id="as-long-as-may-be"),
        pytest.param("x" * 129, b"#" + sha256(b"x" * 129).hexdigest().encode(), id="too-long"),
        pytest.param("é" * 65, b"#" + sha256("é".encode() * 65).hexdigest().encode(), id="too-long-in-bytes"),
        pytest.param("\ud800", b"?", id="not-a-character"),
    ],
)
def test_a_name_that_is_too_long_is_its_hash(subject: str, name: bytes) -> None:
    """Given a subject, then it is found by its name, or by a hash of it."""
    assert name_of(subject) == name
    slots = slots_of(subject)
    assert slots.names() == [name.decode()]
    assert Slots(slots.memory).find(subject) is not None


def test_subjects_of_which_something_counts_now_are_active() -> None:
    """Given one count of a subject, then it is active by its minute and by what it runs; by nothing else."""
    active = {name for name in Facts._fields if is_active(name)}
    assert active == {"requests_before", "tokens_before", "requests_now", "running", "tokens_now"}
    slots = slots_of("a", "b", "c")
    slots.all()[1].write(Facts(running=1))
    assert slots.active() == ["b"]
    assert slots_of().active() == []


def is_active(name: str) -> bool:
    slots = slots_of("a")
    slots.all()[0].write(Facts()._replace(**{name: 1}))
    return slots.active() == ["a"]


# Processes


def test_what_an_ended_process_ran_is_forgotten() -> None:
    """Given two processes that run requests of two subjects, when one ends, then what the other runs is left."""
    slots = slots_of("a", "b", "c")
    slots.take_column(0)
    slots.take_column(COLUMNS - 1)
    assert slots.taken_columns() == [0, COLUMNS - 1]
    one, two, _ = slots.all()
    for slot, column, count in ((one, 0, 2), (one, COLUMNS - 1, 3), (two, 0, 4)):
        slot.run(column, count)
    two.write(two.facts._replace(running=99))  # what a process that was killed has left
    slots.drop_column(0)
    assert slots.taken_columns() == [COLUMNS - 1]
    assert [slot.facts.running for slot in slots.all()] == [3, 0, 0]
    one.run(COLUMNS - 1, 0)
    assert one.facts.running == 0


def test_a_column_that_is_taken_begins_with_nothing() -> None:
    """Given a column in which a dead process has left something, when it is taken, then it runs nothing."""
    slots = slots_of("a", room=1)
    (slot,) = slots.all()
    slot.run(7, 2)
    slots.take_column(7)
    assert (slot.facts.running, slots.taken_columns()) == (0, [7])
    slot.run(7, 1)
    assert slot.facts.running == 1


# What stands in the page


def test_the_page_names_the_machine() -> None:
    """Given a machine's id, then the page has it, and nothing is in it yet."""
    page = first_page(MACHINE)
    assert len(page) == PAGE_BYTES
    slots = slots_of()
    assert slots.machine == MACHINE.hex()
    assert (slots.epoch, slots.clock_offset_seconds, slots.taken_columns()) == (0, 0.0, [])
    slots.set_epoch(7)
    assert slots.epoch == 7


def test_what_stands_in_the_page_has_each_its_own_place() -> None:
    """Given all that a page holds, when each is written after the others, then each is read as it was written."""
    slots = slots_of("a", "b")
    slots.take_column(0)
    assert slots.claim_round(10.0, 5.0)
    slots.set_epoch(7)
    slots.set_clock_offset(2.5)
    assert not slots.claim_round(11.0, 5.0)
    assert slots.claim_round(16.0, 5.0)
    told = (slots.machine, slots.epoch, slots.clock_offset_seconds, slots.names(), slots.taken_columns())
    assert told == (MACHINE.hex(), 7, 2.5, ["a", "b"], [0])
    assert slots.is_sound()
    assert is_sound(bytes(slots.memory[:PAGE_BYTES]), len(slots.memory))


@pytest.mark.parametrize("seconds", [0.0, 43_200.25, -1.5, 1e-6])
def test_the_clock_s_offset_may_be_negative(seconds: float) -> None:
    """Given how far the store's clock is ahead, then it is known to the microsecond; none is written as none."""
    slots = slots_of()
    slots.set_clock_offset(9.0)
    slots.set_clock_offset(seconds)
    assert slots.clock_offset_seconds == seconds
    assert (slots.words[CLOCK_OFFSET_AT] == 0) is (seconds == 0.0)


def test_one_process_tells_all_once_in_a_while() -> None:
    """Given times at which processes ask, then one is told to, once in five seconds; a clock may begin again."""
    slots = slots_of()
    times = (10.0, 10.0, 14.999, 15.0, 15.5, 20.0, 1.0, 5.999, 6.0)
    assert [slots.claim_round(now, 5.0) for now in times] == [
        *(True, False, False, True, False, True),
        *(True, False, True),
    ]


def page_with(**words: int) -> bytes:
    page = bytearray(first_page(MACHINE))
    for at, value in words.items():
        number = int(at.removeprefix("word_"))
        page[number * 8 : number * 8 + 8] = value.to_bytes(8, "little")
    return bytes(page)


SIZE = PAGE_BYTES + 2 * SLOT_BYTES


@pytest.mark.parametrize(
    ("page", "size_bytes", "is_good"),
    [
        pytest.param(page_with(), SIZE, True, id="empty"),
        pytest.param(page_with(), PAGE_BYTES, True, id="without-room"),
        pytest.param(page_with(word_5=2), SIZE, True, id="full"),
        pytest.param(page_with(word_5=2), SIZE - 8, False, id="cut"),
        pytest.param(page_with(word_5=3), SIZE, False, id="more-than-there-is-room-for"),
        pytest.param(page_with(), SIZE + 4, False, id="half-a-word"),
        pytest.param(page_with(word_0=1), SIZE, False, id="another-s"),
        pytest.param(page_with(word_1=1), SIZE, False, id="another-version"),
        pytest.param(page_with()[:-8], SIZE, False, id="too-short"),
        pytest.param(b"", 0, False, id="nothing"),
    ],
)
def test_only_a_page_that_this_version_has_written_is_sound(page: bytes, size_bytes: int, is_good: bool) -> None:
    """Given the first page of a file, and the file's size, then it is known whether the counts can be used."""
    assert is_sound(page, size_bytes) is is_good


def test_counts_that_are_overwritten_are_no_longer_sound() -> None:
    """Given counts in use, when the machine's id changes or there are more subjects than room, then that is seen."""
    slots = slots_of(*"abc")
    assert slots.is_sound()
    slots.words[5] = 4
    assert not slots.is_sound()
    slots.words[5] = 3
    slots.words[2] += 1
    assert not slots.is_sound()


# What is shown


def test_what_was_used_is_here_and_elsewhere() -> None:
    """Given what was counted here and heard of others, then the sum is shown; what is unknown has used nothing."""
    day = today(NOW)
    slots = slots_of("group/a")
    slots.all()[0].write(Facts(1000, day.day, 0, 0, 0, 0, 3, 4, 5, 60, 70, day.month))
    slots.all()[0].hear(Others(1_000_000, 10, 20, 30, day.day, 100, day.month, 200))
    who, nobody = Limited("group", "a", Limits(concurrent=1)), Limited("group", "b", Limits(concurrent=1))
    resets = day.ends_at - NOW, day.month_ends.timestamp() - NOW
    assert used_of(slots, [nobody, who], 1000.75, NOW) == [
        Used(nobody, 0, 0, 0, 0, 0, *resets),
        Used(who, 23, 35, 14, 160, 270, *resets),
    ]
    assert used_of(slots, [who], 1002.0, NOW) == [Used(who, 3, 5, 4, 160, 270, *resets)]
