"""Parked responses: who goes on, when, in which thread, and that nobody is forgotten or taken for another.

Where the order matters the test itself is the poller and does its rounds; elsewhere the thread runs.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import socket
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress

import pytest

from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.pause import READABLE
from gateway.server import parking as parking_module
from gateway.server.answer import Answer
from gateway.server.parking import Parked, Parking
from tests.harness import wait_until
from tests.unit.server.answer_rig import END, Pieces, Served, framed

BOUND_SECONDS = 30.0
POOL = "a-worker-s"


class Place:
    """A worker: its responses, its threads and its parking, whose thread runs once it is started."""

    def __init__(self, lifecycle: Lifecycle, stack: ExitStack, threads: int = 4) -> None:
        self.lifecycle = lifecycle
        self.served: dict[Answer, Served] = {}
        self._stack = stack
        self._pool = stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix=POOL))
        self.parking = Parking(self._go_on, self._pool.submit, lifecycle)
        stack.callback(os.close, self.parking._wake)
        stack.callback(self.parking._epoll.close)
        self._is_started = False
        stack.callback(self._stop)

    def _go_on(self, answer: Parked) -> Answer | None:
        """As a worker does: what is over is not parked again."""
        assert isinstance(answer, Answer)
        return answer if self.served[answer].go_on() else None

    def start(self) -> None:
        self.parking.start()
        self._is_started = True

    def park(self, pieces: Pieces) -> Served:
        """A response that has begun and paused."""
        return self.parked(self.made(pieces))

    def made(self, pieces: Pieces) -> Served:
        """A response that is yet to begin."""
        served = self._stack.enter_context(closing(Served(self.lifecycle, pieces)))
        self.served[served.answer] = served
        return served

    def parked(self, served: Served) -> Served:
        """Begin a response, which pauses."""
        assert served.begin(), "it ended before it paused"
        self.parking.park(served.answer)
        return served

    def rounds(self, number: int = 3) -> None:
        """The poller's rounds, in this thread; none of them is to wait."""
        for _ in range(number):
            self.parking._sweeps_at = 0.0
            self.parking._round()

    def is_empty(self) -> bool:
        """Whether the poller keeps nothing of anybody."""
        parking = self.parking
        return not (parking._parked or parking._by_descriptor or parking._due or parking._new)

    def _stop(self) -> None:
        if self._is_started:
            self.parking._thread.stop()
            assert self.parking._thread.join(BOUND_SECONDS)


@pytest.fixture
def place(lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """One whose parking does its rounds in this thread."""
    monkeypatch.setattr(parking_module, "_ROUNDS", 1)  # so that its thread ends when it is told to
    with ExitStack() as stack:
        yield Place(lifecycle, stack)


@pytest.fixture
def running(place: Place) -> Place:
    """One whose parking has its thread."""
    place.start()
    return place


def relaying(served: Served) -> Iterator[bytes]:
    """Hand on what the upstream sends until it says that it is the last."""
    while True:
        yield served.until_readable(math.inf)
        data = served.upper.recv(1000)
        yield data
        if data == b"last":
            return


def noting_the_end(served: Served) -> Iterator[bytes]:
    """Pause once, and say what the Pause says."""
    yield served.until_readable(math.inf)
    yield b"gone" if served.pause.client_is_gone else b"there"


# What ends a Pause.


def test_a_response_goes_on_when_its_upstream_has_sent_something(running: Place) -> None:
    """Given a parked response, then each piece is with its client at once, without a thread of the worker's."""
    served = running.park(relaying)
    said = b""
    for piece in (b"first", b"second", b"last"):
        served.upstream.sendall(piece)
        said += framed(piece)
        got = b""
        assert wait_until(lambda: served.upper.fileno() >= 0, BOUND_SECONDS)
        served.client.settimeout(BOUND_SECONDS)
        while not got.endswith(framed(piece)):
            got += served.client.recv(1000)
            if got.endswith(END):
                break
    assert served.is_over.wait(BOUND_SECONDS)
    assert set(served.ran_in) == {"parking"}
    assert served.log.ended == [served.response]
    assert wait_until(running.is_empty, BOUND_SECONDS)


def test_what_had_come_before_it_was_parked_is_no_reason_to_wait(running: Place) -> None:
    """Given an upstream that sent while the response was on its way to the poller, then it goes on at once."""

    def pieces(served: Served) -> Iterator[bytes]:
        served.upstream.sendall(b"early")
        yield served.until_readable(math.inf)
        yield served.upper.recv(100)

    served = running.park(pieces)
    assert served.is_over.wait(BOUND_SECONDS)
    assert served.taken() == framed(b"early") + END


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.05, 0.3, 0.9], ids=["past", "now", "near", "next", "distant"])
def test_a_deadline_ends_a_pause(running: Place, seconds: float) -> None:
    """Given a silent upstream and a time, near or distant, then the response goes on when it has come, not before."""
    went_on: list[tuple[float, float]] = []

    def pieces(served: Served) -> Iterator[bytes]:
        until_at = time.monotonic() + seconds
        yield served.until_readable(until_at)
        went_on.append((time.monotonic(), until_at))
        yield b"late"

    served = running.park(pieces)
    assert served.is_over.wait(BOUND_SECONDS)
    assert len(went_on) == 1
    assert went_on[0][0] >= went_on[0][1]


