"""Background threads: no exception ends them, a failure is told once, and they end when they are told to."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from gateway.runtime.background import BackgroundThread, GrowingPause, Troubles, make_way
from tests.harness import wait_until

SOON_SECONDS = 30.0
NEVER_SECONDS = 3600.0


@pytest.fixture
def begin() -> Iterator[Callable[..., BackgroundThread]]:
    """Starts a thread of steps; it is stopped after the test."""
    begun: list[BackgroundThread] = []

    def start(step: Callable[[], float | None], **options: object) -> BackgroundThread:
        begun.append(BackgroundThread("worker bee", step, **options))  # type: ignore[arg-type]
        begun[-1].start()
        return begun[-1]

    yield start
    for thread in begun:
        thread.stop()
        assert thread.join(SOON_SECONDS)


class Steps:
    """Steps of a thread, in order: an exception is raised, anything else is how long to rest. The last is repeated."""

    def __init__(self, *results: BaseException | float | None) -> None:
        self._results = list(results)
        self.count = 0
        self.threads: set[threading.Thread] = set()

    def __call__(self) -> float | None:
        self.count += 1
        self.threads.add(threading.current_thread())
        result = self._results.pop(0) if len(self._results) > 1 else self._results[0]
        if isinstance(result, BaseException):
            raise result
        return result


def quick() -> GrowingPause:
    return GrowingPause(0.001, 0.002)


def test_pauses_grow_up_to_a_limit_and_are_no_two_alike(monkeypatch):
    """Given failures one after the other, then each pause is drawn up to twice the last, from its half on; and once it
    has worked they begin anew."""
    monkeypatch.setattr("random.SystemRandom.uniform", lambda self, least, most: (least, most))
    pause = GrowingPause()
    drawn = [pause.next_seconds() for _ in range(6)]
    assert drawn == [(0.25, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (2.5, 5.0), (2.5, 5.0)]
    pause.reset()
    assert pause.next_seconds() == (0.25, 0.5)


@pytest.mark.parametrize("error", [ValueError("odd"), MemoryError(), SystemExit(1), KeyboardInterrupt()], ids=repr)
def test_no_exception_ends_a_background_thread(begin, error):
    """Given a step that raises whatever it may, then the same thread takes the next step."""
    steps = Steps(error, error, NEVER_SECONDS)
    begin(steps, pause=quick())
    assert wait_until(lambda: steps.count == 3, SOON_SECONDS)
    assert len(steps.threads) == 1


def test_a_failure_is_told_once_and_so_is_its_end(begin, caplog):
    """Given a step that fails three times, then the log has one traceback, and later that it works again."""
    caplog.set_level(logging.INFO)
    steps = Steps(*[ValueError("odd")] * 3, NEVER_SECONDS)
    begin(steps, pause=quick())
    assert wait_until(lambda: "works again" in caplog.text, SOON_SECONDS)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [
        ("ERROR", "the thread worker bee fails; it is tried again until it works"),
        ("INFO", "the thread worker bee works again"),
    ]
    assert "ValueError: odd" in caplog.text
    assert steps.count == 4


def test_a_new_failure_is_told_anew(begin, caplog):
    """Given failures with a success between them, then each beginning is told."""
    steps = Steps(ValueError("first"), 0.0, ValueError("second"), NEVER_SECONDS)
    begin(steps, pause=quick())
    assert wait_until(lambda: steps.count == 4, SOON_SECONDS)
    assert [name for name in ("first", "second") if f"ValueError: {name}" in caplog.text] == ["first", "second"]


def test_a_log_that_fails_ends_no_thread(begin, monkeypatch):
    """Given a failure that cannot even be told, then the thread goes on."""

    def full(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(logging.getLogger("gateway.background"), "error", full)
    steps = Steps(ValueError("odd"), NEVER_SECONDS)
    begin(steps, pause=quick())
    assert wait_until(lambda: steps.count == 2, SOON_SECONDS)


@pytest.mark.parametrize("pause_seconds", [None, NEVER_SECONDS], ids=["until-woken", "long"])
def test_a_rest_ends_when_there_is_work(begin, pause_seconds):
    """Given a resting thread, when it is woken, then it takes one step and rests again."""
    steps = Steps(pause_seconds)
    thread = begin(steps)
    for count in (1, 2, 3):
        assert wait_until(lambda count=count: steps.count == count, SOON_SECONDS)
        thread.wake()
    assert wait_until(lambda: steps.count == 4, SOON_SECONDS)


def test_work_that_comes_during_a_step_is_not_forgotten(begin):
    """Given a call to wake in the middle of a step, then another step follows that one at once."""
    in_step, may_end, count = threading.Event(), threading.Event(), []

    def step() -> float:
        count.append(1)
        in_step.set()
        assert may_end.wait(SOON_SECONDS)
        return NEVER_SECONDS

    thread = begin(step)
    assert in_step.wait(SOON_SECONDS)
    thread.wake()
    may_end.set()
    assert wait_until(lambda: len(count) == 2, SOON_SECONDS)


@pytest.mark.parametrize(
    "result", [None, NEVER_SECONDS, 0.0, ValueError("odd")], ids=["waiting", "resting", "busy", "failing"]
)
def test_a_thread_ends_promptly_whatever_it_does(begin, result):
    """Given a thread that waits, rests, works or pauses after a failure, when it is stopped, then it ends."""
    steps, ended = Steps(result), threading.Event()
    thread = begin(steps, at_end=ended.set, pause=GrowingPause(NEVER_SECONDS, NEVER_SECONDS))
    assert wait_until(lambda: steps.count >= 1, SOON_SECONDS)
    thread.stop()
    assert thread.join(SOON_SECONDS)
    assert ended.is_set()


def test_a_long_step_is_told_to_stop(begin):
    """Given a step that waits, when the thread is stopped, then the wait is over and says why."""
    told = []
    thread: list[BackgroundThread] = []

    def step() -> float:
        told.append(thread[0].wait(NEVER_SECONDS))
        return 0.0

    thread.append(BackgroundThread("worker bee", step))
    thread[0].start()
    thread[0].stop()
    assert thread[0].join(SOON_SECONDS)
    assert told in ([True], [])  # it may have been stopped before it began
    assert repr(thread[0]) == "<BackgroundThread worker bee stopping>"
    assert (thread[0].is_stopping, BackgroundThread("idle bee", step).is_stopping) == (True, False)


def test_a_step_may_stop_its_own_thread():
    """Given a step that calls `stop`, then no other follows."""
    count = []

    def step() -> float:
        count.append(1)
        thread.stop()
        return 0.0

    thread = BackgroundThread("worker bee", step)
    thread.start()
    assert thread.join(SOON_SECONDS)
    assert len(count) == 1


def test_what_fails_at_the_end_is_told(begin, caplog):
    """Given an end that fails, then the log says so, and the thread has ended."""
    thread = begin(Steps(None), at_end=lambda: 1 // 0)
    thread.stop()
    assert thread.join(SOON_SECONDS)
    assert "the end of the thread worker bee failed" in caplog.text


def test_one_that_never_began_has_ended():
    """Given a thread that was not started, then nobody waits for it."""
    thread = BackgroundThread("worker bee", lambda: None)
    thread.stop()
    assert thread.join(0)


def test_pauses_grow_to_their_limit_and_begin_anew():
    """Given failures in a row, then each pause is up to twice the last, bounded; after a success it is short."""
    pause = GrowingPause(1.0, 5.0)
    for longest in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert longest / 2 <= pause.next_seconds() <= longest
    pause.reset()
    assert pause.next_seconds() <= 1.0


def test_troubles_of_what_is_no_thread_are_told_likewise(caplog):
    """Given work that fails twice and works twice, then its beginning and its end are told once."""
    caplog.set_level(logging.INFO)
    troubles = Troubles("housekeeping", GrowingPause(1.0, 4.0))
    pauses = [troubles.failed(ValueError("odd")) for _ in range(2)]
    assert pauses[0] <= 1.0 <= pauses[1]
    for _ in range(2):
        troubles.worked()
    assert [record.getMessage() for record in caplog.records] == [
        "housekeeping fails; it is tried again until it works",
        "housekeeping works again",
    ]
    assert troubles.failed(ValueError("odd")) <= 1.0


def test_a_thread_makes_way_each_time_it_has_computed_for_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given pieces of work of 0.2 ms, when it makes way between them, then it rests after every third."""
    computed_seconds = 5.0
    rests: list[float] = []
    monkeypatch.setattr("time.thread_time", lambda: computed_seconds)
    monkeypatch.setattr("time.sleep", rests.append)

    def work() -> None:
        nonlocal computed_seconds
        make_way()
        assert len(rests) == 1  # whatever it did before anybody counted
        for expected in (1, 1, 2, 2, 2, 3):
            computed_seconds += 0.0002
            make_way()
            assert len(rests) == expected
        assert all(0 < rest < 0.01 for rest in rests)
        finished.set()

    finished = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(SOON_SECONDS)
    assert finished.is_set()
