"""Heads that come slowly: they hold no thread, and come to the same as heads that come at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.e2e.talk import Talk, error_of, message
from tests.harness import GatewayProcess, wait_until

KEY = "sk-ant-api03-the-only-key"
THREADS, RESERVED = 12, 4
SLOW = 1000
SOON_SECONDS = 30.0
HEAD_SECONDS = 300.0  # far more than any test takes: what is answered before has not waited for slow heads to end
TIMEOUT_SECONDS = 60.0

Start = Callable[..., GatewayProcess]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """One upstream for the module."""
    with Simulator(keys={KEY: "ok"}) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def gateway(simulator: Simulator) -> Iterator[GatewayProcess]:
    """A gateway with few threads and much patience for heads."""
    process = GatewayProcess(
        simulator.url,
        [KEY],
        threads=str(THREADS),
        reserved_threads=str(RESERVED),
        head_timeout_seconds=str(HEAD_SECONDS),
    )
    yield process
    process.stop()


def post(body: bytes, *lines: str) -> bytes:
    """A request for a message."""
    head = ["POST /v1/messages HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def test_a_thousand_slow_heads_hold_nobody_up(gateway: GatewayProcess) -> None:
    """Given 1,000 connections with a byte or half of a head, new and kept, then others are served at once.

    So are they themselves, when the rest of their heads has come.
    """
    with ExitStack() as stack:
        kept = [stack.enter_context(Talk(gateway)) for _ in range(SLOW // 4)]
        for talk in kept:
            assert talk.exchange("GET", "/healthz").status == 200
        talks = [*kept, *(stack.enter_context(Talk(gateway)) for _ in range(SLOW - len(kept)))]
        for number, talk in enumerate(talks):
            talk.send(HEALTH[: 1 if number % 2 else 20])
        begun_at = time.monotonic()
        for _ in range(5):
            assert gateway.request("GET", "/healthz").status == 200
            assert gateway.request("POST", "/v1/messages", message()).status == 200
        assert time.monotonic() - begun_at < 2 * SOON_SECONDS
        for number in (0, 1, SLOW // 2, SLOW - 1):
            talks[number].send(HEALTH[1 if number % 2 else 20 :])
            assert talks[number].answer().status == 200


BODY = message()
SENT = {
    "whole": (post(BODY), [200]),
    "expecting": (post(BODY, "Expect: 100-continue"), [100, 200]),
    "pipelined": (HEALTH + post(BODY) + HEALTH, [200, 200, 200]),
    "empty-line-first": (b"\r\n" + HEALTH, [200]),
    "closing": (post(BODY, "Connection: close"), [200]),
    "http-1.0": (b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n", [200]),
    "no-http": (b"no http at all\r\n", [400]),
    "bare-line-feed": (b"GET /healthz HTTP/1.1\nHost: a\r\n", [400]),
    "no-field": (b"GET /healthz HTTP/1.1\r\nbad\r\n\r\n", [400]),
    "long-line": (b"GET /" + b"a" * 5000, [414]),
    "long-field": (b"GET / HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", [431]),
    "unknown-coding": (b"POST /v1/messages HTTP/1.1\r\nTransfer-Encoding: cow\r\n\r\n", [501]),
    "good-and-bad": (HEALTH + b"nonsense\r\n", [200, 400]),
}


def statuses(sock: socket.socket, number: int) -> list[int]:
    """The statuses of so many answers."""
    received = b""
    sock.settimeout(TIMEOUT_SECONDS)
    while received.count(b"HTTP/1.1 ") + received.count(b"HTTP/1.0 ") < number and (piece := sock.recv(65536)):
        received += piece
    return [int(part[:3]) for part in received.replace(b"HTTP/1.0 ", b"HTTP/1.1 ").split(b"HTTP/1.1 ")[1:]]


def send(sock: socket.socket, data: bytes, piece_bytes: int) -> None:
    """Send in pieces, each as a segment of its own; an answer may come before the end."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) if sock.family == socket.AF_INET else None
    for position in range(0, len(data), piece_bytes):
        try:
            sock.sendall(data[position : position + piece_bytes])
        except OSError:  # it was refused already
            return


@pytest.mark.parametrize("piece_bytes", [1, 7, 1 << 20], ids=["bytes", "sevens", "at-once"])
@pytest.mark.parametrize("sent", SENT)
def test_a_request_comes_to_the_same_in_any_pieces(gateway: GatewayProcess, sent: str, piece_bytes: int) -> None:
    """Given requests good and bad, when they come in pieces of any size, then they are answered as if in one."""
    data, answers = SENT[sent]
    with Talk(gateway) as talk:
        send(talk.socket, data, piece_bytes)
        assert statuses(talk.socket, len(answers)) == answers


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 900_000, id="one-field"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 150_000, id="many-fields"),
    ],
)
def test_a_head_without_an_end_is_too_large(gateway: GatewayProcess, data: bytes) -> None:
    """Given a head that goes on and on, when it is larger than any may be, then 431, and it waits for no more."""
    with Talk(gateway) as talk:
        send(talk.socket, data, 8192)
        assert error_of(talk.answer())[:2] == (431, "invalid_request_error")


def test_a_head_over_a_socket_in_the_file_system(gateway_process: Start, simulator: Simulator, tmp_path: Path) -> None:
    """Given a gateway that is bound to a file, when a head comes in pieces, half, or with another, then all as ever."""
    path = str(tmp_path / "gateway.sock")
    gateway = gateway_process(
        simulator.url, keys=[KEY], must_start=False, bind=f"unix:{path}", head_timeout_seconds="1"
    )

    @contextmanager
    def connected() -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT_SECONDS)
            sock.connect(path)
            yield sock

    def is_up() -> bool:
        try:
            with connected() as sock:
                sock.sendall(HEALTH)
                return sock.recv(20).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    assert wait_until(is_up, 30), gateway.log
    for data, answers in (SENT["pipelined"], SENT["no-http"], SENT["expecting"], (HEALTH[:30], [408])):
        with connected() as sock:
            send(sock, data, 3)
            assert statuses(sock, len(answers)) == answers


def test_half_a_head_holds_up_no_stop(gateway_process: Start, simulator: Simulator) -> None:
    """Given connections with half of a head, when SIGTERM comes, then each is answered, and the gateway ends soon."""
    gateway = gateway_process(simulator.url, keys=[KEY], head_timeout_seconds=str(HEAD_SECONDS), drain_seconds="60")
    with ExitStack() as stack:
        talks = [stack.enter_context(Talk(gateway)) for _ in range(50)]
        for talk in talks:
            talk.send(HEALTH[:20])
        late = stack.enter_context(Talk(gateway))
        assert late.exchange("GET", "/healthz").status == 200
        gateway.send_signal(15)
        assert {error_of(talk.answer())[:2] for talk in talks} == {(408, "timeout_error")}
        assert gateway.wait(2 * SOON_SECONDS) == 0
