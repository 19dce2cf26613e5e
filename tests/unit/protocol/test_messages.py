"""What the gateway reads of a request and of an answer."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.errors import InvalidRequest
from gateway.protocol.messages import Tally, read_request
from gateway.protocol.sse import Event
from gateway.protocol.usage import BilledUsage


@pytest.mark.parametrize(
    ("body", "model", "is_streaming"),
    [
        pytest.param(b'{"model":"m"}', "m", False, id="model-alone"),
        pytest.param(b'{"model":"m","stream":true}', "m", True, id="streamed"),
        pytest.param(b'{"stream":false,"model":"m"}', "m", False, id="whole"),
        pytest.param(b'{"model":"m","stream":null}', "m", False, id="null-stream"),
        pytest.param(b'{"model":"m","stream":"true"}', "m", False, id="stream-as-text"),
        pytest.param(b'{"model":"m","stream":1}', "m", False, id="stream-as-number"),
        pytest.param(b' \n{ "model" : "m" }\r\n', "m", False, id="white-space"),
        pytest.param(b'{"model":"a","model":"b"}', "b", False, id="duplicate-keys-last-counts"),
        pytest.param(b'{"model":"m","x":"\\ud83d"}', "m", False, id="lone-surrogate"),
        pytest.param(b'{"model":"m","messages":[{"role":"system","odd":[1e999]}]}', "m", False, id="unknown-fields"),
        pytest.param('{"model":"mödel"}'.encode(), "mödel", False, id="not-ascii"),
        pytest.param(b'{"model":"m","n":' + b"1" * 400 + b"}", "m", False, id="huge-number"),
        pytest.param(b'{"model":"m","x":' + b"[" * 500 + b"]" * 500 + b"}", "m", False, id="nested"),
    ],
)
def test_request_is_read(body, model, is_streaming):
    """Given a body that the upstream may judge, then its model and mode are read and nothing else is asked of it."""
    summary = read_request(body)
    assert (summary.model, summary.is_streaming) == (model, is_streaming)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b" \r\n\t", "empty", id="blank"),
        pytest.param(b"hello", "not valid JSON.*line 1, column 1", id="no-json"),
        pytest.param(b'{"model":"m"', "not valid JSON", id="cut"),
        pytest.param(b'{"model":"m"} x', "not valid JSON", id="trailing"),
        pytest.param(b"{'model':'m'}", "not valid JSON", id="single-quotes"),
        pytest.param(b'{"model":"m","x":NaN}', "NaN is not a JSON value", id="nan"),
        pytest.param(b"[]", "not a JSON object", id="array"),
        pytest.param(b'"model"', "not a JSON object", id="text"),
        pytest.param(b"null", "not a JSON object", id="null"),
        pytest.param(b"{}", "model", id="no-model"),
        pytest.param(b'{"model":null}', "model", id="null-model"),
        pytest.param(b'{"model":""}', "model", id="empty-model"),
        pytest.param(b'{"model":5}', "model", id="number-as-model"),
        pytest.param(b'{"model":["m"]}', "model", id="list-as-model"),
        pytest.param(b'{"model":"\xff"}', "not UTF-8.*byte 10", id="not-utf-8"),
        pytest.param(b'\xef\xbb\xbf{"model":"m"}', "not valid JSON", id="bom"),
        pytest.param('{"model":"m"}'.encode("utf-16"), "not UTF-8", id="utf-16"),
        pytest.param(b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b',"model":"m"}', "nested too deeply", id="deep"),
    ],
)
def test_unusable_request_is_refused_by_name(body, what):
    """Given a body that is no request, then 400 invalid_request_error naming what is wrong."""
    with pytest.raises(InvalidRequest, match=what) as raised:
        read_request(body)
    assert (raised.value.status, raised.value.kind) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("members", "is_fast"),
    [({}, False), ({"speed": "fast"}, True), ({"speed": "standard"}, False), ({"x": "\ud83d", "speed": "fast"}, True)],
    ids=["none", "fast", "standard", "fast-and-read-leniently"],
)
def test_speed_that_is_asked_for_is_known(members, is_fast):
    """Given a request with a speed or none, then it is known whether it is the fast one."""
    assert read_request(json.dumps({"model": "m"} | members).encode()).is_fast is is_fast


def of_user(size_bytes):
    """A metadata object of so many bytes."""
    return {"user_id": "u" * (size_bytes - len('{"user_id": ""}'))}


@pytest.mark.parametrize(
    ("members", "user_id"),
    [
        pytest.param({"metadata": {"user_id": "ann", "x": [1]}}, "ann", id="named"),
        pytest.param({}, None, id="no-metadata"),
        pytest.param({"metadata": None}, None, id="null"),
        pytest.param({"metadata": "ann"}, None, id="no-object"),
        pytest.param({"metadata": {}}, None, id="not-named"),
        pytest.param({"metadata": {"user_id": 7}}, None, id="no-text"),
        pytest.param({"metadata": of_user(4096)}, of_user(4096)["user_id"], id="as-large-as-may-be"),
        pytest.param({"metadata": of_user(4097)}, None, id="too-large"),
    ],
)
def test_user_that_a_request_names_is_known_and_not_shown(members, user_id):
    """Given a request with metadata, then its user is read if it is a text of a sane size; no log can show it."""
    summary = read_request(json.dumps({"model": "m"} | members).encode())
    assert summary.user_id == user_id
    assert repr(summary) == "RequestSummary(model='m', is_streaming=False, is_fast=False)"


@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_no_body_breaks_the_reader(body):
    """Given any bytes, then a summary or InvalidRequest, and nothing else."""
    with contextlib.suppress(InvalidRequest):
        assert read_request(body).model


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4), st.booleans(), st.booleans())
def test_any_object_with_a_model_is_let_through(members, is_streaming, is_ascii):
    """Given any JSON object, escaped or not, when it has a model, then it is a request."""
    document = members | {"model": "m", "stream": is_streaming}
    text = json.dumps(document, ensure_ascii=is_ascii)
    try:
        body = text.encode()
    except UnicodeEncodeError:  # a lone surrogate travels only as an escape
        body = json.dumps(document).encode()
    assert read_request(body).is_streaming is is_streaming


def event(name, **document):
    return Event(name, json.dumps({"type": name} | document))


def counts_of(tally):
    """Input, output, cache reads and cache writes, of the one inference that an answer is billed for."""
    (used,) = tally.billed("m")
    return (used.input_tokens, used.output_tokens, used.cache_read_tokens, used.cache_write_tokens)


def test_usage_is_replaced_within_a_turn():
    """Given cumulative counts that repeat, when observed, then later ones replace earlier ones and none is added."""
    tally = Tally()
    usage = {"input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 4}
    tally.observe(event("message_start", message={"model": "m", "usage": usage}))
    tally.observe(event("message_delta", usage={"output_tokens": 7}))
    tally.observe(event("message_delta", usage={"input_tokens": 10, "output_tokens": 9}))
    assert tally.model == "m"
    assert counts_of(tally) == (10, 9, 3, 4)
    assert not tally.has_ended


@pytest.mark.parametrize(
    "usage",
    [None, 5, [], {"output_tokens": None}, {"output_tokens": -1}, {"output_tokens": True}, {"output_tokens": "7"}]
    + [{"output_tokens": odd} for odd in (10**12 + 1, 10**100, 10**310, 7.0, float("nan"), float("inf"))],
    ids=lambda usage: str(usage)[:40],
)
def test_odd_usage_changes_no_count(usage):
    """Given usage of an unknown shape, then what was counted stays."""
    tally = Tally()
    tally.observe(event("message_delta", usage={"output_tokens": 3}))
    tally.observe(event("message_delta", usage=usage))
    assert counts_of(tally) == (0, 3, 0, 0)


@pytest.mark.parametrize(
    ("last", "has_stopped", "error_kind"),
    [
        pytest.param(event("message_stop"), True, None, id="stop"),
        pytest.param(Event("message_stop", "{}"), True, None, id="stop-by-name"),
        pytest.param(Event("message", '{"type":"message_stop"}'), True, None, id="stop-by-type"),
        pytest.param(Event("message_stop", "not json"), True, None, id="stop-unreadable"),
        pytest.param(event("error", error={"type": "overloaded_error"}), False, "overloaded_error", id="error"),
        pytest.param(Event("message", '{"type":"error"}'), False, "api_error", id="error-by-type"),
        pytest.param(Event("error", "not json"), False, "api_error", id="error-unreadable"),
        pytest.param(Event("error", '{"error":{"type":5}}'), False, "api_error", id="error-odd-type"),
        pytest.param(Event("error", "[]"), False, "api_error", id="error-no-object"),
    ],
)
def test_end_of_a_stream_is_seen(last, has_stopped, error_kind):
    """Given a last event in any dress, when observed, then the stream has ended, and how is known."""
    tally = Tally()
    tally.observe(last)
    assert tally.has_ended
    assert (tally.has_stopped, tally.error_kind) == (has_stopped, error_kind)


@pytest.mark.parametrize(
    "other",
    [
        event("ping"),
        event("content_block_delta"),
        Event("odd", "{}"),
        Event("message_start", "{"),
        Event("x", "[" * 9999),
    ],
    ids=lambda other: f"{other.name}-{other.data[:6]}",
)
def test_other_events_end_nothing(other):
    """Given any other event, readable or not, then the stream goes on."""
    tally = Tally()
    tally.observe(other)
    assert not tally.has_ended
    assert tally.billed("m") == []


def test_other_events_usage_and_ending_are_not_read():
    """Given an event of another kind that has a usage and a stop reason, then it changes nothing."""
    tally = Tally()
    tally.observe(event("content_block_stop", usage={"output_tokens": 9}, delta={"stop_reason": "refusal"}))
    assert tally.billed("m") == []
    assert not tally.is_refused


@pytest.mark.parametrize("message", [None, 5, {"model": 5}, {"usage": None}], ids=str)
def test_odd_message_start_is_borne(message):
    """Given a message_start of an unknown shape, then nothing is read of it and nothing breaks."""
    tally = Tally()
    tally.observe(event("message_start", message=message))
    assert (tally.model, tally.billed("m")) == (None, [])


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"5", b"{", b"[" * 100_000], ids=lambda body: str(body[:6]))
def test_whole_answer_that_is_no_object_is_told_apart(body):
    """Given a whole answer that is no JSON object, then observing it says so."""
    assert not Tally().observe_whole(body)


def test_whole_answer_is_counted():
    """Given a whole message, when observed, then its model and usage are counted and it has ended."""
    tally = Tally()
    assert tally.observe_whole(b'{"type":"message","model":"m","usage":{"input_tokens":2,"output_tokens":3}}')
    assert (tally.model, counts_of(tally), tally.has_ended) == ("m", (2, 3, 0, 0), True)


CONTAINER = {"id": "container_011CPR5", "expires_at": "2026-12-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param(event("message_start", message={"container": CONTAINER}), "container_011CPR5", id="at-the-start"),
        pytest.param(event("message_delta", delta={"container": CONTAINER}), "container_011CPR5", id="at-the-end"),
        pytest.param(event("message_delta", delta={"container": None}), None, id="none"),
        pytest.param(event("message_delta", delta={"container": {"id": 7}}), None, id="odd-id"),
        pytest.param(event("message_delta", delta="odd"), None, id="odd-delta"),
    ],
)
def test_container_that_an_answer_tells_of_is_known(told, expected):
    """Given an event with a container, then its id is known; anything odd is none."""
    tally = Tally()
    tally.observe(told)
    assert tally.container_id == expected


def test_container_of_a_whole_answer_is_known():
    """Given a whole message with a container, then its id is known."""
    tally = Tally()
    assert tally.observe_whole(json.dumps({"type": "message", "container": CONTAINER}).encode())
    assert tally.container_id == "container_011CPR5"


def test_container_is_not_shown():
    """Given an answer whose code ran in a container, then its id stands in no `repr`, and so in no log."""
    tally = Tally()
    tally.observe(event("message_start", message={"container": CONTAINER}))
    assert CONTAINER["id"] not in repr(tally)


@pytest.mark.parametrize(
    ("reason", "is_refused"), [("refusal", True), ("end_turn", False), (None, False), (["refusal"], False)], ids=str
)
def test_an_answer_that_the_model_refused_is_known(reason, is_refused):
    """Given a stop reason, streamed or in a whole message, then it is known whether the model declined."""
    whole, streamed = Tally(), Tally()
    assert whole.observe_whole(json.dumps({"type": "message", "stop_reason": reason}).encode())
    streamed.observe(event("message_delta", delta={"stop_reason": reason}))
    assert (whole.is_refused, streamed.is_refused) == (is_refused, is_refused)


@pytest.mark.parametrize(
    ("members", "billed"),
    [
        pytest.param({"usage": {"output_tokens": 3}, "content": []}, [(3, 3)], id="counted"),
        pytest.param({"usage": {"output_tokens": 0}, "content": []}, [(0, 0)], id="counted-as-none"),
        pytest.param({"usage": {"input_tokens": 1}, "content": ["x" * 400]}, [(0, 117)], id="not-counted"),
        pytest.param({"content": ["x" * 400]}, [(0, 109)], id="no-usage"),
        pytest.param({"content": "x" * 400}, [], id="no-message"),
    ],
)
def test_a_whole_answer_s_output_is_what_was_counted_or_else_guessed(members, billed):
    """Given a whole answer, then its output is the upstream's count; without one, a token for each four bytes."""
    tally = Tally()
    assert tally.observe_whole(json.dumps({"type": "message"} | members).encode())
    assert [(used.output_tokens, used.billed_output_tokens) for used in tally.billed("m")] == billed


