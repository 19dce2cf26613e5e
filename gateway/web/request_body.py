"""Reading a client's request body, in time and within bounds, or throwing it away.

Owns: everything that is read of a body, and its deadline. A WSGI server's `read` waits until it has all it was asked
for; so it is asked when all has come.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Generator, Mapping
from typing import Any, Protocol

from gunicorn.http.errors import ParseException

from gateway.protocol.content_coding import codings_of, decoded
from gateway.protocol.errors import ClientGone, InvalidRequest, RequestTimedOut, RequestTooLarge
from gateway.runtime.client_socket import ClientSocket, ReadDeadlineExceeded
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.pause import READABLE, Pause
from gateway.upstream.watch import Watch

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PIECE_BYTES = 256 * 1024
_DISCARD_SECONDS = 1.0
_LARGE_BYTES = 1024 * 1024  # what takes longer to look into than others should wait

# In the environ of the gateway's worker.
ARRIVING = "gateway.body"


class Arriving(Protocol):
    """A body on its way, as the gateway's worker has it in the environ."""

    def fileno(self) -> int:
        """Readable when more has come."""
        ...

    def receive(self, limit_bytes: int) -> bool:
        """Take in what has come; whether `wsgi.input` gives the body now, or `limit_bytes` of it, without waiting."""
        ...

    def forget(self) -> None:
        """What has been read counts no more for the limits of `receive`."""
        ...


def read_body(
    environ: Mapping[str, Any], limit_bytes: int, timeout_seconds: float, lifecycle: Lifecycle
) -> Generator[Pause, None, bytes]:
    """The whole request body, without its content coding; the limit holds for both forms.

    Pauses until it is there; another server's `wsgi.input` waits by itself, as long as it likes.

    Raises RequestTooLarge (before reading, if the length is announced), UnsupportedCoding (before reading),
    RequestTimedOut, InvalidRequest for a malformed chunk or coding, ClientGone if the client hangs up before its end.
    """
    codings = codings_of(environ.get("HTTP_CONTENT_ENCODING", ""))
    length = _announced_bytes(environ)
    if length is not None and length > limit_bytes:
        raise _too_large(limit_bytes)
    wanted = limit_bytes + 1 if length is None else length
    body = b""
    try:
        if wanted:
            yield from _arrived(environ, limit_bytes, timeout_seconds, lifecycle)
            body = environ["wsgi.input"].read(wanted)
    except OSError as error:
        raise ClientGone from error
    except (ParseException, ReadDeadlineExceeded) as error:
        raise InvalidRequest("the request body's chunked coding is malformed") from error
    if len(body) > limit_bytes:
        raise _too_large(limit_bytes)
    if length is not None and len(body) < length:
        raise ClientGone
    return decoded(body, codings, limit_bytes) if codings else body


def discarded(environ: Mapping[str, Any], limit_bytes: int) -> Generator[Pause, None, None]:
    """Throw away what a client still sends behind a refusal, so that its connection can be kept.

    What is not at its end within a second or so many bytes is left to the server, which closes the connection. A server
    that does not say what has arrived does as it likes.
    """
    arriving: Arriving | None = environ.get(ARRIVING)
    if arriving is None:
        return
    client: ClientSocket = environ["gunicorn.socket"]
    if client.owes_continue:  # it was never asked for its body
        return
    is_chunked = _announced_bytes(environ) is None
    left_bytes = min(limit_bytes, _PIECE_BYTES) if is_chunked else limit_bytes  # chunks are kept until their end
    deadline = time.monotonic() + _DISCARD_SECONDS
    pause = Pause(None, None)
    pause.wanted, pause.until_at = ((arriving.fileno(), READABLE),), deadline
    client.read_deadline_at = time.monotonic()  # as in `_arrived`
    arriving.forget()
    try:
        while left_bytes > 0:
            while not arriving.receive(min(left_bytes, _PIECE_BYTES)):
                if time.monotonic() >= deadline:
                    return
                yield pause
            piece = environ["wsgi.input"].read(_PIECE_BYTES)
            if not piece:
                return
            left_bytes -= len(piece)
    except (OSError, ParseException, ReadDeadlineExceeded):
        return


def _arrived(
    environ: Mapping[str, Any], limit_bytes: int, timeout_seconds: float, lifecycle: Lifecycle
) -> Generator[Pause, None, None]:
    """Pause until `wsgi.input` can be read without waiting."""
    arriving: Arriving | None = environ.get(ARRIVING)
    if arriving is None:
        return
    client: ClientSocket = environ["gunicorn.socket"]
    _invite(client)
    watch = Watch(None, lifecycle)
    wanted = ((arriving.fileno(), READABLE),)
    deadline = time.monotonic() + timeout_seconds
    is_there = arriving.receive(limit_bytes)
    is_quick = is_there and (_announced_bytes(environ) or 0) <= _LARGE_BYTES
    while not is_there:
        if time.monotonic() >= deadline:
            raise RequestTimedOut(f"the request body did not arrive within {timeout_seconds:g} s")
        yield watch.pause(wanted, deadline)
        watch.check()
        is_there = arriving.receive(limit_bytes)
    if not is_quick:
        yield from watch.to_thread()  # it is looked into, and a key chosen
    client.read_deadline_at = time.monotonic()  # where gunicorn finds no end, it must not wait for one


def _announced_bytes(environ: Mapping[str, Any]) -> int | None:
    """The Content-Length; None for a chunked body, 0 for none."""
    if "chunked" in str(environ.get("HTTP_TRANSFER_ENCODING", "")).lower():
        return None
    length = environ.get("CONTENT_LENGTH")
    return int(length) if length else 0


def _invite(client: ClientSocket) -> None:
    """Tell a client that waits for it to send its body. Raises OSError if it does not even take that."""
    if client.owes_continue:
        client.owes_continue = False
        if client.send(_CONTINUE, socket.MSG_DONTWAIT) < len(_CONTINUE):
            raise BlockingIOError(errno.EAGAIN, "the client takes nothing")


def _too_large(limit_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"the request body is larger than {limit_bytes} bytes")
