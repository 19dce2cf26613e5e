"""What the sessions with MCP servers count, as the metrics offer it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol


class _ByServer(Protocol):
    """A metric with a value for each server."""

    def labels(self, server: str, /) -> Any: ...


class ServerMetrics(Protocol):
    """What the toolbox and its keepers tell: which servers there are, which are up, whose lists could not be read."""

    mcp_servers: Collection[str]

    @property
    def mcp_server_up(self) -> _ByServer: ...

    @property
    def mcp_listing_failures(self) -> _ByServer: ...
