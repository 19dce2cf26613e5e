"""The tools of all MCP servers: the synchronous face of an event loop in a thread of its own.

Owns: the thread, one keeper for each server, and the calls under way. Request threads ask it, and nothing
that they ask waits for a server. The thread is started with the first server, so never before a fork, and the SDK is
loaded in it: a gateway without servers has neither.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.config.mcp_servers import McpServer
from gateway.protocol.json_values import is_unicode
from gateway.protocol.outcomes import ToolOutcome
from gateway.runtime.background import BackgroundThread, GrowingPause
from gateway.tools.mcp.budget import ToolLimits, within_total
from gateway.tools.mcp.call import Call, failed
from gateway.tools.mcp.failures import CallFailed
from gateway.tools.mcp.meter import ServerMetrics
from gateway.tools.mcp.teller import Teller
from gateway.tools.tool_results import converted
from gateway.tools.toolbox import InjectedTool, ToolResult

if TYPE_CHECKING:
    from mcp_types import CallToolResult

    from gateway.tools.mcp.keeper import Keeper

log = logging.getLogger(__name__)

_THREAD_END_SECONDS = 1.0
_HALF_A_CHARACTER = "The input has half a character in it (a lone surrogate); the tool was not called."

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ToolSettings:
    """What the toolbox is told by a configuration: see the settings of these names."""

    servers: tuple[McpServer, ...] = ()
    refresh_seconds: float = 300.0
    result_max_bytes: int = 262144
    limits: ToolLimits = field(default_factory=ToolLimits)


class McpToolbox:
    """Implements `toolbox.Toolbox`. `version` is the gateway's, which servers are told."""

    def __init__(self, metrics: ServerMetrics, version: str) -> None:
        self._metrics = metrics
        self._version = version
        self._lock = threading.Lock()  # guards the start and the end of the thread
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: BackgroundThread | None = None
        self._has_ended = False
        self._settings = ToolSettings()
        self._offered: tuple[InjectedTool, ...] = ()
        # The loop's thread alone touches these.
        self._keepers: dict[str, Keeper] = {}
        self._teller = Teller("mcp servers")
        self._leaving: set[asyncio.Task[None]] = set()
        self._running: dict[Call, asyncio.Task[None]] = {}

    def tools(self) -> Sequence[InjectedTool]:
        """All tools of the servers that are up now, sorted by name."""
        return self._offered

    def begin(self, tool: InjectedTool, arguments: Mapping[str, Any], context: Mapping[str, str]) -> Call:
        """Begin a call and return at once."""
        call = Call(self._cancel)
        if not is_unicode(arguments):  # the SDK's session would end of it, and with it the calls of others
            call.settle(failed(ToolOutcome.INVALID_INPUT, _HALF_A_CHARACTER))
        elif not self._soon(lambda: self._begin(call, tool, arguments, context)):
            call.settle(failed(ToolOutcome.UNKNOWN, _unknown(tool)))
        return call

    def apply(self, settings: ToolSettings) -> None:
        """Put settings in force, without waiting: what runs on a server that is gone or changed runs on."""
        self._settings = settings
        self._metrics.mcp_servers = frozenset(server.name for server in settings.servers)
        if settings.servers or self._loop is not None:
            self._do(self._apply(settings))

    def wait(self, seconds: float) -> None:
        """Wait until every server has answered or failed to, but not longer than so many seconds."""
        if self._loop is not None and not self._do(self._answered(seconds)).result():
            log.warning("not all MCP servers have answered in %g s; their tools are added when they do", seconds)

    def close(self, seconds: float) -> None:
        """Cancel what runs and end all sessions, at the servers too, in so many seconds; then end the thread."""
        with self._lock:
            loop, self._has_ended = self._loop, True
        if loop is None or self._thread is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(self._ended(), loop).result(seconds)
        except TimeoutError:
            log.warning("not all sessions with MCP servers could be ended in %g s", seconds)
        self._thread.stop()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(_THREAD_END_SECONDS)

    def _do(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Have the loop do something; the thread is started for the first such thing."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._loop.set_exception_handler(_tell)
                self._thread = BackgroundThread(
                    "mcp", partial(_run, self._loop), at_end=partial(_close, self._loop), pause=GrowingPause(0.01, 1.0)
                )
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _apply(self, settings: ToolSettings) -> None:
        from gateway.tools.mcp.keeper import Keeper  # loads the SDK

        wanted = {server.name: server for server in settings.servers}
        for name, keeper in list(self._keepers.items()):
            keeper.refresh_seconds = settings.refresh_seconds
            keeper.limit(settings.limits)
            if wanted.get(name) != keeper.server:
                self._let_go(self._keepers.pop(name))
        for name, server in wanted.items():
            if name not in self._keepers:
                self._keepers[name] = Keeper(
                    server, self._version, settings.refresh_seconds, settings.limits, self._metrics, self._gather
                )
        self._gather()

    def _let_go(self, keeper: Keeper) -> None:
        leaving = asyncio.create_task(keeper.stop())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    def _gather(self) -> None:
        """The tools of some server have changed."""
        names = [server.name for server in self._settings.servers]
        offered = [self._keepers[name].offered for name in names if name in self._keepers]
        within = within_total(offered, self._settings.limits.total_bytes)
        found = [tool for listing in within for tool in listing.tools]
        self._offered = tuple(sorted(found, key=lambda tool: tool.name))
        left_out = zip(offered, within, strict=True)
        self._teller.tell([line for all_, kept in left_out for line in kept.refusals[len(all_.refusals) :]])

    async def _answered(self, seconds: float) -> bool:
        """Whether all servers have answered in that time, which begins when the SDK has been loaded."""
        try:
            async with asyncio.timeout(seconds):
                for keeper in list(self._keepers.values()):
                    await keeper.has_answered.wait()
        except TimeoutError:
            return False
        return True

    def _begin(self, call: Call, tool: InjectedTool, arguments: Mapping[str, Any], context: Mapping[str, str]) -> None:
        keeper = self._keepers.get(tool.server)
        if keeper is None or keeper.lacks(tool.tool):
            call.settle(failed(ToolOutcome.UNKNOWN, _unknown(tool)))
            return
        task = asyncio.create_task(self._perform(keeper, call, tool, arguments, context), name=f"mcp call {tool.name}")
        limit = asyncio.get_running_loop().call_later(keeper.server.timeout_seconds, self._run_out, call, keeper)
        self._running[call] = task
        task.add_done_callback(lambda _: self._performed(call, limit))

    async def _perform(
        self,
        keeper: Keeper,
        call: Call,
        tool: InjectedTool,
        arguments: Mapping[str, Any],
        context: Mapping[str, str],
    ) -> None:
        try:
            raw = await keeper.call(tool.tool, arguments, context)
        except CallFailed as error:
            call.settle(failed(error.outcome, error.told))
        except Exception as error:  # noqa: BLE001  # whatever it is, the request that waits must hear of it
            log.error("mcp server %s: a call failed inside: %s", tool.server, type(error).__name__)
            call.settle(failed(ToolOutcome.FAILED, "The tool could not be called."))
        else:
            limit_bytes = self._settings.result_max_bytes
            call.settle(lambda: _result(raw, limit_bytes))

    def _performed(self, call: Call, limit: asyncio.TimerHandle) -> None:
        limit.cancel()
        del self._running[call]

    def _run_out(self, call: Call, keeper: Keeper) -> None:
        """A call's time is over: say so, and then cancel it, which takes a while with a server that does not answer."""
        told = f"The tool did not answer in {keeper.server.timeout_seconds:g} seconds."
        call.settle(failed(ToolOutcome.TIMED_OUT, told))
        self._drop(call)
        keeper.suspect()

    def _cancel(self, call: Call) -> None:
        self._soon(lambda: self._drop(call))

    def _soon(self, work: Callable[[], None]) -> bool:
        """Have the loop do something at once, unless it does not run (any more)."""
        with self._lock:
            if self._loop is None or self._has_ended:
                return False
            self._loop.call_soon_threadsafe(work)
            return True

    def _drop(self, call: Call) -> None:
        task = self._running.get(call)
        if task is not None:
            task.cancel()

    async def _ended(self) -> None:
        for call in list(self._running):
            call.settle(failed(ToolOutcome.CANCELLED, "The gateway is stopping."))
            self._drop(call)
        for name in list(self._keepers):
            self._let_go(self._keepers.pop(name))
        self._gather()
        if self._leaving:
            await asyncio.wait(self._leaving)

    def __repr__(self) -> str:
        return f"<McpToolbox servers={len(self._settings.servers)} tools={len(self._offered)}>"


def _run(loop: asyncio.AbstractEventLoop) -> float:
    loop.run_forever()
    return 0.0


def _close(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def _unknown(tool: InjectedTool) -> str:
    return f"There is no tool {tool.name} now."


def _result(raw: CallToolResult, limit_bytes: int) -> ToolResult:
    """Make the result in the thread that asks for it: a large one takes its time."""
    made = converted(raw.model_dump(mode="json", by_alias=True, exclude_none=True), limit_bytes)
    return ToolResult(ToolOutcome.ERROR if made.is_error else ToolOutcome.OK, made.content)


def _tell(_: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """Log what went wrong in the loop by its name alone: an exception may quote what a server sent."""
    log.error("mcp: %s (%s)", context.get("message"), type(context.get("exception")).__name__)
