"""What a builder makes of the facts that it is told: the record of an interception."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.access.authentication import Caller
from gateway.access.client_info import Client
from gateway.access.credential import AuthHeader, Key, Secret
from gateway.keys.verdict import Verdict
from gateway.pricing.prices import known_prices
from gateway.protocol.errors import (
    AuthenticationExhausted,
    ClientGone,
    GatewayError,
    InvalidRequest,
    RateLimited,
    Stopping,
    TurnLimitReached,
    UpstreamError,
    UpstreamSilent,
    UpstreamTimedOut,
)
from gateway.protocol.messages import Tally
from gateway.protocol.outcomes import Ending, Outcome, stream_ending_of
from gateway.records.interception_record import Attempt, PassedOver, ToolCall, decode_record, encode_record
from gateway.records.record_builder import RecordBuilder
from tests.unit.fakes import FakeClock, builder_of, cool, pool_of, retire

CLIENT = Client("claude-code", "2.1.0", "session-in-header", "0af7651916cd43dd8448eb211c80319c")
OWN = AuthHeader("x-api-key", "", Secret("sk-ant-api03-planted-planted-9876"))
OK = Verdict(Outcome.OK, 0.0, 200)


def tally_of(input_tokens: int, *, tools: tuple[tuple[str, str], ...] = (), has_stopped: bool = True) -> Tally:
    tally = Tally(has_stopped=has_stopped, model="claude-a-1")
    tally.usage.take({"input_tokens": input_tokens, "output_tokens": 4, "service_tier": "standard"})
    tally.usage.has_counted_output = has_stopped
    tally.tools.observe_whole(
        {"content": [{"type": "tool_use", "id": id, "name": name, "input": {}} for id, name in tools]}
    )
    return tally


def test_a_request_s_whole_story_is_in_its_record() -> None:
    """Given a skipped key, a limited one, an answer with a tool's call, a second turn; then the record has it all."""
    clock = FakeClock()
    pool = pool_of(3, clock)
    cool(pool, 0, 30.0)
    keys = pool.keys
    caller = Caller("alice", is_operator=False)
    builder = RecordBuilder("req_gw_1", "messages", caller, CLIENT, clock, clock, known_prices())
    builder.asked("claude-a", True, "session-in-body")
    clock.advance(1)
    builder.passed_over(pool.statuses()[0])
    builder.passed_over(pool.statuses()[0])
    builder.attempt_began(keys[1])
    clock.advance(2)
    builder.answered(429, "req_up_1")
    builder.attempt_ended(Verdict(Outcome.RATE_LIMITED, 12.0, 429))
    builder.attempt_began(keys[2])
    clock.advance(3)
    builder.answered(200, "req_up_2")
    builder.attempt_ended(OK)
    builder.turn_obtained(tally_of(10, tools=(("t1", "bmcp_time_now"), ("t2", "Bash"))))
    builder.head_sent("req_up_2")
    builder.first_event()
    builder.tool_called("t1", "cancelled")
    builder.tool_called("t1", "ok", 40, 0.5)
    clock.advance(4)
    builder.first_event()
    builder.attempt_began(keys[2])
    builder.answered(200, "req_up_3")
    builder.attempt_ended(OK)
    builder.turn_obtained(tally_of(20, has_stopped=False))
    builder.stream_ended(Ending.TRUNCATED)
    record = builder.finished(200)
    assert (record.id, record.request_id, record.route, record.status) == ("req_gw_1", "req_up_2", "messages", 200)
    assert (record.started_at, record.day, record.duration_seconds) == (1_800_000_000.0, "2027-01-15", 10.0)
    assert (record.outcome, record.error, record.first_event_seconds) == ("truncated", None, 6.0)
    assert (record.credential, record.token, record.key, record.hint) == ("pooled", "alice", "k2", keys[2].hint)
    assert (record.client, record.client_version, record.trace_id) == ("claude-code", "2.1.0", CLIENT.trace_id)
    assert (record.session, record.model, record.is_streamed) == ("session-in-header", "claude-a", True)
    assert record.passed_over == (PassedOver(0, "k0", "temporary", "rate_limited", 429, 29.0, "key"),)
    assert record.attempts == (
        Attempt(0, "k1", "rate_limited", 429, 12.0, 1.0, 2.0, "req_up_1"),
        Attempt(0, "k2", "ok", 200, 0.0, 3.0, 3.0, "req_up_2"),
        Attempt(1, "k2", "ok", 200, 0.0, 10.0, 0.0, "req_up_3"),
    )
    assert [(usage.turn, usage.key, usage.input_tokens, usage.certainty) for usage in record.usage] == [
        (0, "k2", 10, "exact"),
        (1, "k2", 20, "estimated"),
    ]
    assert record.tool_calls == (
        ToolCall(0, "bmcp_time_now", True, 2, 40, "ok", 0.5),
        ToolCall(0, "Bash", False, 2),
    )
    assert decode_record(encode_record(record)) == record


