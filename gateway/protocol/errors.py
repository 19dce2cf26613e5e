"""The errors that the gateway makes itself, and how they look on the wire.

Owns: one class for everything that can end a request, and its two renderings, a JSON body before a stream
has begun and an SSE event after. Pure: values in, bytes out; any thread.

The shapes are Anthropic's, https://docs.claude.com/en/api/errors, because clients match on them.
"""

from __future__ import annotations

import json
from typing import ClassVar

from gateway.protocol.safe_text import safe_text

_LONGEST_MESSAGE = 1000
NO_RETRY = {"x-should-retry": "false"}


class GatewayError(Exception):
    """A request ends with this: `message` is safe to show to the client and to log, whatever it quotes.

    `status` is the HTTP status, `kind` is Anthropic's error type, `retry_after_seconds` becomes the
    `Retry-After` header when it is not None (whole seconds, at least 1). `is_rejection` tells what the gateway refuses
    by itself, without an upstream call. `may_pass` tells whether the same request may succeed when it is sent again:
    where it is false, clients are told not to try.
    """

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "api_error"
    is_rejection: ClassVar[bool] = False
    may_pass: ClassVar[bool] = True

    def __init__(self, message: str, *, retry_after_seconds: int | None = None) -> None:
        self.message = safe_text(message, _LONGEST_MESSAGE)
        super().__init__(self.message)
        self.retry_after_seconds = retry_after_seconds
        self.request_id: str | None = None  # set once the request was admitted, and so is counted
        self.token_name: str | None = None  # of a request that was not admitted, if it is known

    @property
    def headers(self) -> dict[str, str]:
        """What the response's head says of this error. The SDKs obey `x-should-retry`, and Claude Code with them."""
        headers = {} if self.may_pass else dict(NO_RETRY)
        return headers if self.retry_after_seconds is None else headers | {"retry-after": str(self.retry_after_seconds)}


class InvalidRequest(GatewayError):
    """The request cannot be understood; nothing was sent upstream."""

    status = 400
    kind = "invalid_request_error"
    is_rejection = True
    may_pass = False


class Unauthenticated(GatewayError):
    """The client's token is missing, wrong or revoked."""

    status = 401
    kind = "authentication_error"
    is_rejection = True
    may_pass = False


class PermissionDenied(GatewayError):
    """The client may not do this."""

    status = 403
    kind = "permission_error"
    is_rejection = True
    may_pass = False


class NotFound(GatewayError):
    """There is no such route."""

    status = 404
    kind = "not_found_error"
    is_rejection = True
    may_pass = False


class MethodNotAllowed(GatewayError):
    """The route exists and does not take this method; `allow` lists those it takes."""

    status = 405
    kind = "invalid_request_error"
    is_rejection = True
    may_pass = False

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow

    @property
    def headers(self) -> dict[str, str]:
        return super().headers | {"allow": self.allow}


class RequestTimedOut(GatewayError):
    """The client did not send its whole request before the read deadline."""

    status = 408
    kind = "timeout_error"
    is_rejection = True


class RequestTooLarge(GatewayError):
    """The body is over the limit."""

    status = 413
    kind = "request_too_large"
    is_rejection = True
    may_pass = False


class UnsupportedCoding(GatewayError):
    """The body comes in a content coding that is not read here; `accepted` lists those that are."""

    status = 415
    kind = "invalid_request_error"
    is_rejection = True
    may_pass = False

    def __init__(self, message: str, *, accepted: str) -> None:
        super().__init__(message)
        self.accepted = accepted

    @property
    def headers(self) -> dict[str, str]:
        return super().headers | {"accept-encoding": self.accepted}


class RateLimited(GatewayError):
    """Every usable key is cooling down."""

    status = 429
    kind = "rate_limit_error"


class LimitReached(GatewayError):
    """The client has as many requests, tokens or running requests as its limits allow.

    `limit` is the limit that refuses (`requests_per_minute`); `holder_kind` and `holder` say whose it is: a `group`'s
    or a `token`'s, by its name, which is empty on an open gateway.
    """

    status = 429
    kind = "rate_limit_error"
    is_rejection = True

    def __init__(
        self, message: str, *, retry_after_seconds: int | None = None, limit: str, holder_kind: str, holder: str
    ) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.limit = limit
        self.holder_kind = holder_kind
        self.holder = holder


class SpendLimitReached(LimitReached):
    """The client, or its group, has spent what it may. Asking again before the limit resets does not help."""

    kind = "billing_error"
    may_pass = False


class Overloaded(GatewayError):
    """This gateway has no thread to spare, or is stopping."""

    status = 529
    kind = "overloaded_error"
    is_rejection = True


class Stopping(Overloaded):
    """The gateway is stopping and the time that streams may run on is over."""

    is_rejection = False


class AuthenticationExhausted(GatewayError):
    """Every key is retired. Not the client's fault, so not a 401."""

    status = 502
    may_pass = False


class OutOfMoney(GatewayError):
    """Nobody pays for any of the keys now. Asking again soon does not help."""

    status = 402
    kind = "billing_error"
    may_pass = False


class RequestForbidden(GatewayError):
    """The upstream forbids this request, whichever key asks. The client has the upstream's own words."""

    status = 403
    kind = "permission_error"
    may_pass = False


class UpstreamError(GatewayError):
    """One exchange with the upstream failed: unreachable, refused, broken, unreadable."""

    status = 502


class UpstreamTimedOut(UpstreamError):
    """The upstream did not answer in time."""

    status = 504
    kind = "timeout_error"


class UpstreamSilent(UpstreamTimedOut):
    """The upstream has sent nothing for longer than the read-idle limit."""


class TurnLimitReached(GatewayError):
    """The model goes on calling the gateway's tools, for more turns than are allowed."""

    status = 502


class ClientGone(Exception):
    """The client closed its connection: there is nobody to answer. Not a GatewayError for that reason."""


def error_body(kind: str, message: str, request_id: str) -> bytes:
    """Anthropic's error document as JSON bytes."""
    document = {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": request_id,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def error_event(kind: str, message: str, request_id: str) -> bytes:
    """The same document as one whole SSE event, for a stream that has begun."""
    return b"event: error\ndata: " + error_body(kind, message, request_id) + b"\n\n"


def upstream_error_event(status: int, body: bytes, request_id: str) -> bytes:
    """An upstream's HTTP error as an SSE event: its own document when it is one, else its status in words."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and document.get("type") == "error" and "error" in document:
        return b"event: error\ndata: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"
    return error_event("api_error", f"the upstream answered with status {status}", request_id)
