"""An outage is two events of the gateway, however many of its workers see it."""

from __future__ import annotations

import pytest

from gateway.telemetry.outage import Outage, outage_of_database, outage_of_store
from gateway.telemetry.recent import Recent, RecentBoard
from tests.unit.fakes import NOW, FakeClock

LOST, BACK = "it is lost", "it is back"


class Gateway:
    """Workers with one board, and what each knows of the outage."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.board = RecentBoard(3)
        self.recents = [self.recent(part) for part in range(3)]
        self.workers = [Outage(recent, LOST, BACK) for recent in self.recents]
        self.see(True, True, True)

    def recent(self, part: int) -> Recent:
        return Recent(self.board, part, self.clock, self.clock)

    def see(self, *states: bool) -> None:
        """Each worker sees whether it is there, one after the other; then a second passes."""
        for worker, is_up in zip(self.workers, states, strict=False):
            worker.note(is_up)
            self.clock.advance(0.01)
        self.clock.advance(0.97)

    def told(self) -> list[tuple[str, int]]:
        return [(event.what, event.times) for event in self.recents[0].events()]


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


def test_nothing_is_told_of_what_is_there(gateway: Gateway) -> None:
    gateway.see(True, True, True)
    assert gateway.told() == []


def test_all_workers_lose_it_and_find_it_again(gateway: Gateway) -> None:
    """Given an outage that every worker sees, at the same time or later, then its begin and its end are told once."""
    gateway.see(False, False, True)
    gateway.see(False, False, False)
    gateway.see(True, False, False)
    gateway.see(True, True, True)
    assert gateway.told() == [(BACK, 1), (LOST, 1)]
    gateway.see(True, False, True)
    gateway.see(True, True, True)
    assert gateway.told() == [(BACK, 1), (LOST, 1)] * 2


def test_outages_of_one_worker_after_the_other_are_told_each(gateway: Gateway) -> None:
    """Given outages within a minute that different workers are the first to see, then none is taken for another."""
    gateway.see(False, True, True)
    gateway.see(True, True, True)
    gateway.see(False, False, True)
    gateway.see(False, True, True)
    gateway.see(True, True, True)
    assert gateway.told() == [(BACK, 1), (LOST, 1)] * 2


def test_two_that_tell_in_the_same_moment_have_told_it_once(gateway: Gateway) -> None:
    """Given two workers that both found nothing told yet, then there is one event, of the moment of the first."""
    for recent in gateway.recents[:2]:
        recent.happened(LOST, is_of_all=True)
        gateway.clock.advance(0.5)
    (event,) = gateway.recents[2].events()
    assert (event.what, event.times, event.at) == (LOST, 1, NOW + 1.0)


def test_worker_that_takes_over_in_an_outage_tells_its_end(gateway: Gateway) -> None:
    """Given the only worker that saw an outage, which dies, then the one in its place tells that it is over."""
    gateway.see(False)
    successor = Outage(gateway.recent(0), LOST, BACK)
    successor.note(False)
    assert gateway.told() == [(LOST, 1)]
    successor.note(True)
    assert gateway.told() == [(BACK, 1), (LOST, 1)]


def test_outage_at_the_start_is_told(gateway: Gateway) -> None:
    """Given a worker that finds it lost when it first looks, then that is told."""
    first = Outage(Recent(None, 0, gateway.clock, gateway.clock), LOST, BACK)
    assert "is_up=None" in repr(first)
    first.note(False)
    assert "is_up=False" in repr(first)
    assert first._recent.events()[0].what == LOST


def test_several_kinds_do_not_take_each_others_place(gateway: Gateway) -> None:
    """Given a store and a database that are lost one after the other, then each is told, and each is told back."""
    store, database = outage_of_store(gateway.recents[0], "Redis"), outage_of_database(gateway.recents[1])
    for each in (store, database):
        each.note(True)
        each.note(False)
        gateway.clock.advance(1)
    store.note(True)
    gateway.clock.advance(1)
    database.note(True)
    assert [what.partition(" can")[0] for what, _ in gateway.told()] == [
        "the database of records",
        "Redis",
        "the database of records",
        "Redis",
    ]
