"""How things end: which word each of the gateway's errors is counted and recorded under."""

from __future__ import annotations

import pytest

from gateway.protocol import errors
from gateway.protocol.errors import GatewayError
from gateway.protocol.outcomes import Ending, Exhaustion, ending_of, exhaustion_of, stream_ending_of

LIMIT = {"limit": "concurrent", "holder_kind": "token", "holder": "ann"}

# An error; how the interception ended; how the stream ended, if the error came in one; why the walk found no key.
TABLE = [
    (errors.Stopping("m"), "drained", "drained", "auth_failed"),
    (errors.RateLimited("m"), "exhausted", "upstream_error", "rate_limited"),
    (errors.AuthenticationExhausted("m"), "exhausted", "upstream_error", "auth_failed"),
    (errors.OutOfMoney("m"), "gateway_error", "upstream_error", "out_of_money"),
    (errors.RequestForbidden("m"), "gateway_error", "upstream_error", "forbidden"),
    (errors.UpstreamTimedOut("m"), "timed_out", "truncated", "auth_failed"),
    (errors.UpstreamSilent("m"), "timed_out", "idle_timeout", "auth_failed"),
    (errors.UpstreamError("m"), "upstream_failed", "truncated", "auth_failed"),
    (errors.TurnLimitReached("m"), "turn_limit", "upstream_error", "auth_failed"),
    (errors.InvalidRequest("m"), "rejected", "upstream_error", "auth_failed"),
    (errors.Overloaded("m"), "rejected", "upstream_error", "auth_failed"),
    (errors.LimitReached("m", **LIMIT), "rejected", "upstream_error", "auth_failed"),
    (GatewayError("m"), "gateway_error", "upstream_error", "auth_failed"),
]


@pytest.mark.parametrize(
    ("error", "ending", "stream_ending", "exhaustion"), TABLE, ids=[type(row[0]).__name__ for row in TABLE]
)
def test_each_error_ends_what_it_ends_in_its_own_word(error, ending, stream_ending, exhaustion):
    """Given an error, then an interception, a stream and a walk that it ends are told in the table's words."""
    assert ending_of(error) is Ending(ending)
    assert stream_ending_of(error) is Ending(stream_ending)
    assert exhaustion_of(error) is Exhaustion(exhaustion)


def test_a_client_that_has_gone_is_no_failure_of_anybody():
    """Given a client that closed its connection, then the interception's end says so."""
    assert ending_of(errors.ClientGone()) is Ending.CLIENT_DISCONNECTED
