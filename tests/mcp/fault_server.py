"""An MCP server that does what tests ask of it: `python -m tests.mcp.fault_server PORT JOURNAL`.

Built with the official SDK, so it speaks the newest protocol revision and those before it. What it executes it writes
to the journal, a line for each begin and end of a call, so that a test can tell whether a call was made, made twice, or
cancelled.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from pathlib import Path

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import AudioContent, CallToolResult, ImageContent, ResourceLink, TextContent

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


def build(journal: Path) -> MCPServer:
    """The server; `journal` is appended to."""
    server = MCPServer("faults")
    _add_calls(server, journal)
    _add_contents(server)
    return server


def _add_calls(server: MCPServer, journal: Path) -> None:
    def note(line: str) -> None:
        with journal.open("a") as file:
            file.write(line + "\n")

    @server.tool()
    def echo(text: str) -> CallToolResult:
        """Say it again."""
        note(f"echo {text}")
        return CallToolResult(content=[TextContent(type="text", text=text)])

    @server.tool()
    def add(a: int, b: int) -> int:
        """The sum, as structured content too."""
        note(f"add {a} {b}")
        return a + b

    @server.tool()
    async def slow(seconds: float) -> str:
        """Take so long."""
        note("slow begins")
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            note("slow cancelled")
            raise
        note("slow ends")
        return "at last"

    @server.tool()
    def die() -> str:
        """End the server in mid-call."""
        note("die")
        os._exit(1)

    @server.tool()
    def fail() -> str:
        """Fail, in the tool's own words."""
        raise ToolError("no kumquat left")

    @server.tool()
    async def grow(name: str, ctx: Context) -> str:
        """Offer one more tool, and say so."""
        server.add_tool(lambda: f"I am {name}", name=name, description="One more.")
        await ctx.notify_tools_changed()
        return "grown"


def _add_contents(server: MCPServer) -> None:
    @server.tool()
    def show() -> CallToolResult:
        """Something to see, and somewhere to look."""
        link = ResourceLink(type="resource_link", name="manual", uri="file:///manual.txt")
        image = ImageContent(type="image", data=PIXEL, mime_type="image/png")
        return CallToolResult(content=[TextContent(type="text", text="Look:"), image, link])

    @server.tool()
    def sing() -> CallToolResult:
        """Something to hear."""
        data = base64.b64encode(b"la la la").decode()
        return CallToolResult(content=[AudioContent(type="audio", data=data, mime_type="audio/wav")])

    @server.tool()
    def long(size: int) -> CallToolResult:
        """So many characters."""
        return CallToolResult(content=[TextContent(type="text", text="x" * size)])


def main() -> None:
    """Serve on a port until killed."""
    port, journal = int(sys.argv[1]), Path(sys.argv[2])
    app = build(journal).streamable_http_app()
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