def test_a_client_s_own_credential_shows_its_hint_alone() -> None:
    """Given a request that the client pays; then the record names no key, and masks the credential."""
    builder = builder_of(caller=Caller("alice", is_operator=False, own=(OWN,)))
    builder.attempt_began(None)
    builder.answered(401, None)
    builder.attempt_ended(Verdict(Outcome.UNAUTHORIZED, 0.0, 401))
    record = builder.finished(401)
    assert (record.credential, record.key, record.hint) == ("byok", None, "sk-ant-...9876")
    assert record.attempts[0].key is None
    assert record.outcome == "upstream_error"
    assert "planted" not in encode_record(record).decode()


def test_a_client_s_own_credential_never_cools_down() -> None:
    """Given a request that the client pays, when its credential is limited, then the record tells of no rest."""
    builder = builder_of(caller=Caller("alice", is_operator=False, own=(OWN,)))
    builder.attempt_began(None)
    builder.answered(429, None)
    builder.attempt_ended(Verdict(Outcome.RATE_LIMITED, 60.0, 429))
    assert builder.finished(429).attempts[0].cooldown_seconds == 0.0


def test_every_state_of_a_key_that_was_not_tried_is_told() -> None:
    """Given keys that cooldown, are retired, disabled, or tried by another request; then each has its word."""
    clock = FakeClock()
    pool = pool_of(4, clock)
    cool(pool, 3, 1.0)
    clock.advance(2)
    cool(pool, 0, 30.0)
    retire(pool, 1)
    pool.disable(pool.keys[2])
    builder = builder_of(clock=clock)
    for status in pool.statuses():
        builder.passed_over(status)
    assert [(skipped.key, skipped.state, skipped.reason) for skipped in builder.finished(429).passed_over] == [
        ("k0", "temporary", "rate_limited"),
        ("k1", "permanent", "unauthorized"),
        ("k2", "disabled", "operator"),
        ("k3", "on_trial", "rate_limited"),
    ]


def test_an_attempt_that_nobody_ended_was_abandoned() -> None:
    """Given a client that hangs up while an upstream is silent; then the attempt is in the record all the same."""
    clock = FakeClock()
    builder = builder_of(clock=clock)
    builder.attempt_began(Key("k0", Secret("s")))
    clock.advance(7)
    builder.failed(ClientGone())
    record = builder.finished(499)
    assert (record.outcome, record.error) == ("client_disconnected", None)
    assert record.attempts == (Attempt(0, "k0", "abandoned", 0, 0.0, 0.0, 7.0, None),)


@pytest.mark.parametrize("status", [0, 200, 400, 529])
@pytest.mark.parametrize("was_sent", [True, False])
def test_a_lost_answer_is_billed_if_the_upstream_was_at_work_on_it(was_sent: bool, status: int) -> None:
    """Given a client that leaves before the answer, then its prompt is billed, but for one that the upstream has not
    had, or has refused."""
    builder = builder_of()
    builder.asked("claude-opus-5", True, None, b"x" * 4000)
    builder.attempt_began(Key("k0", Secret("s")))
    if status:
        builder.answered(status, None)
    elif not was_sent:
        builder.not_sent()
    builder.failed(ClientGone())
    is_at_work = status == 200 or (status == 0 and was_sent)
    assert [usage.kind for usage in builder.finished(499).usage] == (["lost"] if is_at_work else [])


ENDS = [
    (InvalidRequest("no"), "rejected", "invalid_request_error: no"),
    (RateLimited("all"), "exhausted", "rate_limit_error: all"),
    (AuthenticationExhausted("all"), "exhausted", "api_error: all"),
    (UpstreamError("broke"), "upstream_failed", "api_error: broke"),
    (UpstreamTimedOut("slow"), "timed_out", "timeout_error: slow"),
    (UpstreamSilent("silent"), "timed_out", "timeout_error: silent"),
    (Stopping("stop"), "drained", "overloaded_error: stop"),
    (TurnLimitReached("on and on"), "turn_limit", "api_error: on and on"),
    (GatewayError("bug"), "gateway_error", "api_error: bug"),
]


@pytest.mark.parametrize(("error", "outcome", "words"), ENDS, ids=[type(row[0]).__name__ for row in ENDS])
def test_an_error_ends_an_interception_in_a_word(error: GatewayError, outcome: str, words: str) -> None:
    """Given a request that ends with an error of the gateway's; then its word, and what the client was told."""
    builder = builder_of()
    builder.failed(error)
    record = builder.finished(error.status)
    assert (record.outcome, record.error) == (outcome, words)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        pytest.param(RateLimited("all"), "exhausted", id="no-key-left"),
        pytest.param(TurnLimitReached("on"), "turn_limit", id="turn-limit"),
        pytest.param(UpstreamError("broke"), "truncated", id="truncated"),
        pytest.param(UpstreamSilent("silent"), "idle_timeout", id="silent"),
        pytest.param(Stopping("stop"), "drained", id="drained"),
        pytest.param(GatewayError("bug"), "gateway_error", id="fault-of-the-gateway"),
    ],
)
def test_an_error_of_the_gateway_s_in_mid_stream_is_in_the_record(error: GatewayError, outcome: str) -> None:
    """Given a stream that the gateway ends with an error; then the record says why, and what the client was told."""
    builder = builder_of()
    builder.stream_ended(stream_ending_of(error), error)
    record = builder.finished(200)
    assert (record.outcome, record.error) == (outcome, f"{error.kind}: {error.message}")


