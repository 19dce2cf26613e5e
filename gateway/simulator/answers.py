"""Good answers, however oddly sent, and answers whose content is not the usual one. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from gateway.simulator.answer import Answer
from gateway.simulator.message import Block, Event, Message, Text, ToolCall, error_document
from gateway.simulator.options import count, flag, json_object, option, plain, positive, seconds
from gateway.simulator.refusal import Extra
from gateway.simulator.seen import Ask, SeenRequest
from gateway.simulator.steps import Send, Step, join_sends, split_sends


@dataclass(frozen=True, slots=True, kw_only=True)
class Ok(Answer):
    """A good answer."""

    name: ClassVar[str] = "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse(Answer):
    """Ends in calls of a tool, `stop_reason` `tool_use`; text comes first when `text` is given."""

    name: ClassVar[str] = "tool_use"

    tool: str = option("name", "", "the tool; by default the first that the request offers", plain)
    input_json: str = option("input", '{"location":"Paris"}', "the call's input, a JSON object", json_object)
    calls: int = option("calls", 1, "number of calls", positive)
    pieces: int = option("pieces", 3, "number of partial JSON deltas a call", positive)
    is_once: bool = option("once", False, "a good answer instead, once the request has a tool's result", flag)
    stop_reason: str = option("stop", "tool_use", "stop reason", plain)

    def message(self, request: SeenRequest, ask: Ask) -> Message:
        message = Answer.message(self, request, ask)
        return replace(message, stop_reason="end_turn") if self._is_done(ask) else message

    def blocks(self, ask: Ask, chunks: tuple[str, ...], digest: str) -> tuple[Block, ...]:
        if self._is_done(ask):
            return (Text(chunks),)
        tool = self.tool or ask.first_tool or "get_weather"
        calls = [
            ToolCall(f"toolu_sim_{digest[:16]}_{index}", tool, self.input_json, self.pieces)
            for index in range(self.calls)
        ]
        return (*([Text(chunks)] if self.text else []), *calls)

    def _is_done(self, ask: Ask) -> bool:
        return self.is_once and ask.has_tool_result


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCookie(Answer):
    """A good answer that sets a cookie."""

    name: ClassVar[str] = "set_cookie"

    def extra_headers(self) -> Extra:
        return [("set-cookie", "__cf_bm=simulated; path=/; HttpOnly; Secure")]


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyHints(Answer):
    """A 103 before a good answer."""

    name: ClassVar[str] = "early_hints"

    def prelude(self) -> Iterator[Step]:
        yield Send(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonToStream(Answer):
    """A good answer, whole although a stream was asked for."""

    name: ClassVar[str] = "json_to_stream"
    sends_json_only: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(Answer):
    """A good answer in wire writes of a few bytes, through chunk heads and characters."""

    name: ClassVar[str] = "split"

    size: int = option("size", 1, "bytes a write", positive)
    delay_seconds: float = option("delay", 0.0, "seconds after each write", seconds)

    def plan(self, request: SeenRequest) -> Iterator[Step]:
        steps = Answer.plan(replace(self, delay_seconds=0.0), request)
        return split_sends(steps, self.size, self.delay_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSegment(Answer):
    """A good answer, head and all its chunks in one write."""

    name: ClassVar[str] = "one_segment"

    is_head_apart: bool = option("apart", False, "the head in a write of its own before it", flag)

    def plan(self, request: SeenRequest) -> Iterator[Step]:
        return join_sends(Answer.plan(self, request), self.is_head_apart)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneRecord(OneSegment):
    """The same over TLS: one record as long as it is at most 16 KB."""

    name: ClassVar[str] = "one_record"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorEvent(Answer):
    """A 200 whose stream turns into an `error` event; whole: a 200 whose body is an error."""

    name: ClassVar[str] = "error_event"

    type: str = option("type", "overloaded_error", "the error's type", plain)
    error_message: str = option("message", "Overloaded", "the error's message", plain)
    after: int = option("after", 0, "number of good events before it", count)
    pings: int = option("pings", 0, "number of pings before everything else", count)

    def events_of(self, message: Message, request: SeenRequest) -> list[Event]:
        error = Event("error", self.error(request))
        pings = [Event("ping", {"type": "ping"})] * self.pings
        return [*pings, *list(message.events())[: self.after], error]

    def document(self, request: SeenRequest, message: Message | None) -> dict[str, object]:
        return self.error(request)

    def error(self, request: SeenRequest) -> dict[str, object]:
        return error_document(self.type, self.error_message, request.request_id)
