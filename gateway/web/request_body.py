"""Reading a client's request body, in time and within bounds, or throwing it away.

Owns: everything that is read of a body. Runs in the request's thread. The deadline works where bytes are
received, in the ClientSocket: a WSGI server's `read` loops until it has all it was asked for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gunicorn.http.errors import ParseException

from gateway.protocol.content_coding import codings_of, decoded
from gateway.protocol.errors import ClientGone, InvalidRequest, RequestTimedOut, RequestTooLarge
from gateway.runtime.client_socket import ClientSocket, ReadDeadlineExceeded

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PIECE_BYTES = 256 * 1024
_DISCARD_SECONDS = 1.0
_PLACE_SECONDS = 0.05  # what has arrived already is read in less, and frees its place


def read_body(environ: Mapping[str, Any], limit_bytes: int, timeout_seconds: float) -> bytes:
    """The whole request body, without its content coding; the limit holds for both forms.

    Raises RequestTooLarge (before reading, if the length is announced), UnsupportedCoding (before reading),
    RequestTimedOut, InvalidRequest for a malformed chunk or coding, ClientGone if the client hangs up before its end.
    """
    codings = codings_of(environ.get("HTTP_CONTENT_ENCODING", ""))
    length = _announced_bytes(environ)
    if length is not None and length > limit_bytes:
        raise _too_large(limit_bytes)
    wanted = limit_bytes + 1 if length is None else length
    try:
        with _deadline(environ, timeout_seconds):
            body: bytes = environ["wsgi.input"].read(wanted) if wanted else b""
    except ReadDeadlineExceeded as error:
        raise RequestTimedOut(f"the request body did not arrive within {timeout_seconds:g} s") from error
    except OSError as error:
        raise ClientGone from error
    except ParseException as error:
        raise InvalidRequest("the request body's chunked coding is malformed") from error
    if len(body) > limit_bytes:
        raise _too_large(limit_bytes)
    if length is not None and len(body) < length:
        raise ClientGone
    return decoded(body, codings, limit_bytes) if codings else body


class Discarder:
    """Throws away what clients still send behind a refusal, so that their connections can be kept.

    `limit_bytes` bounds a body, `places` how many threads do this at once. What is not at its end by then, or finds no
    place, is left to the server, which closes the connection: courtesy must not take the threads that answer others.
    """

    def __init__(self, limit_bytes: int, places: int) -> None:
        self._limit_bytes = limit_bytes
        self._places = threading.BoundedSemaphore(places)

    def discard(self, environ: Mapping[str, Any]) -> None:
        """Read and forget the rest of a request body, for a second at most."""
        client = environ.get("gunicorn.socket")
        if isinstance(client, ClientSocket) and client.owes_continue:
            return  # it was never asked for its body
        if not self._places.acquire(timeout=_PLACE_SECONDS):
            return
        left = self._limit_bytes
        try:
            with _deadline(environ, _DISCARD_SECONDS):
                while left > 0 and (piece := environ["wsgi.input"].read(_PIECE_BYTES)):
                    left -= len(piece)
        except (OSError, ParseException, ReadDeadlineExceeded):
            return
        finally:
            self._places.release()


def _announced_bytes(environ: Mapping[str, Any]) -> int | None:
    """The Content-Length; None for a chunked body, 0 for none."""
    if "chunked" in str(environ.get("HTTP_TRANSFER_ENCODING", "")).lower():
        return None
    length = environ.get("CONTENT_LENGTH")
    return int(length) if length else 0


@contextmanager
def _deadline(environ: Mapping[str, Any], seconds: float) -> Iterator[None]:
    client = environ.get("gunicorn.socket")
    if not isinstance(client, ClientSocket):  # another WSGI server, or a test client: its reads are its own affair
        yield
        return
    client.read_deadline_at = time.monotonic() + seconds
    if client.owes_continue:
        client.owes_continue = False
        client.sendall(_CONTINUE)
    try:
        yield
    finally:
        client.read_deadline_at = None


def _too_large(limit_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"the request body is larger than {limit_bytes} bytes")
