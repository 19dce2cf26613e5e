"""Streams that pause, end to end: while their threads sleep, pings, deadlines, hang-ups and stops still come in time.

Between two events that are further apart than a moment, a stream is lent to the worker's relay. Every case here is such
a stream; the other modules have the busy ones.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from tests.e2e.clients import Client, Received, events_of, message_body
from tests.e2e.raw_upstream import FIRST_EVENT, LAST_EVENT, Incoming, RawUpstream, event, stream_head
from tests.e2e.rig import Rig
from tests.e2e.test_tool_turns import told
from tests.harness import GatewayProcess, wait_until
from tests.mcp.servers import FaultServer

STREAMED = message_body(is_streamed=True)
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
PING_SECONDS = 1.5
STREAMS = 4
# The design's two seconds, with a margin for a busy machine.
SOON_SECONDS = 30.0
TIMEOUT_SECONDS = 30.0
TOOL_SECONDS = 0.6

Start = Callable[..., GatewayProcess]


def delta(number: int, text: str = "tick") -> bytes:
    """One of a message's events."""
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": f"{number} {text}"})


@pytest.fixture
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream() as upstream:
        yield upstream


@pytest.fixture
def start(upstream: RawUpstream, gateway_process: Start) -> Callable[..., GatewayProcess]:
    """Starts a gateway in front of the upstream."""

    def started(**settings: object) -> GatewayProcess:
        return gateway_process(upstream.url, keys=["sk-a"], ping_seconds=PING_SECONDS, **settings)

    return started


def pause(gateway: GatewayProcess, incoming: Incoming) -> None:
    """Until the gateway has read what came, and the stream's thread has lent it, or the gateway has hung up."""
    hung_up = select.poll()
    hung_up.register(incoming.client, select.POLLRDHUP)

    def has_come() -> bool:
        if hung_up.poll(0):
            return True
        try:
            return any(is_lent(worker, incoming.client) for worker in gateway.worker_pids)
        except OSError:  # a process has ended meanwhile, and so hung up
            return False

    assert wait_until(has_come, TIMEOUT_SECONDS)


