"""Streams that are lent to the relay: what passes while their threads sleep, and what wakes those.

Everything is real, sockets, connections and epoll, but the writer to the client, which records what it is offered.
"""

from __future__ import annotations

import contextlib
import gzip
import select
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trustme

from gateway.protocol.errors import ClientGone, Stopping, UpstreamError, UpstreamSilent
from gateway.relay.lending import Relay
from gateway.runtime.background import GrowingPause
from gateway.runtime.lifecycle import Lifecycle
from gateway.upstream.event_stream import EventStream
from gateway.upstream.watch import READABLE, WRITABLE, Watch
from tests.harness import wait_until
from tests.unit.fakes import FakeClock
from tests.unit.lending_rig import BOUND_SECONDS, ERROR, START, STOP, Streamed, Upper, delta

FRAMINGS = ["plain", "chunked", "gzip", "tls"]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def lifecycle() -> Iterator[Lifecycle]:
    made = Lifecycle()
    yield made
    made.end()
    assert wait_until(lambda: not any(thread.name == "relay" for thread in threading.enumerate()), BOUND_SECONDS)
    made.close()


@pytest.fixture
def relay(lifecycle: Lifecycle) -> Relay:
    return Relay(lifecycle)


Make = Callable[..., Streamed]


@pytest.fixture
def make(relay: Relay, lifecycle: Lifecycle, authority: trustme.CA) -> Iterator[Make]:
    """Makes streams, each with an upstream of its own unless it is given one."""
    with ExitStack() as stack:

        def made(framing: str = "plain", upper: Upper | None = None, **options: Any) -> Streamed:
            upper = upper or stack.enter_context(Upper(authority, framing))
            return stack.enter_context(contextlib.closing(Streamed(relay, lifecycle, upper, **options)))

        yield made


@pytest.fixture
def threads(lifecycle: Lifecycle) -> Iterator[ThreadPoolExecutor]:
    """The requests' threads; those that still sleep are woken in the end."""
    with ThreadPoolExecutor(256) as made:
        yield made
        lifecycle.end()


def lent(threads: ThreadPoolExecutor, relay: Relay, *streams: Streamed) -> list[Future[bool]]:
    """Have each of them lend in a thread of its own; returns when the relay holds them."""
    futures = [threads.submit(streamed.lend) for streamed in streams]
    assert wait_until(lambda: repr(relay) == f"<Relay of {len(streams)} streams>", BOUND_SECONDS)
    return futures


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("last", [STOP, ERROR], ids=["message_stop", "error"])
def test_events_pass_while_the_thread_sleeps(make, relay, threads, framing, last):
    """Given a stream that is lent, then each event is with the client at once, and the thread is back at the end."""
    streamed = make(framing)
    (back,) = lent(threads, relay, streamed)
    said = b""
    for event in (START, delta(0, "a"), delta(1, "b" * 5000), b": a comment\n\n", delta(2) + delta(3)):
        streamed.say(event)
        said += event
        assert wait_until(lambda: streamed.client.body == said, BOUND_SECONDS)  # noqa: B023
        assert not back.done()
    streamed.say(last)
    assert back.result(BOUND_SECONDS) is True
    assert streamed.client.body == said + last
    assert streamed.client.threads == {"relay"}
    assert streamed.stream.tally.has_ended
    assert repr(relay) == "<Relay of 0 streams>"


@pytest.mark.parametrize("framing", FRAMINGS)
def test_half_an_event_is_held_until_it_is_whole(make, relay, threads, framing):
    """Given events that come in halves, then the client is shown whole ones alone, each as soon as it is whole."""
    streamed = make(framing)
    (back,) = lent(threads, relay, streamed)
    first, second = delta(0, "half"), delta(1, "whole")
    streamed.say(first[:20])
    assert wait_until(lambda: streamed.stream._splitter.holds_half_an_event, BOUND_SECONDS)
    assert streamed.client.written == []
    streamed.say(first[20:] + second[:9])
    assert wait_until(lambda: streamed.client.written == [first], BOUND_SECONDS)
    streamed.say(second[9:] + STOP)
    assert back.result(BOUND_SECONDS) is True
    assert streamed.client.written == [first, second + STOP]


