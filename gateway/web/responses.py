"""Responses to clients: the upstream's answers as they are, errors in the protocol's shape.

Owns: turning a Head and bytes, or a GatewayError, into what the server writes. Runs in the request's
thread.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from flask import Response
from werkzeug.datastructures import Headers

from gateway.protocol.errors import GatewayError, RequestTimedOut, error_body
from gateway.relay.pace import Head, Output
from gateway.runtime.request_ids import new_request_id
from gateway.web.exchange import Exchange
from gateway.web.request_body import Discarder


class _Checked(Headers):
    """Headers that were checked where they were read, and are again where they are written."""

    def __init__(self, items: Iterable[tuple[str, str]]) -> None:
        self._list = list(items)


class RelayResponse(Response):
    """A response whose headers are the upstream's: none is made up, none is rewritten."""

    default_mimetype = None

    def get_wsgi_headers(self, environ: Any) -> Headers:
        """The headers as they are."""
        return self.headers


class _Relayed(RelayResponse):
    """The upstream's answer: handed over as it is, to a client that wants a body."""

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Hand the response over; if the server refuses its head, nobody else would close it."""
        try:
            start_response(self.status, self.headers.to_wsgi_list())
        except BaseException:
            self.close()
            raise
        return self.response  # type: ignore[return-value]  # what `relayed` has put there


class _Body:
    """The body of an upstream's answer: iterated by the server, closed by it in every case."""

    def __init__(self, outputs: Generator[Output, None, None], exchange: Exchange, head: Head) -> None:
        self._outputs = outputs
        self._exchange = exchange
        self._head = head

    def __iter__(self) -> Iterator[Output]:
        if self._head.body is not None:
            return iter((self._head.body,))
        # The server sends the head with the first piece of the body, even an empty one.
        return chain((b"",), self._outputs) if self._head.is_due else self._outputs

    def close(self) -> None:
        try:
            self._outputs.close()
        finally:
            self._exchange.finish(self._head.status)


def relayed(exchange: Exchange, outputs: Generator[Output, None, None]) -> Response:
    """The response that `outputs` gives: a Head, and bytes if the Head has no body.

    Returns once the Head is there. Raises what the generator raises before it.
    """
    head = next(outputs)
    if not isinstance(head, Head):
        raise TypeError("the response began without a head")
    exchange.chronicle.head_sent(dict(head.headers)["request-id"])
    headers = head.headers
    if head.body is not None:
        next(outputs, None)  # to its end: the upstream's connection is free before the client is written to
        headers = [*headers, ("content-length", str(len(head.body)))]
    body: Any = _Body(outputs, exchange, head)
    return _Relayed(body, head.status, _Checked(headers), direct_passthrough=True)


def error_response(error: GatewayError, environ: Mapping[str, Any], discarder: Discarder) -> Response:
    """A GatewayError as a JSON response. A body that was not read is read after the answer, and thrown away."""
    request_id = error.request_id or new_request_id()
    body = error_body(error.kind, error.message, request_id)
    headers = {"content-type": "application/json", "request-id": request_id, "content-length": str(len(body))}
    headers |= error.headers
    if isinstance(error, RequestTimedOut):
        return RelayResponse(body, error.status, headers)
    stream: Any = _AnswerThenDiscard(body, environ, discarder)
    return RelayResponse(stream, error.status, headers, direct_passthrough=True)


class _AnswerThenDiscard:
    """Answers at once, then reads what the client is still sending, so that the connection can be kept."""

    def __init__(self, body: bytes, environ: Mapping[str, Any], discarder: Discarder) -> None:
        self._body = body
        self._environ = environ
        self._discarder = discarder

    def __iter__(self) -> Iterator[bytes]:
        yield self._body
        self._discarder.discard(self._environ)


def json_response(status: int, document: object) -> Response:
    """A small JSON answer of the gateway's own."""
    return Response(json.dumps(document) + "\n", status, content_type="application/json")


def text_response(status: int, text: str) -> Response:
    """A small text answer of the gateway's own."""
    return Response(text, status, content_type="text/plain; charset=utf-8")
