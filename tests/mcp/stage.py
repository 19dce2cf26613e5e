"""A real gateway with MCP servers, before a simulated upstream, and the official SDK as its client."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import anthropic

from gateway.simulator import Simulator
from tests.harness import GatewayProcess, wait_until

KEY = "sk-sim-tools"
MODEL = "claude-sonnet-5-5"
OWN_TOOL = {"name": "own", "description": "The client's.", "input_schema": {"type": "object"}}


class ToolStage:
    """A gateway whose TOML file has these servers: tables of TOML values, by the servers' names."""

    def __init__(self, folder: Path, arguments: Sequence[str] = (), must_start: bool = True, **more: Any) -> None:
        servers = {name: value for name, value in more.items() if isinstance(value, dict)}
        self._file = folder / "gateway.toml"
        self.write(**servers)
        self.simulator = Simulator(keys={KEY: "ok"})
        self.simulator.start()
        settings = {name: str(value) for name, value in more.items() if name not in servers}
        try:
            self.gateway = GatewayProcess(
                self.simulator.url, [f"k={KEY}"], arguments, must_start, config=str(self._file), **settings
            )
        except BaseException:
            self.simulator.stop()
            raise

    def __enter__(self) -> ToolStage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.gateway.stop()
        finally:
            self.simulator.stop()

    def write(self, **servers: dict[str, Any]) -> None:
        """Write the TOML file: what JSON writes of texts, numbers and lists is TOML as well."""
        lines = []
        for name, members in servers.items():
            lines += ["[[mcp_servers]]", f'name = "{name}"']
            lines += [f"{member} = {_toml(value)}" for member, value in members.items()]
        self._file.write_text("\n".join(lines) + "\n")

    def reload(self) -> None:
        """SIGHUP, and wait until it is in force."""
        before = self.gateway.log.count("configuration reloaded")
        self.gateway.send_signal(signal.SIGHUP)
        assert wait_until(lambda: self.gateway.log.count("configuration reloaded") > before, 30), self.gateway.log

    def script(self, *turns: str) -> None:
        """What the upstream answers to the next requests, one after the other."""
        self.simulator.script(KEY, " then ".join(turns))
        self.simulator.clear_requests()

    def ask(
        self, is_streaming: bool, *, tools: Sequence[dict[str, Any]] = (OWN_TOOL,), **more: Any
    ) -> anthropic.types.Message:
        """One request by the official SDK, with `more` of its parameters.

        Streamed, its own helper says what the final message is.
        """
        request: dict[str, Any] = {
            "model": MODEL,
            "max_tokens": 256,
            "messages": [{"role": "user", "content": "What now?"}],
            "tools": list(tools),
        } | more
        with anthropic.Anthropic(base_url=self.gateway.url, api_key="any", max_retries=0, timeout=60) as client:
            if not is_streaming:
                return client.messages.create(**request)
            with client.messages.stream(**request) as stream:
                return stream.get_final_message()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What the upstream was asked since the script was set."""
        return [json.loads(request.body) for request in self.simulator.requests]

    def offered(self) -> list[str]:
        """The names of the tools that the upstream sees in a request of a client without any."""
        self.script("ok")
        self.ask(False, tools=())
        return [tool["name"] for tool in self.bodies[0].get("tools", ())]

    def is_up(self, server: str) -> bool:
        """Whether the metric says so."""
        return self.gateway.metric("mcp_server_up", server=server) == 1


def uses(tool: str, **arguments: object) -> str:
    """An upstream's answer that calls a tool."""
    return f"tool_use:name={tool},input={json.dumps(arguments)}"


def says(text: str) -> str:
    """An upstream's answer that ends a request."""
    return f"ok:text={text}"


def result_in(body: dict[str, Any]) -> dict[str, Any]:
    """The tool's result in a request's last message."""
    (block,) = body["messages"][-1]["content"]
    assert block["type"] == "tool_result"
    return dict(block)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{name}" = {_toml(inner)}' for name, inner in value.items()) + " }"
    return json.dumps(value)
