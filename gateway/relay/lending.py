"""Relaying many streams in one thread, while the threads that they belong to sleep.

Owns: the waiting for the next events of all streams that have some, and passing on what needs no decision. One thread a
worker, beside the requests' own. A stream holds its request's thread from the first byte to the last, by which it is
admitted, answered and ended. But to wake a thread for every event costs more than all that the event needs, and
hundreds of threads that wake queue for the interpreter. So a thread whose stream is silent for a moment lends it to the
relay, and sleeps:

    its request's thread                        the relay
    receive, a moment long: nothing
    lend ------------------------------------>  wait for all streams that were lent
      sleep                                     receive, show, offer; again and again
    take up where the relay left off <--------  until there is something to decide

That is the stream's end, a failure, a client that takes nothing or has gone, a ping that is due, or the end of the
drain time. The relay decides nothing of it: the thread meets it by itself, at its next wait or write, as if there had
been no relay. What is done with an event stands in one place, too; the relay only does it elsewhere.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable
from typing import Protocol

from gateway.relay.pace import Pace
from gateway.runtime.background import BackgroundThread
from gateway.runtime.lifecycle import Lifecycle
from gateway.upstream.event_stream import EventStream
from gateway.upstream.watch import Watch

log = logging.getLogger(__name__)

# How long a request's thread itself waits for the next event: of a burst it comes at once.
PATIENCE_SECONDS = 0.005
# Deadlines are looked at so often; a stream that has less time left than this is its thread's.
_SWEEP_SECONDS = 0.25
_LEAST_SECONDS = 2 * _SWEEP_SECONDS
# A stream that brings more than this at once is quicker in its own thread, and others have their turn.
_MOST_BATCHES = 8
_GONE = getattr(select, "EPOLLRDHUP", 0)  # EPOLLHUP and EPOLLERR are reported unasked


class ClientWriter(Protocol):
    """The client's side of a response whose head has gone out."""

    def offer(self, data: bytes) -> bool:
        """Send what the client takes now; whether that was all. The rest leaves with what is sent next.

        Never raises: that a client has gone shows then, too.
        """
        ...


class _Loan:
    """A stream that was lent: what to do with its events, and the lock that its thread sleeps at."""

    __slots__ = ("back", "client", "client_descriptor", "descriptor", "failure", "has_sent_all", "lender", "stream")

    def __init__(self, lender: Lender, stream: EventStream, descriptor: int, client_descriptor: int) -> None:
        self.lender = lender
        self.stream = stream
        self.descriptor = descriptor
        self.client_descriptor = client_descriptor
        self.failure: Exception | None = None
        self.has_sent_all = True
        self.back = threading.Lock()
        self.back.acquire()

    def relay(self) -> bool:
        """The upstream's socket is readable: pass on what is there. Whether the stream stays lent."""
        stream, lender = self.stream, self.lender
        lender.watch.found_readable()
        for _ in range(_MOST_BATCHES):
            batch = stream.receive(0.0)
            if not batch:
                return batch is None and lender.watch.descriptors is not None  # unless TLS wants to write first
            shown = lender.show(batch)
            if stream.tally.has_ended:
                lender.settle()
            if shown and not lender.client.offer(lender.pace.sent(shown)):
                self.has_sent_all = False
                return False
            if stream.tally.has_ended:
                return False
            if not stream.reply.may_hold_more:
                return True
        return False

    @property
    def is_due(self) -> bool:
        """Whether its thread is to look after it soon."""
        return self.lender.left_seconds(self.stream) < _LEAST_SECONDS


