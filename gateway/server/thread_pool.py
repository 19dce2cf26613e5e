"""A worker's threads, for tasks that mostly wait.

Owns: the threads and who goes next. Thread-safe. concurrent.futures' pool wakes two threads for each task,
the one that takes it and the next in line, which finds nothing; and it goes round through all of them, so that every
thread's memory is touched. Here the thread that was busy last goes first and nobody else is woken: under a light load a
few threads, whose memory is warm, do everything. All threads begin with the pool: where a system does not grant so
many, the worker fails at its start and says so, not under its highest load.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

Task = Callable[[], None]


class _Hand:
    """One thread's place to wait. `task` is what it does next; None sends it home."""

    __slots__ = ("task", "wake")

    def __init__(self) -> None:
        self.task: Task | None = None
        self.wake = threading.Lock()
        self.wake.acquire()


class ThreadPool:
    """`size` threads; tasks wait in order when all are busy. Raises RuntimeError if not so many threads can begin."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()  # guards all below
        self._idle: list[_Hand] = []
        self._waiting: deque[Task] = deque()
        self._is_shut = False
        for number in range(size):
            hand = _Hand()
            try:
                threading.Thread(target=self._work, args=(hand,)).start()
            except RuntimeError as error:
                self.shutdown()
                raise RuntimeError(f"the system lets only {number} of a worker's {size} threads begin") from error
            self._idle.append(hand)

    def submit(self, task: Task) -> None:
        """Have a thread do this. After `shutdown` nobody does."""
        with self._lock:
            if self._is_shut:
                return
            if not self._idle:
                self._waiting.append(task)
                return
            hand = self._idle.pop()
            hand.task = task
        hand.wake.release()

    def shutdown(self, wait: bool = False) -> None:
        """Let go of idle threads, and of the others when they are done; gunicorn calls it, and never waits."""
        with self._lock:
            self._is_shut = True
            self._waiting.clear()
            idle, self._idle = self._idle, []
        for hand in idle:
            hand.wake.release()

    def _work(self, hand: _Hand) -> None:
        hand.wake.acquire()
        while (task := hand.task) is not None:
            hand.task = None
            try:
                task()
            except BaseException:  # one that ended its thread would cost the worker a thread for good
                log.exception("a task failed; its thread goes on")
            del task
            if self._is_idle(hand):
                hand.wake.acquire()

    def _is_idle(self, hand: _Hand) -> bool:
        """Take the next task, or lie down to be woken for one."""
        with self._lock:
            if self._waiting:
                hand.task = self._waiting.popleft()
                return False
            if self._is_shut:
                return False
            self._idle.append(hand)
            return True

    def __repr__(self) -> str:
        return f"<ThreadPool {self._size - len(self._idle)} busy of {self._size}>"
