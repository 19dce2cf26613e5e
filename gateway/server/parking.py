"""Responses that wait: parked without a thread, and gone on with when what they wait for has come.

Owns: the poller of a worker's parked responses, a thread of its own. A response pauses (`runtime.pause`) in whatever
thread runs it; from then on it is the poller's, until its Pause is over. Then the poller itself goes on with it: to
wake a thread for every event costs more than all that the event needs, and hundreds of threads that wake queue for the
interpreter. Only what may block or take long (`needs_thread`) goes back to the worker's threads.

    the poller                                                     one of the worker's threads
    a request whose head is there: run it (unless it may block) -> run it
    Pause: wait for descriptors, hang-ups and deadlines <--------- Pause
    run the next pieces; Pause: wait again
    Pause that needs a thread -----------------------------------> run the next pieces
    its end: wait a moment for the connection's next request
    none: the main loop has the connection

A response belongs to one of them at a time. Descriptors are watched by the poller's thread alone: what it has not
looked at yet lies in `_new`. Whoever changes an answer's connection to the upstream does so in a thread, before which
its descriptors are forgotten: a number may come back as another connection's.
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
from gateway.runtime.pause import GONE
from gateway.server.answer import Answer
from gateway.server.kept import Kept

Parked = Answer | Kept

log = logging.getLogger("gateway.worker")

# Distant deadlines are looked at so often; nearer ones, such as that of a response's head, are kept in order.
_SWEEP_SECONDS = 0.25
_NEAR_SECONDS = 0.75
_ROUNDS = 1000  # between two looks at whether the thread is to go on
# What is more than to pass an event on, as to begin a request or to hand a whole answer over, takes ten times as long:
# so much of it is done in a round, and events that have come meanwhile follow.
_MOST_LARGE_STEPS = 8
# A step of the poller that takes longer keeps everybody else waiting.
_LONG_STEP_SECONDS = 0.05


class Parking:
    """A worker's parked responses. `park` is thread-safe; the rest belongs to the poller.

    `go_on` goes on with what was parked, and returns what is to be parked next: the same, its connection's next
    response, or None if it has seen to the end. It never raises. `in_thread` has one of the worker's threads do
    something.
    """

    def __init__(
        self,
        go_on: Callable[[Parked], Parked | None],
        in_thread: Callable[[Callable[[], None]], None],
        lifecycle: Lifecycle,
    ) -> None:
        self._go_on = go_on
        self._in_thread = in_thread
        self._lifecycle = lifecycle
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._epoll.register(lifecycle.fileno(), select.EPOLLIN)
        self._new: deque[Parked] = deque()
        self._is_waiting = False
        self._parked: dict[Parked, None] = {}
        self._by_descriptor: dict[int, Parked] = {}
        self._due: dict[Parked, None] = {}  # in order
        self._near: list[tuple[float, int, Parked]] = []
        self._numbers = count()
        self._sweeps_at = 0.0
        self._thread = BackgroundThread("parking", self._step)

    def start(self) -> None:
        """Begin. Raises RuntimeError if the system grants no thread."""
        self._thread.start()

    def __len__(self) -> int:
        return len(self._parked) + len(self._new)

    def park(self, parked: Parked) -> None:
        """The response has paused: go on with it when its Pause is over."""
        self._new.append(parked)
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
            new = self._new.popleft()
            self._parked[new] = None
            self._admit(new, time.monotonic())
        for descriptor, events in self._epoll.poll(self._patience_seconds()):
            self._is_waiting = False
            parked = self._by_descriptor.get(descriptor)
            if parked is not None:
                if events & GONE:
                    parked.told_of(descriptor, events)
                self._due[parked] = None
            elif descriptor == self._wake:
                os.eventfd_read(self._wake)
            elif descriptor == self._lifecycle.fileno():
                self._epoll.unregister(descriptor)
                self._due.update((parked, None) for parked in self._parked if parked.minds_the_end)
        self._is_waiting = False
        now = time.monotonic()
        self._look_at_deadlines(now)
        due, self._due = iter(self._due), {}
        large_steps = 0
        try:
            for parked in due:
                if not parked.has_begun and not parked.needs_thread:  # a thread's step is none of the poller's
                    large_steps += 1
                    if large_steps > _MOST_LARGE_STEPS:
                        self._due[parked] = None  # among the first of the next
                        continue
                now = self._resume(parked, now)
        finally:
            self._due.update(dict.fromkeys(due))  # if one has failed, the others' turn is the next

    def _patience_seconds(self) -> float:
        """How long the poller may sleep. From here on who parks wakes it."""
        self._is_waiting = True
        if self._new or self._due:
            return 0.0
        until_at = self._sweeps_at
        if self._near:
            until_at = min(until_at, self._near[0][0])
        return max(0.0, until_at - time.monotonic())

    def _admit(self, parked: Parked, now: float) -> None:
        """Wait for what it waits for now; it is among `_parked`."""
        is_near = parked.until_at < now + _NEAR_SECONDS
        if (is_near and parked.until_at == -math.inf) or (self._lifecycle.is_over and parked.minds_the_end):
            self._release(parked)  # what it has closed or given back may be another's before the next round
            self._due[parked] = None
            return
        try:
            if parked.followed is not parked.wanted:  # after an event of a stream it is
                self._follow(parked)
        except OSError as error:  # the kernel watches no more descriptors
            log.warning("a response cannot be parked: %s; a thread waits for it", error)
            parked.followed = (*parked.followed, *parked.wanted)  # some of it may be watched
            self._forget(parked)
            self._in_thread(partial(self._wait_and_run, parked))
            return
        if is_near:
            heapq.heappush(self._near, (parked.until_at, next(self._numbers), parked))

    def _follow(self, parked: Parked) -> None:
        """Have the kernel tell of the descriptors that this response waits for now."""
        wanted = parked.wanted
        before = dict(parked.followed)
        for descriptor, events in wanted:
            watched = before.pop(descriptor, 0)
            if watched == events:
                continue
            if watched:
                self._epoll.modify(descriptor, events)
            else:
                self._epoll.register(descriptor, events)
            self._by_descriptor[descriptor] = parked
        for descriptor in before:
            self._unfollow(descriptor)
        parked.followed = wanted

    def _unfollow(self, descriptor: int) -> None:
        with suppress(OSError):  # it was closed, and the kernel has forgotten it
            self._epoll.unregister(descriptor)
        self._by_descriptor.pop(descriptor, None)

    def _forget(self, parked: Parked) -> None:
        """It is the poller's no more."""
        self._release(parked)
        self._parked.pop(parked, None)

    def _release(self, parked: Parked) -> None:
        """Watch nothing for it."""
        followed, parked.followed = parked.followed, ()
        for descriptor, _ in followed:
            self._unfollow(descriptor)

    def _look_at_deadlines(self, now: float) -> None:
        while self._near and self._near[0][0] <= now:
            parked = heapq.heappop(self._near)[2]
            if parked in self._parked and parked.until_at <= now:
                self._due[parked] = None
        if now >= self._sweeps_at:
            self._sweeps_at = now + _SWEEP_SECONDS
            for parked in self._parked:
                if parked.until_at <= now:
                    self._due[parked] = None

    def _resume(self, parked: Parked, began_at: float) -> float:
        """Go on with it at this time; returns what time it is then."""
        if parked.needs_thread:
            self._forget(parked)
            self._in_thread(partial(self._run, parked))
            return time.monotonic()
        following = self._go_on(parked)
        if following is None:
            self._forget(parked)
        else:
            if following is not parked:
                self._hand_over(parked, following)
            self._admit(following, began_at)
        now = time.monotonic()
        if now - began_at > _LONG_STEP_SECONDS:
            log.warning("a step of a response took %.0f ms, while others waited", (now - began_at) * 1000)
        return now

    def _hand_over(self, parked: Parked, following: Parked) -> None:
        """One follows the other on the same connection, whose descriptor need not be registered anew."""
        self._parked.pop(parked, None)
        self._parked[following] = None
        following.followed, parked.followed = parked.followed, ()
        for descriptor, _ in following.followed:
            self._by_descriptor[descriptor] = following

    def _run(self, parked: Parked) -> None:
        """In one of the worker's threads."""
        following = self._go_on(parked)
        if following is not None:
            self.park(following)

    def _wait_and_run(self, parked: Parked) -> None:
        parked.wait()
        self._run(parked)

    def __repr__(self) -> str:
        return f"<Parking of {len(self)} responses>"