def test_client_that_takes_nothing_gives_the_stream_back(make, relay, threads):
    """Given a client that does not take all, then the thread is back and told so, and the relay goes no further."""
    streamed = make()
    streamed.client.takes = False
    (back,) = lent(threads, relay, streamed)
    streamed.say(START)
    assert back.result(BOUND_SECONDS) is False
    streamed.say(delta(0))
    assert streamed.stream.receive(BOUND_SECONDS) == delta(0)
    assert streamed.client.written == [START]


@pytest.mark.parametrize(
    "hang_up",
    [
        pytest.param(lambda their: their.close(), id="close"),
        pytest.param(lambda their: their.shutdown(socket.SHUT_WR), id="half"),
    ],
)
def test_client_that_hangs_up_gives_the_stream_back(make, relay, threads, hang_up):
    """Given a silent upstream, when the client hangs up, then the thread is back, and its next wait says so."""
    streamed, other = make(), make()
    back, stays = lent(threads, relay, streamed, other)
    hang_up(streamed.their)
    assert back.result(BOUND_SECONDS) is True
    with pytest.raises(ClientGone):
        streamed.stream.receive(BOUND_SECONDS)
    assert repr(relay) == "<Relay of 1 streams>"
    other.say(STOP)
    assert stays.result(BOUND_SECONDS) is True


def test_end_of_the_drain_time_gives_all_back(make, relay, lifecycle, threads):
    """Given lent streams, when the drain time is over, then all are back, meet it themselves, and none is taken."""
    streams = [make() for _ in range(3)]
    backs = lent(threads, relay, *streams)
    lifecycle.drain(0.01)
    assert [back.result(BOUND_SECONDS) for back in backs] == [True] * 3
    for streamed in streams:
        with pytest.raises(Stopping):
            streamed.stream.receive(BOUND_SECONDS)
    assert repr(relay) == "<Relay of 0 streams over>"
    assert threads.submit(streams[0].lend).result(BOUND_SECONDS) is True
    assert streams[0].lender.patience_seconds(streams[0].stream) > 1


def test_what_show_raises_is_raised_in_the_thread(make, relay, threads):
    """Given events that make no message, then the lender's thread raises what `show` did, and nothing was shown."""
    failure = UpstreamError("no message")

    def show(batch: bytes) -> bytes:
        raise failure

    streamed = make(show=show)
    (back,) = lent(threads, relay, streamed)
    streamed.say(START)
    with pytest.raises(UpstreamError) as raised:
        back.result(BOUND_SECONDS)
    assert raised.value is failure
    assert streamed.client.written == []
    assert repr(relay) == "<Relay of 0 streams>"


def reset(streamed: Streamed) -> None:
    """The upstream's process has died."""
    streamed.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    streamed.end.close()


def hung_up(streamed: Streamed) -> None:
    """The upstream closes."""
    streamed.end.shutdown(socket.SHUT_RDWR)


END = b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("framing", "trouble", "shown", "meets"),
    [
        pytest.param("plain", hung_up, b"", b"", id="closed"),
        pytest.param("plain", reset, b"", UpstreamError, id="reset"),
        pytest.param("chunked", hung_up, b"", UpstreamError, id="cut"),
        pytest.param("chunked", b"%x\r\n%b\r\n" % (len(START), START) + END, START, b"", id="ended-behind-an-event"),
        pytest.param("chunked", b"5\r\nevent\r\n" + END, b"", b"", id="ended-in-an-event"),
        pytest.param("chunked", b"%x\r\n%b\r\nzz\r\n" % (len(START), START), START, UpstreamError, id="garbled"),
        pytest.param("gzip", b"\xff\xff\xff\xff", b"", UpstreamError, id="undecodable"),
    ],
)
def test_upstream_that_ends_early_is_met_by_the_thread(make, relay, threads, framing, trouble, shown, meets):
    """Given a lent stream that breaks or ends, then its thread meets that at once, however the connection goes on."""
    streamed = make(framing)

    def met() -> bytes | None:
        assert streamed.lend()
        return streamed.stream.receive(BOUND_SECONDS)

    back = threads.submit(met)
    assert wait_until(lambda: repr(relay) == "<Relay of 1 streams>", BOUND_SECONDS)
    if isinstance(trouble, bytes):
        streamed.end.sendall(trouble)
    else:
        trouble(streamed)
    if meets == b"":
        assert back.result(BOUND_SECONDS) == b""
    else:
        with pytest.raises(meets):
            back.result(BOUND_SECONDS)
    assert streamed.client.body == shown
    assert repr(relay) == "<Relay of 0 streams>"


