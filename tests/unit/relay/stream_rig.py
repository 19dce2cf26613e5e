"""A relayed stream over real sockets all the way: the test plays the upstream event by event, and is the server.

Owns: the upstream, and the request that is relayed from it, step by step.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
import zlib
from collections.abc import Generator

import trustme

from gateway.access.authentication import Caller
from gateway.keys.classification import Cooldowns
from gateway.keys.failover import Course
from gateway.relay.conversation import OneTurn
from gateway.relay.interception import Interception
from gateway.relay.pace import Head, Output, Pace
from gateway.relay.turn import TurnMaker
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.pause import Pause, wait
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import Observer
from gateway.upstream import Call, Upstream
from gateway.upstream.dialer import Route
from gateway.upstream.watch import Watch
from tests.unit.fakes import builder_of, pool_of
from tests.unit.tiny_server import TinyServer, pem_of, server_tls, take_request

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
START = b'event: message_start\ndata: {"type":"message_start","message":{"model":"m"}}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
ERROR = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"m"}}\n\n'
BOUND_SECONDS = 30.0


def delta(number: int, text: str = "") -> bytes:
    """One event of a message, told from the others by its number."""
    return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"text":"%s"}\n\n' % (
        number,
        text.encode(),
    )


class Upper:
    """An upstream that answers with a stream's head and START, and leaves the rest to the test.

    `framing` is plain, chunked, gzip or tls.
    """

    def __init__(self, authority: trustme.CA, framing: str) -> None:
        self._framing = framing
        self._gzip = zlib.compressobj(wbits=31)
        self._has_begun = threading.Event()
        self._is_over = threading.Event()
        tls: ssl.SSLContext | None = server_tls(authority, "127.0.0.1") if framing == "tls" else None
        self.ca_pem = pem_of(authority) if tls is not None else None
        self._server = TinyServer(self._answer, tls=tls)
        self.url = self._server.url
        self._end: socket.socket

    @property
    def end(self) -> socket.socket:
        """Its end of the connection, once the answer has begun."""
        assert self._has_begun.wait(BOUND_SECONDS)
        return self._end

    def say(self, data: bytes) -> None:
        """Send a piece of the body."""
        self.end.sendall(self.framed(data))

    def framed(self, data: bytes) -> bytes:
        """A piece of the body as it goes over the wire."""
        if self._framing == "chunked":
            return b"%x\r\n%b\r\n" % (len(data), data)
        if self._framing == "gzip":
            return self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        return data

    def close(self) -> None:
        """Hang up, and end."""
        self._is_over.set()
        self._server.__exit__()

    def _answer(self, client: socket.socket) -> None:
        take_request(client)
        coding = {"chunked": b"Transfer-Encoding: chunked\r\n", "gzip": b"Content-Encoding: gzip\r\n"}
        client.sendall(HEAD + coding.get(self._framing, b"") + b"\r\n" + self.framed(START))
        self._end = client
        self._has_begun.set()
        self._is_over.wait(6 * BOUND_SECONDS)


class Relayed:
    """A streamed request whose first event has been shown; `their` is the client's end of its connection."""

    def __init__(
        self, upper: Upper, lifecycle: Lifecycle, ping_seconds: float = 60.0, read_idle_seconds: float = 60.0
    ) -> None:
        self._ours, self.their = socket.socketpair()
        self._upstream = Upstream(Route(upper.url, 5.0, 30.0, ca_pem=upper.ca_pem), read_idle_seconds)
        watch, metrics, builder = Watch(self._ours, lifecycle), Metrics(), builder_of()
        self.pace = Pace("req_gw_1", ping_seconds)
        turns = TurnMaker(
            self._upstream,
            pool_of(1),
            Caller(None, False),
            watch,
            Observer(metrics, builder),
            Course(),
            Cooldowns(60.0, 3600.0),
            read_idle_seconds,
        )
        call = Call("POST", "/v1/messages", [], b"{}", may_stream=True)
        self._running: Generator[Output, None, None] = Interception(
            OneTurn(call), turns, self.pace, metrics, builder, 0.0
        ).run()
        self.is_over = False
        self.written: list[bytes] = []
        self.carried = 0  # pieces that came with a Pause
        while not self.written:
            self.step()

    @property
    def body(self) -> bytes:
        """What the client has been shown."""
        return b"".join(self.written)

    def step(self, seconds: float = BOUND_SECONDS) -> None:
        """Go on to the next piece, or to the next Pause and its end, but not for longer than this."""
        output = next(self._running, None)
        if output is None:
            self.is_over = True
        elif isinstance(output, Pause) and output.carried:
            self.written.append(output.carried)
            output.carried = b""
            self.carried += 1
        elif isinstance(output, Pause):
            output.until_at = min(output.until_at, time.monotonic() + seconds)
            wait(output)
        elif not isinstance(output, Head) and output:
            self.written.append(output)

    def shows(self, expected: bytes) -> bool:
        """Whether the client is shown exactly this, before the time is over."""
        until_at = time.monotonic() + BOUND_SECONDS
        while not self.is_over and len(self.body) < len(expected) and time.monotonic() < until_at:
            self.step()
        return self.body == expected

    def rest(self) -> bytes:
        """Run it to its end: what is shown from here on."""
        shown = len(self.body)
        while not self.is_over:
            self.step()
        return self.body[shown:]

    def close(self) -> None:
        """The request is over."""
        self._running.close()
        self._upstream.close()
        self._ours.close()
        self.their.close()
