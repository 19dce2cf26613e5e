"""What is told of a walk: the log's lines of marks, the limits' scope, and why keys were passed over."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping

import pytest

from gateway.access.credential import Key
from gateway.keys.failover import Course, walk
from gateway.keys.places import Place
from gateway.keys.pool import Pool
from gateway.keys.standing import KeyState, KeyStatus
from gateway.keys.verdict import Concern, Verdict
from gateway.protocol.errors import ClientGone, Stopping, UpstreamError
from gateway.protocol.messages import Tally
from gateway.protocol.outcomes import Outcome
from gateway.records.interception_record import PassedOver
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import Observer
from gateway.upstream import Call
from tests.unit.fakes import FakeAnswer, builder_of, keys_of, pool_of

OPUS = "messages/opus-4"
LIMITED = Verdict(Outcome.RATE_LIMITED, 41.0, 429)
OK = Verdict(Outcome.OK, http_status=200)
A1, A2, B1 = Place("org-a", "ws-1"), Place("org-a", "ws-2"), Place("org-b", "ws-3")
TWO_OF_A_WORKSPACE = [("k0", "temporary", "scope"), ("k1", "temporary", "scope"), ("k2", "temporary", "siblings")]


def observer_of(metrics: Metrics | None = None) -> Observer:
    observer = Observer(metrics or Metrics(), builder_of())
    observer.turn_began(OPUS)
    return observer


@pytest.mark.parametrize(
    ("state", "verdict", "said"),
    [
        (KeyState.TEMPORARY, LIMITED, "is cooling down for 41.0 s for messages/opus-4: rate_limited (429)"),
        (
            KeyState.TEMPORARY,
            Verdict(Outcome.OUT_OF_CREDIT, 60.0, 400),
            "is cooling down for 60.0 s with its organisation: out_of_credit (400)",
        ),
        (
            KeyState.TEMPORARY,
            Verdict(Outcome.WORKSPACE_UNUSABLE, 300.0, 400),
            "is cooling down for 300.0 s with its workspace: workspace_unusable (400)",
        ),
        (KeyState.PERMANENT, Verdict(Outcome.UNAUTHORIZED, 0.0, 401), "is retired: unauthorized (401)"),
        (
            KeyState.PERMANENT,
            Verdict(Outcome.UNAUTHORIZED, 0.0, 403, Concern.ORGANISATION),
            "is retired, its organisation's other keys are in doubt: unauthorized (403)",
        ),
    ],
)
def test_line_of_a_mark_says_whom_it_concerns(state, verdict, said, caplog):
    """Given a mark, then its line in the log names the scope, or says that the workspace or organisation is meant."""
    (key,) = keys_of(1)
    with caplog.at_level(logging.INFO, "gateway.narrator"):
        observer_of().transitioned(key, state, verdict)
    then = {
        KeyState.TEMPORARY: "then one request tries it",
        KeyState.PERMANENT: "it gets no requests until the upstream accepts it again or the operator enables it",
    }
    assert caplog.messages == [f"req_gw_1: key k0 ({key.hint}) {said}; {then[state]}"]


class StayingSession:
    """A session that stays with a workspace."""

    def __init__(self, place: Place) -> None:
        self.group = place.group

    def answered(self, status: KeyStatus, *, is_displaced: bool) -> None: ...


def told_of(pool: Pool, course: Course, answers: Mapping[str, Verdict]) -> list[tuple[str, str, str]]:
    """The keys that a walk passes over: name, state, and whom the mark concerns."""
    observer = observer_of()

    def attempt(key: Key) -> Generator[None, None, tuple[FakeAnswer, Verdict]]:
        yield
        return FakeAnswer(key), answers.get(key.name, OK)

    for _ in walk(pool, attempt, observer, course):
        pass
    passed_over: tuple[PassedOver, ...] = observer.builder.finished(200).passed_over
    return [(each.key, each.state, each.concern) for each in passed_over]


def limited(pool: Pool, *numbers: int) -> None:
    for number in numbers:
        pool.cool(pool.statuses(OPUS)[number], 30.0, "rate_limited", 429, Concern.SCOPE)


@pytest.mark.parametrize(
    ("places", "limits", "answers", "session", "expected"),
    [
        ([A1, B1], [0], {}, None, [("k0", "temporary", "scope")]),
        ([A1, A1, A1, B1], [0, 1], {}, None, TWO_OF_A_WORKSPACE),
        ([A1, A1, B1], [0], {}, None, [("k0", "temporary", "scope"), ("k1", "doubtful_workspace", "key")]),
        ([A1, A2, B1], [0], {}, None, [("k0", "temporary", "scope"), ("k1", "doubtful_organisation", "key")]),
        ([A1, B1], [], {}, B1, [("k0", "pinned_elsewhere", "key")]),
        ([A1, B1], [], {}, A1, []),
        ([A1, A2, B1], [], {"k0": Verdict(Outcome.NOT_ENTITLED, 0.0, 429)}, None, [("k1", "not_entitled", "key")]),
    ],
    ids=["scope", "siblings", "workspace", "organisation", "pinned", "pinned-here", "not-entitled"],
)
def test_record_says_why_keys_were_passed_over(places, limits, answers, session, expected):
    """Given a walk that does not take the first key, then the record says for which of the causes."""
    pool = pool_of(len(places))
    for key, place in zip(pool.keys, places, strict=True):
        pool.learn(key, place)
    limited(pool, *limits)
    course = Course(OPUS, session=StayingSession(session) if session is not None else None)
    assert told_of(pool, course, answers) == expected


def test_limits_are_those_of_the_scope_and_the_scope_was_asked_for():
    """Given a walk's answer, then what it says of limits has the walk's scope, which counts as asked for."""
    metrics = Metrics()
    (key,) = keys_of(1)
    observer_of(metrics).answered(key, 200, {"anthropic-ratelimit-requests-limit": "9"})
    page = metrics.render().decode()
    assert 'gateway_key_ratelimit_limit{key="k0",limit="requests",scope="messages/opus-4"} 9.0' in page
    assert 'gateway_scope_last_asked_timestamp_seconds{scope="messages/opus-4"}' in page


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(UpstreamError("broke"), "transport_error"), (ClientGone(), "abandoned"), (Stopping("stop"), "abandoned")],
    ids=["transport", "client-gone", "stopping"],
)
def test_an_attempt_without_a_verdict_is_told_once(error: Exception, outcome: str) -> None:
    """Given an attempt that fails, then the record has it, and it counts against the key if the upstream failed."""
    metrics, (key,) = Metrics(), keys_of(1)
    observer = observer_of(metrics)
    observer.attempt_began(Call("POST", "/v1/messages", [], b"{}"), key)
    observer.attempt_failed(key, error, was_sent=True)
    [attempt] = observer.builder.finished(502).attempts
    assert (attempt.key, attempt.outcome) == ("k0", outcome)
    counted = metrics.registry.get_sample_value(
        "gateway_key_attempts_total", {"key": "k0", "outcome": "transport_error"}
    )
    assert counted == (1 if outcome == "transport_error" else None)


def test_an_attempt_with_a_client_s_own_credential_counts_for_no_key() -> None:
    """Given an attempt without a key, then the record has its outcome, and no key's count goes up."""
    metrics = Metrics()
    observer = Observer(metrics, builder_of())
    observer.turn_began(None)
    observer.attempt_began(Call("POST", "/v1/messages", [], b"{}"), None)
    observer.answered(None, 200, {"request-id": "req_up_1"})
    observer.attempt_ended(None, OK, Tally(), is_stream=True)
    [attempt] = observer.builder.finished(200).attempts
    assert (attempt.key, attempt.outcome, attempt.request_id) == (None, "ok", "req_up_1")
    assert "gateway_key_attempts_total{" not in metrics.render().decode()
