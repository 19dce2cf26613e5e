"""Slots for interceptions: never more than the limit, never lost; and what workers know of each other's."""

from __future__ import annotations

import os
import random

import pytest

from gateway.web.admission import Admission, Board
from tests.unit.fakes import FakeClock, race


def test_places_are_given_up_to_the_limit_and_given_back():
    """Given two slots, when both are taken, then the third is refused until one is given back."""
    admission = Admission(2)
    assert [admission.enter() for _ in range(3)] == [True, True, False]
    assert repr(admission) == "<Admission 2/2>"
    admission.leave()
    assert admission.enter()
    assert admission.taken == admission.limit == 2


def test_no_limit_no_place():
    """Given no slots at all, then everyone is refused."""
    assert not Admission(0).enter()


def test_a_rush_gets_exactly_the_places_there_are():
    """Given 64 threads at a barrier and 10 slots, then 10 enter."""
    admission = Admission(10)
    assert sum(race(64, lambda _: admission.enter())) == 10
    assert admission.taken == 10


def test_storm_of_comings_and_goings_loses_no_place():
    """Given 64 threads that come and go at random, then the limit holds throughout and in the end all is free."""
    admission = Admission(10)

    def come_and_go(number: int) -> int:
        chance, held, most = random.Random(number), 0, 0
        for _ in range(500):
            if held and chance.random() < 0.5:
                admission.leave()
                held -= 1
            else:
                held += admission.enter()
            most = max(most, admission.taken)
        for _ in range(held):
            admission.leave()
        return most

    assert max(race(64, come_and_go)) <= 10
    assert admission.taken == 0


def worker(board: Board, row: int, limit: int, slots: int = 0) -> Admission:
    """A worker that accepts connections and has given so many of its slots."""
    admission = Admission(limit, board, row)
    admission.announce(True)
    for _ in range(slots):
        assert admission.enter()
    return admission


@pytest.mark.parametrize(
    ("own", "others", "should_yield"),
    [
        pytest.param(0, [0], False, id="room-everywhere"),
        pytest.param(1, [2], False, id="room-here-alone"),
        pytest.param(2, [1], True, id="room-there-alone"),
        pytest.param(2, [2, 2, 1], True, id="room-with-one-of-many"),
        pytest.param(2, [2], False, id="room-nowhere"),
        pytest.param(2, [], False, id="alone"),
    ],
)
def test_a_full_worker_yields_while_another_has_room(own, others, should_yield):
    """Given workers with two slots each, then one leaves new connections to others only if it is full and they are
    not: a refusal must come from somebody."""
    board = Board()
    admission = worker(board, 1, 2, own)
    for row, slots in enumerate(others, start=2):
        worker(board, row, 2, slots)
    assert admission.should_yield(0) is should_yield


def test_a_worker_s_own_places_are_nobody_else_s():
    """Given one worker with slots left, then others see room and it does not."""
    board = Board()
    worker(board, 1, 2)
    assert not board.others_have_room(1)
    assert board.others_have_room(2)


def test_room_comes_and_goes_with_the_places():
    """Given a full worker, then it yields from when another has a slot given back, until that is taken again."""
    board = Board()
    full, other = worker(board, 1, 1, 1), worker(board, 2, 1, 1)
    assert not full.should_yield(0)
    other.leave()
    assert full.should_yield(0)
    assert not other.should_yield(0)
    assert other.enter()
    assert not full.should_yield(0)


def test_a_worker_that_is_only_made_has_no_room():
    """Given a worker that starts, then nobody yields to it until it accepts, whatever comes and goes."""
    board = Board()
    full, starting = worker(board, 1, 1, 1), Admission(1, board, 2)
    assert not full.should_yield(0)
    assert starting.enter()
    starting.leave()
    assert not full.should_yield(0)
    starting.announce(True)
    assert full.should_yield(0)


def test_a_worker_that_accepts_nobody_has_no_room():
    """Given a worker that stops, when what it still serves ends, then nobody yields to it, until it accepts again."""
    board = Board()
    full, stopping = worker(board, 1, 1, 1), worker(board, 2, 2, 1)
    assert full.should_yield(0)
    stopping.announce(False)
    assert not full.should_yield(0)
    stopping.leave()
    assert not full.should_yield(0)
    stopping.announce(True)
    assert full.should_yield(0)


def test_a_dead_worker_s_places_are_no_room():
    """Given a worker with slots left, when the master notes that it has ended, then nobody yields to it."""
    board = Board()
    full = worker(board, 1, 1, 1)
    worker(board, 2, 1)
    assert full.should_yield(0)
    board.note(2, 0)
    assert not full.should_yield(0)


def test_a_worker_whose_main_loop_stands_still_has_no_room():
    """Given a worker that is stopped (SIGSTOP) with slots left, when some seconds have gone by, then nobody yields to
    it; when it goes on, it has room again."""
    clock = FakeClock()
    board = Board(clock)
    full, stopped = worker(board, 1, 1, 1), worker(board, 2, 1)
    assert full.should_yield(0)
    clock.advance(2)
    stopped.beat()
    clock.advance(2)
    assert full.should_yield(0)
    clock.advance(2)
    assert not full.should_yield(0)
    stopped.beat()
    assert full.should_yield(0)


def test_workers_that_are_forked_see_each_other_s_places():
    """Given a board made before the fork, when another process notes its slots, then this one sees them."""
    board = Board()
    full = worker(board, 1, 1, 1)
    assert not full.should_yield(0)
    child = os.fork()
    if child == 0:
        worker(board, 2, 5)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert full.should_yield(0)


@pytest.mark.parametrize(
    ("taken", "at_hand", "should_yield"),
    [
        pytest.param(1, 3, True, id="those-on-their-way-fill-it"),
        pytest.param(1, 2, False, id="one-slot-is-left"),
        pytest.param(3, 0, True, id="it-is-full"),
    ],
)
def test_requests_on_their_way_to_a_place_count(taken, at_hand, should_yield):
    """Given requests that have come and have no slot yet, then they count as if they had one."""
    board = Board()
    admission = worker(board, 1, 3, taken)
    worker(board, 2, 3)
    assert admission.should_yield(at_hand) is should_yield
