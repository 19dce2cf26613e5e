"""The injected tools, as the loop sees them: which there are now, and calls of them under way.

Owns: the words between the loop and whoever runs the tools. A protocol and values. A Toolbox is
thread-safe; a ToolCall belongs to whoever runs the request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.protocol.outcomes import ToolOutcome


@dataclass(frozen=True, slots=True)
class InjectedTool:
    """One tool that the gateway offers to models by itself.

    `name` is what the model sees, `bmcp_<server>_<tool>`; `definition` is the whole entry of a request's `tools` array
    (https://docs.claude.com/en/docs/agents-and-tools/tool-use/overview), its name included.
    """

    name: str
    server: str
    tool: str
    definition: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model gets to read: content blocks of a `tool_result`, as JSON values. They never go to a log."""

    outcome: ToolOutcome
    content: Sequence[Mapping[str, Any]] = field(repr=False)

    @property
    def is_error(self) -> bool:
        """Whether the block carries `is_error`."""
        return self.outcome is not ToolOutcome.OK


class ToolCall(Protocol):
    """A call under way. Whoever begins it closes it."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when the result is there, and stays so; never read from it."""
        ...

    def result(self) -> ToolResult:
        """The result, once `fileno` is readable. Never raises for what a tool or its server does."""
        ...

    def close(self) -> None:
        """Free the descriptor; a call that still runs is cancelled, at the server too. May be called again."""
        ...


class Toolbox(Protocol):
    """The tools of all servers that are up now."""

    def tools(self) -> Sequence[InjectedTool]:
        """All tools, sorted by name; costs nothing: no server is asked."""
        ...

    def begin(self, tool: InjectedTool, arguments: Mapping[str, Any], context: Mapping[str, str]) -> ToolCall:
        """Begin a call and return at once. It ends by itself within its server's time limit.

        `context` is what the call carries of its trace: W3C's `traceparent` and `tracestate`, or nothing.
        """
        ...
