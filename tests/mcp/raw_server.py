"""An MCP server written out by hand, of the protocol revision with sessions, that can be wrong in every way.

Owns: one HTTP server in threads. What it answers to a JSON-RPC method may be replaced; what it was asked is recorded.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

SESSION = "session-"


@dataclass(frozen=True)
class Raw:
    """An answer as it goes out. `is_cut` ends the connection in its middle."""

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    is_cut: bool = False


Handler = Callable[[Mapping[str, Any]], Raw]


def result(request: Mapping[str, Any], value: object, **headers: str) -> Raw:
    """A JSON-RPC result."""
    return Raw(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": value}).encode(), headers=headers)


def error(request: Mapping[str, Any], code: int, message: str, status: int = 200) -> Raw:
    """A JSON-RPC error."""
    fault = {"code": code, "message": message}
    return Raw(json.dumps({"jsonrpc": "2.0", "id": request.get("id"), "error": fault}).encode(), status)


def texts(*lines: str) -> dict[str, Any]:
    """The result of a call that is these texts."""
    return {"content": [{"type": "text", "text": line} for line in lines]}


def tool(name: str, **schema: object) -> dict[str, Any]:
    """A tool as it is listed."""
    return {"name": name, "description": f"The tool {name}.", "inputSchema": {"type": "object", **schema}}


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that has hung up is none of a test's business."""


class RawMcpServer:
    """The server. `answers` holds what takes the place of the usual answers, by JSON-RPC method or `GET`, `DELETE`."""

    def __init__(self, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self.tools = list(tools)
        self.answers: dict[str, Handler] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.sessions = 0
        self._lock = threading.Lock()  # guards the count: several workers ask at once
        self.released = threading.Event()
        self._http = _Http(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/mcp"

    def __enter__(self) -> RawMcpServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)

    def asked(self, method: str) -> int:
        """How often it was asked this."""
        return sum(seen == method for seen, _ in self.seen)

    def hang(self, _: Mapping[str, Any]) -> Raw:
        """A handler that answers nothing before the server ends."""
        self.released.wait(60)
        return Raw(is_cut=True)

    def answer(self, method: str, request: Mapping[str, Any], headers: Mapping[str, str]) -> Raw:
        """What goes out for what came in."""
        self.seen.append((method, dict(headers)))
        if method in self.answers:
            return self.answers[method](request)
        return self.usual(method, request, headers.get("mcp-session-id", "none"))

    def usual(self, method: str, request: Mapping[str, Any], session: str | None = None) -> Raw:
        """What it answers unless a test has something else in mind; without a session, as if in the present one."""
        if method == "initialize":
            with self._lock:
                self.sessions += 1
                identity = f"{SESSION}{self.sessions}"
            hello = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {"listChanged": True}},
                "serverInfo": {"name": "raw", "version": "1"},
            }
            return result(request, hello, **{"mcp-session-id": identity})
        if method == "GET":
            return Raw(status=405)
        if method == "server/discover":
            return error(request, -32601, "unknown method", status=404)
        if session is not None and not session.startswith(SESSION):
            return error(request, -32600, "unknown session", status=404)
        if method == "tools/list":
            return result(request, {"tools": self.tools})
        if method == "tools/call":
            return result(request, texts(f"called {request['params']['name']}"))
        return Raw(status=202)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handling(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self._send(server.answer(request.get("method", "response"), request, self._named()))

            def do_GET(self) -> None:
                self._send(server.answer(self.command, {}, self._named()))

            do_DELETE = do_GET

            def _named(self) -> dict[str, str]:
                return {name.lower(): value for name, value in self.headers.items()}

            def _send(self, raw: Raw) -> None:
                self.send_response(raw.status)
                self.send_header("content-type", raw.content_type)
                self.send_header("content-length", str(len(raw.body) + raw.is_cut))
                for name, value in raw.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw.body)
                self.close_connection = self.close_connection or raw.is_cut

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handling
