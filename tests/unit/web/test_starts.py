"""Which workers have come to serve, and how patiently the master tries again."""

from __future__ import annotations

import os

from gateway.web.starts import Patience, StartBoard
from tests.unit.fakes import FakeClock


def test_board_knows_who_came_to_serve():
    """Given workers in two rows, then the board knows of the latest in each, and of the latest of all."""
    board = StartBoard()
    assert board.latest == 0
    assert not board.has_served(0, 1)
    board.note(0, 1)
    board.note(1, 300)
    assert board.has_served(0, 1)
    assert not board.has_served(0, 2)
    assert not board.has_served(1, 44)
    assert board.latest == 300


def test_master_sees_what_a_forked_worker_notes():
    """Given a board made before the fork, when the worker comes to serve, then its master knows."""
    board = StartBoard()
    child = os.fork()
    if child == 0:
        board.note(3, 7)
        os._exit(0)
    os.waitpid(child, 0)
    assert board.has_served(3, 7)


def test_pauses_grow_while_starts_fail_and_are_short_after_one_that_worked():
    """Given starts that fail one after the other, then each waits longer, bounded; a start that works ends that."""
    clock = FakeClock()
    patience = Patience(clock)
    assert patience.may_start()
    for number, longest in enumerate((0.5, 1.0, 2.0, 4.0, 5.0, 5.0), start=2):
        pause = patience.failed(number, latest_served=1)
        assert pause is not None
        assert longest / 2 <= pause <= longest
        assert not patience.may_start()
        clock.advance(pause)
        assert patience.may_start()
    pause = patience.failed(20, latest_served=19)
    assert pause is not None
    assert pause <= 0.5


def test_workers_that_fail_together_are_one_failure():
    """Given two starts that fail at about the same time, then the second neither lengthens the pause nor is told."""
    clock = FakeClock()
    patience = Patience(clock)
    first = patience.failed(2, latest_served=1)
    assert first is not None
    assert patience.failed(3, latest_served=1) is None
    clock.advance(first)
    assert patience.may_start()
