"""Good answers as planned: content, events, dress, framing, codings, wire writes. No sockets."""

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.simulator import ScriptError
from gateway.simulator.framing import chunk
from gateway.simulator.steps import Close, Pause, Send
from tests.simulator.wired import answer_of, plan_of, request_of, steps_of


def assembled(events: list[tuple[str, Any]]) -> dict[str, Any]:  # noqa: C901  # a case for each kind of event
    """The message that a client builds from a stream."""
    message: dict[str, Any] = {}
    partial: dict[int, str] = {}
    for name, data in events:
        assert data["type"] == name
        if name == "message_start":
            message = data["message"]
        elif name == "content_block_start":
            assert data["index"] == len(message["content"])
            message["content"].append(data["content_block"])
        elif name == "content_block_delta":
            block, delta = message["content"][data["index"]], data["delta"]
            match delta["type"]:
                case "text_delta":
                    block["text"] += delta["text"]
                case "thinking_delta":
                    block["thinking"] += delta["thinking"]
                case "signature_delta":
                    block["signature"] = delta["signature"]
                case "input_json_delta":
                    index = data["index"]
                    partial[index] = partial.get(index, "") + delta["partial_json"]
        elif name == "message_delta":
            message.update(data["delta"])
            message["usage"].update(data["usage"])
    for index, text in partial.items():
        message["content"][index]["input"] = json.loads(text)
    assert events[-1][0] == "message_stop"
    return message


def test_stream_has_the_events_of_the_api():
    answer, others = plan_of("ok:events=2", request_of(stream=True))
    assert answer.status == 200
    assert answer.header("content-type").startswith("text/event-stream")
    assert [name for name, _ in answer.events()] == [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert answer.is_complete
    assert others == []


@pytest.mark.parametrize(
    "script",
    [
        "ok",
        "ok:thinking",
        "ok:events=1,text=short",
        "ok:events=40,text=fewer characters than events",
        "ok:bytes=100",
        "ok:utf8,bytes=33",
        "ok:big=100000",
        "ok:stop=max_tokens,input-tokens=1,output-tokens=2,cache-read=3,cache-write=4",
        "tool_use",
        'tool_use:name=weather,input={"city":"Zürich","days":[1,2]},calls=2,pieces=7',
        "tool_use:text=Let me look.,thinking",
    ],
)
def test_stream_and_whole_answer_carry_the_same_message(script):
    """Given one message id, then what a client assembles is what a client gets whole."""
    script += ("," if ":" in script else ":") + "id=msg_1"
    streamed, _ = plan_of(script, request_of(stream=True))
    whole, _ = plan_of(script, request_of(stream=False))
    assert assembled(streamed.events()) == whole.json()


def test_same_body_gets_the_same_answer():
    first, _ = plan_of("ok", request_of(messages=["a"]))
    again, _ = plan_of("ok", request_of(messages=["a"]))
    other, _ = plan_of("ok", request_of(messages=["b"]))
    assert first.body == again.body != other.body


USED = "ok:input-tokens=1,output-tokens=2,cache-read=3,cache-write=4,cache-write-1h=5,web-searches=6,web-fetches=7"
COUNTS = {"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 9}
TERMS = {
    "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 5},
    "service_tier": "batch",
    "inference_geo": "us",
    "speed": "fast",
}
TOOLS = {"server_tool_use": {"web_search_requests": 6, "web_fetch_requests": 7}}


def test_usage_is_as_told():
    """Given a stream, then its first event alone has the terms of the price, and its last alone the server tools."""
    fields = {"speed": "fast", "inference_geo": "us"}
    events = dict(plan_of(f"{USED},tier=batch", request_of(**fields))[0].events())
    whole = plan_of(f"{USED},tier=batch", request_of(stream=False, **fields))[0].json()
    assert events["message_start"]["message"]["usage"] == {**COUNTS, **TERMS, "output_tokens": 1}
    assert events["message_delta"]["usage"] == {**COUNTS, **TOOLS}
    assert whole["usage"] == {**COUNTS, **TERMS, **TOOLS}


def test_lifetimes_may_be_left_out():
    whole = plan_of("ok:lifetimes=false", request_of(stream=False))[0].json()
    assert "cache_creation" not in whole["usage"]
    assert whole["usage"]["cache_creation_input_tokens"] == 3


def test_iterations_add_up_but_for_compaction_and_advisor():
    """Given iterations, then the answer's own counts are those of its messages, and a stream begins with the first."""
    entries = [
        {"type": "compaction", "input_tokens": 1000, "output_tokens": 100},
        {"type": "message", "input_tokens": 10, "output_tokens": 1, "cache_creation_input_tokens": 5},
        {"type": "advisor_message", "model": "claude-b", "input_tokens": 2000},
        {"type": "fallback_message", "model": "claude-c", "input_tokens": 20, "output_tokens": 2},
    ]
    script = f"ok:iterations={json.dumps(entries)}"
    whole = plan_of(script, request_of(stream=False))[0].json()["usage"]
    events = dict(plan_of(script)[0].events())
    assert (whole["input_tokens"], whole["output_tokens"], whole["cache_creation_input_tokens"]) == (30, 3, 5)
    assert [entry["type"] for entry in whole["iterations"]] == [entry["type"] for entry in entries]
    assert whole["iterations"][1] == {**entries[1], "cache_read_input_tokens": 0}
    assert events["message_start"]["message"]["usage"]["input_tokens"] == 10
    assert events["message_delta"]["usage"]["input_tokens"] == 30
    assert events["message_delta"]["usage"]["iterations"] == whole["iterations"]


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[1]",
        '[{"type":"other"}]',
        '[{"type":"advisor_message"}]',
        '[{"type":"message","input_tokens":-1}]',
        '[{"type":"message","cache_creation":7}]',
    ],
)
def test_iterations_that_the_api_would_not_say_are_refused(text):
    with pytest.raises(ScriptError, match="wants"):
        plan_of(f"ok:iterations={text}")


