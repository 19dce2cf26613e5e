"""Several turns of the upstream, shown to the client as one message.

Owns: what of each event the client is shown. Pure; a Splicer belongs to whoever runs the request.

The rules (DESIGN 3.5): blocks that call a tool of the gateway's are withheld; the other blocks are numbered 0..n
without a gap across turns; there is one `message_start`, the first turn's, and one ending, the last turn's, with the
usage of all turns and, in its `iterations`, of each. A turn is followed by another if it came to its end and all the
tools that it calls are the gateway's. When it calls a tool of the client's too, the client's call is what the message
ends with, so that the client can answer it; the gateway's calls of that turn are not made, so no result of theirs can
be lost: the model does not find them in what it said, and may ask again. A container that an earlier turn has told of
is told with the last one: the client needs its name to go on in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.protocol.accumulator import INVALID_INPUT, Accumulator, index_of, usage_sum
from gateway.protocol.token_kinds import API_COUNTS, API_CREATION
from gateway.tools.taken_back import answerable, is_served_anew

Data = Mapping[str, Any]

# Turns that stop for one of these are not complete, or wait for something else than a tool's result. Others are: some
# compatible upstreams end a call with `end_turn`.
_NOT_FOR_TOOLS = frozenset(
    {"max_tokens", "model_context_window_exceeded", "stop_sequence", "pause_turn", "refusal", "compaction"}
)


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
        self._container: Mapping[str, Any] | None = None
        self._begin_turn()

    def _begin_turn(self) -> None:
        self._turn = Accumulator()
        self._shown_as: dict[int, int | None] = {}  # the client's index of the upstream's; None: withheld
        # Of the calls that want a result: all there are, and those that are withheld. Every ending asks for them.
        self._answerable = self._answerable_withheld = 0

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
        if self._turn.stop_reason in _NOT_FOR_TOOLS:
            return False
        return 0 < self._answerable == self._answerable_withheld

    @property
    def calls(self) -> list[ToolUse]:
        """The calls of the gateway's tools that this turn wants results of, in the model's order."""
        return [_tool_use(block) for block in answerable(self._turn.content) if self._withholds(block)]

    @property
    def withheld(self) -> list[ToolUse]:
        """All calls of the gateway's tools in this turn: also those of a model that has declined since."""
        return [_tool_use(block) for block in self._turn.content if self._withholds(block)]

    @property
    def container_id(self) -> str | None:
        """The container that the model's code has run in, if any has."""
        container = self._turn.container or self._container
        return str(container["id"]) if container is not None else None

    @property
    def content(self) -> list[dict[str, Any]]:
        """All that the model said in this turn, its withheld calls included."""
        return self._turn.content

    @property
    def is_verbatim(self) -> bool:
        """Whether the client has been shown everything as it came."""
        return self._usage_before is None and not self.withheld

    def end_turn(self) -> None:
        """The next event is of another turn."""
        self._usage_before = self._usage
        self._container = self._turn.container or self._container
        self._begin_turn()

    @property
    def _usage(self) -> dict[str, Any]:
        """The usage of all turns, and how much of it each has."""
        usage = self._turn.usage | {"iterations": _iterations(self._turn)}
        return usage if self._usage_before is None else usage_sum(self._usage_before, usage)

    def _begin_block(self, data: Data) -> int | None:
        block = data["content_block"]
        shown_as = None
        if not self._withholds(block):
            shown_as = self._shown_blocks
            self._shown_blocks += 1
        self._shown_as[index_of(data)] = shown_as
        self._count(block, is_withheld=shown_as is None)
        return shown_as

    def _count(self, block: Data, *, is_withheld: bool) -> None:
        if is_served_anew(block):
            self._answerable = self._answerable_withheld = 0
        elif block.get("type") == "tool_use":
            self._answerable += 1
            self._answerable_withheld += is_withheld

    def _withholds(self, block: Data) -> bool:
        return block.get("type") == "tool_use" and self._is_ours(str(block.get("name")))

    def _renumbered(self, data: Data, index: int | None) -> Data | None:
        if index is None:
            return None
        return data if index == data["index"] else {**data, "index": index}

    def _ending(self, data: Data) -> Data | None:
        if self.continues:
            return None
        if self._usage_before is None:
            return data
        delta = data["delta"]
        if self._turn.container is None and self._container is not None:
            delta = {**delta, "container": self._container}
        return {**data, "delta": delta, "usage": self._usage}


def _iterations(turn: Accumulator) -> list[Any]:
    """A turn's own entries of `usage.iterations`, or the one that says of it what its `usage` says."""
    own = turn.usage.get("iterations")
    if isinstance(own, list) and own:
        return own
    # An entry holds these in any case (https://platform.claude.com/docs/en/api/beta/messages/create).
    counts = dict.fromkeys(API_COUNTS, 0)
    counts |= {name: count for name in counts if (count := turn.usage.get(name)) is not None}
    parts = {name: turn.usage[name] for name in (API_CREATION,) if turn.usage.get(name) is not None}
    model = {"model": turn.model} if turn.model is not None else {}
    return [{"type": "message", **model, **counts, **parts}]


def _tool_use(block: Data) -> ToolUse:
    given = block.get("input")
    is_readable = isinstance(given, dict) and set(given) != {INVALID_INPUT}
    return ToolUse(str(block.get("id")), str(block.get("name")), given if is_readable else None)
