"""Which tools an answer calls: their names and how large their inputs are, never the inputs themselves.

Owns: finding `tool_use` blocks, in whole answers and in runs of events. Pure; a ToolUses belongs to one answer,
and so to whoever runs the request. An input streams as pieces of JSON inside JSON strings
(https://docs.claude.com/en/docs/build-with-claude/streaming#input-json-delta); the pieces are measured where they
lie, for an agent's streams are full of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.protocol.sse import Event, decode_event, split_events

_MOST_CALLS = 200
# A string in runs, each taken whole: a step a character would be remembered, at a hundred times its size.
_PIECE = re.compile(rb'"partial_json" ?: ?("[^"\\]*+(?:\\.[^"\\]*+)*+")')
_NAME, _START, _PIECE_NAME = b"tool_use", b"content_block_start", b"partial_json"


@dataclass(slots=True)
class MeasuredUse:
    """One call that the model asks for. `input_bytes` is the size of its input as JSON."""

    id: str
    name: str
    input_bytes: int = 0


class ToolUses:
    """The calls of one answer, in order; blocks come one after the other, so a piece belongs to the last call."""

    def __init__(self) -> None:
        self.calls: list[MeasuredUse] = []
        self._is_open = False

    def observe(self, batch: bytes) -> None:
        """Take in a run of whole events."""
        if batch.find(_NAME) < 0 and not (self._is_open and batch.find(_PIECE_NAME) >= 0):
            return
        for raw in split_events(batch):
            self.observe_event(raw)

    def observe_event(self, raw: bytes, event: Event | None = None) -> None:
        """Take in one event, which may be decoded already."""
        if raw.find(_START) >= 0:
            self._begin(event or decode_event(raw))
        elif self._is_open and raw.find(_PIECE_NAME) >= 0:
            self._measure(raw)

    def observe_whole(self, message: Mapping[str, Any]) -> None:
        """Take in a whole answer."""
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            if self._add(block):
                self.calls[-1].input_bytes = _size_bytes(block.get("input"))

    def _begin(self, event: Event | None) -> None:
        document = event.document if event is not None else None
        self._is_open = document is not None and self._add(document.get("content_block"))

    def _add(self, block: object) -> bool:
        if not isinstance(block, dict) or block.get("type") != "tool_use" or len(self.calls) >= _MOST_CALLS:
            return False
        self.calls.append(MeasuredUse(str(block.get("id", "")), str(block.get("name", ""))))
        return True

    def _measure(self, raw: bytes) -> None:
        for piece in _PIECE.findall(raw):
            try:
                text = msgspec.json.decode(piece, type=str)
            except msgspec.DecodeError:
                continue  # half a surrogate pair, or nothing that a client could read either
            self.calls[-1].input_bytes += len(text.encode())


def _size_bytes(document: object) -> int:
    """The size of a document as compact JSON; 0 if it cannot be written as such."""
    try:
        return len(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
    except RecursionError:
        return 0
