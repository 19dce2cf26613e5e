"""Responses to clients, and the book-keeping of a request from its admission to its last byte.

Owns: giving a place back and counting a request, once, whichever way it ends; and errors in the protocol's shape. Web
layer; an Exchange belongs to its request's thread.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

from flask import Response

from gateway.access import Caller
from gateway.errors import (
    AuthenticationExhausted,
    ClientGone,
    GatewayError,
    MethodNotAllowed,
    RateLimited,
    RequestTimedOut,
    UpstreamError,
    error_body,
)
from gateway.pace import Head, Output
from gateway.request_body import discard_body
from gateway.service import Configuration, Gateway

log = logging.getLogger(__name__)

CLIENT_GONE_STATUS = 499  # as nginx logs it; nobody is there to see it
_NOT_REJECTIONS = (RateLimited, AuthenticationExhausted, UpstreamError)
_INVALID_OUTPUT = "the response began without a head"


class RelayResponse(Response):
    """A response whose headers are the upstream's: none is made up."""

    default_mimetype = None


def new_request_id() -> str:
    """An id for a request, told apart from the upstream's by its form."""
    return f"req_gw_{secrets.token_hex(12)}"


class Exchange:
    """One admitted request: the configuration it began under, who calls, and the place it holds."""

    def __init__(
        self, gateway: Gateway, configuration: Configuration, caller: Caller, route: str, started_at: float
    ) -> None:
        self.gateway = gateway
        self.configuration = configuration
        self.caller = caller
        self.started_at = started_at
        self.mode = "whole"
        self.request_id = new_request_id()
        self._route = route
        self._is_finished = False
        gateway.metrics.requests_inflight.labels(route).inc()

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Until the response is handed over: finish on any way out but the good one."""
        try:
            yield
        except GatewayError as error:
            if isinstance(error, _NOT_REJECTIONS):
                log.warning("%s: %s answered %d: %s", self.request_id, self._route, error.status, error.message)
            error.request_id = self.request_id
            self.finish(error.status)
            raise
        except ClientGone:
            log.debug("%s: the client is gone", self.request_id)
            self.finish(CLIENT_GONE_STATUS)
            raise
        except BaseException:
            self.finish(500)
            raise

    def finish(self, status: int) -> None:
        """Give the place back and count the request; may be called again."""
        if self._is_finished:
            return
        self._is_finished = True
        gateway = self.gateway
        gateway.admission.leave()
        gateway.metrics.requests_inflight.labels(self._route).dec()
        gateway.metrics.requests.labels(self._route, self.caller.credential.value, status).inc()
        duration = gateway.clock() - self.started_at
        gateway.metrics.request_duration.labels(self._route, self.mode).observe(duration)


class _Stream:
    """The body of a streamed response: iterated by the server, closed by it in every case."""

    def __init__(self, outputs: Generator[Output, None, None], exchange: Exchange, status: int) -> None:
        self._outputs = outputs
        self._exchange = exchange
        self._status = status

    def __iter__(self) -> Iterator[Output]:
        # gunicorn sends the head with the first piece of the body, even an empty one: the head is due now.
        return chain((b"",), self._outputs)

    def close(self) -> None:
        try:
            self._outputs.close()
        finally:
            self._exchange.finish(self._status)


def relayed(exchange: Exchange, outputs: Generator[Output, None, None]) -> Response:
    """The response that `outputs` gives: a Head, and bytes if the Head has no body.

    Returns once the Head is there. Raises what the generator raises before it.
    """
    head = next(outputs)
    if not isinstance(head, Head):
        raise TypeError(_INVALID_OUTPUT)
    if head.body is None:
        stream: Any = _Stream(outputs, exchange, head.status)
        return RelayResponse(stream, head.status, head.headers, direct_passthrough=True)
    next(outputs, None)  # to its end: the upstream's connection is free before the client is written to
    response = RelayResponse(head.body, head.status, head.headers)
    response.call_on_close(lambda: exchange.finish(head.status))
    return response


def error_response(error: GatewayError, environ: Mapping[str, Any], limit_bytes: int) -> Response:
    """A GatewayError as a JSON response. A body that was not read is read after the answer, and thrown away."""
    request_id = error.request_id or new_request_id()
    body = error_body(error.kind, error.message, request_id)
    headers = {"content-type": "application/json", "request-id": request_id, "content-length": str(len(body))}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(error.retry_after_seconds)
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = error.allow
    if isinstance(error, RequestTimedOut):
        return RelayResponse(body, error.status, headers)
    stream: Any = _AnswerThenDiscard(body, environ, limit_bytes)
    return RelayResponse(stream, error.status, headers, direct_passthrough=True)


class _AnswerThenDiscard:
    """Answers at once, then reads what the client is still sending, so that the connection can be kept."""

    def __init__(self, body: bytes, environ: Mapping[str, Any], limit_bytes: int) -> None:
        self._body = body
        self._environ = environ
        self._limit_bytes = limit_bytes

    def __iter__(self) -> Iterator[bytes]:
        yield self._body
        discard_body(self._environ, self._limit_bytes)


def is_rejection(error: GatewayError) -> bool:
    """Whether the gateway refused the request itself, without the upstream's doing."""
    return not isinstance(error, _NOT_REJECTIONS)


def json_response(status: int, document: object) -> Response:
    """A small JSON answer of the gateway's own."""
    return Response(json.dumps(document) + "\n", status, content_type="application/json")


def text_response(status: int, text: str) -> Response:
    """A small text answer of the gateway's own."""
    return Response(text, status, content_type="text/plain; charset=utf-8")
