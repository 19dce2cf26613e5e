"""What the gateway reads of a Messages request and of its answer; all the rest passes through unread.

Owns: the check of a request body, the usage counts of an answer, and whether a stream reached its end. Pure; a
Tally belongs to one answer, and so to whoever runs the request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.protocol.errors import InvalidRequest
from gateway.protocol.json_values import object_or_none
from gateway.protocol.sse import Event
from gateway.protocol.tool_uses import ToolUses
from gateway.protocol.usage import BilledUsage, Usage

_LARGEST_METADATA_BYTES = 4096
_REFUSAL = "refusal"  # the stop reason of a model that declined


@dataclass(frozen=True, slots=True)
class RequestSummary:
    """The members of a request body that the gateway acts on, and `metadata.user_id`, which names a session."""

    model: str
    is_streaming: bool
    user_id: str | None = field(repr=False)
    is_fast: bool


class _Envelope(msgspec.Struct):
    model: Any = None
    stream: Any = None
    speed: Any = None
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


class _Metadata(msgspec.Struct):
    user_id: Any = None


def read_request(body: bytes) -> RequestSummary:
    """Check a request body and read its model and whether a stream is asked for.

    Raises InvalidRequest, naming what is wrong: empty, not JSON, not an object, no `model`. Nothing else is
    validated: unknown fields, roles and values are the upstream's affair.
    """
    if not body.strip():
        raise InvalidRequest("the request body is empty; a JSON object was expected")
    try:
        envelope = msgspec.json.decode(body, type=_Envelope)
        model, stream, speed = envelope.model, envelope.stream, envelope.speed
        user_id = _user_id(envelope.metadata)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        model, stream, speed = _read_leniently(body)
        user_id = None
    if model is None:
        raise InvalidRequest("model: this field is required")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("model: a non-empty string was expected")
    return RequestSummary(model, stream is True, user_id, speed == "fast")


def _user_id(metadata: msgspec.Raw) -> str | None:
    if len(memoryview(metadata)) > _LARGEST_METADATA_BYTES:
        return None
    try:
        user_id = msgspec.json.decode(metadata, type=_Metadata).user_id
    except msgspec.MsgspecError:
        return None
    return user_id if isinstance(user_id, str) else None


def _read_leniently(body: bytes) -> tuple[Any, Any, Any]:
    """For what msgspec refuses and clients send all the same (lone surrogates), and to say what is wrong."""
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the request body is not UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"the request body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except RecursionError as error:
        raise InvalidRequest("the request body is not valid JSON: nested too deeply") from error
    except ValueError as error:
        raise InvalidRequest(f"the request body is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidRequest("the request body is not a JSON object")
    return document.get("model"), document.get("stream"), document.get("speed")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


@dataclass(slots=True)
class Tally:
    """What one answer has said so far: its usage, its end, its error.

    A turn's counts are cumulative, so later ones replace earlier ones
    (https://docs.claude.com/en/docs/build-with-claude/streaming). `is_refused`: the model declined to answer.
    """

    usage: Usage = field(default_factory=Usage)
    tools: ToolUses = field(default_factory=ToolUses)
    model: str | None = None
    container_id: str | None = field(default=None, repr=False)  # where the model's code has run
    is_refused: bool = False
    has_stopped: bool = False
    error_kind: str | None = None

    @classmethod
    def of_lost_answer(cls, model: str | None, request_body: bytes) -> Tally:
        """What the upstream may have counted for an answer of which nothing came."""
        tally = cls(model=model)
        tally.usage.guess_prompt(request_body)
        return tally

    def billed(self, asked_model: str | None) -> list[BilledUsage]:
        """The inferences that the answer is billed for so far; `asked_model` is the request's."""
        return self.usage.billed(asked_model, self.model, has_ended=self.has_stopped, is_refused=self.is_refused)

    @property
    def has_ended(self) -> bool:
        """Whether the last event was seen: `message_stop`, or an `error`."""
        return self.has_stopped or self.error_kind is not None

    def observe(self, event: Event) -> None:
        """Take in one event; data that cannot be read is left to the client to judge."""
        document = event.document
        kind = document.get("type") if document is not None else None
        if event.name == "message_stop" or kind == "message_stop":
            self.has_stopped = True
        elif event.name == "error" or kind == "error":
            self.error_kind = error_kind(document)
        elif document is not None and kind == "message_start":
            self._observe_message(document.get("message"), is_whole=False)
        elif document is not None and kind == "message_delta":
            self._take_usage(document.get("usage"), is_at_end=True)
            self._observe_ending(document.get("delta"))

    def observe_whole(self, body: bytes) -> bool:
        """Take in a whole answer's JSON; False if it is not a JSON object."""
        document = object_or_none(body)
        if document is None:
            return False
        if document.get("type") == "error":
            self.error_kind = error_kind(document)
        else:
            self._observe_message(document, is_whole=True)
            if not self.usage.has_counted_output and isinstance(document.get("content"), list):
                self.usage.passed_whole(body)
            self.tools.observe_whole(document)
            self.has_stopped = True
        return True

    def _observe_message(self, message: object, *, is_whole: bool) -> None:
        if isinstance(message, dict):
            model = message.get("model")
            self.model = model if isinstance(model, str) else None
            self._take_usage(message.get("usage"), is_at_end=is_whole)
            self._observe_ending(message)

    def _observe_ending(self, holder: object) -> None:
        if not isinstance(holder, dict):
            return
        container = holder.get("container")
        identity = container.get("id") if isinstance(container, dict) else None
        if isinstance(identity, str):
            self.container_id = identity
        if holder.get("stop_reason") == _REFUSAL:
            self.is_refused = True

    def _take_usage(self, usage: object, *, is_at_end: bool) -> None:
        if isinstance(usage, dict):
            self.usage.take(usage, is_at_end=is_at_end)


def error_kind(document: Mapping[str, Any] | None) -> str:
    """The Anthropic error type that an error document names; `api_error` when it names none."""
    error = document.get("error") if document is not None else None
    kind = error.get("type") if isinstance(error, dict) else None
    return kind if isinstance(kind, str) else "api_error"
