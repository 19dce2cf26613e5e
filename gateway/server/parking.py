"""Responses that wait: parked without a thread, and gone on with when what they wait for has come.

Owns: the poller of a worker's parked responses, a thread of its own. A response pauses (`runtime.pause`) in whatever
thread runs it; from then on it is the poller's, until its Pause is over. Then the poller itself goes on with it: to
wake a thread for every event costs more than all that the event needs, and hundreds of threads that wake queue for the
interpreter. Only what may block or take long (`needs_thread`) goes back to the worker's threads.

    a thread                                     the poller
    run: view, walk, first bytes
    Pause -----------------------------------> wait for all descriptors, hang-ups and deadlines
                                               run the next pieces; Pause: wait again
    run, if the Pause asks for a thread <-----
                                               at its end: the connection goes to the main loop

A response belongs to one of them at a time. Descriptors are watched by the poller's thread alone: what it has not
looked at yet lies in `_new`.
"""

from __future__ import annotations

import heapq
import logging
import math
import os
import select
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count

from gateway.runtime.background import BackgroundThread
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.pause import wait
from gateway.server.answer import Answer

log = logging.getLogger("gateway.worker")

# Distant deadlines are looked at so often; nearer ones are kept in order.
_SWEEP_SECONDS = 0.25
_ROUNDS = 1000  # between two looks at whether the thread is to go on
# A step of the poller that takes longer keeps everybody else waiting.
_LONG_STEP_SECONDS = 0.05


class Parking:
    """A worker's parked responses. `park` is thread-safe; the rest belongs to the poller.

    `go_on` runs a response and says whether it has paused again; else it has seen to its end. It never raises.
    `in_thread` has one of the worker's threads do something.
    """

    def __init__(
        self, go_on: Callable[[Answer], bool], in_thread: Callable[[Callable[[], None]], None], lifecycle: Lifecycle
    ) -> None:
        self._go_on = go_on
        self._in_thread = in_thread
        self._lifecycle = lifecycle
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._epoll.register(lifecycle.fileno(), select.EPOLLIN)
        self._new: deque[Answer] = deque()
        self._is_waiting = False
        self._parked: dict[Answer, None] = {}
        self._by_descriptor: dict[int, Answer] = {}
        self._due: dict[Answer, None] = {}  # in order
        self._near: list[tuple[float, int, Answer]] = []
        self._numbers = count()
        self._sweeps_at = 0.0
        self._thread = BackgroundThread("parking", self._step)

    def start(self) -> None:
        """Begin. Raises RuntimeError if the system grants no thread."""
        self._thread.start()

    def __len__(self) -> int:
        return len(self._parked) + len(self._new)

    def park(self, answer: Answer) -> None:
        """The response has paused: go on with it when its Pause is over."""
        self._new.append(answer)
        if self._is_waiting:
            self._is_waiting = False
            os.eventfd_write(self._wake, 1)

    def _step(self) -> float:
        for _ in range(_ROUNDS):
            self._round()
        return 0.0

    def _round(self) -> None:
        """Take in what has paused, wait, and go on with what is due."""
        while self._new:
            self._admit(self._new.popleft())
        for descriptor, events in self._epoll.poll(self._patience_seconds()):
            self._is_waiting = False
            answer = self._by_descriptor.get(descriptor)
            if answer is not None:
                answer.told_of(descriptor, events)
                self._due[answer] = None
            elif descriptor == self._wake:
                os.eventfd_read(self._wake)
            else:
                self._epoll.unregister(self._lifecycle.fileno())
                self._due.update(self._parked)
        self._is_waiting = False
        self._look_at_deadlines()
        due, self._due = self._due, {}
        for answer in due:
            self._resume(answer)

    def _patience_seconds(self) -> float:
        """How long the poller may sleep. From here on who parks wakes it."""
        self._is_waiting = True
        if self._new or self._due:
            return 0.0
        until_at = self._sweeps_at
        if self._near:
            until_at = min(until_at, self._near[0][0])
        return max(0.0, until_at - time.monotonic())

    def _admit(self, answer: Answer) -> None:
        self._parked[answer] = None
        until_at = answer.until_at
        if until_at == -math.inf or (self._lifecycle.is_over and not answer.is_held_up):
            self._due[answer] = None
            return
        try:
            self._follow(answer)
        except OSError as error:  # the kernel watches no more descriptors
            log.warning("a response cannot be parked: %s; a thread waits for it", error)
            self._forget(answer)
            self._in_thread(partial(self._wait_and_run, answer))
            return
        if until_at < time.monotonic() + 2 * _SWEEP_SECONDS:
            heapq.heappush(self._near, (until_at, next(self._numbers), answer))

    def _follow(self, answer: Answer) -> None:
        """Have the kernel tell of the descriptors that this response waits for now."""
        wanted = answer.wanted
        if answer.followed == wanted:  # as after every event of a stream
            return
        for descriptor, events in answer.followed:
            if (descriptor, events) not in wanted:
                self._unfollow(descriptor)
        for descriptor, events in wanted:
            if (descriptor, events) not in answer.followed:
                self._epoll.register(descriptor, events)
                self._by_descriptor[descriptor] = answer
        answer.followed = wanted

    def _unfollow(self, descriptor: int) -> None:
        self._by_descriptor.pop(descriptor, None)
        with suppress(OSError):  # it was closed, and the kernel has forgotten it
            self._epoll.unregister(descriptor)

    def _forget(self, answer: Answer) -> None:
        """It is the poller's no more."""
        self._parked.pop(answer, None)
        followed, answer.followed = answer.followed, ()
        for descriptor, _ in followed:
            self._unfollow(descriptor)

    def _look_at_deadlines(self) -> None:
        now = time.monotonic()
        while self._near and self._near[0][0] <= now:
            answer = heapq.heappop(self._near)[2]
            if answer in self._parked and answer.until_at <= now:
                self._due[answer] = None
        if now >= self._sweeps_at:
            self._sweeps_at = now + _SWEEP_SECONDS
            for answer in self._parked:
                if answer.until_at <= now:
                    self._due[answer] = None

    def _resume(self, answer: Answer) -> None:
        if answer.needs_thread:
            self._forget(answer)
            self._in_thread(partial(self._run, answer))
            return
        began_at = time.monotonic()
        if self._go_on(answer):
            self._admit(answer)
        else:
            self._forget(answer)
        seconds = time.monotonic() - began_at
        if seconds > _LONG_STEP_SECONDS:
            log.warning("a step of a response took %.0f ms, while others waited", seconds * 1000)

    def _run(self, answer: Answer) -> None:
        """In one of the worker's threads."""
        if self._go_on(answer):
            self.park(answer)

    def _wait_and_run(self, answer: Answer) -> None:
        wait(answer.pause)
        self._run(answer)

    def __repr__(self) -> str:
        return f"<Parking of {len(self)} responses>"
