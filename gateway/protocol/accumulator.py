"""A message put together from the events of its stream, as the official SDKs do it.

Owns: the rules of accumulation. Pure; an Accumulator belongs to one stream, and so to whoever runs the request. A delta
of a kind unknown here is treated like most: its texts are appended to the block's own, other values replace the
block's. The events: https://docs.claude.com/en/docs/build-with-claude/streaming.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.protocol.counts import count_or_none
from gateway.protocol.json_values import exact_object_or_none

# What a message's document holds from its beginning, and so `message_start` carries it alone.
_FROM_THE_START = frozenset({"id", "type", "role", "model", "content", "usage"})
_KNOWN_AT_THE_END = ("stop_reason", "stop_sequence", "stop_details", "container")
# These say the whole value at once.
_REPLACING = frozenset({"signature_delta", "compaction_delta"})
# Where a tool's input that is no JSON object is put, for a request wants an object there
# (https://docs.claude.com/en/docs/agents-and-tools/tool-use/fine-grained-tool-streaming).
INVALID_INPUT = "INVALID_JSON"


class MalformedStream(Exception):
    """The events of a stream do not make a message; the text says why."""


class Accumulator:
    """Builds one message. Values taken in are not changed."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._open: set[int] = set()  # the blocks that have not ended
        self._cited: dict[int, list[Any]] = {}  # by block, the lists that are our own
        # Texts come in thousands of pieces, which are joined once.
        self._texts: dict[int, dict[str, list[str]]] = {}
        self._inputs: dict[int, list[str]] = {}

    def add(self, data: Mapping[str, Any]) -> None:
        """Take in the data of one event; pings and unknown events say nothing. Raises MalformedStream."""
        kind = data.get("type")
        if kind == "message_start":
            self._message = dict(_object(data, "message"))
            self._message["usage"] = dict(self.usage)  # our own: each ending adds to it
        elif kind == "content_block_start":
            self._begin(index_of(data), _object(data, "content_block"))
        elif kind == "content_block_delta":
            self._add_delta(index_of(data), _object(data, "delta"))
        elif kind == "content_block_stop":
            self._close(index_of(data))
        elif kind == "message_delta":
            self._add_ending(data)

    @property
    def content(self) -> list[dict[str, Any]]:
        """The blocks so far, in the order of their beginning."""
        for index in list(self._texts):
            self._join(index)
        return list(self._blocks.values())

    @property
    def message(self) -> dict[str, Any]:
        """The message so far."""
        return self._message | {"content": self.content}

    @property
    def stop_reason(self) -> str | None:
        """Why the model stopped; None until it has."""
        reason = self._message.get("stop_reason")
        return reason if isinstance(reason, str) else None

    @property
    def usage(self) -> dict[str, Any]:
        """The counts of tokens, each as it was said last."""
        usage = self._message.get("usage")
        return usage if isinstance(usage, dict) else {}

    @property
    def container(self) -> Mapping[str, Any] | None:
        """The container in which the model's code has run, as it was told; None if there is none."""
        container = self._message.get("container")
        return container if isinstance(container, dict) and isinstance(container.get("id"), str) else None

    @property
    def model(self) -> str | None:
        """The model that answers."""
        model = self._message.get("model")
        return model if isinstance(model, str) else None

    def require_ended(self) -> None:
        """Raise MalformedStream if a block has not ended: what it says may not be all of it."""
        for index in self._open:
            raise MalformedStream(f"block {index} was never ended")

    def _begin(self, index: int, block: Mapping[str, Any]) -> None:
        if index in self._blocks:
            raise MalformedStream(f"block {index} was begun twice")
        self._blocks[index] = dict(block)
        self._open.add(index)

    def _block(self, index: int) -> dict[str, Any]:
        try:
            return self._blocks[index]
        except KeyError:
            raise MalformedStream(f"block {index} was never begun") from None

    def _add_delta(self, index: int, delta: Mapping[str, Any]) -> None:
        block = self._block(index)
        if delta.get("type") == "input_json_delta":
            self._inputs.setdefault(index, []).append(str(delta.get("partial_json") or ""))
        elif delta.get("type") == "citations_delta":
            self._citations(index, block).append(delta.get("citation"))
        else:
            self._add_members(index, block, delta)

    def _citations(self, index: int, block: dict[str, Any]) -> list[Any]:
        """The block's list, copied once: what was taken in is not changed."""
        before = block.get("citations")
        own = self._cited.get(index, [])
        if before is not own:
            own = list(before) if isinstance(before, list) else []
            self._cited[index] = block["citations"] = own
        return own

    def _add_members(self, index: int, block: dict[str, Any], delta: Mapping[str, Any]) -> None:
        appends = delta.get("type") not in _REPLACING
        for name, value in delta.items():
            if name == "type":
                continue
            if appends and isinstance(block.get(name), str) and isinstance(value, str):
                self._texts.setdefault(index, {}).setdefault(name, []).append(value)
            else:
                self._texts.get(index, {}).pop(name, None)
                block[name] = value

    def _join(self, index: int) -> None:
        for name, pieces in self._texts.pop(index, {}).items():
            self._blocks[index][name] += "".join(pieces)

    def _close(self, index: int) -> None:
        block = self._block(index)
        self._open.discard(index)
        self._join(index)
        text = "".join(self._inputs.pop(index, ()))
        if text:
            parsed = exact_object_or_none(text)
            block["input"] = {INVALID_INPUT: text} if parsed is None else parsed

    def _add_ending(self, data: Mapping[str, Any]) -> None:
        self._message |= {name: value for name, value in data.items() if name not in ("type", "delta", "usage")}
        self._message |= {name: value for name, value in _object(data, "delta").items() if name != "usage"}
        if isinstance(usage := data.get("usage"), dict):
            said = {name: value for name, value in usage.items() if value is not None}
            self._message.setdefault("usage", {}).update(said)


