"""Responses to clients: the upstream's answers as they are, errors in the protocol's shape.

Owns: turning a Head and bytes, or a GatewayError, into what the server writes.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import Any

from flask import Response
from werkzeug.datastructures import Headers

from gateway.protocol.errors import GatewayError, RequestTimedOut, error_body
from gateway.relay.pace import Head, Output
from gateway.runtime.pause import Pause
from gateway.runtime.request_ids import new_request_id
from gateway.web.exchange import CLIENT_GONE_STATUS, Exchange
from gateway.web.request_body import discarded


class RelayResponse(Response):
    """A response whose headers are the upstream's: none is made up, none is rewritten."""

    default_mimetype = None

    def get_wsgi_headers(self, environ: Any) -> Headers:
        """The headers as they are."""
        return self.headers


class RelayedResponse(RelayResponse):
    """The response that `outputs` gives: a Head, bytes if the Head has no body, and Pauses all along.

    Its status is known once the Head is there, which is while it is iterated: no function that Flask calls after a
    view may go by it. An exception before the Head becomes an error of the protocol's.
    """

    def __init__(self, exchange: Exchange, outputs: Generator[Output, None, None]) -> None:
        super().__init__((), direct_passthrough=True)
        self._exchange = exchange
        self._outputs = outputs

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Hand the response over; `start_response` is called when the Head is there."""
        return _Relaying(self._exchange, self._outputs, environ, start_response)


class _Relaying:
    """The pieces of a response: iterated by the server, closed by it in every case."""

    def __init__(
        self, exchange: Exchange, outputs: Generator[Output, None, None], environ: Any, start_response: Any
    ) -> None:
        self._exchange = exchange
        self._outputs = outputs
        self._environ = environ
        self._start_response = start_response
        self._status = CLIENT_GONE_STATUS  # until there is another
        self._pieces = self._run()

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        try:
            self._pieces.close()
            self._outputs.close()  # which it is not, if nothing was iterated
        finally:
            self._exchange.finish(self._status)

    def _run(self) -> Generator[bytes, None, None]:
        try:
            head = yield from self._head()
        except Exception as error:  # noqa: BLE001  # whatever it is, the client is told in the protocol's shape
            yield from self._failed(error)
            return
        self._status = head.status
        self._exchange.builder.head_sent(head.request_id)
        if head.body is None:
            self._start_response(_status_line(head.status), head.headers)
            is_due = head.is_due
            del head  # the stream may last for minutes
            if is_due:
                yield b""  # the server sends the head with the first piece of the body, even an empty one
            yield from self._outputs  # type: ignore[misc]  # there is one Head
            return
        yield from self._outputs  # type: ignore[misc]  # the upstream's connection is free before the client has it all
        self._start_response(_status_line(head.status), [*head.headers, ("content-length", str(len(head.body)))])
        yield head.body

    def _head(self) -> Generator[bytes, None, Head]:
        for output in self._outputs:
            if isinstance(output, Head):
                return output
            if not isinstance(output, Pause):
                raise TypeError("the response began without a head")
            yield output
        raise TypeError("the response has no head")

    def _failed(self, error: Exception) -> Iterator[bytes]:
        failure = self._exchange.failed(error)
        if failure is None:
            response = Response(status=CLIENT_GONE_STATUS)
        else:
            limit_bytes = self._exchange.configuration.settings.max_body_bytes
            response = error_response(failure, self._environ, limit_bytes)
        return iter(response(self._environ, self._start_response))


@lru_cache
def _status_line(status: int) -> str:
    return Response(status=status).status


def error_response(error: GatewayError, environ: Mapping[str, Any], limit_bytes: int) -> Response:
    """A GatewayError as a JSON response. A body that was not read is read after the answer, and thrown away."""
    request_id = error.request_id or new_request_id()
    body = error_body(error.kind, error.message, request_id)
    headers = {"content-type": "application/json", "request-id": request_id, "content-length": str(len(body))}
    headers |= error.headers
    if isinstance(error, RequestTimedOut):
        return RelayResponse(body, error.status, headers)
    stream = chain((body,), discarded(environ, 2 * limit_bytes))
    return RelayResponse(stream, error.status, headers, direct_passthrough=True)


def json_response(status: int, document: object) -> Response:
    """A small JSON answer of the gateway's own."""
    return Response(json.dumps(document) + "\n", status, content_type="application/json")


def text_response(status: int, text: str) -> Response:
    """A small text answer of the gateway's own."""
    return Response(text, status, content_type="text/plain; charset=utf-8")