def test_deadlines_come_in_their_order(lifecycle: Lifecycle) -> None:
    """Given responses with deadlines that were parked in another order, then they go on by their deadlines."""
    order: list[int] = []
    began_at = time.monotonic()

    def pieces_of(number: int) -> Pieces:
        def pieces(served: Served) -> Iterator[bytes]:
            yield served.until_readable(began_at + 0.001 * number)
            order.append(number)
            yield b"x"

        return pieces

    with ExitStack() as stack:
        place = Place(lifecycle, stack, threads=1)  # several would overtake each other
        all_served = [place.park(pieces_of(number)) for number in (3, 1, 4, 0, 2)]
        assert wait_until(lambda: time.monotonic() > began_at + 0.1, BOUND_SECONDS)
        place.rounds()
        assert all(served.is_over.wait(BOUND_SECONDS) for served in all_served)
    assert order == [0, 1, 2, 3, 4]


def test_a_deadline_that_was_put_off_ends_nothing(place: Place) -> None:
    """Given a near deadline, when an event comes first and the next deadline is distant, then the old one is void."""

    def pieces(served: Served) -> Iterator[bytes]:
        yield served.until_readable(time.monotonic() + 0.2)
        yield served.upper.recv(100)
        yield served.until_readable(math.inf)
        yield b"never"

    served = place.park(pieces)
    served.upstream.sendall(b"event")
    place.rounds(1)
    assert place.parking._near
    assert wait_until(lambda: place.parking._near[0][0] < time.monotonic(), BOUND_SECONDS)
    place.rounds(2)
    assert not place.parking._near
    assert served.taken() == framed(b"event")


@pytest.mark.parametrize(
    "hang_up",
    [
        pytest.param(lambda client: client.close(), id="close"),
        pytest.param(lambda client: client.shutdown(socket.SHUT_WR), id="half"),
    ],
)
@pytest.mark.parametrize("is_before", [True, False], ids=["before-it-is-parked", "later"])
def test_a_hang_up_ends_a_pause_and_is_told(
    running: Place, hang_up: Callable[[socket.socket], None], is_before: bool
) -> None:
    """Given a silent upstream, when the client hangs up, then its response goes on and knows it; no other does."""
    other = running.park(noting_the_end)
    told: list[bool] = []

    def pieces(served: Served) -> Iterator[bytes]:
        if is_before:
            hang_up(served.client)
        yield served.until_readable(math.inf)
        told.append(served.pause.client_is_gone)

    served = running.park(pieces)
    if not is_before:
        assert wait_until(lambda: served.answer in running.parking._parked, BOUND_SECONDS)
        hang_up(served.client)
    assert served.is_over.wait(BOUND_SECONDS)
    assert told == [True]
    assert not other.is_over.is_set()
    assert not other.pause.client_is_gone
    other.upstream.sendall(b"x")
    assert other.is_over.wait(BOUND_SECONDS)
    assert other.taken() == framed(b"there") + END


