"""What the model said in a turn, as the API takes it back in the next one.

Owns: what is left out of it, and which calls are left to answer. Pure. Everything else goes back as it came, in its
place: signatures of thinking hold nowhere else.

Behind a `fallback` block another model goes on, because the one before it has declined. The block stays where it is,
and of what stands before the last one the API takes back texts and calls of server tools with their results, but no
thinking, no `tool_use` and no call without a result; no `tool_result` answers a call that is left out
(https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback#continuing-the-conversation).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Block = Mapping[str, Any]

_THINKING = frozenset({"thinking", "redacted_thinking"})
_DECLINED = _THINKING | {"connector_text", "tool_use"}
_SERVER_CALLS = frozenset({"server_tool_use", "mcp_tool_use"})


def taken_back(content: Sequence[Block]) -> list[Block]:
    """The blocks that go back, without empty texts, which the API refuses, though models write them.

    Beside thinking a space stands for such a text: models part thinking blocks by them, and the signatures do not hold
    in other places (https://github.com/anomalyco/opencode/pull/21370).
    """
    blocks = list(_of_use(content))
    has_thinking = any(block.get("type") in _THINKING for block in blocks)
    taken: list[Block] = []
    for block in blocks:
        if block.get("type") != "text" or block.get("text") != "":
            taken.append(block)
        elif has_thinking:
            taken.append({**block, "text": " "})
    return taken


def answerable(content: Sequence[Block]) -> list[Block]:
    """The calls of client tools that want a result: those behind the last `fallback` block."""
    return [block for block in content[_served_from(content) :] if block.get("type") == "tool_use"]


def is_served_anew(block: Block) -> bool:
    """Whether another model goes on behind this block: nothing before it is answerable any more."""
    return block.get("type") == "fallback"


def _of_use(content: Sequence[Block]) -> Iterator[Block]:
    served_from = _served_from(content)
    answered = {block.get("tool_use_id") for block in content if "tool_use_id" in block}
    for place, block in enumerate(content):
        kind = block.get("type")
        is_unanswered = kind in _SERVER_CALLS and block.get("id") not in answered
        if place >= served_from or not (kind in _DECLINED or is_unanswered):
            yield block


def _served_from(content: Sequence[Block]) -> int:
    """Where the last `fallback` block stands; 0 if there is none."""
    return max((place for place, block in enumerate(content) if is_served_anew(block)), default=0)
