"""How things end, each word spelled once: attempts, interceptions and their streams, walks without a key, tools.

Owns: the words. Metrics, records, spans, the log and the commands show a member's value. Pure. What an attempt's
outcome means for its key is told by `keys.verdict`.
"""

from __future__ import annotations

from enum import Enum

from gateway.protocol.errors import (
    AuthenticationExhausted,
    ClientGone,
    GatewayError,
    OutOfMoney,
    RateLimited,
    RequestForbidden,
    Stopping,
    TurnLimitReached,
    UpstreamError,
    UpstreamSilent,
    UpstreamTimedOut,
)


class Outcome(Enum):
    """How one attempt ended."""

    OK = "ok"
    RATE_LIMITED = "rate_limited"
    NOT_ENTITLED = "not_entitled"
    SPEND_LIMITED = "spend_limited"
    OUT_OF_CREDIT = "out_of_credit"
    WORKSPACE_UNUSABLE = "workspace_unusable"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    REQUEST = "request"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    CLIENT_ERROR = "client_error"
    TRANSPORT_ERROR = "transport_error"


ABANDONED = "abandoned"  # of an attempt in a record: nobody waited for its outcome


class Ending(Enum):
    """How an interception ended, or a stream, which is one of STREAM_ENDINGS."""

    COMPLETED = "completed"
    UPSTREAM_ERROR = "upstream_error"
    TRUNCATED = "truncated"
    CLIENT_DISCONNECTED = "client_disconnected"
    IDLE_TIMEOUT = "idle_timeout"
    DRAINED = "drained"
    UPSTREAM_FAILED = "upstream_failed"
    TIMED_OUT = "timed_out"
    EXHAUSTED = "exhausted"
    TURN_LIMIT = "turn_limit"
    REJECTED = "rejected"
    GATEWAY_ERROR = "gateway_error"


STREAM_ENDINGS = (
    *(Ending.COMPLETED, Ending.UPSTREAM_ERROR, Ending.TRUNCATED),
    *(Ending.CLIENT_DISCONNECTED, Ending.IDLE_TIMEOUT, Ending.DRAINED),
)
NO_FAILURES = (Ending.COMPLETED, Ending.CLIENT_DISCONNECTED, Ending.DRAINED)


def ending_of(error: GatewayError | ClientGone) -> Ending:
    """How an interception ended that ended with this error."""
    if isinstance(error, ClientGone):
        return Ending.CLIENT_DISCONNECTED
    if isinstance(error, Stopping):
        return Ending.DRAINED
    if isinstance(error, RateLimited | AuthenticationExhausted):
        return Ending.EXHAUSTED
    if isinstance(error, UpstreamTimedOut):
        return Ending.TIMED_OUT
    if isinstance(error, UpstreamError):
        return Ending.UPSTREAM_FAILED
    if isinstance(error, TurnLimitReached):
        return Ending.TURN_LIMIT
    return Ending.REJECTED if error.is_rejection else Ending.GATEWAY_ERROR


def stream_ending_of(error: GatewayError) -> Ending:
    """How a stream ended that ended with this error."""
    if isinstance(error, Stopping):
        return Ending.DRAINED
    if isinstance(error, UpstreamSilent):
        return Ending.IDLE_TIMEOUT
    return Ending.TRUNCATED if isinstance(error, UpstreamError) else Ending.UPSTREAM_ERROR


class Exhaustion(Enum):
    """Why a walk found no key."""

    RATE_LIMITED = "rate_limited"
    AUTH_FAILED = "auth_failed"
    OUT_OF_MONEY = "out_of_money"
    FORBIDDEN = "forbidden"


_EXHAUSTIONS = {
    RateLimited: Exhaustion.RATE_LIMITED,
    OutOfMoney: Exhaustion.OUT_OF_MONEY,
    RequestForbidden: Exhaustion.FORBIDDEN,
}


def exhaustion_of(error: GatewayError) -> Exhaustion:
    """Why a walk found no key that ended with this error."""
    return _EXHAUSTIONS.get(type(error), Exhaustion.AUTH_FAILED)


class ToolOutcome(Enum):
    """How a call of an injected tool ended."""

    OK = "ok"
    ERROR = "error"  # the tool itself says so (`isError`)
    FAILED = "failed"  # the server cannot be reached, broke off, or answered what cannot be read
    TIMED_OUT = "timed_out"
    UNKNOWN = "unknown"  # no such tool now
    INVALID_INPUT = "invalid_input"  # the model's input is no JSON object, or has half a character in it
    CANCELLED = "cancelled"  # the client has gone, or the gateway stops
    NOT_MADE = "not_made"  # its turn also calls a tool of the client's, was cut off or malformed, or was the last