def events_of(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The data of the events that a whole message could have been streamed as, each block in one piece.

    Raises MalformedStream if it is no message.
    """
    ending = {name: value for name, value in message.items() if name not in _FROM_THE_START}
    opening = {name: value for name, value in message.items() if name in _FROM_THE_START}
    yield {
        "type": "message_start",
        "message": opening | {"content": [], "stop_reason": None, "stop_sequence": None},
    }
    content = message.get("content")
    if message.get("type") != "message" or not isinstance(content, list):
        raise MalformedStream("it is not a message")
    for index, block in enumerate(content):
        yield {"type": "content_block_start", "index": index, "content_block": block}
        yield {"type": "content_block_stop", "index": index}
    delta = {name: ending.pop(name) for name in _KNOWN_AT_THE_END if name in ending}
    yield {"type": "message_delta", "delta": delta, **ending, "usage": message.get("usage") or {}}
    yield {"type": "message_stop"}


def usage_sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The usage of two turns together: counts add up, at any depth, lists follow each other, of the rest the later.

    What is no count (`counts`) is relayed in the turn that says it, and not added to.
    """
    total = dict(one)
    for name, value in other.items():
        before = total.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            total[name] = usage_sum(before, value)
        elif isinstance(before, list) and isinstance(value, list):
            total[name] = before + value
        elif (count := count_or_none(before)) is not None and (more := count_or_none(value)) is not None:
            total[name] = count + more
        elif value is not None:
            total[name] = value
    return total


def index_of(data: Mapping[str, Any]) -> int:
    """Which block an event is about. Raises MalformedStream."""
    index = data.get("index")
    if not isinstance(index, int):
        raise MalformedStream(f"a {data.get('type')} has no index")
    return index


def _object(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    if not isinstance(value, dict):
        raise MalformedStream(f"a {data.get('type')} has no {name}")
    return value
