"""Threads that work beside the requests for as long as a worker lives, and what becomes of their failures.

Owns: the loop of every background thread. Thread-safe. No such thread ends by an exception, whatever it
is: the log says once that the work fails, with the traceback; it is tried again after a pause that grows; and the log
says when it works again. What a thread expects to fail (a server that is down, say) it handles and words itself.

    self._thread = BackgroundThread("looks", self._look)  # _look does a round, and says how long to wait after it
    self._thread.start()
    self._thread.wake()     # there is work: the wait is over, or does not begin
    self._thread.stop()     # ends when the round under way does; `at_end` is called last, in the thread
    self._thread.join(3.0)

What does such work without being a thread, like a task of an event loop, keeps its own Troubles.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

log = logging.getLogger("gateway.background")

SHORTEST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0
# What a thread computes at a stretch, and then leaves to others. A thread that has slept for long is owed time by the
# kernel, and would have all of it at once, 10 ms and more, while streams wait. The break is short, for a database may
# be locked meanwhile; whoever waits has the processor at once, and keeps it for its turn.
_TURN_SECONDS = 0.0005
_BREAK_SECONDS = 0.0001
_random = random.SystemRandom()  # no seed, which workers would share

_turn = threading.local()


class GrowingPause:
    """How long to wait after each failure: twice as long each time, up to a limit, and never all workers alike."""

    def __init__(
        self, shortest_seconds: float = SHORTEST_PAUSE_SECONDS, longest_seconds: float = LONGEST_PAUSE_SECONDS
    ) -> None:
        self._shortest_seconds = shortest_seconds
        self._longest_seconds = longest_seconds
        self._next_seconds = shortest_seconds

    def next_seconds(self) -> float:
        """How long to wait after one more failure."""
        now_seconds = self._next_seconds
        self._next_seconds = min(2 * now_seconds, self._longest_seconds)
        return _random.uniform(now_seconds / 2, now_seconds)

    def reset(self) -> None:
        """It worked: the next pause is short."""
        self._next_seconds = self._shortest_seconds


def make_way() -> None:
    """Between two pieces of work beside the requests: if this thread has computed for long, others have their turn."""
    if time.thread_time() - getattr(_turn, "began_at", 0.0) >= _TURN_SECONDS:
        time.sleep(_BREAK_SECONDS)
        _turn.began_at = time.thread_time()


class Troubles:
    """The failures of one piece of work, which is repeated: told when they begin and when they end. One thread's."""

    def __init__(self, name: str, pause: GrowingPause | None = None) -> None:
        self._name = name
        self._pause = pause if pause is not None else GrowingPause()
        self._is_failing = False

    def failed(self, error: BaseException) -> float:
        """The work has failed; how many seconds to wait before it is tried again."""
        if not self._is_failing:
            self._is_failing = True
            with suppress(Exception):  # without memory, say, nothing can be told either
                log.error("%s fails; it is tried again until it works", self._name, exc_info=error)
        return self._pause.next_seconds()

    def worked(self) -> None:
        """The work was done."""
        if self._is_failing:
            self._is_failing = False
            self._pause.reset()
            log.info("%s works again", self._name)


class Wake(Protocol):
    """What ends a thread's rest: threading.Event, or what is waited for in the same way. `wait` is that thread's."""

    def set(self) -> None: ...

    def clear(self) -> None: ...

    def wait(self, timeout: float | None) -> object: ...


class BackgroundThread:
    """A daemon thread that repeats `step` until it is stopped.

    `step` does what there is to do and returns for how many seconds to wait, at most: 0 for not at all, None for until
    `wake` is called. A pause after a failure is cut short by `stop` alone. `at_end` is called in the thread when it
    ends. `wake_by` takes the place of a threading.Event, for a rest that something else may end, too. `start` raises
    RuntimeError if the system grants no thread.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], float | None],
        *,
        at_end: Callable[[], object] = lambda: None,
        pause: GrowingPause | None = None,
        wake_by: Wake | None = None,
    ) -> None:
        self._name = name
        self._step = step
        self._at_end = at_end
        self._troubles = Troubles(f"the thread {name}", pause)
        self._wake: Wake = threading.Event() if wake_by is None else wake_by
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop: for a step that takes long."""
        return self._is_stopping.is_set()

    def start(self) -> None:
        """Begin, with a step at once."""
        self._thread.start()

    def wake(self) -> None:
        """There is work; a call during a step lets the next one follow at once."""
        self._wake.set()

    def stop(self) -> None:
        """Begin no other step. Returns at once; may be called by the step itself."""
        self._is_stopping.set()
        self._wake.set()

    def wait(self, seconds: float) -> bool:
        """For a step: wait so long, unless it is told to stop; whether it was."""
        return self._is_stopping.wait(seconds)

    def join(self, seconds: float) -> bool:
        """Wait for its end; whether it has ended in that time. One that never began has."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_stopping.is_set():
            self._wake.clear()
            if self._is_stopping.is_set():  # told between the two
                break
            try:
                pause_seconds = self._step()
                self._troubles.worked()
            except BaseException as error:  # noqa: BLE001  # no exception ends it
                self._is_stopping.wait(self._troubles.failed(error))
                continue
            if pause_seconds != 0:
                self._wake.wait(pause_seconds)
        try:
            self._at_end()
        except BaseException:
            log.exception("the end of the thread %s failed", self._name)

    def __repr__(self) -> str:
        return f"<BackgroundThread {self._name}{' stopping' if self.is_stopping else ''}>"
