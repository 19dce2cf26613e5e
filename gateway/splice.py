"""Several turns of the upstream, shown to the client as one message.

Owns: what of each event the client is shown. Pure; a Splicer belongs to one interception and so to one thread.

The rules (DESIGN 3.5): blocks that call a tool of the gateway's are withheld; the other blocks are numbered 0..n
without a gap across turns; there is one `message_start`, the first turn's, and one ending, the last turn's, with the
usage of all turns. A turn is followed by another if it stopped for its tools and all of them are the gateway's.
When it calls a tool of the client's too, the client's call is what the message ends with, so that the client can
answer it; the gateway's calls of that turn are not made, so no result of theirs can be lost: the model does not find
them in what it said, and may ask again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.accumulate import INVALID_INPUT, Accumulator, index_of, usage_sum

Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call that the model makes; `input` is None when what it wrote is no JSON object."""

    id: str
    name: str
    input: Mapping[str, Any] | None = field(repr=False)


class Splicer:
    """Joins turns into one client message. `is_ours` tells the gateway's tools from the client's by their names."""

    def __init__(self, is_ours: Callable[[str], bool]) -> None:
        self._is_ours = is_ours
        self._has_started = False
        self._shown_blocks = 0
        self._usage_before: dict[str, Any] | None = None  # of the turns before; None in the first
        self._begin_turn()

    def _begin_turn(self) -> None:
        self._turn = Accumulator()
        self._shown_as: dict[int, int | None] = {}  # the client's index of the upstream's; None: withheld

    def splice(self, data: Data) -> Data | None:
        """What the client is shown of an event's data: the same object, another, or None for nothing.

        Raises MalformedStream.
        """
        self._turn.add(data)
        kind = data.get("type")
        if kind == "message_start":
            is_first, self._has_started = not self._has_started, True
            return data if is_first else None
        if kind == "content_block_start":
            return self._renumbered(data, self._begin_block(data))
        if kind in ("content_block_delta", "content_block_stop"):
            return self._renumbered(data, self._shown_as[index_of(data)])
        if kind == "message_delta":
            return self._ending(data)
        if kind == "message_stop" and self.continues:
            self._turn.require_ended()
            return None
        return data

    @property
    def continues(self) -> bool:
        """Whether another turn follows this one, once the tools have been called."""
        if self._turn.stop_reason != "tool_use":
            return False
        uses = [block for block in self._turn.content if block.get("type") == "tool_use"]
        return bool(uses) and all(self._withholds(block) for block in uses)

    @property
    def calls(self) -> list[ToolUse]:
        """The calls of the gateway's tools in this turn, in the model's order."""
        return [_tool_use(block) for block in self._turn.content if self._withholds(block)]

    @property
    def content(self) -> list[dict[str, Any]]:
        """All that the model said in this turn, its withheld calls included."""
        return self._turn.content

    @property
    def is_verbatim(self) -> bool:
        """Whether the client has been shown everything as it came."""
        return self._usage_before is None and not self.calls

    def end_turn(self) -> None:
        """The next event is of another turn."""
        self._usage_before = self._usage
        self._begin_turn()

    @property
    def _usage(self) -> dict[str, Any]:
        """The usage of all turns."""
        return self._turn.usage if self._usage_before is None else usage_sum(self._usage_before, self._turn.usage)

    def _begin_block(self, data: Data) -> int | None:
        shown_as = None
        if not self._withholds(data["content_block"]):
            shown_as = self._shown_blocks
            self._shown_blocks += 1
        self._shown_as[index_of(data)] = shown_as
        return shown_as

    def _withholds(self, block: Data) -> bool:
        return block.get("type") == "tool_use" and self._is_ours(str(block.get("name")))

    def _renumbered(self, data: Data, index: int | None) -> Data | None:
        if index is None:
            return None
        return data if index == data["index"] else {**data, "index": index}

    def _ending(self, data: Data) -> Data | None:
        if self.continues:
            return None
        return data if self._usage_before is None else {**data, "usage": self._usage}


def _tool_use(block: Data) -> ToolUse:
    given = block.get("input")
    is_readable = isinstance(given, dict) and set(given) != {INVALID_INPUT}
    return ToolUse(str(block.get("id")), str(block.get("name")), given if is_readable else None)
