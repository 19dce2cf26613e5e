"""One response: how far it runs, what it waits for then, and how it ends."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.pause import HANG_UP, READABLE, WRITABLE, is_ready
from tests.unit.server.answer_rig import END, Pieces, Served, framed

MUCH = b"x" * 3_000_000


@pytest.fixture
def make(lifecycle: Lifecycle) -> Iterator[Callable[[Pieces], Served]]:
    """Makes responses; their sockets are closed in the end."""
    all_served: list[Served] = []

    def made(pieces: Pieces) -> Served:
        all_served.append(Served(lifecycle, pieces))
        return all_served[-1]

    yield made
    for served in all_served:
        served.close()


Make = Callable[[Pieces], Served]


def test_a_response_that_waits_for_nothing_runs_to_its_end(make: Make) -> None:
    """Given a few pieces, then one run sends them all, and it has not paused."""
    served = make(lambda _: iter([b"a", b"", b"b"]))
    assert served.begin() is False
    assert served.taken() == framed(b"a", b"b") + END


def test_a_response_pauses_where_its_pieces_do(make: Make) -> None:
    """Given a Pause among the pieces, then what comes before it is with the client, and it waits for what that says."""

    def pieces(served: Served) -> Iterator[bytes]:
        yield b"a"
        yield served.until_readable(70.0, needs_thread=True)
        yield b"b"

    served = make(pieces)
    assert served.begin() is True
    answer = served.answer
    assert served.taken() == framed(b"a")
    assert answer.wanted == ((served.upper.fileno(), READABLE), (served.ours.fileno(), HANG_UP))
    assert (answer.until_at, answer.needs_thread, answer.is_held_up) == (70.0, True, False)
    assert answer.run() is False
    assert served.taken() == framed(b"b") + END


def test_a_pause_is_no_piece(make: Make) -> None:
    """Given a Pause before the head, then nothing is sent; the head goes with the first piece, or with an empty one."""

    def pieces(served: Served) -> Iterator[bytes]:
        yield served.until_readable(math.inf)
        yield b""
        yield served.until_readable(math.inf)
        yield b"a"

    served = make(pieces)
    assert served.begin() is True
    assert not is_ready(served.client.fileno(), READABLE)
    assert served.answer.run() is True
    assert served.client.recv(1 << 16).endswith(b"\r\n\r\n")
    assert served.answer.run() is False
    assert served.taken() == framed(b"a") + END


def test_nobody_is_watched_where_there_is_no_client(make: Make) -> None:
    """Given a Pause that has no client in view, then its own descriptors are all that is wanted."""

    def pieces(served: Served) -> Iterator[bytes]:
        served.pause.client = None
        yield served.until_readable(math.inf)

    served = make(pieces)
    served.begin()
    assert served.answer.wanted == ((served.upper.fileno(), READABLE),)


@pytest.mark.parametrize(
    ("events", "is_gone"),
    [(HANG_UP, True), (HANG_UP | READABLE, True), (READABLE, False), (WRITABLE, False)],
    ids=["hang-up", "hang-up-and-bytes", "bytes", "room"],
)
def test_a_hang_up_of_the_client_is_noted_in_the_pause(make: Make, events: int, is_gone: bool) -> None:
    """Given what was found of the client's descriptor, then only its hang-up says that it is gone; nothing that was
    found of the upstream's does."""

    def pieces(served: Served) -> Iterator[bytes]:
        yield served.until_readable(math.inf)

    served = make(pieces)
    served.begin()
    served.answer.told_of(served.upper.fileno(), HANG_UP)
    assert not served.pause.client_is_gone
    served.answer.told_of(served.ours.fileno(), events)
    assert served.pause.client_is_gone is is_gone


def test_what_a_pause_carries_is_sent_before_the_wait_and_once(make: Make) -> None:
    """Given Pauses that carry bytes and one that does not, then each piece is sent when its Pause begins, once."""

    def pieces(served: Served) -> Iterator[bytes]:
        for carried in (b"first", b"second", b""):
            pause = served.until_readable(70.0)
            pause.carried = carried
            yield pause

    served = make(pieces)
    assert served.begin() is True
    assert served.taken() == framed(b"first")
    assert served.answer.wanted == ((served.upper.fileno(), READABLE), (served.ours.fileno(), HANG_UP))
    assert served.answer.run() is True
    assert served.taken() == framed(b"second")
    assert served.answer.run() is True
    assert served.taken() == b""
    assert served.answer.run() is False


def test_what_a_pause_carries_holds_its_response_up_if_it_is_not_taken(make: Make) -> None:
    """Given a Pause that carries more than the client takes, then the client is waited for first, and loses nothing."""

    def pieces(served: Served) -> Iterator[bytes]:
        pause = served.until_readable(70.0)
        pause.carried = MUCH
        yield pause
        yield b"last"

    served = make(pieces)
    assert served.begin() is True
    answer = served.answer
    assert (answer.is_held_up, answer.until_at) == (True, math.inf)
    assert answer.wanted == ((served.ours.fileno(), WRITABLE),)
    body = served.taken()
    while answer.run():
        body += served.taken()
        answer.wait()
    assert body + served.taken() == framed(MUCH, b"last") + END


