"""What goes wrong with MCP servers: a trouble as in troubles.py."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from tests.e2e.clients import Client, message_body
from tests.e2e.troubles import Trouble
from tests.mcp.servers import FaultServer


class BrokenTools(Trouble):
    """One MCP server is killed, and another's tool takes longer than its time limit."""

    job = "tools"
    alerts: ClassVar = {"GatewayMcpServerDown", "GatewayToolFailures"}

    def __init__(self, folder: Path) -> None:
        self._file = folder / "gateway.toml"
        self._servers = {name: FaultServer(folder) for name in ("good", "gone")}
        for server in self._servers.values():
            server.start()
        self._write(timeout_seconds=1)
        self._are_slow = False
        self._waiting = ExitStack()
        super().__init__(folder)
        self._let_models_call("echo", text="hello")

    def settings(self) -> dict[str, object]:
        return {"config": self._file}

    def begin(self) -> None:
        self._servers["gone"].kill()
        self._let_models_call("slow", seconds=60)
        self._are_slow = True

    def tick(self) -> None:
        if self._are_slow:
            client = self._waiting.enter_context(Client(self.fleet.gateway.url))
            client.send(message_body(True))
        else:
            super().tick()

    def mend(self) -> None:
        self._servers["gone"].start()
        self._write(timeout_seconds=2)  # another setting, so that both are asked at once
        self.fleet.reload()
        self._are_slow = False
        self._waiting.close()
        self._let_models_call("echo", text="hello")

    def stop(self) -> None:
        self._waiting.close()
        super().stop()
        for server in self._servers.values():
            server.stop()

    def _let_models_call(self, tool: str, **arguments: object) -> None:
        call = f"tool_use:name=bmcp_good_{tool},input={json.dumps(arguments)}"
        self.keys.play(*[" then ".join([call, "ok"] * 1000)] * self.key_count)

    def _write(self, timeout_seconds: int) -> None:
        tables = (
            f'[[mcp_servers]]\nname = "{name}"\nurl = "{server.url}"\ntimeout_seconds = {timeout_seconds}\n'
            for name, server in self._servers.items()
        )
        self._file.write_text("".join(tables))
