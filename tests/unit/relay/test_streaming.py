"""Streams over every kind of connection: each event is shown at once and whole, and what ends a stream is told."""

from __future__ import annotations

import gzip
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import pairwise

import pytest
import trustme

from gateway.protocol.sse import PING
from gateway.runtime.lifecycle import Lifecycle
from tests.harness import wait_until
from tests.unit.relay.stream_rig import BOUND_SECONDS, ERROR, START, STOP, Relayed, Upper, delta

FRAMINGS = ["plain", "chunked", "gzip", "tls"]
every_framing = pytest.mark.parametrize("framing", FRAMINGS)

Make = Callable[..., tuple[Upper, Relayed]]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def make(lifecycle: Lifecycle, authority: trustme.CA) -> Iterator[Make]:
    """Makes streams, each with an upstream of its own."""
    with ExitStack() as stack:

        def made(framing: str = "plain", **limits: float) -> tuple[Upper, Relayed]:
            upper = stack.enter_context(closing(Upper(authority, framing)))
            return upper, stack.enter_context(closing(Relayed(upper, lifecycle, **limits)))

        yield made


@every_framing
@pytest.mark.parametrize("last", [STOP, ERROR], ids=["message_stop", "error"])
def test_events_are_shown_as_they_come(make: Make, framing: str, last: bytes) -> None:
    """Given a stream, then each event is with the client before the next is sent, and the last one ends it."""
    upper, relayed = make(framing)
    said = START
    assert relayed.shows(said)
    for event in (delta(0, "a"), delta(1, "b" * 5000), b": a comment\n\n", delta(2) + delta(3), last):
        upper.say(event)
        said += event
        assert relayed.shows(said)
    relayed.rest()
    assert relayed.body == said


def test_an_event_behind_which_nothing_is_there_comes_with_the_wait_for_the_next(make: Make) -> None:
    """Given an upstream that has sent an event and no more, then its Pause carries it. One that compresses may hold
    some back, and is asked first."""
    for framing, carries in (("plain", True), ("chunked", True), ("gzip", False)):
        upper, relayed = make(framing)
        assert relayed.shows(START)
        upper.say(delta(0))
        before = relayed.carried
        assert relayed.shows(START + delta(0))
        assert (relayed.carried > before) is carries, framing


@every_framing
def test_half_an_event_is_held_until_it_is_whole(make: Make, framing: str) -> None:
    """Given events that come in halves, then the client is shown whole ones alone, each as soon as it is whole."""
    upper, relayed = make(framing)
    first, second = delta(0, "half"), delta(1, "whole")
    upper.say(first[:20])
    for _ in range(3):
        relayed.step(0.01)
    assert relayed.body == START
    upper.say(first[20:] + second[:9])
    assert relayed.shows(START + first)
    upper.say(second[9:] + STOP)
    assert relayed.shows(START + first + second + STOP)


@every_framing
def test_much_at_once_loses_nothing(make: Make, framing: str) -> None:
    """Given an upstream that sends megabytes as fast as it can, then all of it is shown, in order."""
    upper, relayed = make(framing)
    said = b"".join(delta(number, "x" * (number % 1000)) for number in range(8000)) + STOP
    saying = threading.Thread(target=upper.say, args=(said,))
    saying.start()
    relayed.rest()
    saying.join()
    assert relayed.body == START + said


def test_records_of_one_segment_are_all_shown_at_once(make: Make) -> None:
    """Given TLS records that arrive in one segment, events cut across them, then no byte waits for the next packet."""
    upper, relayed = make("tls")
    said = delta(0, "x" * 40_000) + delta(1)
    cuts = [0, 30, 20_000, len(said) - 7, len(said)]
    upper.say(b": cork\n\n")
    assert relayed.shows(START + b": cork\n\n")
    upper.end.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    for start, end in pairwise(cuts):
        upper.say(said[start:end])
    upper.end.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    assert relayed.shows(START + b": cork\n\n" + said)


def test_an_event_that_swells_is_shown_at_once(make: Make) -> None:
    """Given a few encoded bytes that stand for megabytes of one event, then it does not wait for the next packet."""
    upper, relayed = make("gzip")
    event = delta(0, "x" * 5_000_000)
    upper.say(event)
    assert len(gzip.compress(event)) < 20_000
    assert relayed.shows(START + event)


