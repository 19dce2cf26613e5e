"""What master and workers tell each other of a reload."""

from __future__ import annotations

from gateway.telemetry.recent import Recent
from gateway.web.launch import ReloadBoard
from tests.unit.fakes import FakeClock

OLD, NEW = "ab" * 32, "cd" * 32


def test_first_configuration_is_good() -> None:
    board = ReloadBoard()
    assert board.is_ok()
    board.publish(OLD)
    assert board.is_ok()
    assert (board.expects(OLD), board.expects(NEW)) == (True, False)


def test_unusable_configuration_is_told_and_what_is_in_force_stays() -> None:
    board = ReloadBoard()
    board.publish(OLD)
    board.publish(None)
    assert not board.is_ok()
    assert board.expects(OLD)
    board.publish(OLD)
    assert board.is_ok()


def test_worker_that_cannot_follow_says_so_until_a_reload_is_good() -> None:
    board = ReloadBoard()
    board.publish(OLD)
    board.fail(board.digest)
    assert not board.is_ok()
    board.publish(OLD)
    assert board.is_ok()


def test_failure_that_comes_late_says_nothing_against_a_newer_reload() -> None:
    """Given a worker that reads a reload while the files change again, when the master has checked the newer ones
    before the worker says that it failed, then the newer reload counts as good."""
    board = ReloadBoard()
    board.publish(OLD)
    expected = board.digest
    board.publish(NEW)
    board.fail(expected)
    assert board.is_ok()


def test_start_and_each_reload_are_events() -> None:
    """Given a start, a refused reload and a good one, then each is an event in words; a worker that fails is none."""
    clock = FakeClock()
    recent = Recent(wall_clock=clock)
    board = ReloadBoard(recent)
    for digest in (OLD, None, NEW):
        board.publish(digest)
        clock.advance(1)
    board.fail(board.digest)
    assert [event.what for event in recent.events()] == [
        "the configuration was reloaded",
        "a reload was refused: nothing has changed",
        "the gateway was started",
    ]


def test_one_worker_hears_that_all_have_followed() -> None:
    """Given three workers, when a reload is published, then only the last to have it hears so, and only once."""
    board = ReloadBoard()
    board.publish(OLD)
    assert [board.follow(row, OLD) for row in (0, 1, 2)] == [False, False, False], "a start is no reload"
    board.publish(NEW, {0, 1, 2})
    assert [board.follow(row, NEW) for row in (1, 0, 2, 1)] == [False, False, True, False]


def test_worker_that_has_an_older_configuration_is_waited_for() -> None:
    """Given two reloads close together, when a worker has only the first, then nobody hears that all have followed."""
    board = ReloadBoard()
    board.publish(OLD, {0, 1})
    assert not board.follow(0, OLD)
    board.publish(NEW, {0, 1})
    assert [board.follow(1, OLD), board.follow(0, NEW), board.follow(1, NEW)] == [False, False, True]


def test_worker_in_the_place_of_one_that_ended_follows_for_it() -> None:
    """Given a worker that ended before it could follow, when its successor begins with the new one, all have it."""
    board = ReloadBoard()
    board.publish(NEW, {0, 1})
    assert not board.follow(0, NEW)
    assert board.follow(1, NEW)


def test_reload_without_a_change_is_told_once() -> None:
    """Given the same contents again, then one worker hears that all have them."""
    board = ReloadBoard()
    for _ in range(2):
        board.publish(NEW, {0, 1})
        assert [board.follow(row, NEW) for row in (0, 1)].count(True) == 1