def test_the_end_of_the_drain_time_resumes_all(running: Place, lifecycle: Lifecycle) -> None:
    """Given silent upstreams, when the drain time is over, then every response goes on; one that comes later, too."""
    near = time.monotonic() + 6 * BOUND_SECONDS

    def with_a_deadline(served: Served) -> Iterator[bytes]:
        yield served.until_readable(near)
        yield b"x"

    def in_a_thread(served: Served) -> Iterator[bytes]:
        yield served.until_readable(math.inf, needs_thread=True)
        yield b"x"

    all_served = [running.park(pieces) for pieces in (noting_the_end, with_a_deadline, in_a_thread) * 3]
    assert not any(served.is_over.is_set() for served in all_served)
    lifecycle.drain(0.01)
    assert all(served.is_over.wait(BOUND_SECONDS) for served in all_served)
    assert not any(served.pause.client_is_gone for served in all_served)
    assert time.monotonic() < near
    late = running.park(noting_the_end)
    assert late.is_over.wait(BOUND_SECONDS)
    assert wait_until(running.is_empty, BOUND_SECONDS)


def test_the_end_of_the_drain_time_makes_no_client_take_more(place: Place, lifecycle: Lifecycle) -> None:
    """Given a client that takes nothing, when the drain time is over, then its response still waits for it, quietly."""

    def pieces(served: Served) -> Iterator[bytes]:
        yield b"x" * 3_000_000
        yield b"last"

    served = place.park(pieces)
    lifecycle.end()
    place.rounds()
    assert served.answer.is_held_up
    assert place.parking._due == {}
    body = b""
    while not served.is_over.is_set():
        body += served.taken()
        place.rounds(1)
    assert body + served.taken() == framed(b"x" * 3_000_000, b"last") + END


# In which thread.


def test_what_needs_a_thread_has_one(running: Place) -> None:
    """Given a Pause behind which something may block, then the response goes on in a thread of the worker's, once what
    it waits for has come; and in the poller after the next Pause."""
    silent = threading.Event()

    def pieces(served: Served) -> Iterator[bytes]:
        yield served.until_readable(math.inf, needs_thread=True)
        yield served.upper.recv(100)
        silent.set()
        yield served.until_readable(math.inf)
        yield served.upper.recv(100)

    served = running.park(pieces)
    assert served.ran_in == []
    served.upstream.sendall(b"one")
    assert silent.wait(BOUND_SECONDS)
    served.upstream.sendall(b"two")
    assert served.is_over.wait(BOUND_SECONDS)
    assert served.taken() == framed(b"one", b"two") + END
    assert served.ran_in[0].startswith(POOL)
    assert served.ran_in[-1] == "parking"


def test_a_response_that_blocks_in_a_thread_holds_up_nobody(running: Place) -> None:
    """Given a response that blocks in its thread, then others go on meanwhile."""
    may_go_on = threading.Event()

    def blocking(served: Served) -> Iterator[bytes]:
        yield served.until_readable(-math.inf, needs_thread=True)
        assert may_go_on.wait(BOUND_SECONDS)
        yield b"x"

    blocked, other = running.park(blocking), running.park(noting_the_end)
    assert wait_until(lambda: blocked.ran_in != [], BOUND_SECONDS)
    other.upstream.sendall(b"x")
    assert other.is_over.wait(BOUND_SECONDS)
    assert not blocked.is_over.is_set()
    may_go_on.set()
    assert blocked.is_over.wait(BOUND_SECONDS)


