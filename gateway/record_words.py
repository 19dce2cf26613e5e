"""How facts become the fields of a record: in words from a known set, or of an expected form.

Owns: the outcome of an interception in a word, and what may be kept of what others wrote. Pure; any thread.
"""

from __future__ import annotations

import json
import re

from gateway.errors import (
    AuthenticationExhausted,
    ClientGone,
    GatewayError,
    RateLimited,
    Stopping,
    TurnLimitReached,
    UpstreamError,
    UpstreamTimedOut,
)
from gateway.interception_record import TurnUsage
from gateway.messages import Tally
from gateway.safe_text import safe_text
from gateway.usage import Certainty

UNEXPECTED = "unexpected"
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/\[\]-]{0,127}")
_LONGEST_ERROR = 300


def usage_of(turn: int, key: str | None, tally: Tally) -> TurnUsage:
    """What one answer has said of its cost, as it is kept."""
    usage = tally.usage
    certainty = usage.certainty(tally.has_stopped)
    tools = {word(name): count for name, count in usage.server_tools.items()}
    return TurnUsage(
        turn=turn,
        key=key,
        model=word(tally.model) if tally.model is not None else None,
        service_tier=word(usage.service_tier) if usage.service_tier is not None else None,
        certainty=certainty.value,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        guessed_output_tokens=usage.guessed_output_tokens if certainty is Certainty.ESTIMATED else usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cache_write_5m_tokens=usage.cache_write_5m_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        server_tool_uses=sum(tools.values()),
        server_tools=json.dumps(tools) if tools else "{}",
    )


def outcome_of_failure(error: GatewayError | ClientGone) -> str:
    """How an interception ended that ended with this error."""
    if isinstance(error, ClientGone):
        return "client_disconnected"
    if isinstance(error, Stopping):
        return "drained"
    if isinstance(error, RateLimited | AuthenticationExhausted):
        return "exhausted"
    if isinstance(error, UpstreamTimedOut):
        return "timed_out"
    if isinstance(error, UpstreamError):
        return "upstream_failed"
    if isinstance(error, TurnLimitReached):
        return "turn_limit"
    return "rejected" if error.is_rejection else "gateway_error"


def word(text: str) -> str:
    """A name as it is if it looks like one; else UNEXPECTED, for it may be anything."""
    return text if _WORD.fullmatch(text) else UNEXPECTED


def plain(text: str) -> str:
    """A message of the gateway's own, of bounded length, in ASCII."""
    return safe_text(text, _LONGEST_ERROR).encode("ascii", "replace").decode()
