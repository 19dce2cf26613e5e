"""Entries that processes leave for each other in shared memory."""

from __future__ import annotations

import os

import pytest

from gateway.runtime.shared_ring import SharedRing
from tests.unit.fakes import race


def test_latest_entries_of_each_part_are_read() -> None:
    """Given more entries in a part than it holds, then its latest ones are there, and all of other parts."""
    ring = SharedRing(parts=3, entries=4, entry_bytes=8)
    for number in range(10):
        ring.add(0, b"a%d" % number)
    ring.add(2, b"c")
    assert list(ring.read()) == [b"a6", b"a7", b"a8", b"a9", b"c"]


def test_last_entry_is_replaced() -> None:
    """Given an entry, when it is replaced, then the new one stands in its place, and the next beside it."""
    ring = SharedRing(parts=1, entries=4, entry_bytes=8)
    with pytest.raises(ValueError, match="no entry"):
        ring.replace_last(0, b"x")
    ring.add(0, b"longer")
    ring.replace_last(0, b"new")
    ring.add(0, b"next")
    assert list(ring.read()) == [b"new", b"next"]


def test_entry_that_is_too_long_is_refused() -> None:
    """Given an entry of the longest length, then it fits; with a byte more it does not, and nothing has changed."""
    ring = SharedRing(parts=1, entries=2, entry_bytes=4)
    ring.add(0, b"1234")
    with pytest.raises(ValueError, match="5 bytes"):
        ring.add(0, b"12345")
    assert list(ring.read()) == [b"1234"]


def test_other_process_reads_and_goes_on_in_a_part() -> None:
    """Given a process that was forked later and has ended, then what it wrote is there, and its successor goes on."""
    ring = SharedRing(parts=2, entries=4, entry_bytes=8)
    ring.add(0, b"mine")
    if (child := os.fork()) == 0:
        ring.add(1, b"theirs")
        os._exit(0 if list(ring.read()) == [b"mine", b"theirs"] else 1)
    assert os.waitpid(child, 0)[1] == 0
    ring.add(1, b"next")
    assert list(ring.read()) == [b"mine", b"theirs", b"next"]


def test_entry_that_nobody_finished_is_left_out() -> None:
    """Given an entry whose writer died in the middle of it, then the others are read."""
    ring = SharedRing(parts=1, entries=4, entry_bytes=8)
    ring.add(0, b"good")
    ring.add(0, b"torn")
    ring._memory[16 + 8 + 1 : 16 + 8 + 2] = b"?"
    assert list(ring.read()) == [b"good"]


def test_reader_sees_whole_entries_while_they_are_written() -> None:
    """Given an entry that is replaced all the time, when others read, then they see it whole, one way or the other."""
    ring = SharedRing(parts=1, entries=2, entry_bytes=1024)
    entries = (b"a" * 1000, b"b" * 700)
    ring.add(0, entries[0])

    def run(number: int) -> set[bytes]:
        if number == 0:
            for turn in range(3000):
                ring.replace_last(0, entries[turn % 2])
            return set()
        return {entry for _ in range(1000) for entry in ring.read()}

    assert set().union(*race(3, run)) <= set(entries)
