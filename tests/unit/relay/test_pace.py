"""When the client hears something: the head's moment, and the pings of a silent stream."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway.protocol.sse import PING
from gateway.relay.pace import HEAD_GRACE_SECONDS, Head, Pace
from tests.unit.fakes import FakeClock

PING_SECONDS = 10.0


def reply(status=200, **headers):
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return SimpleNamespace(status=status, headers=named)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(0.0)


@pytest.fixture
def pace(clock: FakeClock) -> Pace:
    return Pace("req_gw_1", PING_SECONDS, clock)


def test_head_is_due_half_a_second_after_the_upstream_s(pace, clock):
    """Given an upstream's head and no event, then the client's head is due half a second later."""
    clock.advance(3)
    pace.upstream_head_came()
    assert pace.left_seconds == HEAD_GRACE_SECONDS == 0.5
    clock.advance(0.2)
    assert pace.left_seconds == pytest.approx(0.3)
    clock.advance(5)
    assert pace.left_seconds == 0


def test_signal_is_the_head_first_and_pings_after(pace, clock):
    """Given silence, then first the head goes out, and only once the stream has begun pings do, on their interval."""
    pace.upstream_head_came()
    clock.advance(0.5)
    head = pace.signal(reply(content_type="text/event-stream"))
    assert isinstance(head, Head)
    assert (head.status, head.body) == (200, None)
    assert pace.left_seconds == PING_SECONDS
    clock.advance(PING_SECONDS)
    assert pace.left_seconds == 0
    assert pace.signal(reply()) == PING
    assert pace.left_seconds == PING_SECONDS


def test_anything_sent_puts_the_ping_off(pace, clock):
    """Given a stream that has begun, when bytes go out, then the next ping is due its whole interval later."""
    pace.begin(reply())
    clock.advance(9)
    assert pace.left_seconds == 1
    assert pace.sent(b"data") == b"data"
    assert pace.left_seconds == PING_SECONDS


def test_a_later_upstream_head_does_not_hurry_an_open_stream(pace, clock):
    """Given a stream that has begun, when another turn's head comes, then pings keep their interval."""
    pace.begin(reply())
    clock.advance(4)
    pace.upstream_head_came()
    assert pace.left_seconds == PING_SECONDS - 4


def test_stream_s_head_has_the_upstream_s_headers_and_the_stream_s_own(pace):
    """Given the upstream's headers, then a stream's head has them less the hop's, and tells proxies not to buffer."""
    head = pace.begin(reply(content_type="text/event-stream", request_id="req_up", connection="close"))
    assert dict(head.headers) == {
        "content-type": "text/event-stream",
        "request-id": "req_up",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
    }
    assert pace.has_begun


@pytest.mark.parametrize("status", [200, 429, 500])
def test_whole_answer_has_no_stream_s_headers(pace, status):
    """Given a whole answer, error or not, then its head has its status, body and headers and nothing of a stream's."""
    head = pace.whole(reply(status, content_type="application/json", request_id="req_up"), b"{}")
    assert head == Head(status, [("content-type", "application/json"), ("request-id", "req_up")], "req_up", b"{}")
    assert not pace.has_begun


def test_request_id_is_the_upstream_s_or_else_the_gateway_s(pace):
    """Given an answer without a request-id, then the gateway's goes out; with one, that is used from then on."""
    assert ("request-id", "req_gw_1") in pace.whole(reply(), b"").headers
    assert pace.told_id == "req_gw_1"
    pace.whole(reply(request_id="req_up"), b"")
    assert pace.told_id == "req_up"