@pytest.mark.parametrize("limit", ["ping_seconds", "read_idle_seconds"])
def test_stream_of_which_something_is_due_soon_is_not_lent(make, relay, limit):
    """Given a ping or the end of the upstream's time before long, then the thread waits for that itself."""
    streamed = make(**{limit: 0.4})
    assert streamed.lender.patience_seconds(streamed.stream) == pytest.approx(streamed.pace.left_seconds, abs=0.1)
    assert streamed.lend() is True
    assert relay._epoll is None


def test_stream_comes_back_before_its_ping_is_due(make, relay, threads):
    """Given a lent stream that is silent, when its ping will be due soon, then the thread is back before."""
    clock = FakeClock(0.0)
    streamed = make(clock=clock, ping_seconds=10.0)
    (back,) = lent(threads, relay, streamed)
    clock.advance(9.6)
    assert back.result(BOUND_SECONDS) is True
    assert streamed.pace.left_seconds > 0


def test_event_that_passes_puts_the_ping_off(make, relay, threads):
    """Given a lent stream, when an event passes, then the ping is due so long after it; not if nothing was shown."""
    clock = FakeClock(0.0)
    seen: list[bytes] = []

    def show(batch: bytes) -> bytes:
        seen.append(batch)
        return batch if batch == START else b""

    streamed = make(clock=clock, ping_seconds=10.0, show=show)
    (back,) = lent(threads, relay, streamed)
    clock.advance(5)
    streamed.say(START)
    assert wait_until(lambda: streamed.client.written == [START], BOUND_SECONDS)
    assert streamed.pace.left_seconds == 10
    clock.advance(5)
    streamed.say(delta(0))
    assert wait_until(lambda: seen == [START, delta(0)], BOUND_SECONDS)
    clock.advance(4.6)
    assert back.result(BOUND_SECONDS) is True
    assert 0 < streamed.pace.left_seconds < 0.5
    assert streamed.client.written == [START]


def test_stream_comes_back_before_the_upstream_s_time_is_over(make, relay, threads):
    """Given a lent stream, when the upstream has been silent for nearly too long, then its thread sees to that."""
    streamed = make(read_idle_seconds=30.0)
    (back,) = lent(threads, relay, streamed)
    streamed.reply._heard_at -= 29.6
    assert back.result(BOUND_SECONDS) is True
    with pytest.raises(UpstreamSilent):
        streamed.stream.receive(BOUND_SECONDS)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_much_at_once_loses_nothing(make, threads, framing):
    """Given an upstream that sends megabytes as fast as it can, then all of it is shown, in order."""
    streamed = make(framing)
    carried = threads.submit(streamed.carry)
    said = START + b"".join(delta(number, "x" * (number % 1000)) for number in range(8000)) + STOP
    streamed.say(said)
    carried.result(3 * BOUND_SECONDS)
    assert streamed.client.body == said


