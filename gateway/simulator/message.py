"""A message of the Messages API as a value, rendered whole or as the events of a stream.

Both forms come from one `Message`, so they agree by construction. The shapes are those of
https://docs.anthropic.com/en/docs/build-with-claude/streaming. Pure.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from gateway.simulator.usage import Json, Usage


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event before it is dressed for the wire."""

    name: str
    data: Json


@dataclass(frozen=True, slots=True)
class Text:
    """A text block; each chunk is one `text_delta`."""

    chunks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Thinking:
    """A thinking block; each chunk is one `thinking_delta`, the signature a delta after them."""

    chunks: tuple[str, ...]
    signature: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool; its input streams as an empty and `pieces` deltas of partial JSON."""

    id: str
    name: str
    input_json: str
    pieces: int


@dataclass(frozen=True, slots=True)
class Fallback:
    """The mark behind which another model goes on, for the one before it has declined."""

    declined: str
    serving: str


Block = Text | Thinking | ToolCall | Fallback


@dataclass(frozen=True, slots=True)
class Message:
    """One answer of the assistant. `container` is the id of the one that its code has run in, if it has run any."""

    id: str
    model: str
    blocks: tuple[Block, ...]
    stop_reason: str
    usage: Usage
    container: str = ""

    def document(self) -> Json:
        """The answer to a request that did not ask for a stream."""
        content = [_content(block) for block in self.blocks]
        return self._envelope(content, self.stop_reason, self.usage.whole()) | self._ending()

    def events(self) -> Iterator[Event]:
        """The answer to a request for a stream; a `ping` follows the first block's start."""
        yield _event("message_start", message=self._envelope([], None, self.usage.at_start()))
        for index, block in enumerate(self.blocks):
            start = _empty_content(block)
            yield _event("content_block_start", index=index, content_block=start)
            if index == 0:
                yield _event("ping")
            for delta in _deltas(block):
                yield _event("content_block_delta", index=index, delta=delta)
            yield _event("content_block_stop", index=index)
        delta = {"stop_reason": self.stop_reason, "stop_sequence": None} | self._ending()
        yield _event("message_delta", delta=delta, usage=self.usage.at_end())
        yield _event("message_stop")

    @property
    def deltas(self) -> int:
        """How many `content_block_delta` events it streams as."""
        return sum(1 for block in self.blocks for _ in _deltas(block))

    def _ending(self) -> Json:
        if not self.container:
            return {}
        return {"container": {"id": self.container, "expires_at": "2030-01-01T00:00:00Z"}}

    def _envelope(self, content: list[Json], stop_reason: str | None, usage: Json) -> Json:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": usage,
        }


def error_document(kind: str, message: str, request_id: str, code: str = "") -> Json:
    """An error of the API, as a body or as the data of an `error` event."""
    details: Json = {"details": {"error_code": code}} if code else {}
    return {
        "type": "error",
        "error": {"type": kind, "message": message, **details},
        "request_id": request_id,
    }


def to_json(document: Json) -> bytes:
    """Compact JSON, characters beyond ASCII as they are, as the real API sends them."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _event(name: str, **data: object) -> Event:
    return Event(name, {"type": name, **data})


def _content(block: Block) -> Json:
    match block:
        case Text(chunks):
            return {"type": "text", "text": "".join(chunks)}
        case Thinking(chunks, signature):
            return {"type": "thinking", "thinking": "".join(chunks), "signature": signature}
        case ToolCall(id, name, input_json, _):
            return {"type": "tool_use", "id": id, "name": name, "input": json.loads(input_json)}
        case Fallback():
            return _fallback(block)


def _empty_content(block: Block) -> Json:
    match block:
        case Text():
            return {"type": "text", "text": ""}
        case Thinking():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case ToolCall(id, name, _, _):
            return {"type": "tool_use", "id": id, "name": name, "input": {}}
        case Fallback():
            return _fallback(block)


def _fallback(block: Fallback) -> Json:
    models = {"from": {"model": block.declined}, "to": {"model": block.serving}}
    return {"type": "fallback", **models, "trigger": {"type": "refusal", "category": "cyber"}}


def _deltas(block: Block) -> Iterator[Json]:
    match block:
        case Text(chunks):
            for chunk in chunks:
                yield {"type": "text_delta", "text": chunk}
        case Thinking(chunks, signature):
            for chunk in chunks:
                yield {"type": "thinking_delta", "thinking": chunk}
            yield {"type": "signature_delta", "signature": signature}
        case ToolCall(_, _, input_json, pieces):
            for piece in ("", *pieces_of(input_json, pieces)):
                yield {"type": "input_json_delta", "partial_json": piece}


def pieces_of(text: str, pieces: int) -> tuple[str, ...]:
    """The text in that many pieces of nearly equal length (fewer when it is shorter than that)."""
    pieces = max(1, min(pieces, len(text)))
    bounds = [len(text) * index // pieces for index in range(pieces + 1)]
    return tuple(text[start:end] for start, end in pairwise(bounds))
