"""Refusals whose bodies are not as they should be, over real sockets: they are refusals all the same.

What an answer's status says of a key does not depend on whether its body comes whole, in time, or readable.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
from collections.abc import Callable, Generator
from contextlib import closing
from typing import cast

import pytest

from gateway.access.authentication import Caller
from gateway.access.credential import AuthHeader, Secret
from gateway.keys.classification import LARGEST_JUDGED_BYTES, Cooldowns
from gateway.keys.failover import Course
from gateway.keys.pool import Pool
from gateway.keys.standing import KeyState
from gateway.protocol.errors import UpstreamError
from gateway.relay.pace import Pace
from gateway.relay.turn import Turn, TurnMaker
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.pause import Pause, complete
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import Observer
from gateway.upstream import Call, Upstream
from gateway.upstream.dialer import Route
from gateway.upstream.watch import Watch
from tests.unit.fakes import FakeClock, builder_of, pool_of
from tests.unit.tiny_server import Recorder, TinyServer, take_request

MESSAGE = b'{"type":"message","content":[]}'
GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(MESSAGE) + MESSAGE
OWN = Caller(None, is_operator=False, own=(AuthHeader("x-api-key", "", Secret("sk-ant-planted-own-key-000001")),))

Script = Callable[[socket.socket], object]


def refusal(status: int, message: str = "no", code: str | None = None) -> bytes:
    """An error document."""
    details = {"details": {"error_code": code}} if code else {}
    kind = "invalid_request_error" if status == 400 else "permission_error"
    return json.dumps({"type": "error", "error": {"type": kind, "message": message} | details}).encode()


def answer(status: int, body: bytes, *lines: str, length: int | None = None) -> bytes:
    """An answer whose body may be said to be longer than it is."""
    said = f"Content-Length: {len(body) if length is None else length}"
    return "\r\n".join([f"HTTP/1.1 {status} No", said, *lines, "", ""]).encode() + body


def then_closes(answer: bytes) -> Script:
    """A connection that is closed behind this answer."""

    def script(client: socket.socket) -> None:
        take_request(client)
        client.sendall(answer)

    return script


def obtain(
    script: Script, lifecycle: Lifecycle, caller: Caller | None = None, may_stream: bool = False
) -> tuple[Turn, Pool]:
    """What a turn over two keys gets if the first is answered by this script, and the second is a good one."""
    caller = caller or Caller(None, is_operator=False)
    pool, clock = pool_of(2), FakeClock()
    with TinyServer(script, Recorder(GOOD)) as server:
        upstream = Upstream(Route(server.url, 10.0, 30.0), 20.0)
        with closing(upstream):
            observer = Observer(Metrics(), builder_of(caller=caller))
            watch = Watch(None, lifecycle)
            turns = TurnMaker(upstream, pool, caller, watch, observer, Course(), Cooldowns(60.0, 3600.0), 20.0, clock)
            call = Call("POST", "/v1/messages", [], b"{}", may_stream=may_stream)
            turning = turns.obtain(call, Pace("req_1", 10.0, clock))
            turn = complete(cast("Generator[Pause, None, Turn]", turning))  # nothing is shown
            turn.reply.close()
            return turn, pool


def states(pool: Pool) -> list[KeyState]:
    """The present state of each key."""
    return [status.state for status in pool.statuses()]


BROKEN = {
    "cut-off": then_closes(answer(429, b'{"type"', length=500)),
    "malformed-chunk": then_closes(b"HTTP/1.1 429 No\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "unknown-coding": then_closes(answer(429, b"abc", "Content-Encoding: br")),
    "no-gzip": then_closes(answer(429, refusal(429), "Content-Encoding: gzip")),
    "gzip-cut-off": then_closes(answer(429, gzip.compress(refusal(429))[:-12], "Content-Encoding: gzip", length=900)),
}


@pytest.mark.parametrize("script", [pytest.param(script, id=name) for name, script in BROKEN.items()])
def test_a_refusal_whose_body_breaks_is_one_by_its_status(script: Script, lifecycle: Lifecycle) -> None:
    """Given a 429 whose body cannot be read, then its key cools down, and the next key answers."""
    turn, pool = obtain(script, lifecycle)
    assert turn.body == MESSAGE
    assert states(pool) == [KeyState.TEMPORARY, KeyState.VALID]


def test_an_error_of_the_request_whose_body_breaks_is_no_answer(lifecycle: Lifecycle) -> None:
    """Given an error that no other key would mend, when its body cannot be read, then there is nothing to relay."""
    with pytest.raises(UpstreamError):
        obtain(then_closes(answer(404, b'{"type"', length=500)), lifecycle)


@pytest.mark.parametrize("status", [429, 404])
def test_the_clients_own_refusal_whose_body_breaks_is_no_answer(status: int, lifecycle: Lifecycle) -> None:
    """Given a client's own key, when the body of its refusal cannot be read, then there is nothing to relay."""
    with pytest.raises(UpstreamError):
        obtain(then_closes(answer(status, b'{"type"', length=500)), lifecycle, OWN)


@pytest.mark.parametrize("body", [refusal(403, code="something_new"), b"<html>"], ids=["code", "page"])
def test_a_refusal_is_judged_by_what_has_come_of_it(body: bytes, lifecycle: Lifecycle) -> None:
    """Given a 403 that says that the request is at fault, when its end is not marked in time, then it is read so."""
    chunk = b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(body), body)

    def script(client: socket.socket) -> None:
        take_request(client)
        client.sendall(chunk)
        client.settimeout(1.0)  # longer than a refusal is waited for
        with contextlib.suppress(TimeoutError):
            client.recv(1)
        client.sendall(b"0\r\n\r\n")

    turn, pool = obtain(script, lifecycle)
    assert (turn.reply.status, turn.body) == (403, body)
    assert states(pool) == [KeyState.VALID, KeyState.VALID]


def test_a_page_is_one_however_large(lifecycle: Lifecycle) -> None:
    """Given a 401 with a page larger than what is looked into, and no type, then it says nothing of the key."""
    page = b"<html>" + b" " * 2 * LARGEST_JUDGED_BYTES
    turn, pool = obtain(then_closes(answer(401, page)), lifecycle)
    assert (turn.reply.status, turn.body) == (401, page)
    assert states(pool) == [KeyState.VALID, KeyState.VALID]


@pytest.mark.parametrize("name", ["event: error\n", ""], ids=["named", "nameless"])
def test_a_first_event_is_an_error_by_its_data_too(name: str, lifecycle: Lifecycle) -> None:
    """Given a stream whose first event says that the key is limited, with a name or without, then the next answers."""
    error = json.dumps({"type": "error", "error": {"type": "rate_limit_error", "message": "no"}})
    stream = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    script = then_closes(stream + f"{name}data: {error}\n\n".encode())
    turn, pool = obtain(script, lifecycle, may_stream=True)
    assert turn.reply.status == 200
    assert states(pool) == [KeyState.TEMPORARY, KeyState.VALID]
