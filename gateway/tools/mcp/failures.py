"""What can go wrong between the gateway and an MCP server, in words that may be shown.

Owns: the exceptions of this package. A server's own words are for the model alone (`CallFailed.told`): they may quote
arguments or headers, so they stand in no log and in no `str`.
"""

from __future__ import annotations

from gateway.protocol.outcomes import ToolOutcome
from gateway.protocol.safe_text import safe_text


class ServerTrouble(Exception):
    """A server cannot be talked with; the message says why and may be logged."""

    def __init__(self, message: str) -> None:
        super().__init__(safe_text(message))


class NotExecuted(ServerTrouble):
    """A request has certainly not been acted upon: it never reached the server, or was refused for its session."""


class CallFailed(Exception):
    """A call has ended without a result. `told` is what the model gets to read."""

    def __init__(self, outcome: ToolOutcome, told: str) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome
        self.told = told
