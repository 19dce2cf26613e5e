"""The HTTP under the SDK's transport: every failure answers the one request that it befell.

Owns: an httpx2 transport around the real one. Loop thread. The SDK's transport
(https://py.sdk.modelcontextprotocol.io/) lets an exception of one POST end the session with all its calls, waits for
ever to deliver a notification, and tells neither a status nor whether a request was sent. Here

- a request that fails is answered with a JSON-RPC error whose code says what happened (`Code`);
- so is one whose session the server does not know: 404, and 400 from servers that answer so
  (https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#session-management);
- a notification, and the DELETE that ends a session, have a time limit;
- an answer that is not a stream has a size limit, and so has each event of a list of tools;
- a list of tools is made into one that the SDK can read (`sifting`);
- the end of the stream for notifications is told: the server may be gone.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from enum import IntEnum
from typing import Any

import httpx2
import msgspec
from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND

from gateway.config.mcp_servers import McpServer
from gateway.protocol.sse import EventSplitter, EventTooLarge, split_events
from gateway.tools.mcp.sifting import Sifter

LARGEST_ANSWER_BYTES = 32 * 1024 * 1024
_CONNECT_SECONDS = 5.0
_NOTICE_SECONDS = 2.0
_SESSION = "mcp-session-id"
_STREAM = "text/event-stream"
# A pooled connection must not be one that the server is about to close: uvicorn and Node.js do after five seconds.
_KEEPALIVE_SECONDS = 2.0
_NO_STREAM_STATUS = 405  # a server that sends no notifications says so
_LISTS_TOOLS = "tools/list"


class Code(IntEnum):
    """Codes of the errors made here; an HTTP status is added to `STATUS`. JSON-RPC leaves such numbers to us."""

    UNREACHABLE = 1000
    BROKEN_OFF = 1001
    SESSION_UNKNOWN = 1002
    TOO_SLOW = 1003
    TLS_FAILED = 1004
    STATUS = 2000


class TooLarge(httpx2.StreamError):
    """An answer is over the limit. The SDK answers a request whose body ends in a StreamError, and goes on."""


def client(server: McpServer, on_trouble: Callable[[], None], sifter: Sifter) -> httpx2.AsyncClient:
    """An HTTP client for one session with a server; `on_trouble` is called when its notifications have stopped.

    Lists of tools go through the `sifter`.
    """
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEPALIVE_SECONDS)
    return httpx2.AsyncClient(
        headers={"accept-encoding": "identity"} | {name: secret.reveal() for name, secret in server.headers},
        timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
        transport=_Transport(httpx2.AsyncHTTPTransport(trust_env=False, limits=limits), on_trouble, sifter),
        trust_env=False,
    )


class _Envelope(msgspec.Struct):
    """What tells a JSON-RPC request from a notification or a response."""

    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def is_request(self) -> bool:
        return self.id is not msgspec.UNSET and self.method is not msgspec.UNSET


class _Fault(msgspec.Struct):
    code: int


class _Failure(msgspec.Struct):
    """A JSON-RPC error."""

    error: _Fault


class _Transport(httpx2.AsyncBaseTransport):
    def __init__(self, inner: httpx2.AsyncBaseTransport, on_trouble: Callable[[], None], sifter: Sifter) -> None:
        self._inner = inner
        self._on_trouble = on_trouble
        self._sifter = sifter

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return await self._opened_stream(request)
        envelope = _envelope(request)
        if envelope.is_request:
            response = await self._answered(request)
            if envelope.method == _LISTS_TOOLS:
                self._sift(response)
            return response
        try:
            async with asyncio.timeout(_NOTICE_SECONDS):
                response = await self._answered(request)
                await response.aread()
                return response
        except TimeoutError:
            return _error(Code.TOO_SLOW)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _sift(self, response: httpx2.Response) -> None:
        if response.status_code < 400:
            response.headers.pop("content-length", None)
            response.stream = _Sifted(response.stream, _is_stream(response), self._sifter)

    async def _answered(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = await self._inner.handle_async_request(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.UnsupportedProtocol) as error:
            return _error(Code.TLS_FAILED if _is_about_tls(error) else Code.UNREACHABLE)
        except httpx2.TransportError:
            return _error(Code.BROKEN_OFF)
        response.stream = _Body(response.stream, None if _is_stream(response) else LARGEST_ANSWER_BYTES)
        if response.status_code < 400:
            return response
        return await _refusal(request, response)

    async def _opened_stream(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = await self._inner.handle_async_request(request)
        except httpx2.TransportError:
            self._on_trouble()
            return _error(Code.BROKEN_OFF)
        if response.status_code >= 400 and response.status_code != _NO_STREAM_STATUS:
            self._on_trouble()
        response.stream = _Body(response.stream, None, self._on_trouble)
        return response


class _Body(httpx2.AsyncByteStream):
    """A body whose failures are StreamErrors; `on_end` is called when it has come to its end or broken off."""

    def __init__(self, inner: Any, limit_bytes: int | None, on_end: Callable[[], None] | None = None) -> None:
        self._inner = inner
        self._limit_bytes = limit_bytes
        self._on_end = on_end

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for piece in self._inner:
                size += len(piece)
                if self._limit_bytes is not None and size > self._limit_bytes:
                    raise TooLarge("the answer is too large")
                yield piece
        except httpx2.TransportError as error:
            self._tell()
            raise httpx2.StreamError("the answer broke off") from error
        self._tell()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _tell(self) -> None:
        if self._on_end is not None:
            self._on_end()


class _Sifted(httpx2.AsyncByteStream):
    """The body of an answer that lists tools, as the SDK is to read it; large ones take their time in a thread."""

    def __init__(self, inner: Any, is_stream: bool, sifter: Sifter) -> None:
        self._inner = inner
        self._is_stream = is_stream
        self._sifter = sifter

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if not self._is_stream:
            body = b"".join([piece async for piece in self._inner])
            yield await asyncio.to_thread(self._sifter.sift, body)
            return
        splitter = EventSplitter(LARGEST_ANSWER_BYTES)
        async for piece in self._inner:
            try:
                batch = splitter.feed(piece)
            except EventTooLarge as error:
                raise TooLarge("the list of tools is too large") from error
            for raw in split_events(batch):
                is_list = b'"tools"' in raw
                yield await asyncio.to_thread(self._sifter.sift_event, raw) if is_list else raw

    async def aclose(self) -> None:
        await self._inner.aclose()


def _is_stream(response: httpx2.Response) -> bool:
    return bool(response.headers.get("content-type", "").lower().startswith(_STREAM))


def _is_about_tls(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None


def _envelope(request: httpx2.Request) -> _Envelope:
    return msgspec.json.decode(request.content, type=_Envelope) if request.method == "POST" else _Envelope()


async def _refusal(request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
    """What a status of 400 and above means: the server's own JSON-RPC error, a session that is gone, or the status."""
    status = response.status_code
    try:
        body = await response.aread()
    except httpx2.StreamError:
        return _error(Code.STATUS + status)
    finally:
        await response.aclose()
    code = _code_in(body)
    is_about_session = status == 404 or (status == 400 and code not in (METHOD_NOT_FOUND, INVALID_PARAMS))
    if is_about_session and _SESSION in request.headers:
        return _error(Code.SESSION_UNKNOWN)
    if code is None:
        return _error(Code.STATUS + status)
    return httpx2.Response(status, headers={"content-type": "application/json"}, content=body)


def _code_in(body: bytes) -> int | None:
    """The code of the JSON-RPC error that a body is; None if it is none."""
    try:
        return msgspec.json.decode(body, type=_Failure).error.code
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return None


def _error(code: int) -> httpx2.Response:
    """An answer that the SDK takes for the server's JSON-RPC error."""
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": "the gateway could not reach the server"}}
    return httpx2.Response(502, json=error)
