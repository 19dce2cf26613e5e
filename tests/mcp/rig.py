"""A toolbox as a gateway has one, and calls of its tools as a request makes them."""

from __future__ import annotations

import select
from types import TracebackType

from gateway.config.mcp_servers import McpServer
from gateway.telemetry.metrics import Metrics
from gateway.tools.mcp.toolbox import McpToolbox, ToolSettings
from gateway.tools.toolbox import InjectedTool, ToolCall, ToolResult
from tests.harness import Samples, samples_of, wait_until

PATIENCE_SECONDS = 60.0


class ToolboxRig:
    """One toolbox over these servers, which have answered; `settings` are those of ToolSettings."""

    def __init__(self, *servers: McpServer, **settings: float) -> None:
        self.metrics = Metrics()
        self.toolbox = McpToolbox(self.metrics, "1.2.3")
        self.apply(*servers, **settings)
        self.toolbox.wait(PATIENCE_SECONDS)

    def __enter__(self) -> ToolboxRig:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.toolbox.close(PATIENCE_SECONDS)

    def apply(self, *servers: McpServer, **settings: float) -> None:
        """Put other settings in force."""
        self.toolbox.apply(ToolSettings(servers, **settings))  # type: ignore[arg-type]

    @property
    def names(self) -> list[str]:
        """The tools' names, as models see them."""
        return [tool.name for tool in self.toolbox.tools()]

    @property
    def samples(self) -> Samples:
        """What is counted."""
        return samples_of(self.metrics.render().decode())

    def is_up(self, server: str) -> bool:
        """Whether the metric says so."""
        return self.samples[("gateway_mcp_server_up", frozenset({("server", server)}))] == 1

    def failures(self, server: str) -> float:
        """How often its tools could not be listed."""
        return self.samples.get(("gateway_mcp_listing_failures_total", frozenset({("server", server)})), 0.0)

    def tool(self, name: str) -> InjectedTool:
        """The tool that its server calls so."""
        (found,) = [tool for tool in self.toolbox.tools() if tool.tool == name]
        return found

    def begin(self, tool: str, **arguments: object) -> ToolCall:
        """Begin a call of a tool, by its server's name for it."""
        return self.toolbox.begin(self.tool(tool), arguments, {})

    def call(self, tool: str, **arguments: object) -> ToolResult:
        """Call a tool and wait for its result."""
        return result_of(self.begin(tool, **arguments))

    def wait_for(self, *tools: str) -> None:
        """Wait until exactly these tools are offered, by their servers' names for them."""
        assert wait_until(lambda: sorted(tool.tool for tool in self.toolbox.tools()) == sorted(tools), 20), self.names


def is_ready(call: ToolCall, timeout_seconds: float) -> bool:
    """Whether a call's descriptor becomes readable in time."""
    poll = select.poll()
    poll.register(call.fileno(), select.POLLIN)
    return bool(poll.poll(timeout_seconds * 1000))


def result_of(call: ToolCall) -> ToolResult:
    """Wait for a call's result as a request does, and close it."""
    try:
        assert is_ready(call, PATIENCE_SECONDS)
        return call.result()
    finally:
        call.close()


def text_of(result: ToolResult) -> str:
    """A result's only text."""
    (block,) = result.content
    return str(block["text"])
