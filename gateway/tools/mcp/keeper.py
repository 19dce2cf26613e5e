"""Keeps one MCP server's session up and its list of tools fresh.

Owns: whether the server is up, what it offers, and when it is asked again. Loop thread. A server that is down is asked
again after a growing pause, and its tools are absent meanwhile. What changes is logged and counted here, once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from mcp_types import CallToolResult

from gateway.config.mcp_servers import McpServer
from gateway.protocol.outcomes import ToolOutcome
from gateway.runtime.background import Troubles
from gateway.tools.mcp.budget import NOTHING, Listing, ToolLimits
from gateway.tools.mcp.failures import CallFailed, NotExecuted, ServerTrouble
from gateway.tools.mcp.listing import listing
from gateway.tools.mcp.meter import ServerMetrics
from gateway.tools.mcp.session import Session
from gateway.tools.mcp.teller import Teller

log = logging.getLogger(__name__)

OPENING_SECONDS = 30.0
_SHORTEST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_SHORTEST_LIFE_SECONDS = 1.0  # of a session, lest it counts as a failure if the one before was short-lived, too
_BETWEEN_LISTINGS_SECONDS = 0.5
_random = random.SystemRandom()


class Keeper:
    """One server's keeper. `refresh_seconds` is how old its tools may be, `limits` say how large.

    `on_change` is called when they change.
    """

    def __init__(
        self,
        server: McpServer,
        version: str,
        refresh_seconds: float,
        limits: ToolLimits,
        metrics: ServerMetrics,
        on_change: Callable[[], None],
    ) -> None:
        self.server = server
        self._version = version
        self.refresh_seconds = refresh_seconds
        self._limits = limits
        self._metrics = metrics
        self._on_change = on_change
        self._session: asyncio.Future[Session | None] = asyncio.get_running_loop().create_future()
        self._tended: Session | None = None
        self._is_lost = False
        self._is_up: bool | None = None  # None until it has answered, or failed to
        self._offered = NOTHING
        self._teller = Teller(f"mcp server {server.name}")
        self._troubles = Troubles(f"the keeper of mcp server {server.name}")
        self.has_answered = asyncio.Event()
        metrics.mcp_server_up.labels(server.name).set(0)
        self._task = asyncio.create_task(self._keep(), name=f"mcp keeper {server.name}")

    @property
    def offered(self) -> Listing:
        """What the server offers now: nothing while it is down."""
        return self._offered

    def lacks(self, tool: str) -> bool:
        """Whether the server is up and does not offer this tool."""
        return bool(self._is_up) and all(offered.tool != tool for offered in self._offered.tools)

    async def call(self, tool: str, arguments: Mapping[str, Any], context: Mapping[str, str]) -> CallToolResult:
        """Call a tool; once more, in a new session, if it is certain that the server has not acted on the first call.

        Raises CallFailed.
        """
        try:
            session = await self._current()
            try:
                return await session.call(tool, arguments, context)
            except NotExecuted:
                self._lose(session)
                return await (await self._current()).call(tool, arguments, context)
        except ServerTrouble as error:
            self.suspect()
            raise CallFailed(ToolOutcome.FAILED, f"The tool's server cannot be used now: {error}.") from error

    def suspect(self) -> None:
        """Look soon whether the server still answers."""
        if self._tended is not None:
            self._tended.stale.set()

    def limit(self, limits: ToolLimits) -> None:
        """Put other limits in force: the tools are listed again if they differ."""
        if limits != self._limits:
            self._limits = limits
            self.suspect()

    async def stop(self) -> None:
        """Keep it no longer; returns when its session is closed, which is when its last call is done."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._tended is not None:
            self._tended.end()
            await self._tended.closed()

    async def _current(self) -> Session:
        session = await asyncio.shield(self._session)
        if session is None:
            raise ServerTrouble("it is down")
        return session

    def _lose(self, session: Session) -> None:
        """A session has turned out to be gone; calls wait until it is known whether there is another."""
        if self._session.done() and self._session.result() is session:
            self._session = asyncio.get_running_loop().create_future()
            self._is_lost = True
            session.stale.set()

    async def _keep(self) -> None:
        """Keep it, whatever fails here: a keeper that ended would never bring its server back."""
        while True:
            try:
                await self._keep_up()
            except Exception as error:  # noqa: BLE001  # told without its words, which may be a server's
                told = RuntimeError(f"{type(error).__name__} in the gateway").with_traceback(error.__traceback__)
                pause_seconds = self._troubles.failed(told)
                if self._tended is not None:
                    self._lose(self._tended)
                    self._tended.end()
                await asyncio.sleep(pause_seconds)

    async def _keep_up(self) -> None:
        failures, short_lives = 0, 0
        while True:
            session = Session(self.server, self._version)
            try:
                offered = await self._opened(session)
            except Exception as error:  # noqa: BLE001  # whatever it is, the server cannot be used
                failures += 1
                self._went_down(error)
                await asyncio.sleep(_pause_seconds(failures))
                continue
            failures = 0
            self._went_up(session, offered)
            self._troubles.worked()
            is_short = await self._tend(session) < _SHORTEST_LIFE_SECONDS
            self._lose(session)
            session.end()
            short_lives = short_lives + 1 if is_short else 0
            if short_lives > 1:  # else sessions would be opened in a whirl
                self._went_down(ServerTrouble("its sessions do not last"))
                await asyncio.sleep(_pause_seconds(short_lives))

    async def _opened(self, session: Session) -> Listing:
        """Open a session and list its tools. Raises ServerTrouble, with the session dropped."""
        self._is_lost = False
        try:
            async with asyncio.timeout(OPENING_SECONDS):
                await session.open()
                return await self._listed(session)
        except TimeoutError:
            session.abandon()
            raise ServerTrouble("it does not answer") from None
        except BaseException:
            session.abandon()
            raise

    async def _listed(self, session: Session) -> Listing:
        tools = await session.tools()
        return await asyncio.to_thread(listing, self.server, tools, self._offered, self._limits)

    async def _tend(self, session: Session) -> float:
        """Keep the list fresh until another session is needed; how many seconds this one has lasted."""
        begun_at = asyncio.get_running_loop().time()
        await self._kept_fresh(session)
        return asyncio.get_running_loop().time() - begun_at

    async def _kept_fresh(self, session: Session) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.refresh_seconds):
                    await session.stale.wait()
            if self._is_lost or session.has_ended:
                return
            session.stale.clear()
            try:
                async with asyncio.timeout(OPENING_SECONDS):
                    self._offer(await self._listed(session))
            except Exception as error:  # noqa: BLE001  # whatever it is, a new session will show
                log.debug("mcp server %s: its tools could not be listed: %s", self.server.name, _why(error))
                self._metrics.mcp_listing_failures.labels(self.server.name).inc()
                return
            await asyncio.sleep(_BETWEEN_LISTINGS_SECONDS)

    def _went_up(self, session: Session, offered: Listing) -> None:
        self._tended = session
        if not self._is_up:
            log.info(
                "mcp server %s is up: %d tools, protocol %s", self.server.name, len(offered.tools), session.protocol
            )
            self._is_up = True
            self._metrics.mcp_server_up.labels(self.server.name).set(1)
        self._offer(offered)
        self._answer(session)

    def _went_down(self, error: Exception) -> None:
        self._metrics.mcp_listing_failures.labels(self.server.name).inc()
        if self._is_up is not False:
            log.warning(
                "mcp server %s is down: %s; its tools are not offered until it is back", self.server.name, _why(error)
            )
            self._is_up = False
            self._metrics.mcp_server_up.labels(self.server.name).set(0)
        self._offer(NOTHING)
        self._answer(None)

    def _offer(self, offered: Listing) -> None:
        if offered.tools != self._offered.tools:
            if self._offered.tools and offered.tools:
                log.info("mcp server %s has changed its tools: %d now", self.server.name, len(offered.tools))
            self._offered = offered
            self._on_change()
        if self._is_up:
            self._teller.tell(offered.refusals)

    def _answer(self, session: Session | None) -> None:
        """Let calls that wait for a session have this one, or know that there is none."""
        if self._session.done():
            self._session = asyncio.get_running_loop().create_future()
        self._session.set_result(session)
        self.has_answered.set()


def _why(error: Exception) -> str:
    """What may be logged of an error: only the gateway's own words, for others may quote what a server sent."""
    return str(error) if isinstance(error, ServerTrouble) else f"{type(error).__name__} in the gateway"


def _pause_seconds(failures: int) -> float:
    """How long to leave a server in peace; the workers do not all come back at once."""
    longest = min(_LONGEST_PAUSE_SECONDS, _SHORTEST_PAUSE_SECONDS * 2 ** min(failures, 10))
    return _random.uniform(longest / 2, longest)