def test_a_step_that_takes_long_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a step of the poller that keeps others waiting, then the log says so."""
    monkeypatch.setattr(parking_module, "_LONG_STEP_SECONDS", -1.0)
    served = place.park(noting_the_end)
    served.upstream.sendall(b"x")
    with caplog.at_level(logging.WARNING):
        place.rounds()
    assert served.is_over.is_set()
    assert "while others waited" in caplog.text


@pytest.mark.parametrize("seconds", [math.inf, 0.05], ids=["until-it-is-ready", "until-its-deadline"])
def test_what_the_kernel_does_not_watch_is_waited_for_in_a_thread(
    running: Place, caplog: pytest.LogCaptureFixture, seconds: float
) -> None:
    """Given a descriptor that epoll does not take, then a thread waits for it, and the log says so."""
    with tempfile.TemporaryFile() as unwatchable:  # epoll takes no regular file

        def pieces(served: Served) -> Iterator[bytes]:
            pause = served.until_readable(time.monotonic() + seconds)
            pause.wanted = ((unwatchable.fileno(), READABLE),)
            yield pause
            yield b"x"

        served = running.park(pieces)
        assert served.is_over.wait(BOUND_SECONDS)
    assert served.ran_in[0].startswith(POOL)
    assert "cannot be parked" in caplog.text
    assert wait_until(running.is_empty, BOUND_SECONDS)


# Clients that do not take what they are sent, and responses that give much at once.


def test_a_client_that_takes_nothing_is_waited_for(place: Place) -> None:
    """Given a client that does not read, then its response asks for no further piece, whatever its upstream sends; it
    goes on when the client has taken what there was, and no byte is lost."""
    asked: list[str] = []

    def pieces(served: Served) -> Iterator[bytes]:
        yield b"x" * 3_000_000
        asked.append("second")
        yield b"y" * 3_000_000
        asked.append("third")
        yield served.until_readable(math.inf)
        yield served.upper.recv(100)

    served = place.park(pieces)
    served.upstream.sendall(b"event")
    place.rounds()
    assert served.answer.is_held_up
    assert asked == []
    assert place.parking._due == {}
    body = b""
    while not asked:
        body += served.taken()
        place.rounds(1)
    assert len(body) > 1_000_000
    while not served.is_over.is_set():
        body += served.taken()
        place.rounds(1)
    assert body + served.taken() == framed(b"x" * 3_000_000, b"y" * 3_000_000, b"event") + END


def test_a_client_that_goes_while_it_takes_nothing_ends_its_response(running: Place) -> None:
    """Given a client that does not read, when it goes, then its response ends with what that raises."""

    def pieces(served: Served) -> Iterator[bytes]:
        yield b"x" * 3_000_000
        yield served.until_readable(math.inf)

    served = running.park(pieces)
    served.client.close()
    assert served.is_over.wait(BOUND_SECONDS)
    assert isinstance(served.error, BrokenPipeError | ConnectionResetError)
    assert wait_until(running.is_empty, BOUND_SECONDS)


def test_a_response_that_crowds_lets_others_go_first(place: Place) -> None:
    """Given a response with many pieces at hand, then another that has become ready goes on before it is through."""
    given: list[int] = []

    def crowding(served: Served) -> Iterator[bytes]:
        yield served.until_readable(math.inf)
        for number in range(100):
            given.append(number)
            yield b"%d" % number

    crowd, other = place.park(crowding), place.park(noting_the_end)
    crowd.upstream.sendall(b"x")
    other.upstream.sendall(b"x")
    place.rounds(1)
    assert other.is_over.is_set()
    assert 0 < len(given) < 20
    assert not crowd.is_over.is_set()
    place.rounds(20)
    assert crowd.is_over.is_set()
    assert crowd.taken() == framed(*(b"%d" % number for number in range(100))) + END


# Descriptors.


def test_a_descriptor_of_a_response_that_is_over_may_be_another_s(place: Place) -> None:
    """Given a response that ends and closes its upstream, when the next one's gets the same descriptor, then what it
    brings is that one's."""

    def closing_it(served: Served) -> Iterator[bytes]:
        yield served.until_readable(math.inf)
        served.upper.close()
        yield b"x"

    first = place.park(closing_it)
    descriptor = first.upper.fileno()
    second = place.made(relaying_over(descriptor))  # whose own descriptors are others
    place.rounds(1)
    first.upstream.sendall(b"x")
    place.rounds(1)
    assert first.is_over.is_set()
    place.parked(second)
    place.rounds(1)
    assert place.parking._by_descriptor[descriptor] is second.answer
    second.upstream.sendall(b"last")
    place.rounds(2)
    assert second.is_over.is_set()
    assert second.taken() == framed(b"last") + END


def relaying_over(descriptor: int) -> Pieces:
    """As `relaying`, over an upstream whose connection has this descriptor."""

    def pieces(served: Served) -> Iterator[bytes]:
        os.dup2(served.upper.fileno(), descriptor, inheritable=False)
        served.upper.close()
        served.upper = socket.socket(fileno=descriptor)
        yield from relaying(served)

    return pieces


def test_a_response_may_change_its_upstream(place: Place) -> None:
    """Given a response that closes one connection and waits for another, then only the other is watched."""

    def pieces(served: Served) -> Iterator[bytes]:
        yield served.until_readable(math.inf)
        first = served.upper, served.upstream
        served.upper, served.upstream = socket.socketpair()
        for end in first:
            end.close()
        yield served.until_readable(math.inf)
        yield served.upper.recv(100)

    served = place.park(pieces)
    before = served.upper.fileno()
    served.upstream.sendall(b"x")
    place.rounds(2)
    assert set(place.parking._by_descriptor) == {served.upper.fileno(), served.ours.fileno()}
    assert served.upper.fileno() != before
    served.upstream.sendall(b"other")
    place.rounds(2)
    assert served.taken() == framed(b"other") + END