def test_tool_use_may_be_once():
    """Given `once`, then a request that brings the tool's result gets a good answer."""
    brought = [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}]
    first = plan_of("tool_use:once", request_of(stream=False))[0].json()
    then = plan_of("tool_use:once", request_of(stream=False, messages=brought))[0].json()
    assert (first["stop_reason"], first["content"][0]["type"]) == ("tool_use", "tool_use")
    assert (then["stop_reason"], then["content"][0]["type"]) == ("end_turn", "text")


@pytest.mark.parametrize(("wide", "size"), [("", 1), ("", 70), (",utf8", 1), (",utf8", 70)])
def test_deltas_have_the_size_asked_for(wide, size):
    answer, _ = plan_of(f"ok:events=6,bytes={size}{wide}")
    deltas = [data["delta"] for name, data in answer.events() if name == "content_block_delta"]
    texts = [delta["text"] for delta in deltas]
    assert [len(text.encode()) for text in texts] == [size] * 6


def test_big_event_is_one_event():
    answer, _ = plan_of("ok:events=3,big=1000000")
    sizes = [len(json.dumps(data)) for _, data in answer.events()]
    assert len([size for size in sizes if size > 1_000_000]) == 1


@pytest.mark.parametrize("option", ["bom", "comments", "multiline", "utf8", "eol=crlf", "eol=cr"])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("coding", ["", ",gzip", ",deflate"])
def test_dress_framing_and_coding_change_no_event(option, framing, coding):
    wide = ",utf8" if option == "utf8" else ""
    plain, _ = plan_of(f"ok:id=m{wide}")
    dressed, others = plan_of(f"ok:id=m,framing={framing},{option}{coding}")
    assert dressed.body != plain.body or option == "utf8"
    assert dressed.events() == plain.events()
    assert others == ([Close()] if framing == "close" else [])
    assert dressed.is_complete or framing == "close"


@pytest.mark.parametrize(
    ("option", "bytes_seen"),
    [
        ("bom", b"\xef\xbb\xbfevent: message_start"),
        ("comments", b"\n: a comment before the event\nevent: ping\n:a comment inside"),
        ("multiline", b'data: {\ndata: "type": "ping"\ndata: }\n\n'),
        ("eol=crlf", b'event: ping\r\ndata: {"type":"ping"}\r\n\r\n'),
        ("eol=cr", b'event: ping\rdata: {"type":"ping"}\r\r'),
        ("utf8", "世界".encode()),
        ("unknown", b"event: simulated_unknown\n"),
    ],
)
def test_dress_is_on_the_wire(option, bytes_seen):
    answer, _ = plan_of(f"ok:{option}")
    assert bytes_seen in answer.body


@pytest.mark.parametrize("coding", ["", ",gzip", ",deflate"])
def test_each_event_is_a_send_that_can_be_read_at_once(coding):
    """Given a prefix of the sends, then all events in it can be decoded."""
    sends = [step.data for step in steps_of(f"ok{':events=3' + coding}")]
    for number in range(2, 11):
        assert len(answer_of(b"".join(sends[:number])).events()) == number - 1


def test_pauses_are_where_they_are_asked_for():
    steps = steps_of("ok:events=1,first=2,delay=0.5")
    kinds = ["send" if isinstance(step, Send) else step.seconds for step in steps]
    assert kinds == ["send", 2.0, "send", *[0.5, "send"] * 6, "send"]


