"""One exchange with the upstream, behind requests' transport interface.

Owns: writing a prepared request and reading an answer's head. Thread-safe: an exchange's state is in
its connection and parser. requests' own HTTPAdapter waits in places that neither a client's hang-up nor a ping
interval can interrupt, and holds back what has arrived; this one yields a Pause wherever it would wait.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping
from typing import cast
from urllib.parse import urlsplit

from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter
from requests.exceptions import ChunkedEncodingError, ReadTimeout, RequestException
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.structures import CaseInsensitiveDict

from gateway.protocol.http_response import ResponseHead, ResponseParser, WireError
from gateway.runtime.pause import Pause, Wanted, complete
from gateway.upstream.connections import Connection, Connections
from gateway.upstream.dialer import Route
from gateway.upstream.proxy import authorization
from gateway.upstream.response import whole_response
from gateway.upstream.watch import Watch


class _ClosedUnanswered(Exception):
    """The connection was found closed before any byte of an answer."""


class WireBody:
    """The body of an answer that is being read; the `raw` of the Response."""

    __slots__ = ("_connection", "_connections", "_failure", "_parser")

    def __init__(self, connection: Connection, parser: ResponseParser, connections: Connections) -> None:
        self._connection: Connection | None = connection
        self._parser = parser
        self._connections = connections
        self._failure: ChunkedEncodingError | None = None

    @property
    def wanted(self) -> Wanted:
        """What is to be waited for when `receive` has found nothing."""
        connection = self._connection
        return connection.wanted if connection is not None else ()

    def receive(self) -> bytes | None:
        """Body bytes if any are there; b"" at the body's end; None if nothing has come.

        Raises requests' ChunkedEncodingError or ConnectionError if the body breaks off.
        """
        parser = self._parser
        while not parser.body:
            if parser.is_complete or self._connection is None:
                return b""
            if self._failure is not None:
                raise self._failure
            try:
                arrived = self._connection.receive()
            except OSError as error:
                raise RequestsConnectionError("the upstream's connection broke") from error
            if arrived is None:
                return None
            self.take_in(arrived)
        return parser.take_body()

    def wanted_if_drained(self) -> Wanted | None:
        """What is to be waited for, if `receive` would most likely find nothing: who has waited for it, asks again."""
        connection, parser = self._connection, self._parser
        if connection is None or not connection.is_drained or parser.is_complete or parser.body or self._failure:
            return None
        connection.is_drained = False
        return connection.readable

    def take_in(self, arrived: bytes) -> None:
        """Parse what has come, b"" being the end. Raises requests' ChunkedEncodingError if the head is broken.

        A body that is broken says so in `receive`, once what was good before it has been handed out.
        """
        try:
            if arrived:
                self._parser.feed(arrived)
            else:
                self._parser.end()
        except WireError as error:
            self._failure = ChunkedEncodingError(str(error))
            if not self._parser.has_head:
                raise self._failure from error

    def close(self) -> None:
        """Keep the connection if the answer was read to its end, else close it; may be called again."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._parser.close()
        if self._parser.is_reusable and connection.has_sent_all:
            self._connections.put(connection)
        else:
            connection.close()