def test_a_descriptor_that_is_wanted_for_something_else_is_watched_for_that(place: Place) -> None:
    """Given a response that waits to read, then to write, on one descriptor, then each is waited for in its turn."""

    def pieces(served: Served) -> Iterator[bytes]:
        served.upper.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                served.upper.send(b"#" * 65536)
        pause = served.until_readable(math.inf)
        yield pause
        served.upper.recv(100)
        pause.wanted = ((served.upper.fileno(), parking_module.select.EPOLLOUT),)
        yield pause
        yield b"there is room"

    served = place.park(pieces)
    place.rounds()
    served.upstream.sendall(b"x")
    place.rounds()
    assert not served.is_over.is_set()
    served.upstream.setblocking(False)
    with suppress(BlockingIOError):
        while served.upstream.recv(1 << 20):
            pass
    place.rounds()
    assert served.taken() == framed(b"there is room") + END


# What is left.


def test_nothing_is_kept_of_a_response_that_is_over(running: Place) -> None:
    """Given responses that ended in every way, then the poller knows none of their descriptors, and lets go of them."""

    def in_a_thread(served: Served) -> Iterator[bytes]:
        yield served.until_readable(time.monotonic() + 0.05, needs_thread=True)

    def late(served: Served) -> Iterator[bytes]:
        yield served.until_readable(time.monotonic() + 0.05)
        yield b"x"

    def broken(served: Served) -> Iterator[bytes]:
        yield served.until_readable(time.monotonic() + 0.05)
        raise ValueError("it was so")

    all_served = [running.park(pieces) for pieces in (in_a_thread, late, broken, noting_the_end)]
    all_served[-1].upstream.sendall(b"x")
    assert all(served.is_over.wait(BOUND_SECONDS) for served in all_served)
    assert isinstance(all_served[2].error, ValueError)
    assert wait_until(lambda: running.is_empty() and not running.parking._near, BOUND_SECONDS)
    for served in all_served:
        for descriptor in (served.ours.fileno(), served.upper.fileno()):
            with pytest.raises(FileNotFoundError):
                running.parking._epoll.unregister(descriptor)
    kept = weakref.ref(all_served[1].answer)
    running.served.clear()
    for served in all_served:
        del served.answer
    all_served[2].error = None  # its traceback has the round in which the others ended, too
    assert wait_until(lambda: gc.collect() >= 0 and kept() is None, BOUND_SECONDS)
    assert len(running.parking) == 0


def test_two_hundred_responses_go_on_side_by_side(running: Place) -> None:
    """Given many parked responses, then each client has its own upstream's pieces, all of them, in order."""
    all_served = [running.park(relaying) for _ in range(200)]
    for step in range(3):
        for number, served in enumerate(all_served):
            served.upstream.sendall(b"%d of %d" % (step, number))
        assert wait_until(lambda: all(len(served.ran_in) > step for served in all_served), BOUND_SECONDS)  # noqa: B023
    for served in all_served:
        served.upstream.sendall(b"last")
    assert all(served.is_over.wait(BOUND_SECONDS) for served in all_served)
    for number, served in enumerate(all_served):
        assert served.taken() == framed(*(b"%d of %d" % (step, number) for step in range(3)), b"last") + END
    assert wait_until(running.is_empty, BOUND_SECONDS)


