"""A Pause waited for in a thread: what ends it, and what becomes of the generator that yielded it."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Generator, Iterator

import pytest

from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.pause import READABLE, WRITABLE, Pause, _milliseconds, complete, is_ready, wait, waited

BOUND_SECONDS = 30.0

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def upper() -> Iterator[Pair]:
    """Our end of a connection to the upstream, and its own."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def client() -> Iterator[Pair]:
    """Our end of a client's connection, and its own."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def pause(upper: Pair, client: Pair, lifecycle: Lifecycle) -> Pause:
    """One that only ends if something comes from the upstream, the client goes, or all is over."""
    made = Pause(client[0].fileno(), lifecycle.fileno())
    made.wanted = ((upper[0].fileno(), READABLE),)
    return made


def test_a_pause_is_no_bytes(pause: Pause) -> None:
    """Given a Pause, then to a server that knows nothing of it it is an empty piece."""
    assert isinstance(pause, bytes)
    assert pause == b""
    assert b"".join([b"a", pause, b"b"]) == b"ab"


@pytest.mark.parametrize(
    ("what", "is_gone"),
    [
        pytest.param(lambda upper, client, lifecycle: upper[1].sendall(b"x"), False, id="readable"),
        pytest.param(lambda upper, client, lifecycle: upper[1].close(), False, id="upstream-closed"),
        pytest.param(lambda upper, client, lifecycle: client[1].close(), True, id="client-closed"),
        pytest.param(
            lambda upper, client, lifecycle: client[1].shutdown(socket.SHUT_WR), True, id="client-half-closed"
        ),
        pytest.param(lambda upper, client, lifecycle: lifecycle.end(), False, id="over"),
    ],
)
def test_what_ends_a_pause(
    pause: Pause, upper: Pair, client: Pair, lifecycle: Lifecycle, what: Callable[..., object], is_gone: bool
) -> None:
    """Given a Pause without a deadline, when one of what it waits for comes, then it is over, and says if the client is
    gone."""
    pause.until_at = time.monotonic() + 6 * BOUND_SECONDS
    what(upper, client, lifecycle)
    wait(pause)
    assert time.monotonic() < pause.until_at
    assert pause.client_is_gone is is_gone


def test_bytes_of_a_client_s_next_request_end_no_pause(pause: Pause, client: Pair) -> None:
    """Given a client that sends on, then the Pause lasts until its time, and the client is not gone."""
    client[1].sendall(b"GET / HTTP/1.1\r\n\r\n")
    pause.until_at = time.monotonic() + 0.05
    wait(pause)
    assert time.monotonic() >= pause.until_at
    assert not pause.client_is_gone


@pytest.mark.parametrize("until_at", [-math.inf, 0.0], ids=["at-once", "past"])
def test_a_pause_whose_time_is_over_is_no_wait(pause: Pause, until_at: float) -> None:
    """Given a time that has come, then the Pause is over at once, and has looked at its client all the same."""
    pause.until_at = until_at
    wait(pause)
    assert not pause.client_is_gone


def test_a_pause_whose_time_is_over_sees_that_the_client_is_gone(pause: Pause, client: Pair) -> None:
    client[1].close()
    pause.until_at = -math.inf
    wait(pause)
    assert pause.client_is_gone


def test_a_pause_without_anybody_waits_for_its_descriptors_alone(upper: Pair) -> None:
    """Given neither client nor end, and a descriptor that is wanted for writing, then that ends it."""
    pause = Pause(None, None)
    pause.wanted = ((upper[0].fileno(), WRITABLE),)
    wait(pause)
    assert is_ready(upper[0].fileno(), WRITABLE)
    assert not is_ready(upper[0].fileno(), READABLE)


def test_waited_gives_the_pieces_alone(pause: Pause, upper: Pair) -> None:
    """Given pieces and Pauses, then the pieces come, empty ones too, and each Pause has been waited for."""
    seen: list[bool] = []

    def pieces() -> Iterator[bytes]:
        yield b"first"
        upper[1].sendall(b"x")
        yield pause
        seen.append(is_ready(upper[0].fileno(), READABLE))
        yield b""
        yield b"last"

    assert list(waited(pieces())) == [b"first", b"", b"last"]
    assert seen == [True]


def test_complete_gives_the_result(pause: Pause, upper: Pair) -> None:
    """Given a generator that pauses until something has come, then its result is that."""

    def receiving() -> Generator[Pause, None, bytes]:
        while not is_ready(upper[0].fileno(), READABLE):
            pause.until_at = math.inf
            upper[1].sendall(b"came")
            yield pause
        return upper[0].recv(100)

    assert complete(receiving()) == b"came"


def test_complete_that_is_too_late_closes_the_generator(pause: Pause) -> None:
    """Given a generator that pauses past the time, then TimeoutError, when the time has come and not before; and what
    it had open is closed."""
    steps: list[str] = []

    def waiting() -> Generator[Pause, None, None]:
        try:
            while True:
                steps.append("paused")
                pause.until_at = math.inf
                yield pause
        finally:
            steps.append("closed")

    until_at = time.monotonic() + 0.05
    with pytest.raises(TimeoutError) as late:
        complete(waiting(), until_at)
    assert time.monotonic() >= until_at
    assert steps[-1] == "closed", late  # it holds the generator
    assert steps.count("paused") < 10, "it sleeps, it does not spin"


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [(-math.inf, 0), (-5.0, 0), (0.0, 0), (0.0001, 1), (1.0, 1000), (1.2345, 1235), (math.inf, 10**9)],
)
def test_a_wait_is_rounded_up_and_bounded(seconds: float, milliseconds: int) -> None:
    """Given how long to wait, then poll is told whole milliseconds, no fewer, and no more than it takes."""
    assert _milliseconds(seconds) == milliseconds


def test_a_pause_shows_what_it_waits_for() -> None:
    """Given a Pause, then its repr has its descriptors, and whether a thread is needed."""
    pause = Pause(None, None)
    pause.wanted = ((7, READABLE),)
    assert repr(pause) == f"<Pause for {{7: {READABLE}}}>"
    pause.needs_thread = True
    assert repr(pause) == f"<Pause for {{7: {READABLE}}} in a thread>"


def test_complete_leaves_a_nearer_deadline_alone(pause: Pause) -> None:
    """Given a Pause with a time of its own before the limit, then that is when the generator goes on."""
    began_at = time.monotonic()

    def waiting() -> Generator[Pause, None, float]:
        pause.until_at = began_at + 0.05
        yield pause
        return time.monotonic()

    went_on_at = complete(waiting(), began_at + 6 * BOUND_SECONDS)
    assert began_at + 0.05 <= went_on_at < began_at + 6 * BOUND_SECONDS


def test_complete_raises_what_the_generator_raises(pause: Pause, client: Pair) -> None:
    def broken() -> Generator[Pause, None, None]:
        client[1].close()
        yield pause
        raise ValueError("it was so")

    with pytest.raises(ValueError, match="it was so"):
        complete(broken())


def test_what_a_pause_carries_comes_before_the_wait(pause: Pause, upper: Pair) -> None:
    """Given a Pause that carries bytes, when it is waited for in a thread, then they come first, and no Pause does."""
    pause.until_at = time.monotonic() + 6 * BOUND_SECONDS
    pause.carried = b"event"
    pieces = waited([pause, b"next"])
    assert next(pieces) == b"event"  # nothing has come yet
    assert pause.carried == b""
    upper[1].sendall(b"x")
    assert list(pieces) == [b"next"]
    assert time.monotonic() < pause.until_at
