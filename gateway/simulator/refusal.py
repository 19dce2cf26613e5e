"""What all answers without a message have in common, and the headers of limits and of whose they are. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import ClassVar

from gateway.simulator.behaviour import Behaviour
from gateway.simulator.buckets import Level
from gateway.simulator.framing import FRAMINGS, Framed, frame_body, head, reason
from gateway.simulator.message import error_document, to_json
from gateway.simulator.options import (
    count,
    flag,
    one_of,
    option,
    plain,
    seconds,
)
from gateway.simulator.seen import SeenRequest
from gateway.simulator.steps import Close, Pause, Send, Stall, Step

Extra = list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal(Behaviour):
    """A status with an error body."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "api_error"
    wording: ClassVar[str] = "Internal server error"

    message: str = option("message", "", "the error's message instead of the usual one", plain)
    error_code: str = option("error-code", "", "`error.details.error_code`", plain)
    should_retry: str = option("should-retry", "", "`x-should-retry` instead of the usual one", plain)
    is_html: bool = option("html", False, "an HTML page of a middle box, not JSON", flag)
    size_bytes: int = option("bytes", 0, "the body is at least so large", count)
    delay_seconds: float = option("delay", 0.0, "seconds before the answer", seconds)
    hangs: bool = option("hang", False, "half the body, then silence", flag)
    framing: str = option("framing", "length", "chunked, length or close", one_of(*FRAMINGS))

    def plan(self, request: SeenRequest) -> Iterator[Step]:
        if self.delay_seconds:
            yield Pause(self.delay_seconds)
        body = self.body(request)
        half = len(body) // 2
        framed = frame_body([body[:half], body[half:]], b"", self.framing)
        sent = head(self.http_status(), self.headers(request, framed), request.arrived_at_epoch)
        if request.method == "HEAD":
            yield Send(sent)
        elif self.hangs:
            yield Send(sent + framed.parts[0])
            yield Stall()
        else:
            yield Send(sent + b"".join(framed.parts) + framed.terminator)
        if framed.closes:
            yield Close()

    def http_status(self) -> int:
        return self.status

    def error_kind(self) -> str:
        return self.kind

    def names_organisation(self, request: SeenRequest) -> bool:
        """Whether the answer says whose key it was: where keys belong to somebody, all but a 401 do."""
        return bool(request.standing.organisation_id) and self.http_status() != 401

    def extra_headers(self, request: SeenRequest) -> Extra:
        """Headers that only this refusal sends."""
        return []

    def headers(self, request: SeenRequest, framed: Framed) -> Extra:
        content_type = "text/html; charset=UTF-8" if self.is_html else "application/json"
        headers = [("content-type", content_type), *framed.headers]
        if self.is_html:
            return [*headers, ("server", "middle-box"), *self.extra_headers(request)]
        should_retry = self.http_status() in (408, 409, 429) or self.http_status() >= 500
        return [
            *headers,
            ("request-id", request.request_id),
            ("x-should-retry", self.should_retry or str(should_retry).lower()),
            *(identity_headers(request) if self.names_organisation(request) else []),
            *self.extra_headers(request),
        ]

    def body(self, request: SeenRequest) -> bytes:
        wording = self.message or self.wording
        wording += "." * max(0, self.size_bytes - len(wording))
        if self.is_html:
            title = f"{self.http_status()} {reason(self.http_status())}"
            return (
                f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
                f"<center><h1>{title}</h1></center>\r\n<p>{wording}</p>\r\n</body>\r\n</html>\r\n"
            ).encode()
        return to_json(error_document(self.error_kind(), wording, request.request_id, self.error_code))


def identity_headers(request: SeenRequest) -> Extra:
    """The organisation and, in a world, the workspace of the request's key. Outside of one each key has its own."""
    organisation_id = request.standing.organisation_id or f"org-{sha256(request.key.encode()).hexdigest()[:16]}"
    workspace_id = request.standing.workspace_id
    headers = [("anthropic-organization-id", organisation_id)]
    return [*headers, ("anthropic-workspace-id", workspace_id)] if workspace_id else headers


def limit_headers(request: SeenRequest, remaining: int) -> Extra:
    """The `anthropic-ratelimit-*` headers: so many of a thousand requests remain, and as large a share of the tokens.

    Requests are as the world counts them, if it does.
    """
    requests = request.standing.level or Level(1000, remaining, 60.0)
    headers: Extra = []
    for name, level in (("requests", requests), ("tokens", Level(400_000, 400 * remaining, 60.0))):
        reset_at = datetime.fromtimestamp(int(request.arrived_at_epoch + math.ceil(level.full_in_seconds)), UTC)
        headers += [
            (f"anthropic-ratelimit-{name}-limit", str(level.limit)),
            (f"anthropic-ratelimit-{name}-remaining", str(level.remaining)),
            (f"anthropic-ratelimit-{name}-reset", reset_at.strftime("%Y-%m-%dT%H:%M:%SZ")),
        ]
    return headers