def is_lent(worker: int, upstream: socket.socket) -> bool:
    """Whether a worker has nothing left to read of a connection, and its relay watches it: no other epoll does."""
    ends = [f":{name[1]:04X}" for name in (upstream.getpeername(), upstream.getsockname())]
    process = Path(f"/proc/{worker}")
    for line in (process / "net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_, inode = line.split()[:10]
        if local.endswith(ends[0]) and remote.endswith(ends[1]):
            break
    else:
        return False
    if int(queues.partition(":")[2], 16):
        return False
    links = {}
    for descriptor in (process / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed a moment ago
            links[descriptor.name] = os.readlink(descriptor)
    ours = {name for name, link in links.items() if link == f"socket:[{inode}]"}
    watched = set()
    for name, link in links.items():
        if link == "anon_inode:[eventpoll]":
            with suppress(FileNotFoundError):
                watched |= set(re.findall(r"tfd: +([0-9]+) ", (process / "fdinfo" / name).read_text()))
    return bool(ours & watched)


def ask(stack: ExitStack, gateway: GatewayProcess) -> tuple[Client, Received]:
    """A client that has seen a stream's first event."""
    client = stack.enter_context(Client(gateway.url))
    client.send(STREAMED)
    answer = client.read_head()
    assert answer.status == 200
    return client, client.read_body(answer, lambda body: FIRST_EVENT in body)


def test_pings_come_on_time_and_nothing_else_changes(start: Start, upstream: RawUpstream) -> None:
    """Given streams that fall silent for seconds, then each hears pings in time, and the rest byte for byte."""
    said = [FIRST_EVENT, *(delta(number) for number in range(10)), LAST_EVENT]
    may_go_on = threading.Event()

    def play(incoming: Incoming) -> None:
        incoming.read()
        incoming.send(stream_head())
        for number, piece in enumerate(said):
            incoming.send(piece)
            if piece is not LAST_EVENT:
                pause(gateway, incoming)
            if number == 5:
                may_go_on.wait(TIMEOUT_SECONDS)
        incoming.client.shutdown(socket.SHUT_RDWR)

    upstream.play = play
    gateway = start()
    all_have_heard = threading.Barrier(STREAMS, may_go_on.set)

    def listen(client: Client, answer: Received) -> None:
        client.read_body(answer, lambda body: body.count(PING) >= 2)
        all_have_heard.wait(TIMEOUT_SECONDS)
        client.read_body(answer)

    with ExitStack() as stack, ThreadPoolExecutor(STREAMS) as listeners:
        asked = [ask(stack, gateway) for _ in range(STREAMS)]
        for heard in [listeners.submit(listen, *each) for each in asked]:
            heard.result(TIMEOUT_SECONDS)
    before, behind = b"".join(said[:6]), b"".join(said[6:])
    for _, answer in asked:
        pings = answer.raw_body.count(PING)
        assert answer.raw_body == before + pings * PING + behind
        assert answer.is_complete
        at = {length: moment for moment, length in answer.arrivals}
        moments = [at[len(before) + count * len(PING)] for count in range(3)]
        for earlier, later in pairwise(moments):
            assert PING_SECONDS / 3 <= later - earlier <= 3 * PING_SECONDS


def test_client_that_stops_reading_is_cut_off(start: Start, upstream: RawUpstream) -> None:
    """Given a client that stops reading in mid-stream, then after the write time-out it is gone, and counted so."""
    hung_up = threading.Event()

    def play(incoming: Incoming) -> None:
        incoming.read()
        incoming.send(stream_head() + FIRST_EVENT)
        try:
            while True:
                pause(gateway, incoming)
                incoming.send(delta(0, "x" * 300_000))
        finally:
            hung_up.set()

    upstream.play = play
    gateway = start(write_timeout_seconds=1)
    with ExitStack() as stack:
        ask(stack, gateway)
        assert hung_up.wait(TIMEOUT_SECONDS)
        assert gateway.counted("streams_ended_total", outcome="client_disconnected") == 1


def test_client_that_hangs_up_frees_the_upstream(start: Start, upstream: RawUpstream) -> None:
    """Given silent streams, when their clients hang up, then the upstream's connections are closed soon."""
    closed = threading.Semaphore(0)

    def play(incoming: Incoming) -> None:
        incoming.read()
        incoming.send(stream_head() + FIRST_EVENT)
        try:
            pause(gateway, incoming)
            incoming.send(delta(0))
            incoming.until_hung_up()
        finally:
            closed.release()

    upstream.play = play
    gateway = start()
    hang_ups = [Client.close, Client.reset, Client.shut_down, Client.close]
    with ExitStack() as stack:
        asked = [ask(stack, gateway) for _ in range(STREAMS)]
        for client, answer in asked:
            client.read_body(answer, lambda body: delta(0) in body)
        begun_at = time.monotonic()
        for (client, _), hang_up in zip(asked, hang_ups, strict=True):
            hang_up(client)
        for _ in asked:
            assert closed.acquire(timeout=SOON_SECONDS)
        assert time.monotonic() - begun_at <= SOON_SECONDS
        assert wait_until(lambda: gateway.metric("requests_inflight", route="messages") == 0, SOON_SECONDS)
    assert gateway.counted("streams_ended_total", outcome="client_disconnected") == STREAMS


def test_streams_end_with_a_word_when_the_drain_time_is_over(start: Start, upstream: RawUpstream) -> None:
    """Given streams that pause, when SIGTERM has come and the drain time is over, then each ends with an error event
    behind whole ones, and the gateway ends well."""

    def play(incoming: Incoming) -> None:
        incoming.read()
        incoming.send(stream_head() + FIRST_EVENT)
        while True:
            pause(gateway, incoming)
            incoming.send(delta(0))

    upstream.play = play
    gateway = start(drain_seconds=1)
    with ExitStack() as stack:
        asked = [ask(stack, gateway) for _ in range(STREAMS)]
        for client, answer in asked:
            client.read_body(answer, lambda body: delta(0) in body)
        gateway.send_signal(signal.SIGTERM)
        for client, answer in asked:
            client.read_body(answer)
            assert answer.is_complete
            *passed, (name, data) = events_of(answer.body)
            assert (name, data["error"]["type"]) == ("error", "overloaded_error")
            assert {name for name, _ in passed[1:]} == {"content_block_delta"}
    assert gateway.wait(3 * SOON_SECONDS) == 0


def test_turns_with_tools_pause_over_tls(tmp_path: Path) -> None:
    """Given turns whose events come one by one over TLS, and a tool that takes its time, then there is one message,
    and the upstream reads the tool's result."""
    with FaultServer(tmp_path) as server:
        config = tmp_path / "gateway.toml"
        config.write_text(f'[[mcp_servers]]\nname = "faults"\nurl = "{server.url}"\n')
        call = f'tool_use:name=bmcp_faults_slow,input={{"seconds":{TOOL_SECONDS}}},text="Let me see.",delay=0.03'
        with Rig(is_tls=True, config=config) as rig, Client(rig.gateway.url) as client:
            rig.keys(f"{call} then ok:delay=0.03")
            client.send(STREAMED)
            answer = client.read_answer()
            requests = [request.body for request in rig.simulator.requests]
        assert server.journal == ["slow begins", "slow ends"]
    assert len(requests) == 2
    assert answer.is_complete
    message = told(answer)
    assert [block["type"] for block in message["content"]] == ["text", "text"]
    assert message["stop_reason"] == "end_turn"