def reset(upper: Upper) -> None:
    """The upstream's process has died."""
    upper.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    upper.end.close()


def hung_up(upper: Upper) -> None:
    """The upstream closes."""
    upper.end.shutdown(socket.SHUT_RDWR)


END = b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("framing", "trouble", "shown"),
    [
        pytest.param("plain", hung_up, b"", id="closed"),
        pytest.param("plain", reset, b"", id="reset"),
        pytest.param("chunked", hung_up, b"", id="cut"),
        pytest.param("tls", hung_up, b"", id="cut-under-tls"),
        pytest.param(
            "chunked", b"%x\r\n%b\r\n" % (len(delta(0)), delta(0)) + END, delta(0), id="ended-behind-an-event"
        ),
        pytest.param("chunked", b"5\r\nevent\r\n" + END, b"", id="ended-in-an-event"),
        pytest.param("chunked", b"%x\r\n%b\r\nzz\r\n" % (len(delta(0)), delta(0)), delta(0), id="garbled"),
        pytest.param("gzip", b"\xff\xff\xff\xff", b"", id="undecodable"),
    ],
)
def test_an_upstream_that_ends_early_is_told(
    make: Make, framing: str, trouble: bytes | Callable[[Upper], None], shown: bytes
) -> None:
    """Given a stream that breaks or ends before its last event, then what was good is shown, and an error behind it."""
    upper, relayed = make(framing)
    assert relayed.shows(START)
    if isinstance(trouble, bytes):
        upper.end.sendall(trouble)
    else:
        trouble(upper)
    rest = relayed.rest()
    assert rest.startswith(shown + b"event: error\n")
    assert b'"api_error"' in rest


@pytest.mark.parametrize(
    "hang_up",
    [
        pytest.param(lambda their: their.close(), id="close"),
        pytest.param(lambda their: their.shutdown(socket.SHUT_WR), id="half"),
    ],
)
def test_a_client_that_hangs_up_ends_its_stream(make: Make, hang_up: Callable[[socket.socket], None]) -> None:
    """Given a silent upstream, when the client hangs up, then the stream is over, and is not ended cleanly."""
    _, relayed = make()
    hang_up(relayed.their)
    with pytest.raises(BrokenPipeError):
        relayed.rest()
    assert relayed.body == START


def test_the_end_of_the_drain_time_ends_a_stream(make: Make, lifecycle: Lifecycle) -> None:
    """Given a silent upstream, when the drain time is over, then the stream says that the gateway stops."""
    _, relayed = make()
    lifecycle.drain(0.01)
    rest = relayed.rest()
    assert rest.startswith(b"event: error\n")
    assert b'"overloaded_error"' in rest


def test_pings_go_out_while_the_upstream_is_silent(make: Make) -> None:
    """Given a silent upstream, then the client hears a ping in every interval, and an event puts the next one off."""
    upper, relayed = make(ping_seconds=0.1)
    assert relayed.shows(START + PING + PING)
    upper.say(delta(0))
    assert relayed.shows(START + PING + PING + delta(0))
    assert 0.0 < relayed.pace.due_at - time.monotonic() <= 0.1
    upper.say(STOP)
    assert relayed.rest().endswith(STOP)


def test_an_upstream_that_is_silent_for_too_long_is_told(make: Make) -> None:
    """Given an upstream that says nothing more, when its time is over, then the stream ends with that, pings or not."""
    _, relayed = make(ping_seconds=0.05, read_idle_seconds=0.3)
    rest = relayed.rest()
    assert rest.startswith(PING)
    assert b'"timeout_error"' in rest


@every_framing
def test_an_upstream_that_spoke_while_the_client_took_nothing_was_not_silent(make: Make, framing: str) -> None:
    """Given a response that nobody has run for longer than the upstream may be silent, when there is something of the
    upstream's, then that is shown."""
    upper, relayed = make(framing, read_idle_seconds=0.3)
    upper.say(delta(0))
    assert relayed.shows(START + delta(0))
    went_at = time.monotonic()
    upper.say(delta(1) + STOP)
    assert wait_until(lambda: time.monotonic() > went_at + 0.5, BOUND_SECONDS)
    assert relayed.rest() == delta(1) + STOP
