"""What every answer that carries a message has in common, streamed or whole as the request asks.

`Answer.plan` is one line of production: message -> frames -> `cut` -> content coding -> framing ->
steps -> `ending`. Behaviours that break something override `cut` (what is sent) or `ending` (what
follows it); see `breaks`. `answers` has the good ones. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import ClassVar

from gateway.simulator.charge import Charge, charges_of_stream, charges_of_whole
from gateway.simulator.framing import FRAMINGS, Framed, encode, frame_body, head
from gateway.simulator.message import Event, Message, to_json
from gateway.simulator.options import flag, one_of, option
from gateway.simulator.options import seconds as seconds_option
from gateway.simulator.refusal import Extra, identity_headers, limit_headers
from gateway.simulator.refusals import BadRequest
from gateway.simulator.routes import Route, models_document, route_of
from gateway.simulator.seen import Ask, SeenRequest, ask_of
from gateway.simulator.shape import MessageShape
from gateway.simulator.sse import LINE_ENDS, Dress, frames_of, with_unknown
from gateway.simulator.steps import Close, Pause, Send, Step, merge_sends

WHOLE_PIECE_BYTES = 64  # a whole answer counts as pieces of this size where a stream counts events


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(MessageShape):
    """An answer with every option of message, stream and body framing."""

    sends_json_only: ClassVar[bool] = False

    delay_seconds: float = option("delay", 0.0, "seconds between events", seconds_option)
    first_seconds: float = option("first", 0.0, "seconds from head to first event", seconds_option)
    framing: str = option(
        "framing",
        "",
        "chunked, length or close; by default chunked streams, length for whole answers",
        one_of(*FRAMINGS),
    )
    line_end: str = option("eol", "lf", "lf, crlf or cr ends the lines of events", one_of(*LINE_ENDS))
    has_bom: bool = option("bom", False, "a byte order mark before the first event", flag)
    has_comments: bool = option("comments", False, "comments and blank lines among events", flag)
    is_multiline: bool = option("multiline", False, "several `data:` lines an event", flag)
    has_unknown: bool = option("unknown", False, "an event of unknown type in the middle", flag)
    is_gzip: bool = option("gzip", False, "Content-Encoding gzip, though not asked for", flag)
    is_deflate: bool = option("deflate", False, "Content-Encoding deflate, the same", flag)

    hangs_up: bool = option("hang-up", False, "closes the kept-alive connection unannounced", flag)

    def plan(self, request: SeenRequest) -> Iterator[Step]:
        route = route_of(request.path)
        ask = ask_of(request) if request.method == "POST" else Ask("", False, "")
        if ask is None:
            yield from BadRequest(message="The request body is not a JSON object.").plan(request)
            return
        is_streamed = route is Route.MESSAGES and ask.is_streaming and not self.sends_json_only
        message = self.message(request, ask) if route is Route.MESSAGES else None
        charges: list[Charge | None] = []
        if message is not None and is_streamed:
            events = self.events_of(message, request)
            if self.has_unknown:
                events = with_unknown(events)
            charges = charges_of_stream(message, events)
            frames = frames_of(events, self.dress())
        else:
            document = self.document(request, message)
            frames = _pieces(to_json(document))
            if message is not None and document.get("type") == "message":
                charges = charges_of_whole(message, len(frames))
        whole_frames = frames
        frames, sent = self.cut(frames)
        charges = charges[: _untouched(whole_frames, frames[:sent])]
        pieces, tail = encode(frames, self.coding())
        framed = frame_body(pieces, tail, self.framing_for(request, is_streamed), self.missing_bytes())
        head_bytes = head(200, self.headers(request, framed, is_streamed), request.arrived_at_epoch)
        steps = self.deliver(head_bytes, framed, sent, charges)
        # A stream's events go out one by one; a whole answer goes out in one piece, pauses apart.
        yield from steps if is_streamed else merge_sends(steps)
        if self.hangs_up:
            yield Close()

    def document(self, request: SeenRequest, message: Message | None) -> dict[str, object]:
        """The body of a whole answer: that message, or what another route gives."""
        if message is not None:
            return message.document()
        return {"input_tokens": self.input_tokens} if request.method == "POST" else models_document(request)

    def events_of(self, message: Message, request: SeenRequest) -> list[Event]:
        """The events of a streamed answer."""
        return list(message.events())

    def cut(self, frames: list[bytes]) -> tuple[list[bytes], int]:
        """The frames that make up the body, and how many of them are sent."""
        return frames, len(frames)

    def ending(self, framed: Framed) -> Iterator[Step]:
        """What follows the pieces that were sent."""
        if framed.terminator:
            yield Send(framed.terminator)
        if framed.closes:
            yield Close()

    def prelude(self) -> Iterator[Step]:
        """What precedes the head."""
        return iter(())

    def extra_headers(self) -> Extra:
        """Headers that only this behaviour sends."""
        return []

    def missing_bytes(self) -> int:
        """How much more Content-Length promises than is sent."""
        return 0

    def deliver(self, head_bytes: bytes, framed: Framed, sent: int, charges: list[Charge | None]) -> Iterator[Step]:
        """The steps: head, pieces with what they are charged, ending."""
        yield from self.prelude()
        yield Send(head_bytes)
        if self.first_seconds:
            yield Pause(self.first_seconds)
        for index, part in enumerate(framed.parts[:sent]):
            if index and self.delay_seconds:
                yield Pause(self.delay_seconds)
            if index < len(charges) and (charge := charges[index]):
                yield charge
            yield Send(part)
        yield from self.ending(framed)

    def headers(self, request: SeenRequest, framed: Framed, is_streamed: bool) -> Extra:
        content_type = "text/event-stream; charset=utf-8" if is_streamed else "application/json"
        headers = [("content-type", content_type), *framed.headers]
        if is_streamed:
            headers.append(("cache-control", "no-cache"))
        if coding := self.coding():
            headers.append(("content-encoding", coding))
        headers.append(("request-id", request.request_id))
        return [
            *headers,
            *identity_headers(request),
            *limit_headers(request, remaining=999),
            *self.extra_headers(),
        ]

    def framing_for(self, request: SeenRequest, is_streamed: bool) -> str:
        framing = self.framing or ("chunked" if is_streamed else "length")
        # HTTP/1.0 knows no chunks.
        return "close" if framing == "chunked" and request.version == "HTTP/1.0" else framing

    def coding(self) -> str:
        return "gzip" if self.is_gzip else "deflate" if self.is_deflate else ""

    def dress(self) -> Dress:
        return Dress(
            line_end=LINE_ENDS[self.line_end],
            has_bom=self.has_bom,
            has_comments=self.has_comments,
            is_multiline=self.is_multiline,
        )


def _untouched(frames: list[bytes], sent: list[bytes]) -> int:
    """How many of the frames are sent as they were, before one is cut in two."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] is pair[1], zip(frames, sent, strict=False)))


def _pieces(body: bytes) -> list[bytes]:
    return [body[start : start + WHOLE_PIECE_BYTES] for start in range(0, len(body), WHOLE_PIECE_BYTES)]
