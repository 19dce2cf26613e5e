"""Answers to requests that never became one: malformed heads, heads that did not arrive in time.

Owns: what gunicorn's parser errors mean to a client, in the protocol's shape; never what the client sent, which may
hold a credential. Any thread.
"""

from __future__ import annotations

from dataclasses import dataclass

from gunicorn import util
from gunicorn.http import errors as http_errors

from gateway.protocol.errors import NO_RETRY, error_body
from gateway.protocol.headers import Headers
from gateway.runtime.client_socket import ReadDeadlineExceeded
from gateway.runtime.request_ids import new_request_id


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a request that never became one."""

    status: int
    reason: str
    kind: str
    message: str

    def rendered(self, more: Headers) -> bytes:
        """The whole response, with `more` headers in its head; the connection closes behind it, for where the next
        request begins is unknown.
        """
        request_id = new_request_id()
        body = error_body(self.kind, self.message, request_id)
        head = (
            f"HTTP/1.1 {self.status} {self.reason}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nrequest-id: {request_id}\r\nDate: {util.http_date()}\r\n"
            "Connection: close\r\n"
        )
        named = [*more, *NO_RETRY.items()] if self.kind == "invalid_request_error" else more
        return "".join([head, *(f"{name}: {value}\r\n" for name, value in named), "\r\n"]).encode() + body


def _bad(status: int, reason: str, message: str) -> Refusal:
    return Refusal(status, reason, "invalid_request_error", message)


_REFUSALS: tuple[tuple[type[Exception], Refusal], ...] = (
    (http_errors.LimitRequestLine, _bad(414, "URI Too Long", "the request line is too long")),
    (http_errors.LimitRequestHeaders, _bad(431, "Request Header Fields Too Large", "the request's head is too large")),
    (http_errors.UnsupportedTransferCoding, _bad(501, "Not Implemented", "the transfer coding is not supported")),
    (http_errors.ExpectationFailed, _bad(417, "Expectation Failed", "the expectation cannot be met")),
    (http_errors.ParseException, _bad(400, "Bad Request", "the request is not well-formed HTTP/1.1")),
    (
        ReadDeadlineExceeded,
        Refusal(408, "Request Timeout", "timeout_error", "the request's head did not arrive in time"),
    ),
)
FAILURE = Refusal(500, "Internal Server Error", "api_error", "the gateway failed to serve this request")


def refusal_of(error: Exception) -> Refusal | None:
    """What a parser's error comes to; None for an error that is the server's own."""
    return next((refusal for kind, refusal in _REFUSALS if isinstance(error, kind)), None)
