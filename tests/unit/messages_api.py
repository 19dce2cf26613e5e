"""Messages as an upstream sends them, whole and as the events of a stream, built block by block.

Owns: the wire form of blocks, turns and their usage, written down from the API's documentation and not with the
gateway's code, so that one can be held against the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Block = dict[str, Any]


def text(words: str) -> Block:
    return {"type": "text", "text": words}


def thinking(words: str, signature: str = "c2ln") -> Block:
    return {"type": "thinking", "thinking": words, "signature": signature}


def tool_use(name: str, identity: str, **arguments: object) -> Block:
    return {"type": "tool_use", "id": identity, "name": name, "input": arguments}


def server_tool_use(identity: str) -> Block:
    return {"type": "server_tool_use", "id": identity, "name": "web_search", "input": {"query": "tides"}}


def web_result(identity: str) -> Block:
    return {"type": "web_search_tool_result", "tool_use_id": identity, "content": []}


def fallback(model: str) -> Block:
    """The mark behind which another model goes on."""
    trigger = {"type": "refusal", "category": "cyber"}
    return {"type": "fallback", "from": {"model": "claude-test"}, "to": {"model": model}, "trigger": trigger}


@dataclass(frozen=True)
class Answer:
    """One turn's answer. `raw_inputs` replaces a tool's input, by its id, on the wire of a stream.

    `container` is what a turn tells at its end of the container that the model's code has run in.
    """

    blocks: Sequence[Block]
    stop_reason: str = "end_turn"
    usage: dict[str, Any] = field(default_factory=lambda: {"input_tokens": 10, "output_tokens": 5})
    identity: str = "msg_1"
    raw_inputs: dict[str, str] = field(default_factory=dict)
    container: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """The whole answer."""
        return {
            "id": self.identity,
            "type": "message",
            "role": "assistant",
            "model": "claude-test",
            "content": list(self.blocks),
            "stop_reason": self.stop_reason,
            "stop_sequence": None,
            "usage": self.usage,
        } | self._told()

    def body(self) -> bytes:
        """The whole answer as it is sent."""
        return json.dumps(self.document()).encode()

    def stream(self) -> bytes:
        """All events as they are sent."""
        return b"".join(self.events())

    def events(self) -> Iterator[bytes]:
        """Each event as it is sent."""
        opening = self.document() | {"content": [], "stop_reason": None, "usage": self.usage | {"output_tokens": 1}}
        opening.pop("container", None)
        yield event("message_start", message=opening)
        for index, block in enumerate(self.blocks):
            yield from self._block(index, block)
        delta = {"stop_reason": self.stop_reason, "stop_sequence": None} | self._told()
        yield event("message_delta", delta=delta, usage=self.usage)
        yield event("message_stop")

    def _told(self) -> dict[str, Any]:
        return {"container": self.container} if self.container is not None else {}

    def _block(self, index: int, block: Block) -> Iterator[bytes]:
        begun, deltas = self._pieces(block)
        yield event("content_block_start", index=index, content_block=begun)
        for delta in deltas:
            yield event("content_block_delta", index=index, delta=delta)
        yield event("content_block_stop", index=index)

    def _pieces(self, block: Block) -> tuple[Block, list[dict[str, Any]]]:
        if block["type"] == "text":
            return block | {"text": ""}, [{"type": "text_delta", "text": half} for half in halves(block["text"])]
        if block["type"] == "thinking":
            deltas = [{"type": "thinking_delta", "thinking": half} for half in halves(block["thinking"])]
            signed = {"type": "signature_delta", "signature": block["signature"]}
            return {"type": "thinking", "thinking": "", "signature": ""}, [*deltas, signed]
        if block["type"] in ("tool_use", "server_tool_use"):
            written = self.raw_inputs.get(block["id"], json.dumps(block["input"]))
            return block | {"input": {}}, [
                {"type": "input_json_delta", "partial_json": half} for half in halves(written)
            ]
        return block, []


def event(name: str, **members: object) -> bytes:
    """One event as it is sent."""
    return f"event: {name}\ndata: {json.dumps({'type': name} | members)}\n\n".encode()


def halves(words: str) -> list[str]:
    """A text in two pieces, as deltas bring it."""
    middle = len(words) // 2
    return [words[:middle], words[middle:]]
