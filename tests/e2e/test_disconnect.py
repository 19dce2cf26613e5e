"""Clients that go away, end to end: the upstream's connection is closed and the thread is free, soon, in every phase.

Every case runs with exactly as many such clients as there are admitted threads, over plain HTTP and TLS to the
upstream; and one after the other, more of them than there are threads.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle, islice

import pytest

from tests.e2e.clients import Client, ask, message_body
from tests.e2e.rig import Rig
from tests.harness import GatewayProcess, wait_until

THREADS, RESERVED = 6, 2
ADMITTED = THREADS - RESERVED
# The design's two seconds, with a margin for a busy machine.
FREE_SECONDS = 8.0  # the next ping, which would notice, too, takes 10 s

STREAMED, WHOLE = message_body(is_streamed=True), message_body(is_streamed=False)
# More than the kernel's buffers of both ends hold.
BULK = message_body(is_streamed=True, metadata={"bulk": "x" * 16_000_000})

HANG_UPS: dict[str, Callable[[Client], None]] = {"fin": Client.close, "rst": Client.reset, "half": Client.shut_down}


@pytest.fixture(scope="module", params=[False, True], ids=["http", "tls"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with Rig(is_tls=request.param, threads=THREADS, reserved_threads=RESERVED) as rig:
        yield rig


PHASES = {
    "before_the_head": ("silent", STREAMED),
    "before_the_head_whole": ("silent", WHOLE),
    "between_head_and_first_event": ("ok:first=600", STREAMED),
    "in_mid_stream": ("stall:after=4", STREAMED),
    "in_the_middle_of_an_event": ("stall_half:after=4", STREAMED),
    "in_a_whole_answer": ("stall:after=3", WHOLE),
    "in_a_refusal": ("server_error:hang=true", STREAMED),
    "in_a_gzip_stream": ("stall:after=4,gzip=true,framing=length", STREAMED),
    "while_the_request_is_sent": ("no_read", BULK),
}
# Without the one in which every client waits half a second for its head.
QUICK_PHASES = {name: phase for name, phase in PHASES.items() if name != "between_head_and_first_event"}
SHOWN = {"ok:first=600", "stall:after=4", "stall_half:after=4", "stall:after=4,gzip=true,framing=length"}


def _stopped_up(rig: Rig, script: str, body: bytes) -> Client:
    """A client that waits on the upstream; one that is to see the beginning of a stream has seen it."""
    before = len(rig.simulator.requests)
    client = Client(rig.gateway.url)
    client.send(body)
    assert rig.simulator.wait_until(lambda: len(rig.simulator.requests) == before + 1, 30)
    if script in SHOWN and body == STREAMED:
        answer = client.read_head()
        assert answer.status == 200
        if "after" in script:
            client.read_body(answer, lambda received: b"content_block_delta" in received)
    return client


def _assert_all_is_free(rig: Rig) -> None:
    assert rig.simulator.wait_until(lambda: rig.simulator.open_connections == 0, FREE_SECONDS)
    assert wait_until(lambda: rig.gateway.metric("requests_inflight", route="messages") == 0, FREE_SECONDS)
    rig.script("ok:hang-up=true")  # leaves no idle connection behind, so that the next test begins with none
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(rig.gateway.url)) for _ in range(ADMITTED)]
        for client in clients:
            client.send(STREAMED)
        assert [client.read_answer().status for client in clients] == [200] * ADMITTED
    assert rig.simulator.wait_until(lambda: rig.simulator.open_connections == 0, FREE_SECONDS)


@pytest.mark.parametrize("hang_up", HANG_UPS.values(), ids=HANG_UPS)
@pytest.mark.parametrize(("script", "body"), PHASES.values(), ids=PHASES)
def test_as_many_hang_ups_as_threads_leave_every_thread_free(
    rig: Rig, script: str, body: bytes, hang_up: Callable[[Client], None]
) -> None:
    """Given every admitted thread waits on a stopped-up upstream, when the clients hang up, then all is free soon."""
    rig.keys(script)
    with ExitStack() as stack:
        clients = [stack.enter_context(_stopped_up(rig, script, body)) for _ in range(ADMITTED)]
        assert rig.gateway.metric("requests_inflight", route="messages") == ADMITTED
        assert ask(rig.gateway.url, STREAMED).status == 529
        for client in clients:
            hang_up(client)
        _assert_all_is_free(rig)
    assert rig.states == ["valid"]


@pytest.mark.parametrize(("script", "body"), QUICK_PHASES.values(), ids=QUICK_PHASES)
def test_more_hang_ups_than_threads_one_after_the_other_refuse_nobody(rig: Rig, script: str, body: bytes) -> None:
    """Given clients that hang up one after the other, more than there are threads, then none of them is refused."""
    rig.keys(script)
    refused = rig.gateway.metric("rejections_total", reason="overloaded_error")
    with ExitStack() as stack:
        for hang_up in islice(cycle(HANG_UPS.values()), 2 * THREADS):
            hang_up(stack.enter_context(_stopped_up(rig, script, body)))
        assert rig.gateway.metric("rejections_total", reason="overloaded_error") == refused
        _assert_all_is_free(rig)


def test_hang_ups_in_mid_stream_are_counted_as_such(rig: Rig) -> None:
    """Given a client that hangs up in mid-stream, then the stream ended as `client_disconnected`, usage included."""
    rig.keys("stall:after=4,input-tokens=1234")
    name = "streams_ended_total"
    ended = rig.gateway.counted(name, outcome="client_disconnected")
    tokens = rig.gateway.counted("tokens_total", model="claude-simulated", type="input")
    _stopped_up(rig, "stall:after=4", STREAMED).close()
    assert wait_until(lambda: rig.gateway.metric(name, outcome="client_disconnected") == ended + 1, FREE_SECONDS)
    assert rig.gateway.counted("tokens_total", model="claude-simulated", type="input") == tokens + 1234


def test_a_client_that_reads_nothing_more_of_a_busy_stream_and_leaves_is_noticed(rig: Rig) -> None:
    """Given a stream that never pauses, when the client resets its connection, then the upstream's is closed."""
    rig.keys("ok:events=15000,bytes=2000")
    client = Client(rig.gateway.url)
    client.send(STREAMED)
    client.read_body(client.read_head(), lambda received: len(received) > 10_000)
    client.reset()
    _assert_all_is_free(rig)


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/models"])
def test_hang_ups_on_the_other_routes_leave_every_thread_free(rig: Rig, path: str) -> None:
    """Given clients that hang up on a silent upstream on another route, then connections and threads are free."""
    rig.keys("silent")
    for _ in range(ADMITTED):
        with Client(rig.gateway.url) as client:
            method, body = ("GET", b"") if "models" in path else ("POST", WHOLE)
            before = len(rig.simulator.requests)
            client.send(body, method=method, path=path)
            assert rig.simulator.wait_until(lambda wanted=before + 1: len(rig.simulator.requests) == wanted, 30)
    _assert_all_is_free(rig)


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port whose queue of connections is full, so that connecting to it hangs."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield address[1]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_hang_ups_while_connecting_free_their_threads(
    gateway_process: Callable[..., GatewayProcess], full_port: int, scheme: str
) -> None:
    """Given an upstream that takes no connection, when every client hangs up, then the threads are free soon."""
    gateway = gateway_process(
        f"{scheme}://127.0.0.1:{full_port}",
        keys=["sk-a"],
        threads=THREADS,
        reserved_threads=RESERVED,
        connect_timeout_seconds=100 * FREE_SECONDS,
    )
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(gateway.url)) for _ in range(ADMITTED)]
        for client in clients:
            client.send(STREAMED)
        assert wait_until(lambda: gateway.metric("requests_inflight", route="messages") == ADMITTED, FREE_SECONDS)
        for client, hang_up in zip(clients, cycle(HANG_UPS.values()), strict=False):
            hang_up(client)
        assert wait_until(lambda: gateway.metric("requests_inflight", route="messages") == 0, FREE_SECONDS)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_upstream_that_takes_no_connection_is_a_504(
    gateway_process: Callable[..., GatewayProcess], full_port: int, scheme: str
) -> None:
    """Given an upstream that takes no connection, then 504 `timeout_error` past the connect time-out."""
    gateway = gateway_process(f"{scheme}://127.0.0.1:{full_port}", keys=["sk-a"], connect_timeout_seconds=0.5)
    for body in (STREAMED, WHOLE):
        answer = ask(gateway.url, body)
        assert answer.status == 504
        assert answer.json()["error"]["type"] == "timeout_error"
