"""One accepted connection: reads requests, sends bytes, watches the peer, breaks off.

Owned by one thread; only `abort` may be called by another, and only while the wire is open.
"""

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

_MAX_HEAD_BYTES = 256 * 1024
_READ_BYTES = 64 * 1024
# Linux reports a peer's FIN as POLLRDHUP even behind unread data; errors are always reported.
_PEER_LEFT = getattr(select, "POLLRDHUP", 0)


class PeerGoneError(Exception):
    """The peer has closed, reset, or never finished what it began to send."""


class MalformedRequestError(Exception):
    """What came is not an HTTP/1 request."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request up to its body; `headers` as received."""

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]

    def header(self, name: str) -> str:
        return next((value for known, value in self.headers if known.lower() == name), "")


class Wire:
    """A connection to one client. `close` is idempotent."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()
        # Guards the socket against `abort` after `close`, when its number may be another's.
        self._lock = threading.Lock()
        self._is_closed = False

    def handshake(self) -> None:
        """Finishes what accepting began: over TLS the handshake.

        Raises: PeerGoneError.
        """
        with _translated():
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if isinstance(self._socket, ssl.SSLSocket):
                self._socket.do_handshake()

    def read_head(self) -> RequestHead | None:
        """The next request's head; None when the peer has closed between requests.

        Raises: PeerGoneError, MalformedRequestError.
        """
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise MalformedRequestError("the head is too large")
            if not self._fill():
                if self._buffer.strip():
                    raise PeerGoneError("closed in the middle of a head")
                return None
        text = self._take(end + 4)[:end].decode("latin-1").lstrip("\r\n")
        return _parse_head(text)

    def read_body(self, head: RequestHead) -> bytes:
        """The body of a request, out of its transfer coding.

        Raises: PeerGoneError, MalformedRequestError.
        """
        if head.header("expect").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in head.header("transfer-encoding").lower():
            return self._read_chunks()
        length = head.header("content-length") or "0"
        if not length.isdecimal():
            raise MalformedRequestError("Content-Length is no number")
        return self._read_exactly(int(length))

    def send(self, data: bytes) -> None:
        """Sends all of it.

        Raises: PeerGoneError.
        """
        with _translated():
            self._socket.sendall(data)

    def stay_silent(self, seconds: float | None) -> None:
        """Sends nothing for so long, or for ever.

        Raises: PeerGoneError as soon as the kernel reports that the peer has left.
        """
        poll = select.poll()
        poll.register(self._socket, _PEER_LEFT)
        if poll.poll(None if seconds is None else seconds * 1000):
            raise PeerGoneError("left during a silence")

    def end(self, is_ragged: bool) -> None:
        """Closes with a FIN, and over TLS with a close_notify before it unless ragged."""
        if isinstance(self._socket, ssl.SSLSocket) and not is_ragged:
            with contextlib.suppress(OSError, ValueError):
                # Sends the close_notify without waiting for the peer's.
                self._socket.settimeout(0)
                self._socket.unwrap()
        self.close()

    def reset(self) -> None:
        """Closes with a RST."""
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    def close(self) -> None:
        """Gives the socket back; later calls do nothing."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._socket.close()

    def abort(self) -> None:
        """Wakes the owner, wherever it waits, with the end of the connection. For any thread."""
        with self._lock, contextlib.suppress(OSError):
            if not self._is_closed:
                # Not SSLSocket's: that one takes the TLS layer away under the owner's feet.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _read_chunks(self) -> bytes:
        body = bytearray()
        while True:
            size = self._read_line().partition(b";")[0].strip()
            try:
                length = int(size, 16)
            except ValueError:
                raise MalformedRequestError("a chunk's size is no number") from None
            if length == 0:
                while self._read_line():
                    pass
                return bytes(body)
            body += self._read_exactly(length)
            self._read_line()

    def _read_line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if not self._fill():
                raise PeerGoneError("closed in the middle of a body")
        return self._take(end + 2)[:end]

    def _read_exactly(self, length: int) -> bytes:
        while len(self._buffer) < length:
            if not self._fill():
                raise PeerGoneError("closed in the middle of a body")
        return self._take(length)

    def _take(self, length: int) -> bytes:
        data = bytes(self._buffer[:length])
        del self._buffer[:length]
        return data

    def _fill(self) -> bool:
        with _translated():
            data = self._socket.recv(_READ_BYTES)
        self._buffer += data
        return bool(data)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a TLS socket taken down meanwhile
        raise PeerGoneError(str(error)) from error


def _parse_head(text: str) -> RequestHead:
    first, *lines = text.split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise MalformedRequestError("the request line is not one of HTTP/1")
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise MalformedRequestError("a header has no name")
        headers.append((name, value.strip()))
    return RequestHead(words[0], words[1], words[2], headers)
