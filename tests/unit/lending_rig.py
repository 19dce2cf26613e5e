"""A stream that may be lent, for the tests of the relay: real sockets all the way, but for the writer to the client.

Owns: an upstream that the test plays event by event, the request that reads it, and what its client was written.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable

import trustme

from gateway.access.credential import AuthHeader, Secret
from gateway.relay.lending import Lender, Relay
from gateway.relay.pace import Pace
from gateway.runtime.lifecycle import Lifecycle
from gateway.upstream import Call, Upstream
from gateway.upstream.dialer import Route
from gateway.upstream.event_stream import EventStream
from gateway.upstream.watch import Watch
from tests.unit.tiny_server import TinyServer, take_request

POOLED = (AuthHeader("x-api-key", "", Secret("sk-ant-planted-pool-key-0001")),)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
START = b'event: message_start\ndata: {"type":"message_start","message":{"model":"m"}}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
ERROR = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"m"}}\n\n'
BOUND_SECONDS = 10.0


def delta(number: int, text: str = "") -> bytes:
    """One event of a message, told from the others by its number."""
    return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"text":"%s"}\n\n' % (
        number,
        text.encode(),
    )


class Writer:
    """The client's side: keeps what is written to it, by whom, and takes all of it as long as it `takes`."""

    def __init__(self) -> None:
        self.takes = True
        self.written: list[bytes] = []
        self.threads: set[str] = set()

    def offer(self, data: bytes) -> bool:
        self.written.append(data)
        self.threads.add(threading.current_thread().name)
        return self.takes

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.written)


class Upper:
    """An upstream that answers with a stream's head and leaves the rest to the test.

    `framing` is plain, chunked, gzip or tls.
    """

    def __init__(self, authority: trustme.CA, framing: str) -> None:
        self._ends: dict[bytes, queue.Queue[socket.socket]] = {}
        self._lock = threading.Lock()  # guards _ends
        self._is_over = threading.Event()
        self._framing = framing
        self._gzip = zlib.compressobj(wbits=31)
        tls = None
        self.ca_pem = None
        if framing == "tls":
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1").configure_cert(tls)
            self.ca_pem = authority.cert_pem.bytes().decode()
        self._server = TinyServer(self._answer, tls=tls)
        self.url = self._server.url

    def end_of(self, body: bytes) -> socket.socket:
        """The upstream's end of the connection that brought this request."""
        return self._queue(body).get(timeout=BOUND_SECONDS)

    def framed(self, data: bytes) -> bytes:
        """A piece of the answer's body as it goes over the wire."""
        if self._framing == "chunked":
            return b"%x\r\n%b\r\n" % (len(data), data)
        if self._framing == "gzip":
            return self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        return data

    def __enter__(self) -> Upper:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._server.__exit__()

    def _answer(self, client: socket.socket) -> None:
        body = take_request(client).partition(b"\r\n\r\n")[2]
        coding = {"chunked": b"Transfer-Encoding: chunked\r\n", "gzip": b"Content-Encoding: gzip\r\n"}
        client.sendall(HEAD + coding.get(self._framing, b"") + b"\r\n")
        self._queue(body).put(client)
        self._is_over.wait(6 * BOUND_SECONDS)

    def _queue(self, body: bytes) -> queue.Queue[socket.socket]:
        with self._lock:
            return self._ends.setdefault(body, queue.Queue())


class Streamed:
    """A request whose answer has begun to stream and has brought no event yet; `their` is the client's socket."""

    def __init__(
        self,
        relay: Relay,
        lifecycle: Lifecycle,
        upper: Upper,
        body: bytes = b"{}",
        show: Callable[[bytes], bytes] = bytes,
        clock: Callable[[], float] = time.monotonic,
        ping_seconds: float = 60.0,
        read_idle_seconds: float = 60.0,
    ) -> None:
        self._ours, self.their = socket.socketpair()
        self._upstream = Upstream(Route(upper.url, 5.0, 30.0, ca_pem=upper.ca_pem), read_idle_seconds)
        self._upper = upper
        self._show = show
        self.watch = Watch(self._ours, lifecycle)
        self.reply = self._upstream.send(Call("POST", "/v1/messages", [], body), POOLED, self.watch)
        self.stream = EventStream(self.reply)
        self.end = upper.end_of(body)
        self.client = Writer()
        self.pace = Pace("req_gw_1", ping_seconds, clock)
        self.lender = Lender(relay, self.client, self.watch, self.pace, show)
        assert self.stream.receive(0.0) is None

    def say(self, data: bytes) -> None:
        """The upstream sends a piece of the body."""
        self.end.sendall(self._upper.framed(data))

    def lend(self) -> bool:
        """Lend it and sleep until it is back."""
        return self.lender.lend(self.stream)

    def carry(self) -> int:
        """What an interception does, from here to the end; how often the stream was lent."""
        loans = 0
        while not self.stream.tally.has_ended:
            batch = self.stream.receive(self.lender.patience_seconds(self.stream))
            assert batch != b""
            if batch is None:
                assert self.lend()
                loans += 1
            else:
                self.client.written.append(self._show(batch))
        return loans

    def close(self) -> None:
        """The request is over."""
        self.reply.close()
        self._upstream.close()
        self._ours.close()
        self.their.close()
