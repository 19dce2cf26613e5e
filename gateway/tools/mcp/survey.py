"""Asking all MCP servers once what they offer: for the operator's eyes.

Owns: one look at each server. It loads the SDK when it is imported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.config.mcp_servers import McpServer
from gateway.tools.mcp.budget import NOTHING, Listing, ToolLimits, within_total
from gateway.tools.mcp.failures import ServerTrouble
from gateway.tools.mcp.listing import listing
from gateway.tools.mcp.session import Session


@dataclass(frozen=True, slots=True)
class Finding:
    """One server: what it offers, and why that is nothing if it cannot be talked with."""

    server: McpServer
    listing: Listing = NOTHING
    protocol: str = ""
    trouble: str = ""


def survey(
    servers: Sequence[McpServer], version: str, seconds: float, limits: ToolLimits | None = None
) -> list[Finding]:
    """Ask all servers, at the same time, and give each so many seconds."""
    limits = limits or ToolLimits()

    async def ask_all() -> list[Finding]:
        return await asyncio.gather(*(_asked(server, version, seconds, limits) for server in servers))

    findings = asyncio.run(ask_all())
    within = within_total([finding.listing for finding in findings], limits.total_bytes)
    return [replace(finding, listing=offered) for finding, offered in zip(findings, within, strict=True)]


async def _asked(server: McpServer, version: str, seconds: float, limits: ToolLimits) -> Finding:
    session = Session(server, version)
    try:
        async with asyncio.timeout(seconds):
            await session.open()
            found = listing(server, await session.tools(), NOTHING, limits)
    except TimeoutError:
        session.abandon()
        return Finding(server, trouble=f"it has not answered in {seconds:g} s")
    except ServerTrouble as error:
        session.abandon()
        return Finding(server, trouble=str(error))
    session.end()
    await session.closed()
    return Finding(server, found, session.protocol)
