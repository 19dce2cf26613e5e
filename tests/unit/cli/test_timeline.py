"""The timeline that `gateway explain` tells: every fact of a record, in words."""

from __future__ import annotations

import re

import pytest

from gateway.cli import timeline
from gateway.cli.timeline import tell
from gateway.protocol import iterations
from gateway.protocol.outcomes import ABANDONED, Ending, Outcome
from gateway.protocol.usage import LOST, Certainty
from gateway.records.interception_record import Attempt, PassedOver, ToolCall
from tests.record_samples import PLAIN, record_of, usage_of


def lines(text: str) -> list[str]:
    """Lines without their indentation and surplus blanks."""
    return [re.sub(r" +", " ", line.strip()) for line in text.splitlines()]


def test_a_full_record_is_told_whole() -> None:
    """Given a record with everything; then each thing that happened has its line, in order."""
    assert lines(tell(record_of(1))) == [
        "req_up_1 (in the gateway: req_gw_1)",
        "when 2027-01-15 08:00:00 UTC, for 1.500 s",
        "what POST /v1/messages, claude-a, streamed",
        "who token alice of group research, with claude-code 2.1.0, session 57a121ec",
        "paid by key k1 (sk-ant-...last)",
        "cost 0.001235 dollars",
        "trace 0af7651916cd43dd8448eb211c80319c",
        "What happened",
        "key k9 was skipped: cooling down for another 12 s; it had been rate limited (429)",
        "0.001 s key k0: rate limited (429) after 0.200 s, and cools down for 30 s [req_first_1]",
        "0.201 s key k1: answered (200) after 0.300 s [req_up_1]",
        "usage: claude-a-1, 10 input, 3 read from cache, 9 written to it (4 for 5 min, 5 for 1 h), 20 output tokens, "
        "2 web_search_requests, tier standard, speed fast, geo us; final counts; "
        "0.001235 dollars (price claude-a from 2026-08-22)",
        "the client was asked to call Bash (120 bytes of input)",
        "the gateway's tool bmcp_time_now was called (2 bytes of input): ok in 0.100 s, 40 bytes of result",
        "How it ended",
        "0.500 s the first event went to the client",
        "1.500 s the answer was delivered completely; status 200",
    ]