def test_a_descriptor_that_was_given_back_may_be_another_s_before_the_next_round(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a response that closes its upstream and asks for a thread, when another gets the descriptor before the next
    round, then that one is watched, and what its upstream brings is not lost."""

    def giving_up(served: Served) -> Iterator[bytes]:
        yield served.until_readable(math.inf)
        served.upper.close()
        served.pause.wanted, served.pause.until_at, served.pause.needs_thread = (), -math.inf, True
        yield served.pause
        yield b"x"

    first = place.park(giving_up)
    descriptor = first.upper.fileno()
    second = place.made(relaying_over(descriptor))
    place.rounds(1)
    first.upstream.sendall(b"x")
    place.rounds(1)
    place.parked(second)
    place.rounds(2)
    assert first.is_over.wait(BOUND_SECONDS)
    assert place.parking._by_descriptor.get(descriptor) is second.answer
    second.upstream.sendall(b"last")
    place.rounds(2)
    assert second.is_over.is_set()
    assert "cannot be parked" not in caplog.text


def test_a_connection_that_a_crowding_response_gave_back_may_be_another_s(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a response that has much to give and needs its connection no more, when another waits on that, then it is
    watched for that one."""

    def crowding(served: Served) -> Iterator[bytes]:
        yield served.until_readable(math.inf)
        assert served.upper.recv(100)
        yield from (b"%d" % number for number in range(50))

    first = place.park(crowding)
    place.rounds(1)
    first.upstream.sendall(b"x")
    place.rounds(1)
    assert not first.is_over.is_set()

    def pieces(served: Served) -> Iterator[bytes]:
        served.pause.wanted, served.pause.until_at = ((first.upper.fileno(), READABLE),), math.inf
        yield served.pause
        yield first.upper.recv(100)

    second = place.park(pieces)
    place.rounds(20)
    assert first.is_over.is_set()
    assert place.parking._by_descriptor.get(first.upper.fileno()) is second.answer
    first.upstream.sendall(b"for the second")
    place.rounds(2)
    assert second.taken() == framed(b"for the second") + END
    assert "cannot be parked" not in caplog.text


def test_a_response_of_which_only_a_part_can_be_watched_leaves_nothing_behind(place: Place) -> None:
    """Given a response one of whose descriptors epoll does not take, then none of its others is watched, and a thread
    alone goes on with it."""
    with tempfile.TemporaryFile() as unwatchable:

        def pieces(served: Served) -> Iterator[bytes]:
            pause = served.until_readable(math.inf)
            pause.wanted = ((served.upper.fileno(), READABLE), (unwatchable.fileno(), READABLE))
            yield pause
            yield b"x"

        served = place.park(pieces)
        place.rounds(1)
        assert served.is_over.wait(BOUND_SECONDS)
    assert place.is_empty()
    for descriptor in (served.upper.fileno(), served.ours.fileno()):
        with pytest.raises(FileNotFoundError):
            place.parking._epoll.unregister(descriptor)


def test_a_round_that_fails_forgets_nobody(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given three responses that let others go first, when going on with the first fails, then the others have not to
    wait for an event or a look at deadlines."""

    def letting_others(served: Served) -> Iterator[bytes]:
        served.pause.wanted, served.pause.until_at = (), -math.inf
        yield served.pause
        yield b"last"

    first, *others = (place.park(letting_others) for _ in range(3))

    def failing() -> bool:
        raise RuntimeError("it was so")

    monkeypatch.setattr(first, "go_on", failing)
    place.parking._sweeps_at = math.inf
    with pytest.raises(RuntimeError, match="it was so"):
        place.parking._round()
    place.parking._round()
    assert all(other.is_over.is_set() for other in others)


def test_events_do_not_wait_for_all_that_is_to_begin(place: Place) -> None:
    """Given many responses that are due and have yet to send anything, and a stream that has begun, then the stream's
    event goes out in the next round, and of the others some now and the rest after it, in their order."""
    stream = place.park(relaying)
    stream.upstream.sendall(b"first")
    place.rounds(2)
    assert stream.taken() == framed(b"first")

    def whole(served: Served) -> Iterator[bytes]:
        yield served.until_readable(math.inf)
        yield b"whole"

    most = parking_module._MOST_LARGE_STEPS
    waiting = [place.park(whole) for _ in range(2 * most)]
    place.rounds(1)
    for served in waiting:
        served.upstream.sendall(b"x")
    stream.upstream.sendall(b"second")
    place.rounds(1)
    assert stream.taken() == framed(b"second")
    assert sum(served.is_over.is_set() for served in waiting) == most
    place.rounds(1)
    assert all(served.is_over.is_set() for served in waiting)


def test_what_a_thread_is_to_do_does_not_wait_for_its_turn(place: Place) -> None:
    """Given more responses than the poller goes on with in a round, all of which need a thread, then each has one at
    once: that takes the poller no time."""

    def for_a_thread(served: Served) -> Iterator[bytes]:
        yield served.until_readable(math.inf, needs_thread=True)
        yield b"whole"

    waiting = [place.park(for_a_thread) for _ in range(2 * parking_module._MOST_LARGE_STEPS)]
    place.rounds(1)
    for served in waiting:
        served.upstream.sendall(b"x")
    place.rounds(1)
    assert all(served.is_over.wait(BOUND_SECONDS) for served in waiting)