def test_two_hundred_streams_pass_side_by_side(make, relay, authority, threads):
    """Given as many streams as threads, then each client has its own events, all of them, and the relay holds none."""
    count, rounds = 200, 4
    with Upper(authority, "plain") as upper:
        streams = [make(upper=upper, body=b"%d" % number) for number in range(count)]
        carried = [threads.submit(streamed.carry) for streamed in streams]
        said = [b""] * count
        for step in range(rounds):
            assert wait_until(lambda: repr(relay) == f"<Relay of {count} streams>", 3 * BOUND_SECONDS)
            for number, streamed in enumerate(streams):
                event = delta(number, f"{step} of {number}") if step else START
                streamed.say(event)
                said[number] += event
            shown = lambda: [streamed.client.body for streamed in streams]  # noqa: E731
            assert wait_until(lambda: shown() == said, 3 * BOUND_SECONDS)  # noqa: B023
        for streamed in streams:
            streamed.say(STOP)
        assert all(future.result(3 * BOUND_SECONDS) >= 1 for future in carried)
    assert [streamed.client.body for streamed in streams] == [body + STOP for body in said]
    assert repr(relay) == "<Relay of 0 streams>"


def test_records_of_one_segment_all_pass_at_once(make, relay, threads):
    """Given TLS records that arrive in one segment, events cut across them, then no byte waits for the next packet."""
    streamed = make("tls")
    (back,) = lent(threads, relay, streamed)
    said = START + delta(0, "x" * 40_000) + delta(1)
    cuts = [0, 30, len(START) + 5, len(START) + 20_000, len(said) - 7, len(said)]
    streamed.end.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    for start, end in pairwise(cuts):
        streamed.say(said[start:end])
    streamed.end.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    assert wait_until(lambda: streamed.client.body == said, BOUND_SECONDS)
    assert not back.done()


def test_event_that_swells_passes_at_once(make, relay, threads):
    """Given a few encoded bytes that stand for megabytes of one event, then it does not wait for the next packet."""
    streamed = make("gzip")
    (back,) = lent(threads, relay, streamed)
    event = delta(0, "x" * 5_000_000)
    streamed.end.sendall(gzip.compress(event))
    assert wait_until(lambda: streamed.client.body == event, BOUND_SECONDS)
    assert not back.done()


class Endless:
    """A stream that always has another batch, or none although its socket is readable."""

    def __init__(self, watch: Watch, batch: bytes | None) -> None:
        self.tally = SimpleNamespace(has_ended=False)
        self.reply = SimpleNamespace(may_hold_more=True, patience_seconds=60.0)
        self.received = 0
        self._watch = watch
        self._batch = batch

    def receive(self, timeout_seconds: float) -> bytes | None:
        self.received += 1
        if self._batch is None:
            (descriptor, _) = self._watch.descriptors or (-1, -1)
            self._watch.wait(descriptor, READABLE, 0)
            self._watch.wait(descriptor, WRITABLE, 0)
        return self._batch


@pytest.mark.parametrize("batch", [START, None], ids=["never-pauses", "has-to-write-first"])
def test_stream_that_would_keep_the_relay_busy_is_given_back(make, threads, batch):
    """Given a stream of which there is no end, or that TLS cannot read on before it has written, then it is back."""
    streamed = make()
    endless = Endless(streamed.watch, batch)
    streamed.say(START)
    lending = threads.submit(streamed.lender.lend, cast(EventStream, endless))
    assert lending.result(BOUND_SECONDS) is True
    assert 1 <= endless.received < 100


def test_failure_of_the_relay_itself_gives_every_stream_back(make, relay, threads, caplog, monkeypatch):
    """Given a relay whose epoll breaks, then it says so, and every stream, lent or new, goes on in its own thread; soon
    it takes streams again."""
    caplog.set_level("INFO")
    may_go_on = threading.Event()

    def pause_seconds(_: GrowingPause) -> float:
        may_go_on.wait(BOUND_SECONDS)
        return 0.0

    monkeypatch.setattr(GrowingPause, "next_seconds", pause_seconds)
    streams = [make() for _ in range(5)]
    carried = [threads.submit(streamed.carry) for streamed in streams[:3]]
    assert wait_until(lambda: repr(relay) == "<Relay of 3 streams>", BOUND_SECONDS)
    relay._epoll.close()
    assert wait_until(lambda: repr(relay) == "<Relay of 0 streams>", BOUND_SECONDS)
    assert wait_until(lambda: "the thread relay fails" in caplog.text, BOUND_SECONDS)
    carried.append(threads.submit(streams[3].carry))
    for streamed in streams[:4]:
        streamed.say(START + delta(0))
        streamed.say(STOP)
    for future in carried:
        future.result(BOUND_SECONDS)
    for streamed in streams[:4]:
        assert streamed.client.body == START + delta(0) + STOP
        assert "relay" not in streamed.client.threads
    may_go_on.set()
    assert wait_until(lambda: "the thread relay works again" in caplog.text, BOUND_SECONDS)
    (back,) = lent(threads, relay, streams[4])
    streams[4].say(STOP)
    assert back.result(BOUND_SECONDS) is True
    assert streams[4].client.threads == {"relay"}