def test_whole_answer_is_one_send():
    assert len(steps_of("ok", request_of(stream=False))) == 1


@pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_split_writes_no_more_than_its_size(is_streamed, size):
    request = request_of(stream=is_streamed)
    steps = steps_of(f"split:size={size},delay=0.001", request)
    sends = [step.data for step in steps if isinstance(step, Send)]
    assert all(0 < len(data) <= size for data in sends)
    assert len(sends) == len([step for step in steps if isinstance(step, Pause)])
    assert plan_of(f"split:size={size}", request)[0] == plan_of("ok", request)[0]


@pytest.mark.parametrize("name", ["one_segment", "one_record"])
@pytest.mark.parametrize(("option", "sends"), [("", 1), (",apart", 2)])
def test_one_segment_is_one_send(name, option, sends):
    script = f"{name}:events=9{option}"
    assert [type(step) for step in steps_of(script)] == [Send] * sends
    assert plan_of(script)[0].events() == plan_of("ok:events=9")[0].events()


def test_tool_use_calls_the_first_tool_offered():
    request = request_of(stream=False, tools=[{"name": "first"}, {"name": "second"}])
    message = plan_of("tool_use:calls=2", request)[0].json()
    assert message["stop_reason"] == "tool_use"
    assert [block["name"] for block in message["content"]] == ["first", "first"]
    assert len({block["id"] for block in message["content"]}) == 2
    assert plan_of("tool_use:name=mine", request)[0].json()["content"][0]["name"] == "mine"


@pytest.mark.parametrize("after", [0, 3])
def test_error_event_ends_the_stream(after):
    answer, _ = plan_of(f"error_event:type=rate_limit_error,message=no,after={after}")
    *good, (name, data) = answer.events()
    assert len(good) == after
    assert (name, data["error"]) == ("error", {"type": "rate_limit_error", "message": "no"})
    assert answer.is_complete


def test_error_event_is_a_200_when_whole():
    answer, _ = plan_of("error_event", request_of(stream=False))
    assert (answer.status, answer.json()["error"]["type"]) == (200, "overloaded_error")


def test_json_to_stream_is_json():
    answer, _ = plan_of("json_to_stream", request_of(stream=True))
    assert answer.header("content-type") == "application/json"
    assert answer.json()["type"] == "message"


def test_set_cookie_sets_one():
    assert plan_of("set_cookie")[0].header("set-cookie").startswith("__cf_bm=")


def test_early_hints_come_before_the_answer():
    hints, head, *_ = steps_of("early_hints")
    assert hints.data.startswith(b"HTTP/1.1 103 ")
    assert head.data.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("stream", [True, False])
def test_hang_up_closes_unannounced(stream):
    answer, others = plan_of("ok:hang-up", request_of(stream=stream))
    assert answer.is_complete
    assert answer.header("connection") == ""
    assert others == [Close()]


def test_http_1_0_gets_no_chunks():
    answer, others = plan_of("ok", request_of(version="HTTP/1.0"))
    assert answer.header("transfer-encoding") == ""
    assert others == [Close()]


def test_body_that_is_no_json_object_is_refused():
    answer, _ = plan_of("ok", replace(request_of(), body=b"[1]"))
    assert (answer.status, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_count_tokens_counts():
    request = request_of(path="/v1/messages/count_tokens")
    assert plan_of("ok:input-tokens=11", request)[0].json() == {"input_tokens": 11}


@pytest.mark.parametrize(
    ("path", "query", "ids", "has_more"),
    [
        ("/v1/models", "", ["large", "medium", "small"], False),
        ("/v1/models", "limit=2", ["large", "medium"], True),
        ("/v1/models", "limit=2&after_id=claude-simulated-large", ["medium", "small"], False),
        ("/v1/models", "limit=x", ["large", "medium", "small"], False),
    ],
)
def test_models_are_listed_by_the_page(path, query, ids, has_more):
    page = plan_of("ok", request_of(method="GET", path=path, query=query))[0].json()
    assert [model["id"].rpartition("-")[2] for model in page["data"]] == ids
    assert page["has_more"] is has_more
    assert page["last_id"] == page["data"][-1]["id"]


def test_any_model_is_known():
    model = plan_of("ok", request_of(method="GET", path="/v1/models/claude-x"))[0].json()
    assert (model["type"], model["id"]) == ("model", "claude-x")


def test_no_data_is_no_chunk() -> None:
    """Given nothing to send, then no chunk: an empty one would end the body."""
    assert chunk(b"") == b""
