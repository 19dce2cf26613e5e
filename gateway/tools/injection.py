"""A request to which tools of the gateway's are added, and what is added to it turn by turn.

Owns: which requests get them, and the rewriting of the body. Pure; values. Only what must change is written anew:
every other member of the body, its order, its spelling, and the client's messages stay as they came, for prompt
caches and the signatures of thinking depend on them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.protocol.headers import Headers
from gateway.protocol.json_members import (
    Members,
    last_member,
    members_of,
    object_with,
    with_member,
    without_member,
    written,
)
from gateway.protocol.json_values import to_json
from gateway.tools.splicer import ToolUse
from gateway.tools.taken_back import taken_back

PREFIX = "bmcp_"
# A thinking block is bound to the tools and messages before it, and the client's history lacks what was done behind its
# back: https://platform.claude.com/docs/en/build-with-claude/preserved-thinking/fix-bound-to-a-different-conversation
_BINDING = {"prefix_mismatch_behavior": "drop_block"}
_BINDING_BETA = "thinking-binding-controls-2026-08-01"
_BETA_HEADER = "anthropic-beta"
_THINKS = ("enabled", "adaptive")


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A Messages request with the gateway's tools in it. `own_names` are the names of the client's tools.

    `beta` is a beta that the request needs beside those that the client asks for.
    """

    members: Members = field(repr=False)
    own_names: frozenset[str]
    beta: str | None = None

    def body(self) -> bytes:
        """The request body as JSON."""
        return written(self.members).encode()

    def headers(self, headers: Headers) -> Headers:
        """The client's headers, and what goes with this body."""
        if self.beta is None:
            return headers
        asked = [value for name, value in headers if name == _BETA_HEADER]
        if any(self.beta == beta.strip() for value in asked for beta in value.split(",")):
            return headers
        rest = [(name, value) for name, value in headers if name != _BETA_HEADER]
        return [*rest, (_BETA_HEADER, ",".join([*filter(str.strip, asked), self.beta]))]

    def is_ours(self, name: str) -> bool:
        """Whether a tool of that name is the gateway's: by its form, for models also call what was never offered."""
        return name.startswith(PREFIX) and name not in self.own_names

    def continued(
        self,
        content: Sequence[Mapping[str, Any]],
        results: Sequence[Mapping[str, Any]],
        container_id: str | None = None,
    ) -> ToolRequest:
        """The request of the next turn: what the model said, and the results of all its calls, in one message.

        `container_id` names the container in which the model's code runs. A `fallback_credit_token` pays for the first
        turn alone: it is refused with any other body
        (https://platform.claude.com/docs/en/build-with-claude/fallback-credit).
        """
        added = (
            to_json({"role": "assistant", "content": taken_back(content)})
            + b","
            + to_json({"role": "user", "content": results})
        )
        messages = last_member(self.members, "messages")
        before = messages.value_text[:-1].rstrip() if messages is not None else "["
        members = without_member(self.members, "fallback_credit_token")
        members = with_member(members, "messages", f"{before}{'' if before == '[' else ','}{added.decode()}]")
        if container_id is not None:
            members = with_member(members, "container", _container(members, container_id))
        return replace(self, members=members)

    def without_tools(self) -> ToolRequest:
        """The same, but the model must answer without calling any."""
        return replace(self, members=with_member(self.members, "tool_choice", '{"type":"none"}'))


def inject(body: bytes, definitions: Sequence[Mapping[str, Any]], allows_parallel: bool) -> ToolRequest | None:
    """The request with these tools before the client's own; None if it is to be left alone.

    That is a request whose `tool_choice` is `none` or names a tool, or is `any` without there being a tool of the
    client's; one that goes on with a thread of the API's, which keeps the tools it began with; and one that is not of
    the form known here, which is the upstream's to judge. A tool whose name the client uses for one of its own is not
    added. Parallel use is switched off unless it is allowed, or a tool of the client's may be called from code, where
    the API does not take that (https://platform.claude.com/docs/en/agents-and-tools/tool-use/programmatic-tool-calling).
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
    if not offered or not _leaves_open(choice, bool(tools)) or not _begins(given.get("thread")):
        return None
    own_text = last_member(members, "tools")
    texts = [to_json(definition).decode() for definition in offered]
    if own_text is not None and tools:
        texts.append(own_text.value_text[1:-1].strip())
    # The API would keep the turns that the client does not see in the thread, and the client could not go on with it.
    members = with_member(without_member(members, "thread"), "tools", f"[{','.join(texts)}]")
    if not allows_parallel and not any(map(_may_be_called_from_code, tools or ())):
        once = {"type": "auto"} | (choice or {}) | {"disable_parallel_tool_use": True}
        members = with_member(members, "tool_choice", to_json(once).decode())
    beta = None
    if _needs_binding(given.get("thinking")):
        members, beta = _with_binding(members), _BINDING_BETA
    return ToolRequest(tuple(replace(member, value=None) for member in members), own_names, beta)


def tool_result(use: ToolUse, content: Sequence[Mapping[str, Any]], is_error: bool) -> dict[str, Any]:
    """The block that answers a call (https://docs.claude.com/en/docs/agents-and-tools/tool-use/implement-tool-use)."""
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": use.id, "content": list(content)}
    return block | {"is_error": True} if is_error else block


def _leaves_open(choice: Any, has_own_tools: bool) -> bool:
    """Whether a `tool_choice` lets the model choose among all tools."""
    if choice is None:
        return True
    if not isinstance(choice, dict):
        return False
    return choice.get("type") == "auto" or (choice.get("type") == "any" and has_own_tools)


def _begins(thread: Any) -> bool:
    """Whether a request brings its whole conversation: it has no `thread`, or begins one."""
    return thread is None or (isinstance(thread, dict) and thread.get("type") == "create")


def _may_be_called_from_code(tool: Any) -> bool:
    callers = tool.get("allowed_callers") if isinstance(tool, dict) else None
    return isinstance(callers, list) and any(caller != "direct" for caller in callers)


def _needs_binding(thinking: Any) -> bool:
    """Whether the model thinks, and the client has not said what becomes of thoughts that do not fit."""
    if not isinstance(thinking, dict) or thinking.get("type") not in _THINKS:
        return False
    binding = thinking.get("block_binding")
    return binding is None or (isinstance(binding, dict) and binding.get("prefix_mismatch_behavior") is None)


def _with_binding(members: Members) -> Members:
    thinking = last_member(members, "thinking")
    assert thinking is not None  # it is what asks for this
    binding = (thinking.value.get("block_binding") or {}) | _BINDING
    return with_member(
        members, "thinking", object_with(thinking.value_text, "block_binding", to_json(binding).decode())
    )


def _container(members: Members, container_id: str) -> str:
    """The `container` of a request: the id alone, or in the object that the client sent, beside its skills."""
    identity = to_json(container_id).decode()
    asked = last_member(members, "container")
    if asked is None or not isinstance(json.loads(asked.value_text), dict):
        return identity
    return object_with(asked.value_text, "id", identity)
