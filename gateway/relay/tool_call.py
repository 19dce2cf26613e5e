"""One call of a tool of the gateway's that the model asks for.

Owns: beginning it, waiting for it with the client in view, and telling how it ended, once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any

from gateway.protocol.json_values import to_json
from gateway.protocol.outcomes import ToolOutcome
from gateway.relay.pace import Output, Pace, with_pings
from gateway.runtime.pause import READABLE, Pause, is_ready
from gateway.telemetry.observer import Observer
from gateway.telemetry.spans import NO_TOOL_SPAN
from gateway.tools.injection import tool_result
from gateway.tools.splicer import ToolUse
from gateway.tools.toolbox import InjectedTool, Toolbox, ToolCall, ToolResult
from gateway.upstream.watch import Watch


class RequestedCall:
    """A call that runs from now on. `tool` is None if there is none of that name. Whoever makes it closes it."""

    def __init__(
        self, use: ToolUse, tool: InjectedTool | None, toolbox: Toolbox, observer: Observer, clock: Callable[[], float]
    ) -> None:
        self._use = use
        self._tool = tool
        self._observer = observer
        self._clock = clock
        self._begun_at = clock()
        self._span = NO_TOOL_SPAN
        self._running: ToolCall | None = None
        self._result: ToolResult | None = None
        self._is_closed = False
        if tool is None:
            self._result = _said(ToolOutcome.UNKNOWN, f"There is no tool named {use.name}.")
        elif use.input is None:
            self._result = _said(ToolOutcome.INVALID_INPUT, "The input is not a JSON object; the tool was not called.")
        else:
            self._span = observer.trace.tool_call(tool.server, tool.tool)
            self._running = toolbox.begin(tool, use.input, self._span.headers)

    def result(self, watch: Watch, pace: Pace) -> Generator[Output, None, dict[str, Any]]:
        """Wait for the block that answers the call, with pings to a client whose stream has begun.

        Raises ClientGone, Stopping.
        """
        if self._running is not None and self._result is None:
            yield from with_pings(_ended(self._running, watch), pace)
            self._result = self._running.result()
        assert self._result is not None  # there is one from the beginning, or it has been waited for
        return tool_result(self._use, self._result.content, self._result.is_error)

    def close(self) -> None:
        """Cancel it if it still runs, and tell how it ended; may be called again."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._running is not None:
            self._running.close()
        outcome, result_bytes = ToolOutcome.CANCELLED, None
        if self._result is not None:
            outcome, result_bytes = self._result.outcome, len(to_json(list(self._result.content)))
        self._span.end(outcome)
        seconds = self._clock() - self._begun_at
        self._observer.tool_called(self._use.id, self._tool, outcome, seconds, result_bytes)


def _ended(call: ToolCall, watch: Watch) -> Generator[Pause, None, None]:
    while not is_ready(call.fileno(), READABLE):
        yield from watch.wait(call.fileno(), READABLE, math.inf)


def _said(outcome: ToolOutcome, text: str) -> ToolResult:
    return ToolResult(outcome, [{"type": "text", "text": text}])