class Relay:
    """A worker's relay; its thread begins with the first stream. `take` is thread-safe."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._lock = threading.Lock()  # guards changes of what follows, and what is registered
        self._thread: BackgroundThread | None = None
        self._epoll: select.epoll | None = None
        self._is_over = not hasattr(select, "epoll")  # then every stream stays with its thread
        # By descriptor. Only the relay's thread removes, so it may look without the lock; single steps are atomic.
        self._loans: dict[int, _Loan] = {}
        self._by_client: dict[int, _Loan] = {}

    @property
    def is_over(self) -> bool:
        """Whether no stream is taken any more."""
        return self._is_over

    def take(self, loan: _Loan) -> bool:
        """Look after a stream until something is to be decided; the caller's thread sleeps meanwhile.

        False if it cannot be looked after.
        """
        try:
            with self._lock:
                if self._thread is None and not self._is_over:
                    self._begin()
                if self._is_over or self._epoll is None:
                    return False
                self._include(self._epoll, loan)
        except (OSError, RuntimeError) as error:  # no descriptor, no memory, no thread left
            log.warning("the relay cannot take a stream, which stays in its own thread: %s", error)
            return False
        loan.back.acquire()
        return True

    def _begin(self) -> None:
        """The first stream is there."""
        thread = BackgroundThread("relay", self._step, at_end=self._end)
        self._epoll = self._watching()
        try:
            thread.start()
        except BaseException:
            self._epoll.close()
            self._epoll = None
            raise
        self._thread = thread

    def _watching(self) -> select.epoll:
        epoll = select.epoll()
        try:
            epoll.register(self._lifecycle.fileno(), select.EPOLLIN)
        except BaseException:
            epoll.close()
            raise
        return epoll

    def _include(self, epoll: select.epoll, loan: _Loan) -> None:
        epoll.register(loan.client_descriptor, _GONE)
        try:
            epoll.register(loan.descriptor, select.EPOLLIN)
        except BaseException:
            epoll.unregister(loan.client_descriptor)
            raise
        self._loans[loan.descriptor] = self._by_client[loan.client_descriptor] = loan

    def _step(self) -> float:
        """Serve, up to the next sweep. A failure gives every stream back; until the next step no other is taken."""
        if self._epoll is None:
            epoll = self._watching()
            with self._lock:
                self._epoll = epoll
        try:
            self._serve(self._epoll)
        except BaseException:
            self._give_all_back()
            raise
        return 0.0

    def _serve(self, epoll: select.epoll) -> None:
        over = self._lifecycle.fileno()
        sweeps_at = time.monotonic() + _SWEEP_SECONDS
        while time.monotonic() < sweeps_at:
            for descriptor, _ in epoll.poll(_SWEEP_SECONDS):
                loan = self._loans.get(descriptor)
                if loan is not None:
                    self._relay(epoll, loan)
                elif (loan := self._by_client.get(descriptor)) is not None:
                    self._give_back(epoll, loan)
                elif descriptor == over and self._thread is not None:
                    self._thread.stop()
                    return
        for loan in list(self._loans.values()):
            if loan.is_due:
                self._give_back(epoll, loan)

    def _end(self) -> None:
        """The drain time is over."""
        self._is_over = True  # before the lock: who waits for it must know
        self._give_all_back()

    def _give_all_back(self) -> None:
        with self._lock:
            epoll, self._epoll = self._epoll, None
            loans = list(self._loans.values())
            self._loans.clear()
            self._by_client.clear()
            if epoll is not None:
                epoll.close()
        for loan in loans:
            loan.back.release()

    def _relay(self, epoll: select.epoll, loan: _Loan) -> None:
        try:
            is_lent = loan.relay()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is raised in the stream's own thread
            loan.failure = error
            is_lent = False
        if not is_lent:
            self._give_back(epoll, loan)

    def _give_back(self, epoll: select.epoll, loan: _Loan) -> None:
        try:
            with self._lock:  # else an event could come before the stream is taken in to its end
                del self._loans[loan.descriptor], self._by_client[loan.client_descriptor]
                epoll.unregister(loan.descriptor)
                epoll.unregister(loan.client_descriptor)
        finally:
            loan.back.release()

    def __repr__(self) -> str:
        return f"<Relay of {len(self._loans)} streams{' over' if self._is_over else ''}>"


class Lender:
    """One interception's side of the relay: it belongs to the request's thread but for the time of a loan.

    `show` says what the client is shown of whole events; `settle` is called before it is shown the last of them.
    """

    def __init__(
        self,
        relay: Relay,
        client: ClientWriter,
        watch: Watch,
        pace: Pace,
        show: Callable[[bytes], bytes],
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self.client = client
        self.watch = watch
        self.pace = pace
        self.show = show
        self.settle = settle
        self._relay = relay
        self._may_lend = True

    def patience_seconds(self, stream: EventStream) -> float:
        """How long to wait for the next events before the stream is lent, or something is due to the client."""
        left_seconds = self.left_seconds(stream)
        may_lend = self._may_lend and left_seconds > _LEAST_SECONDS and not self._relay.is_over
        return PATIENCE_SECONDS if may_lend else self.pace.left_seconds

    def left_seconds(self, stream: EventStream) -> float:
        """How long the stream may be left alone: until a ping is due, or the upstream has been silent for too long."""
        return min(self.pace.left_seconds, stream.reply.patience_seconds)

    def lend(self, stream: EventStream) -> bool:
        """Lend a stream that has just been waited for in vain, and sleep until it is back.

        Whether the client has been sent everything. Raises as `EventStream.receive` and `show` do.
        """
        descriptors = self.watch.descriptors
        if descriptors is None or self.left_seconds(stream) <= _LEAST_SECONDS:
            return True
        loan = _Loan(self, stream, *descriptors)
        self._may_lend = self._relay.take(loan)
        if loan.failure is not None:
            raise loan.failure
        return loan.has_sent_all
