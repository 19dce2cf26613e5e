"""Answers that are not a message: the API's errors, and what boxes on the way put in their place.
Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from typing import ClassVar

from gateway.simulator.message import error_document, to_json
from gateway.simulator.options import flag, header_value, number, option, plain, seconds, status_code
from gateway.simulator.refusal import Extra, Refusal, limit_headers
from gateway.simulator.seen import SeenRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimited(Refusal):
    """429 `rate_limit_error`; each option sends its header, none sends none."""

    name: ClassVar[str] = "rate_limited"
    status: ClassVar[int] = 429
    kind: ClassVar[str] = "rate_limit_error"
    wording: ClassVar[str] = "This request would exceed your account's rate limit. Please try again later."

    retry_after: float | None = option("retry-after", None, "the header, in seconds", number)
    retry_after_ms: float | None = option("retry-after-ms", None, "the header, in milliseconds", number)
    retry_after_date: float | None = option(
        "retry-after-date", None, "`retry-after` as the HTTP-date so many seconds ahead", number
    )
    unified_reset: float | None = option(
        "unified-reset",
        None,
        "`anthropic-ratelimit-unified-reset`, the epoch second so many seconds ahead",
        number,
    )
    raw: str | None = option("raw", None, "`retry-after` exactly so, garbage included", header_value)

    def names_organisation(self, request: SeenRequest) -> bool:
        return True

    def extra_headers(self, request: SeenRequest) -> Extra:
        now = request.arrived_at_epoch
        headers = limit_headers(request, remaining=0)
        if self.raw is not None:
            headers.append(("retry-after", self.raw))
        if self.retry_after is not None:
            headers.append(("retry-after", f"{self.retry_after:.15g}"))
        if self.retry_after_date is not None:
            date = formatdate(now + self.retry_after_date, usegmt=True)
            headers.append(("retry-after", date))
        if self.retry_after_ms is not None:
            headers.append(("retry-after-ms", f"{self.retry_after_ms:.15g}"))
        if self.unified_reset is not None:
            reset = str(int(now + self.unified_reset))
            headers.append(("anthropic-ratelimit-unified-reset", reset))
        return headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Unauthorized(Refusal):
    """401 `authentication_error`: the key is revoked."""

    name: ClassVar[str] = "unauthorized"
    status: ClassVar[int] = 401
    kind: ClassVar[str] = "authentication_error"
    wording: ClassVar[str] = "invalid x-api-key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forbidden(Refusal):
    """403 `permission_error`: the key may not do this."""

    name: ClassVar[str] = "forbidden"
    status: ClassVar[int] = 403
    kind: ClassVar[str] = "permission_error"
    wording: ClassVar[str] = "Your API key does not have permission to use the specified resource."


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfCredit(Refusal):
    """400 `invalid_request_error`: the key's organisation has no credit left."""

    name: ClassVar[str] = "out_of_credit"
    status: ClassVar[int] = 400
    kind: ClassVar[str] = "invalid_request_error"
    wording: ClassVar[str] = "Your credit balance is too low to access the Anthropic API."


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendLimited(Refusal):
    """400 `invalid_request_error`: the organisation or the workspace has spent what it allowed itself."""

    name: ClassVar[str] = "spend_limited"
    status: ClassVar[int] = 400
    kind: ClassVar[str] = "invalid_request_error"

    of_workspace: bool = option("workspace", False, "the workspace's limit, not the organisation's", flag)
    regain_seconds: float = option("regain", 86_400.0, "access comes back so many seconds later", seconds)

    def body(self, request: SeenRequest) -> bytes:
        whose = "workspace API" if self.of_workspace else "API"
        at = datetime.fromtimestamp(request.arrived_at_epoch + self.regain_seconds, UTC)
        wording = (
            f"You have reached your specified {whose} usage limits. "
            f"You will regain access on {at:%Y-%m-%d} at {at:%H:%M} UTC."
        )
        return to_json(error_document(self.kind, self.message or wording, request.request_id, self.error_code))


@dataclass(frozen=True, slots=True, kw_only=True)
class NotEntitled(Refusal):
    """429 `rate_limit_error` that no waiting mends: the organisation may not ask for this."""

    name: ClassVar[str] = "not_entitled"
    status: ClassVar[int] = 429
    kind: ClassVar[str] = "rate_limit_error"
    wording: ClassVar[str] = "Extra usage is required for long context requests."

    should_retry: str = option("should-retry", "false", "`x-should-retry`", plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRequest(Refusal):
    """400 `invalid_request_error`."""

    name: ClassVar[str] = "bad_request"
    status: ClassVar[int] = 400
    kind: ClassVar[str] = "invalid_request_error"
    wording: ClassVar[str] = "messages: at least one message is required"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotFound(Refusal):
    """404 `not_found_error`."""

    name: ClassVar[str] = "not_found"
    status: ClassVar[int] = 404
    kind: ClassVar[str] = "not_found_error"
    wording: ClassVar[str] = "Not found"


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodNotAllowed(Refusal):
    """405 `invalid_request_error`: what a known path says to a wrong method."""

    name: ClassVar[str] = "method_not_allowed"
    status: ClassVar[int] = 405
    kind: ClassVar[str] = "invalid_request_error"
    wording: ClassVar[str] = "Method Not Allowed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TooLarge(Refusal):
    """413 `request_too_large`; with `html`, as Cloudflare sends it."""

    name: ClassVar[str] = "too_large"
    status: ClassVar[int] = 413
    kind: ClassVar[str] = "request_too_large"
    wording: ClassVar[str] = "Request exceeds the maximum size"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerError(Refusal):
    """500 `api_error`."""

    name: ClassVar[str] = "server_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable(Refusal):
    """503 `api_error`."""

    name: ClassVar[str] = "unavailable"
    status: ClassVar[int] = 503
    wording: ClassVar[str] = "Service unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overloaded(Refusal):
    """529 `overloaded_error`."""

    name: ClassVar[str] = "overloaded"
    status: ClassVar[int] = 529
    kind: ClassVar[str] = "overloaded_error"
    wording: ClassVar[str] = "Overloaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Refusal):
    """Any status with an error body."""

    name: ClassVar[str] = "status"
    wording: ClassVar[str] = "Simulated"

    code: int = option("code", 500, "the status, 200 to 599", status_code)
    type: str = option("type", "api_error", "the error's type", plain)

    def http_status(self) -> int:
        return self.code

    def error_kind(self) -> str:
        return self.type


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect(Refusal):
    """307 to another place, by default on the simulator itself so that a follower is seen."""

    name: ClassVar[str] = "redirect"
    status: ClassVar[int] = 307
    wording: ClassVar[str] = "Temporary Redirect"

    location: str = option("location", "/v1/messages?redirected=true", "the `location` header", header_value)

    def extra_headers(self, request: SeenRequest) -> Extra:
        return [("location", self.location)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Html(Refusal):
    """200 with an HTML page: a middle box's login or block page."""

    name: ClassVar[str] = "html"
    status: ClassVar[int] = 200
    wording: ClassVar[str] = "Sign in to this network to continue."

    is_html: bool = option("html", True, "an HTML page; false: JSON after all", flag)


@dataclass(frozen=True, slots=True, kw_only=True)
class Html502(Refusal):
    """502 with an HTML page: a proxy that does not reach the API."""

    name: ClassVar[str] = "html_502"
    status: ClassVar[int] = 502
    wording: ClassVar[str] = "The proxy could not reach the server."

    is_html: bool = option("html", True, "an HTML page; false: JSON after all", flag)