def test_a_response_of_many_pieces_lets_others_go_first(make: Make) -> None:
    """Given more pieces than one run gives, then it wants to go on at once, without a thread, and loses none."""
    pieces = [b"%d" % number for number in range(30)]

    def given(served: Served) -> Iterator[bytes]:
        yield served.until_readable(math.inf, needs_thread=True)
        yield from pieces

    served = make(given)
    assert served.begin() is True
    runs = 1
    while served.answer.run():
        runs += 1
        assert (served.answer.until_at, served.answer.needs_thread) == (-math.inf, False)
    assert 1 < runs < len(pieces)
    assert served.taken() == framed(*pieces) + END


def test_a_client_that_takes_nothing_holds_its_response_up(make: Make) -> None:
    """Given a client that does not read, then its response asks for no more pieces and waits for room alone, without a
    deadline or a thread, until all has gone."""
    asked: list[str] = []

    def pieces(served: Served) -> Iterator[bytes]:
        yield served.until_readable(1.0, needs_thread=True)
        yield MUCH
        asked.append("more")
        yield b"last"

    served = make(pieces)
    served.begin()
    answer = served.answer
    assert answer.run() is True
    for _ in range(3):
        assert answer.is_held_up
        assert answer.wanted == ((served.ours.fileno(), WRITABLE),)
        assert (answer.until_at, answer.needs_thread, asked) == (math.inf, False, [])
        assert answer.run() is True
    body = served.taken()
    while answer.run():
        body += served.taken()
        answer.wait()
    assert asked == ["more"]
    assert body + served.taken() == framed(MUCH, b"last") + END


def test_the_end_of_a_response_is_waited_for_too(make: Make) -> None:
    """Given a client that has not taken the last piece, then the response is not over before it has."""
    served = make(lambda _: iter([MUCH]))
    assert served.begin() is True
    body = b""
    while True:
        body += served.taken()
        if not served.answer.run():
            break
    assert body + served.taken() == framed(MUCH) + END


@pytest.mark.parametrize("when", ["held-up", "between-pieces"])
def test_a_client_that_is_gone_ends_it(make: Make, when: str) -> None:
    """Given a client that has hung up, then going on raises OSError."""

    def pieces(served: Served) -> Iterator[bytes]:
        yield MUCH if when == "held-up" else b"a"
        yield served.until_readable(math.inf)
        yield b"b"

    served = make(pieces)
    assert served.begin() is True
    served.client.close()
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        served.answer.run()


@pytest.mark.parametrize("is_begun", [True, False], ids=["in-its-midst", "before-it-began"])
def test_the_end_closes_the_pieces_and_is_told_once(make: Make, is_begun: bool) -> None:
    """Given a response that ends early, then its pieces are closed, and the access log is told of it."""
    closed: list[str] = []

    def pieces(served: Served) -> Iterator[bytes]:
        try:
            yield served.until_readable(math.inf)
        finally:
            closed.append("pieces")

    served = make(pieces)
    if is_begun:
        served.begin()
    served.answer.end(served.log)
    assert closed == ["pieces"] * is_begun
    assert served.log.ended == [served.response]


def test_an_end_that_fails_is_told_all_the_same(make: Make) -> None:
    """Given pieces whose closing raises, then that goes up, and the access log is told."""

    def pieces(served: Served) -> Iterator[bytes]:
        try:
            yield served.until_readable(math.inf)
        finally:
            raise ValueError("it was so")

    served = make(pieces)
    served.begin()
    with pytest.raises(ValueError, match="it was so"):
        served.answer.end(served.log)
    assert served.log.ended == [served.response]


def test_pieces_that_cannot_be_closed_need_not_be(lifecycle: Lifecycle) -> None:
    """Given an application that returns a list, as it may, then its response ends like any other."""
    with closing(Served(lifecycle, lambda _: [b"a"])) as served:  # type: ignore[arg-type, return-value]
        assert served.begin() is False
        served.answer.end(served.log)
        assert served.taken() == framed(b"a") + END


def test_what_an_application_raises_goes_up(make: Make) -> None:
    """Given an application that fails before its head or behind it, then whoever runs it has the exception."""

    def pieces(served: Served) -> Iterator[bytes]:
        yield b"a"
        raise ValueError("it was so")

    with pytest.raises(ValueError, match="it was so"):
        make(pieces).begin()


def test_a_thread_may_wait_for_it(make: Make) -> None:
    """Given a response that waits for its upstream, then its Pause is what a thread waits for."""

    def pieces(served: Served) -> Iterator[bytes]:
        yield served.until_readable(math.inf)
        yield served.upper.recv(100)

    served = make(pieces)
    served.begin()
    served.upstream.sendall(b"event")
    served.upstream.shutdown(socket.SHUT_WR)
    served.answer.wait()
    assert served.answer.run() is False
    assert served.taken() == framed(b"event") + END