def test_a_bare_record_is_told_without_gaps() -> None:
    """Given a record of a request that came to nothing; then the words say what there was not."""
    assert lines(tell(PLAIN)) == [
        "req_up_0 (in the gateway: req_gw_0)",
        "when 2027-01-15 08:00:00 UTC, for 1.500 s",
        "what POST /v1/messages, whole",
        "who no token (an open gateway), with an unknown program",
        "paid by no one: no key was tried",
        "How it ended",
        "1.500 s the answer was delivered completely; status 200",
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"credential": "byok", "key": None}, "paid by the client's own credential (sk-ant-...last)"),
        ({"request_id": "req_gw_1"}, "req_gw_1"),
        ({"route": "count_tokens"}, "what POST /v1/messages/count_tokens, claude-a, streamed"),
        (
            {"usage": (usage_of(kind="lost", price="claude-a", cost_picodollars=10**10, is_cost_estimated=True),)},
            "nobody waited for the answer: what its prompt may cost, by its size; 0.010000 dollars, an estimate",
        ),
        ({"usage": (usage_of(certainty="partial"),)}, "the answer broke off: at least this many"),
        (
            {"usage": (usage_of(certainty="estimated", guessed_output_tokens=700),)},
            "about 700, estimated from what was relayed",
        ),
        ({"usage": (usage_of(is_cost_estimated=True),)}, "cost 0.001235 dollars, an estimate"),
        ({"usage": (usage_of(price="default"),)}, "0.001235 dollars (the default price, because the model has none)"),
        ({"usage": (usage_of(price="free", cost_picodollars=0),)}, "0.000000 dollars (free: the model declined)"),
        (
            {"usage": (usage_of(cost_picodollars=None, price=None),)},
            "cost not known: recorded before there were prices",
        ),
        ({"usage": (usage_of(kind="a_later_kind"),)}, "usage of a_later_kind: claude-a-1"),
        ({"token_group": None}, "who token alice, with claude-code"),
        ({"passed_over": (PassedOver(0, "k9", "disabled", "operator", 0, 0.0),)}, "taken out of use by the operator"),
        ({"passed_over": (PassedOver(0, "k9", "on_trial", "rate_limited", 429, 0.0),)}, "another request was trying"),
        (
            {"passed_over": (PassedOver(0, "k9", "permanent", "unauthorized", 401, 0.0),)},
            "retired; it had been refused as unauthorized (401)",
        ),
        (
            {"passed_over": (PassedOver(0, "k9", "temporary", "rate_limited", 429, 12.0, "scope"),)},
            "cooling down for requests of this kind for another 12 s; it had been rate limited (429)",
        ),
        (
            {"passed_over": (PassedOver(0, "k9", "temporary", "out_of_credit", 400, 12.0, "organisation"),)},
            "cooling down with its organisation for another 12 s; they had been out of credit (400)",
        ),
        ({"passed_over": (PassedOver(0, "k9", "doubtful_workspace", "", 0, 0.0, "key"),)}, "a key of its workspace"),
        (
            {"passed_over": (PassedOver(0, "k9", "pinned_elsewhere", "", 0, 0.0, "key"),)},
            "stays with another workspace",
        ),
        ({"passed_over": (PassedOver(0, "k9", "not_entitled", "", 0, 0.0, "key"),)}, "may not make this request"),
        ({"attempts": (Attempt(0, None, "ok", 200, 0.0, 0.0, 0.1, None),)}, "the client's own credential: answered"),
        ({"attempts": (Attempt(1, "k1", "ok", 200, 0.0, 0.0, 0.1, None),)}, "Turn 2"),
        (
            {"outcome": "rejected", "error": "invalid_request_error: model: this field is required", "status": 400},
            "refused the request (invalid_request_error: model: this field is required); status 400",
        ),
        ({"tool_calls": (ToolCall(0, "bmcp_x", True, 9, None, "not_made"),)}, "(9 bytes of input): not made"),
        ({"outcome": "a_later_word", "route": "a_later_route"}, "a_later_word"),
    ],
)
def test_each_peculiarity_has_its_words(changes: dict[str, object], expected: str) -> None:
    """Given a record that differs in one thing; then the timeline says so."""
    assert expected in "\n".join(lines(tell(record_of(1, **changes))))


def test_each_inference_of_a_turn_has_a_line_with_its_model_and_cost() -> None:
    """Given a turn of several inferences; then each is told with its kind, its model and its cost, and all cost so."""
    told = lines(
        tell(
            record_of(
                1,
                usage=(
                    usage_of(kind="compaction", model="claude-asked", cost_picodollars=2_000_000),
                    usage_of(kind="message", cost_picodollars=0, price="free"),
                    usage_of(kind="fallback_message", model="claude-b", cost_picodollars=40_000_000),
                    usage_of(
                        kind="advisor_message", model="claude-c", cost_picodollars=600_000, is_cost_estimated=True
                    ),
                ),
            )
        )
    )
    assert "cost 0.000043 dollars, an estimate" in told
    assert [line.partition(", ")[0] for line in told if line.startswith("usage")] == [
        "usage of the compaction: claude-asked",
        "usage: claude-a-1",
        "usage of the fallback: claude-b",
        "usage of the advisor: claude-c",
    ]
    assert [line.rpartition("; ")[2].partition(" (")[0] for line in told if line.startswith("usage")] == [
        "0.000002 dollars",
        "0.000000 dollars",
        "0.000040 dollars",
        "0.000001 dollars, an estimate",
    ]


def test_what_a_client_s_own_credential_pays_has_no_cost() -> None:
    """Given a client that pays itself; then nothing is said of dollars."""
    told = tell(record_of(1, credential="byok", key=None, usage=(usage_of(cost_picodollars=None, price=None),)))
    assert "dollars" not in told
    assert not any(line.startswith("cost") for line in lines(told))


def test_every_word_that_a_record_can_hold_is_known_here() -> None:
    """Given all outcomes and certainties; then each has words of its own."""
    assert {ending.value for ending in Ending} == set(timeline._ENDINGS)
    assert {outcome.value for outcome in Outcome} | {ABANDONED} == set(timeline._OUTCOMES)
    assert {certainty.value for certainty in Certainty} == set(timeline._CERTAINTIES)
    assert {*iterations._KINDS, iterations.OTHER_KIND, LOST} == set(timeline._KINDS)