class SocketAdapter(BaseAdapter):
    """requests' transport over the gateway's own connections to one upstream."""

    def __init__(self, route: Route) -> None:
        super().__init__()
        self._connections = Connections(route)
        parts = urlsplit(route.url)
        self._host = parts.netloc
        # A proxy that forwards is told the whole address, everybody else what follows the host's name.
        self._untold = "" if route.is_forwarded else f"{parts.scheme}://{parts.netloc}"
        self._forwarder_login = route.proxy.login if route.proxy is not None and route.is_forwarded else None

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request and wait for the answer, as every transport of requests does.

        `timeout`, in seconds, bounds the upstream's silence; how long connecting may take, TLS and proxies are the
        route's, not the call's. A kept connection found closed before any byte of an answer is replaced once. Raises
        requests' exceptions.
        """
        silence = timeout[1] if isinstance(timeout, tuple) else timeout
        timeout_seconds = math.inf if silence is None else silence
        watch = Watch(None, None)
        answer = complete(self.exchange(request, timeout_seconds, watch))
        response = whole_response(request, answer.head, answer.raw, watch, timeout_seconds)
        response.connection = self  # type: ignore[assignment]  # as requests' own adapter does
        if not stream:
            _ = response.content
        return response

    def exchange(
        self, request: PreparedRequest, timeout_seconds: float, watch: Watch
    ) -> Generator[Pause, None, Answer]:
        """Send a request and read the answer's head, yielding a Pause wherever that has to wait.

        The body is left in `raw`, a WireBody. Raises as `send` does, and ClientGone and Stopping.
        """
        watch.has_sent = False
        kept = self._connections.take()
        if kept is not None:
            try:
                return (yield from self._exchange(kept, request, timeout_seconds, watch))
            except _ClosedUnanswered:
                watch.has_sent = False
                yield from watch.to_thread()
        try:
            fresh = yield from self._connections.dial(watch)
            return (yield from self._exchange(fresh, request, timeout_seconds, watch))
        except _ClosedUnanswered as error:
            raise RequestsConnectionError("the upstream closed the connection without an answer") from error

    def drop_stale(self) -> None:
        """Close connections that have been idle for too long."""
        self._connections.drop_stale()

    def close(self) -> None:
        """Close the idle connections, and the others when their answers have been read."""
        self._connections.close()

    def _exchange(
        self,
        connection: Connection,
        request: PreparedRequest,
        timeout_seconds: float,
        watch: Watch,
    ) -> Generator[Pause, None, Answer]:
        parser = ResponseParser()
        body = WireBody(connection, parser, self._connections)
        try:
            yield from _converse(connection, parser, body, self._written(request), timeout_seconds, watch)
        except BaseException:
            parser.close()
            connection.close()
            raise
        return Answer(request, parser.take_head(), body)

    def _written(self, request: PreparedRequest) -> bytes:
        target = str(request.url).removeprefix(self._untold)
        lines = [f"{request.method} {target} HTTP/1.1", f"host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        if self._forwarder_login is not None:
            lines.append(f"proxy-authorization: {authorization(self._forwarder_login)}")
        body = request.body or b""
        if body or request.method == "POST":
            lines.append(f"content-length: {len(body)}")
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        return head + body if isinstance(body, bytes) else head + body.encode()


def _converse(
    connection: Connection,
    parser: ResponseParser,
    body: WireBody,
    request: bytes,
    timeout_seconds: float,
    watch: Watch,
) -> Generator[Pause, None, None]:
    """Write the request and read until the answer's head is there."""
    has_arrived = False

    def heard(arrived: bytes) -> bool:
        nonlocal has_arrived
        has_arrived = True
        body.take_in(arrived)
        return parser.has_head

    try:
        yield from connection.send(request, watch, timeout_seconds, heard)
    except RequestException:
        raise
    except OSError:
        pass  # the upstream may have answered before it closed; that answer is worth more than our broken pipe
    watch.has_sent = True
    silent_until = time.monotonic() + timeout_seconds
    while not parser.has_head:
        try:
            arrived = connection.receive()
        except OSError as error:
            if has_arrived:
                raise RequestsConnectionError("the upstream's connection broke") from error
            raise _ClosedUnanswered from error
        if arrived is None:
            if time.monotonic() >= silent_until:
                raise ReadTimeout("the upstream did not answer in time")
            yield watch.pause(connection.wanted, silent_until)
            watch.check()
            continue
        silent_until = time.monotonic() + timeout_seconds
        if not arrived and not has_arrived:
            raise _ClosedUnanswered
        heard(arrived)


class Answer(Response):
    """An answer as requests has it, without what nobody asks for here: that took longer than all the rest.

    Header names are in lower case, in a plain dict. `head` has them as they came.
    """

    raw: WireBody

    def __init__(self, request: PreparedRequest, head: ResponseHead, body: WireBody) -> None:
        headers: dict[str, str] = {}
        for name, value in head.headers:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        self.head = head
        self.status_code = head.status
        self.headers = cast("CaseInsensitiveDict[str]", headers)
        self.raw = body
        self.request = request
        self.url = request.url or ""
