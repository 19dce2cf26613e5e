"""One session with one MCP server.

Owns: the SDK's client, and what its exceptions mean. Loop thread. The client lives in a task of its own, which enters
and leaves it; calls come from other tasks. Ending a session takes nothing from the calls that run in it: it closes when
the last of them is done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, cast

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    CallToolResult,
    Implementation,
    ListToolsResult,
    ToolListChangedNotification,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from gateway.config.mcp_servers import McpServer
from gateway.protocol.outcomes import ToolOutcome
from gateway.tools.mcp import wire
from gateway.tools.mcp.failures import CallFailed, NotExecuted, ServerTrouble
from gateway.tools.mcp.sifting import ListedTool, Sifter
from gateway.tools.tool_results import UNREADABLE

if TYPE_CHECKING:
    from mcp_types import RequestParamsMeta

log = logging.getLogger(__name__)

MOST_TOOLS = 10_000
_LISTEN_SECONDS = 10.0
_LISTEN_AGAIN_SECONDS = 5.0
_MOST_TOLD = 2_000  # characters of a server's own error message

_TROUBLES = {
    wire.Code.UNREACHABLE: "it cannot be reached",
    wire.Code.BROKEN_OFF: "the connection broke off",
    wire.Code.SESSION_UNKNOWN: "it does not know the session any more",
    wire.Code.TOO_SLOW: "it does not answer",
    wire.Code.TLS_FAILED: "the TLS handshake failed; is its certificate good, and its authority known here?",
    CONNECTION_CLOSED: "the session has ended",
    PARSE_ERROR: "its answer cannot be read",
    INVALID_REQUEST: "its answer is not what the protocol asks for",
    INTERNAL_ERROR: "it failed inside",
}

# These quote what servers send; no tool's arguments or results belong in a log at any level.
for _name in ("mcp", "client", "httpx2", "httpcore2"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


class Session:
    """A session that is to be opened once, and ended. `stale` is set when the tools should be listed again."""

    def __init__(self, server: McpServer, version: str) -> None:
        self._server = server
        self._version = version
        self._ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._may_close = asyncio.Event()
        self._is_ending = False
        self._calls = 0
        self._sifter = Sifter()
        self._task: asyncio.Task[None] | None = None
        self.stale = asyncio.Event()
        self.protocol = ""  # the revision that was agreed on

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be asked in it any more."""
        return self._task is not None and self._task.done()

    async def open(self) -> None:
        """Agree on a protocol with the server. Raises ServerTrouble."""
        self._task = asyncio.create_task(self._live(), name=f"mcp session {self._server.name}")
        try:
            await asyncio.shield(self._ready)
        except Exception as error:
            raise _trouble(error) from error

    async def tools(self) -> list[ListedTool]:
        """All tools of all pages, as the server has written them. Raises ServerTrouble."""
        found: list[ListedTool] = []
        cursors: set[str | None] = {None}
        page = await self._page(None)
        while True:
            found += self._sifter.tools_of(page)
            if len(found) > MOST_TOOLS:
                raise ServerTrouble(f"it lists more than {MOST_TOOLS} tools")
            if page.next_cursor is None:
                return found
            if page.next_cursor in cursors:
                raise ServerTrouble("its list of tools repeats itself")
            cursors.add(page.next_cursor)
            page = await self._page(page.next_cursor)

    async def _page(self, cursor: str | None) -> ListToolsResult:
        try:
            return await self._ready.result().list_tools(cursor=cursor)
        except Exception as error:
            raise _trouble(error) from error

    async def call(self, tool: str, arguments: Mapping[str, Any], context: Mapping[str, str]) -> CallToolResult:
        """Call a tool; its trace's context goes where servers look for it, in `_meta`.

        Raises NotExecuted, other ServerTrouble, and CallFailed.
        """
        self._calls += 1
        try:
            meta = cast("RequestParamsMeta", dict(context)) if context else None
            return await self._ready.result().call_tool(tool, dict(arguments), meta=meta)
        except MCPError as error:
            if error.code in _TROUBLES or error.code >= wire.Code.STATUS:
                raise _trouble(error) from error
            raise CallFailed(ToolOutcome.ERROR, f"The tool failed: {error.message[:_MOST_TOLD]}") from error
        except (ValueError, RuntimeError) as error:  # pydantic's errors are ValueErrors
            raise CallFailed(ToolOutcome.FAILED, UNREADABLE) from error
        finally:
            self._calls -= 1
            self._close_if_idle()

    def end(self) -> None:
        """No further calls; the session is closed when the running ones are done."""
        self._is_ending = True
        self._close_if_idle()

    async def closed(self) -> None:
        """Wait until it is closed."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def abandon(self) -> None:
        """Drop a session that could not be opened."""
        if self._task is not None:
            self._task.cancel()

    def _close_if_idle(self) -> None:
        if self._is_ending and not self._calls:
            self._may_close.set()

    async def _live(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                http = await stack.enter_async_context(wire.client(self._server, self.stale.set, self._sifter))
                client = await stack.enter_async_context(self._client(http))
                self.protocol = client.protocol_version
                self._ready.set_result(client)
                await self._until_closing(client)
        except Exception as error:  # noqa: BLE001  # whatever ends it, the keeper opens another
            log.debug("mcp server %s: the session has ended: %s", self._server.name, type(error).__name__)
            if not self._ready.done():
                self._ready.set_exception(error)
        finally:
            if not self._ready.done():
                self._ready.set_exception(ServerTrouble("the session has ended"))
            self._ready.exception()  # it may be that nobody waits for it, and asyncio would complain
            self.stale.set()

    def _client(self, http: httpx2.AsyncClient) -> Client:
        transport = streamable_http_client(
            self._server.url, http_client=http, max_sse_event_size=wire.LARGEST_ANSWER_BYTES
        )
        return Client(
            transport,
            client_info=Implementation(name="messages-gateway", version=self._version),
            message_handler=self._heard,
            cache=None,  # the keeper decides when to ask
        )

    async def _until_closing(self, client: Client) -> None:
        """Meanwhile, from servers of the newest protocol, hear of changes; others send their notifications anyway."""
        tools = client.server_capabilities.tools
        if client.protocol_version not in MODERN_PROTOCOL_VERSIONS or tools is None or not tools.list_changed:
            await self._may_close.wait()
            return
        listener = asyncio.create_task(self._listen(client))
        try:
            await self._may_close.wait()
        finally:
            listener.cancel()
            await asyncio.wait([listener])

    async def _listen(self, client: Client) -> None:
        while True:
            async with AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(_LISTEN_SECONDS):
                        changes = await stack.enter_async_context(client.listen(tools_list_changed=True))
                    async for _ in changes:
                        self.stale.set()
                except MCPError as error:
                    if error.code == METHOD_NOT_FOUND:
                        return
                except (RuntimeError, TimeoutError):
                    pass  # the subscription is lost, which the next lines answer
            self.stale.set()
            await asyncio.sleep(_LISTEN_AGAIN_SECONDS)

    async def _heard(self, message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            self.stale.set()


def _trouble(error: BaseException) -> ServerTrouble:
    """What an exception of the SDK's says of the server, in words of the gateway's."""
    if isinstance(error, ServerTrouble):
        return error
    if isinstance(error, MCPError):
        if error.code >= wire.Code.STATUS:
            return ServerTrouble(f"it answers with status {error.code - wire.Code.STATUS}")
        words = _TROUBLES.get(error.code, f"it answers with error {error.code}")
        is_untouched = error.code in (wire.Code.UNREACHABLE, wire.Code.TLS_FAILED, wire.Code.SESSION_UNKNOWN)
        return NotExecuted(words) if is_untouched else ServerTrouble(words)
    if isinstance(error, BaseExceptionGroup):
        return _trouble(error.exceptions[0])
    if isinstance(error, ValueError | RuntimeError):  # pydantic's errors are ValueErrors
        return ServerTrouble("its answer is not what the protocol asks for")
    return ServerTrouble(f"{type(error).__name__}")