@pytest.mark.parametrize("which", ["upstream", "client"])
def test_stream_that_cannot_be_registered_stays_with_its_thread(make, relay, threads, caplog, which):
    """Given a descriptor that the kernel does not take, then its stream is not lent again; the others' are, and
    nothing of it is left behind."""
    other, streamed = make(), make()
    (back,) = lent(threads, relay, other)
    upper, client = streamed.watch.descriptors
    with tempfile.TemporaryFile() as unwatchable:  # epoll takes no regular file
        pair = (unwatchable.fileno(), client) if which == "upstream" else (upper, unwatchable.fileno())
        streamed.lender.watch = cast(Watch, SimpleNamespace(descriptors=pair))
        assert streamed.lend() is True
    assert "cannot take a stream" in caplog.text
    assert streamed.lender.patience_seconds(streamed.stream) > 1
    for descriptor in (upper, client):
        with pytest.raises(FileNotFoundError):
            relay._epoll.unregister(descriptor)
    other.say(STOP)
    assert back.result(BOUND_SECONDS) is True


def test_relay_that_could_not_begin_begins_with_the_next_stream(make, relay, threads, monkeypatch):
    """Given no thread for the relay, then the stream stays with its own; the next finds a relay that works."""
    refused, streamed = make(), make()

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        assert refused.lend() is True
    assert repr(relay) == "<Relay of 0 streams>"
    (back,) = lent(threads, relay, streamed)
    streamed.say(STOP)
    assert back.result(BOUND_SECONDS) is True


class Dawdling:
    """An epoll that lets the relay's thread see what a descriptor brings before the next is registered."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._seen: set[int] = set()
        self.unregister = epoll.unregister
        self.close = epoll.close

    def register(self, descriptor: int, events: int) -> None:
        self._epoll.register(descriptor, events)
        poll = select.poll()
        poll.register(descriptor, events)
        if poll.poll(0):
            assert wait_until(lambda: descriptor in self._seen, BOUND_SECONDS)

    def poll(self, timeout_seconds: float) -> list[tuple[int, int]]:
        found = self._epoll.poll(timeout_seconds)
        self._seen.update(descriptor for descriptor, _ in found)
        return found


@pytest.mark.parametrize("which", ["upstream", "client"])
def test_event_that_comes_while_its_stream_is_taken_in_harms_nobody(make, relay, threads, which):
    """Given an end that is known before both descriptors are registered, then the stream is back, and others pass."""
    other, streamed = make(), make()
    (stays,) = lent(threads, relay, other)
    relay._epoll = cast(select.epoll, Dawdling(relay._epoll))
    if which == "upstream":
        streamed.say(STOP)
    else:
        streamed.their.close()
    assert threads.submit(streamed.lend).result(BOUND_SECONDS) is True
    assert repr(relay) == "<Relay of 1 streams>"
    other.say(STOP)
    assert stays.result(BOUND_SECONDS) is True


def test_what_was_found_readable_is_forgotten_with_its_descriptor(make):
    """Given a finding that nobody asked for before the answer ended, then the next wait, for another, is a real one."""
    streamed = make()
    streamed.watch.found_readable()
    streamed.reply.close()
    one, other = socket.socketpair()
    with one, other:
        assert streamed.watch.wait(one.fileno(), READABLE, 0.0) == 0
        streamed.watch.forget()
