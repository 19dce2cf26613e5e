"""One reader of counts, and its bound."""

from __future__ import annotations

import json
import math

import pytest

from gateway.protocol.counts import MOST, count_in, count_or_none
from tests.unit.loop_rig import FakeToolbox, Rig, Streamed
from tests.unit.messages_api import Answer, text, tool_use


@pytest.mark.parametrize("value", [0, 1, 10**9, MOST])
def test_whole_numbers_within_the_bound_are_counts(value: int) -> None:
    assert count_or_none(value) == count_in(str(value)) == value


@pytest.mark.parametrize(
    "value", [-1, MOST + 1, 10**100, 10**310, 1.0, 1e3, math.nan, math.inf, -math.inf, True, False, None, "7", [], {}]
)
def test_nothing_else_is_a_count(value: object) -> None:
    assert count_or_none(value) is None


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", " 1", "1 ", "1.0", "1e3", "nan", "inf", "1_0", "\u00b2", "\u0663", "9" * 400]
)
def test_nothing_else_is_a_count_in_a_header(text: str) -> None:
    assert count_in(text) is None


def test_the_bound_added_a_million_times_fits_where_counts_go() -> None:
    """Given the largest count in a million records, then a float has the sum exactly, and 64 bits hold it."""
    assert 1_000_000 * MOST < 2**63
    assert float(MOST) + 1 == MOST + 1


ODD = [10**310, -(10**310), 10**100, MOST + 1, 2**63, -5, 1.5, math.nan, math.inf, True, "7", None, "DIGITS"]


def _with(count: object) -> bytes:
    """A usage with this number in it, however large, as JSON."""
    usage = json.dumps({"input_tokens": 3, "output_tokens": "COUNT", "cache_read_input_tokens": "COUNT"})
    written = "9" * 5000 if count == "DIGITS" else json.dumps(count)
    return usage.replace('"COUNT"', written).encode()


@pytest.mark.parametrize("count", ODD, ids=lambda count: str(count)[:12])
@pytest.mark.parametrize("is_streaming", [True, False])
def test_an_answer_with_an_odd_count_is_relayed_and_counts_nothing(count: object, is_streaming: bool) -> None:
    """Given a count that is none, then the answer reaches the client as it came, and metric and record pass it over."""
    answer = Answer([text("noon")], usage={"u": 1})
    odd = [
        raw.replace(b'{"u": 1}', _with(count)).replace(b'{"u": 1, "output_tokens": 1}', b"{}")
        for raw in answer.events()
    ]
    body = answer.body().replace(b'{"u": 1}', _with(count))
    rig = Rig([Streamed(odd) if is_streaming else body], FakeToolbox())
    ran = rig.run(is_streaming)
    assert ran.stream == b"".join(odd) if is_streaming else ran.head.body == body
    record = rig.builder.finished(200)
    rig.metrics.usage.count(record)
    counted = {
        sample.labels["type"]: sample.value
        for family in rig.metrics.usage.tokens.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }
    (turn,) = record.usage
    assert (turn.input_tokens, turn.cache_read_tokens) == (3, 0)
    assert counted.get("input") == 3
    assert all(0 <= value <= MOST for value in counted.values())


@pytest.mark.parametrize("is_streaming", [True, False])
def test_an_odd_count_of_a_hidden_turn_is_not_added(is_streaming: bool) -> None:
    """Given a turn with a tool's call whose count no float holds, then the next turn's stands, and all is well."""
    call = Answer([tool_use("bmcp_box_now", "t1")], "tool_use", usage={"input_tokens": 1, "output_tokens": 10**310})
    last = Answer([text("noon")], usage={"input_tokens": 10, "output_tokens": 1.5})
    rig = Rig([call, last], FakeToolbox("now"))
    ran = rig.run(is_streaming)
    ending = next(raw for raw in ran.stream.split(b"\n\n") if b"message_delta" in raw) if is_streaming else b""
    usage = json.loads(ending.partition(b"data: ")[2])["usage"] if is_streaming else ran.document["usage"]
    iterations = usage.pop("iterations")
    assert [turn["input_tokens"] for turn in iterations] == [1, 10]
    assert usage == {"input_tokens": 11, "output_tokens": 1.5}
    assert b"error" not in ran.stream if is_streaming else ran.head.status == 200