def test_a_message_start_s_output_is_a_placeholder():
    """Given an answer that broke behind its start, then what it says of the output is no count, and what follows is."""
    tally = Tally()
    tally.observe(event("message_start", message={"usage": {"output_tokens": 8}}))
    assert not tally.usage.has_counted_output
    tally.observe(event("message_delta", usage={"output_tokens": 3}))
    assert tally.usage.has_counted_output
    assert counts_of(tally) == (0, 3, 0, 0)


def test_calls_of_a_whole_answer_are_known():
    """Given a whole message that calls a tool, then the call is known by its name."""
    tally = Tally()
    assert tally.observe_whole(b'{"type":"message","content":[{"type":"tool_use","id":"t","name":"Read","input":{}}]}')
    assert [(use.id, use.name, use.input_bytes) for use in tally.tools.calls] == [("t", "Read", 2)]


LARGE_FILE = b"A" * 2000


@pytest.mark.parametrize(
    ("request_body", "tokens"),
    [
        pytest.param(b"x", 1, id="one"),
        pytest.param(b"x" * 40, 10, id="ten"),
        pytest.param(b"x" * 41, 11, id="rounded-up"),
        pytest.param(b"text " + LARGE_FILE * 2, 1602, id="file"),
        pytest.param(LARGE_FILE + b" x " + LARGE_FILE, 3201, id="two-files"),
        pytest.param(b"." + LARGE_FILE[1:], 500, id="no-file"),
    ],
)
def test_an_answer_that_was_lost_is_guessed_by_its_request(request_body, tokens):
    """Given an answer of which nothing came, then its input is a token for each four bytes of text and as much as a
    large image for each file; all else of it is zero."""
    lost = Tally.of_lost_answer("m", request_body).billed("asked")
    counts = (0,) * 7
    assert lost == [BilledUsage("lost", "m", *counts, {}, None, None, None, False, False, tokens)]
