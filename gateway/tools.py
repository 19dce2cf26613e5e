"""A request to which tools of the gateway's are added, and what is added to it turn by turn.

Owns: which requests get them, and the rewriting of the body. Pure; values. Only what must change is written anew:
every other member of the body, its order, its spelling, and the client's messages stay as they came, for prompt
caches and the signatures of thinking depend on them. So the members are found as texts, by the standard library's
decoder, which takes what clients send (half surrogate pairs, names given twice) and says where each value ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.json_values import to_json
from gateway.splice import ToolUse

PREFIX = "bmcp_"
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a JSON object: its name and value, and both as they are written."""

    name: str
    value: Any = field(repr=False)
    name_text: str = field(repr=False)
    value_text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A Messages request with the gateway's tools in it. `own_names` are the names of the client's tools."""

    members: tuple[Member, ...] = field(repr=False)
    own_names: frozenset[str]

    def body(self) -> bytes:
        """The request body as JSON."""
        members = ",".join(f"{member.name_text}:{member.value_text}" for member in self.members)
        return f"{{{members}}}".encode()

    def is_ours(self, name: str) -> bool:
        """Whether a tool of that name is the gateway's: by its form, for models also call what was never offered."""
        return name.startswith(PREFIX) and name not in self.own_names

    def continued(self, content: Iterable[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]) -> ToolRequest:
        """The request of the next turn: what the model said, and the results of all its calls, in one message."""
        added = (
            to_json({"role": "assistant", "content": _as_taken_back(content)})
            + b","
            + to_json({"role": "user", "content": results})
        )
        messages = _last(self.members, "messages")
        before = messages.value_text[:-1].rstrip() if messages is not None else "["
        return self._with("messages", f"{before}{'' if before == '[' else ','}{added.decode()}]")

    def without_tools(self) -> ToolRequest:
        """The same, but the model must answer without calling any."""
        return self._with("tool_choice", '{"type":"none"}')

    def _with(self, name: str, value_text: str) -> ToolRequest:
        return replace(self, members=_with(self.members, name, value_text))


def inject(body: bytes, definitions: Sequence[Mapping[str, Any]], allows_parallel: bool) -> ToolRequest | None:
    """The request with these tools before the client's own; None if it is to be left alone.

    That is a request whose `tool_choice` is `none` or names a tool, or is `any` without there being a tool of the
    client's; and one that is not of the form known here, which is the upstream's to judge. A tool whose name the
    client uses for one of its own is not added. Parallel use is switched off unless it is allowed.
    """
    members = members_of(body)
    if members is None:
        return None
    given = {member.name: member.value for member in members}
    tools, choice = given.get("tools"), given.get("tool_choice")
    if not isinstance(given.get("messages"), list) or not isinstance(tools, list | None):
        return None
    own_names = frozenset(str(tool.get("name")) for tool in tools or () if isinstance(tool, dict))
    offered = [definition for definition in definitions if definition["name"] not in own_names]
    if not offered or not _leaves_open(choice, bool(tools)):
        return None
    own_text = _last(members, "tools")
    texts = [to_json(definition).decode() for definition in offered]
    if own_text is not None and tools:
        texts.append(own_text.value_text[1:-1].strip())
    members = _with(members, "tools", f"[{','.join(texts)}]")
    if not allows_parallel:
        once = {"type": "auto"} | (choice or {}) | {"disable_parallel_tool_use": True}
        members = _with(members, "tool_choice", to_json(once).decode())
    return ToolRequest(tuple(replace(member, value=None) for member in members), own_names)


def _as_taken_back(content: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What the model said, as the API takes it back: without empty texts, though models write them.

    Beside thinking a space stands for such a text: models part thinking blocks by them, and the signatures do not hold
    in other places (https://github.com/anomalyco/opencode/pull/21370).
    """
    blocks = list(content)
    has_thinking = any(block.get("type") in ("thinking", "redacted_thinking") for block in blocks)
    taken: list[Mapping[str, Any]] = []
    for block in blocks:
        if block.get("type") != "text" or block.get("text") != "":
            taken.append(block)
        elif has_thinking:
            taken.append({**block, "text": " "})
    return taken


def tool_result(use: ToolUse, content: Sequence[Mapping[str, Any]], is_error: bool) -> dict[str, Any]:
    """The block that answers a call (https://docs.claude.com/en/docs/agents-and-tools/tool-use/implement-tool-use)."""
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": use.id, "content": list(content)}
    return block | {"is_error": True} if is_error else block


def members_of(body: bytes) -> tuple[Member, ...] | None:
    """The members of the JSON object that a body is, in order; None if it is none."""
    try:
        text = body.decode()
        position = _past(text, 0, "{")
        members: list[Member] = []
        while text[position] != "}":
            if members:
                position = _past(text, position, ",")
            name, name_end = _DECODER.raw_decode(text, position)
            start = _past(text, name_end, ":")
            value, end = _DECODER.raw_decode(text, start)
            members.append(Member(name, value, text[position:name_end], text[start:end]))
            position = _past(text, end, "")
    except (ValueError, IndexError, RecursionError):
        return None
    return tuple(members)


def _past(text: str, position: int, mark: str) -> int:
    """The position behind white space, this mark, and white space."""
    position = _SPACE.match(text, position).end()  # type: ignore[union-attr]  # it always matches
    if not text.startswith(mark, position):
        raise ValueError(f"{mark} was expected")
    return _SPACE.match(text, position + len(mark)).end()  # type: ignore[union-attr]


def _last(members: Sequence[Member], name: str) -> Member | None:
    """The member of that name; the last one, if there are several, as JSON's readers take it."""
    return next((member for member in reversed(members) if member.name == name), None)


def _with(members: tuple[Member, ...], name: str, value_text: str) -> tuple[Member, ...]:
    old = _last(members, name)
    if old is None:
        return (*members, Member(name, None, to_json(name).decode(), value_text))
    return tuple(replace(member, value_text=value_text) if member is old else member for member in members)


def _leaves_open(choice: Any, has_own_tools: bool) -> bool:
    """Whether a `tool_choice` lets the model choose among all tools."""
    if choice is None:
        return True
    if not isinstance(choice, dict):
        return False
    return choice.get("type") == "auto" or (choice.get("type") == "any" and has_own_tools)