@pytest.mark.parametrize(("status", "outcome"), [(200, "completed"), (307, "completed"), (404, "upstream_error")])
def test_an_answer_that_was_relayed_whole_ends_by_its_status(status: int, outcome: str) -> None:
    """Given nothing went wrong in the gateway; then the upstream's status says how it ended."""
    assert builder_of().finished(status).outcome == outcome


def test_a_200_that_holds_an_error_is_an_error() -> None:
    """Given a whole answer of status 200 whose body is an error; then its type is in the record."""
    builder = builder_of()
    tally = Tally()
    tally.observe_whole(b'{"type":"error","error":{"type":"overloaded_error","message":"Planted"}}')
    builder.turn_obtained(tally)
    record = builder.finished(200)
    assert (record.outcome, record.error, record.usage) == ("upstream_error", "overloaded_error", ())


def test_what_does_not_look_like_a_name_is_not_kept() -> None:
    """Given prose where a name was expected, from a client or an upstream; then nothing of it is in the record."""
    prose = "Planted prose, with spaces"
    tally = tally_of(1, tools=(("t", prose),))
    tally.model = prose
    tally.usage.take({"service_tier": prose, "server_tool_use": {prose: 3}})
    builder = builder_of()
    builder.asked(prose, False, None)
    builder.attempt_began(Key("k0", Secret("s")))
    builder.answered(200, prose)
    builder.attempt_ended(OK)
    builder.turn_obtained(tally)
    builder.head_sent(prose)
    record = builder.finished(200)
    assert "Planted" not in encode_record(record).decode()
    assert record.model == record.tool_calls[0].name == "unexpected"
    assert record.usage[0].server_tool_uses == 3


BODY = b'{"model":"claude-opus-5","messages":[{"role":"user","content":"' + b"word " * 400 + b'"}]}'
IMAGE = b'{"data":"' + b"QUJD" * 5000 + b'"}'


def lost_rows(builder: RecordBuilder) -> list[tuple[str, int, str | None, str, bool]]:
    rows = builder.finished(499).usage
    return [(row.kind, row.input_tokens, row.key, row.certainty, row.is_cost_estimated) for row in rows]


@pytest.mark.parametrize(
    ("body", "tokens"),
    [(BODY, -(-len(BODY) // 4)), (BODY + IMAGE, -(-(len(BODY) + 11) // 4) + 1600)],
    ids=["text", "an image"],
)
@pytest.mark.parametrize(
    "end",
    [
        lambda builder: builder.failed(ClientGone()),
        lambda builder: (builder.answered(200, None), builder.failed(ClientGone())),
    ],
    ids=["client left", "client left while it came"],
)
def test_client_that_leaves_before_its_answer_pays_for_the_prompt(
    end: Callable[[RecordBuilder], object], body: bytes, tokens: int
) -> None:
    """Given a client that leaves while the upstream is at work; then the prompt is billed by size, as an estimate."""
    builder, keys = builder_of(), pool_of(1, FakeClock()).keys
    builder.asked("claude-opus-5", False, None, body)
    builder.attempt_began(keys[0])
    end(builder)
    assert lost_rows(builder) == [("lost", 0, "k0", "estimated", True)]
    (row,) = builder.settled()
    assert row.cost_picodollars == tokens * 5_000_000


@pytest.mark.parametrize(
    "end",
    [
        lambda builder: builder.attempt_ended(Verdict(Outcome.TRANSPORT_ERROR)),
        lambda builder: builder.attempt_ended(Verdict(Outcome.RATE_LIMITED, 5.0, 429)),
        lambda builder: (builder.answered(200, None), builder.attempt_ended(Verdict(Outcome.TRANSPORT_ERROR))),
        lambda builder: (builder.answered(500, None), builder.attempt_ended(Verdict(Outcome.SERVER_ERROR))),
    ],
    ids=["no connection", "limited", "broken answer", "error"],
)
def test_what_the_upstream_did_not_answer_costs_nothing(
    end: Callable[[RecordBuilder], object],
) -> None:
    """Given a refusal, a broken answer or no connection; then nothing is billed: the upstream has failed."""
    builder, keys = builder_of(), pool_of(1, FakeClock()).keys
    builder.asked("claude-opus-5", False, None, BODY)
    builder.attempt_began(keys[0])
    end(builder)
    assert lost_rows(builder) == []


def test_count_of_tokens_that_never_came_costs_nothing() -> None:
    """Given a route that costs nothing, whose client leaves; then nothing is billed."""
    builder, keys = builder_of(), pool_of(1, FakeClock()).keys
    builder.asked("claude-opus-5", False, None)
    builder.attempt_began(keys[0])
    builder.failed(ClientGone())
    assert lost_rows(builder) == []
