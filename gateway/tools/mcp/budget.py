"""What servers offer, and how large it may be: every request carries it.

Owns: the limits of one description, of one definition, and of all together, and who is left out when the tools of all
servers are too much. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.protocol.json_values import to_json
from gateway.tools.toolbox import InjectedTool


@dataclass(frozen=True, slots=True)
class Listing:
    """A server's tools, sorted by name. Each of the `refusals` names a tool that is left out, and says why."""

    tools: tuple[InjectedTool, ...]
    refusals: tuple[str, ...]


NOTHING = Listing((), ())


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """Bytes of JSON in UTF-8: see the settings of these names."""

    description_bytes: int = 32768
    definition_bytes: int = 131072
    total_bytes: int = 1048576


def within_total(listings: Sequence[Listing], limit_bytes: int) -> list[Listing]:
    """The same listings, without the tools that are over the limit for all together.

    Servers that come first in the configuration go first, and tools by their names: what is left out is the same in
    every worker. Each tool that is left out is added to its listing's refusals.
    """
    left_bytes = limit_bytes
    within = []
    for listing in listings:
        tools, refusals = [], list(listing.refusals)
        for tool in listing.tools:
            size_bytes = len(to_json(tool.definition))
            if size_bytes <= left_bytes:
                left_bytes -= size_bytes
                tools.append(tool)
            else:
                fault = f"with it, all tools together would have more than {limit_bytes} bytes"
                refusals.append(refusal(tool.tool, tool.server, fault))
        within.append(replace(listing, tools=tuple(tools), refusals=tuple(refusals)))
    return within


def refusal(tool: object, server: str, fault: str) -> str:
    """The line for the operator that a tool is left out; the name is the server's word and made safe to show."""
    shown = repr(tool[:128] if isinstance(tool, str) else None)
    return f"tool {shown} of server {server} is not offered: {fault}"
