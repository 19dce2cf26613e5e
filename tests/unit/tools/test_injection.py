"""Requests with tools of the gateway's in them: which get them, and what of their bytes changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tools.injection import inject, members_of, tool_result
from gateway.tools.splicer import ToolUse

CLOCK: dict[str, Any] = {"name": "bmcp_time_now", "description": "The time.", "input_schema": {"type": "object"}}
SUM: dict[str, Any] = {"name": "bmcp_math_sum", "input_schema": {"type": "object", "properties": {"a": {}}}}
OWN = {"name": "read_file", "input_schema": {"type": "object"}}
MESSAGES = '[ {"role":"user", "content":"caf\\u00e9 \\ud83d 1.50"} ]'


def body_of(**members: object) -> bytes:
    document = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]} | members
    return json.dumps(document).encode()


def injected(body: bytes, *definitions: dict[str, Any], allows_parallel: bool = False) -> dict[str, Any]:
    request = inject(body, definitions or (CLOCK,), allows_parallel)
    assert request is not None
    document: dict[str, Any] = json.loads(request.body())
    return document


@pytest.mark.parametrize(
    ("members", "names", "choice"),
    [
        pytest.param({}, ["bmcp_time_now"], {"type": "auto"}, id="no-tools"),
        pytest.param({"tools": None}, ["bmcp_time_now"], {"type": "auto"}, id="tools-null"),
        pytest.param({"tools": []}, ["bmcp_time_now"], {"type": "auto"}, id="tools-empty"),
        pytest.param({"tools": [OWN]}, ["bmcp_time_now", "read_file"], {"type": "auto"}, id="before-the-clients"),
        pytest.param({"tool_choice": None}, ["bmcp_time_now"], {"type": "auto"}, id="choice-null"),
        pytest.param({"tool_choice": {"type": "auto"}}, ["bmcp_time_now"], {"type": "auto"}, id="auto"),
        pytest.param(
            {"tools": [OWN], "tool_choice": {"type": "any"}},
            ["bmcp_time_now", "read_file"],
            {"type": "any"},
            id="any-of-its-own",
        ),
        pytest.param(
            {"tool_choice": {"type": "auto", "disable_parallel_tool_use": False, "new": 1}},
            ["bmcp_time_now"],
            {"type": "auto", "new": 1},
            id="parallel-asked-for",
        ),
    ],
)
def test_tools_go_before_the_clients_and_parallel_use_is_off(
    members: dict[str, object], names: list[str], choice: dict[str, object]
) -> None:
    document = injected(body_of(**members))
    assert [tool["name"] for tool in document["tools"]] == names
    assert document["tool_choice"] == choice | {"disable_parallel_tool_use": True}


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"tool_choice": {"type": "none"}}, id="none"),
        pytest.param({"tools": [OWN], "tool_choice": {"type": "tool", "name": "read_file"}}, id="a-named-tool"),
        pytest.param({"tool_choice": {"type": "any"}}, id="any-without-tools"),
        pytest.param({"tools": [], "tool_choice": {"type": "any"}}, id="any-of-no-tools"),
        pytest.param({"tool_choice": "auto"}, id="choice-malformed"),
        pytest.param({"tool_choice": {"type": "later"}}, id="choice-unknown"),
        pytest.param({"tools": {"name": "x"}}, id="tools-malformed"),
        pytest.param({"messages": "hi"}, id="messages-malformed"),
        pytest.param({"tools": [CLOCK]}, id="the-client-has-one-of-that-name"),
    ],
)
def test_request_is_left_alone(members: dict[str, object]) -> None:
    assert inject(body_of(**members), (CLOCK,), allows_parallel=False) is None


def test_parallel_use_is_left_to_the_client_where_it_is_allowed() -> None:
    assert "tool_choice" not in injected(body_of(), allows_parallel=True)
    asked = {"type": "auto", "disable_parallel_tool_use": False}
    assert injected(body_of(tool_choice=asked), allows_parallel=True)["tool_choice"] == asked


def test_tool_of_a_name_that_the_client_uses_is_the_clients() -> None:
    """Given a client's tool that is named as one of the gateway's, then it alone is offered, and its calls are not
    the gateway's; names of that form that nobody offered are."""
    request = inject(body_of(tools=[CLOCK]), (CLOCK, SUM), allows_parallel=False)
    assert request is not None
    assert [tool["name"] for tool in json.loads(request.body())["tools"]] == ["bmcp_math_sum", "bmcp_time_now"]
    names = ("bmcp_time_now", "bmcp_math_sum", "bmcp_none_such", "read_file")
    assert [request.is_ours(name) for name in names] == [False, True, True, False]


def test_what_need_not_change_stays_byte_for_byte() -> None:
    """Given odd spacing, escapes, half a surrogate pair, a name given twice and unknown members, then only the tools
    and the choice are written anew, and an unwritten member comes last."""
    before = '{ "model" : "m","stream":false, "temperature":1.50,'
    after = '"x-new": {"a":[1, 2]},"stream" : true }'
    body = f'{before}"messages":{MESSAGES},\n"tools":[{json.dumps(OWN)}],{after}'.encode()
    request = inject(body, (CLOCK,), allows_parallel=False)
    assert request is not None
    written = request.body().decode()
    expected = (
        '{"model":"m","stream":false,"temperature":1.50,'
        f'"messages":{MESSAGES},"tools":[{json.dumps(CLOCK, separators=(",", ":"))},{json.dumps(OWN)}],'
        '"x-new":{"a":[1, 2]},"stream":true,"tool_choice":{"type":"auto","disable_parallel_tool_use":true}}'
    )
    assert written == expected


def test_next_turn_keeps_the_messages_and_adds_what_was_said_and_the_results() -> None:
    body = f'{{"model":"m","messages":{MESSAGES}}}'.encode()
    request = inject(body, (CLOCK,), allows_parallel=False)
    assert request is not None
    use = ToolUse("toolu_1", "bmcp_time_now", {})
    said = [{"type": "text", "text": ""}, {"type": "tool_use", "id": "toolu_1", "name": "bmcp_time_now", "input": {}}]
    results = [tool_result(use, [{"type": "text", "text": "noon \ud83d"}], is_error=True)]
    request = request.continued(said, results).continued([{"type": "text", "text": "second"}], results)
    written = request.body().decode()
    assert f'"messages":{MESSAGES[:-1].rstrip()},' in written
    added = json.loads(written)["messages"][1:]
    assert [message["role"] for message in added] == ["assistant", "user", "assistant", "user"]
    assert added[0]["content"] == said[1:], "the API takes no empty text"
    assert added[1]["content"] == [
        {
            "type": "tool_result",
            "tool_use_id": "toolu_1",
            "content": [{"type": "text", "text": "noon \ud83d"}],
            "is_error": True,
        }
    ]


@pytest.mark.parametrize("kind", ["thinking", "redacted_thinking"])
def test_thinking_keeps_its_place(kind: str) -> None:
    """Given an empty text between thinking blocks, then a space stands for it: the API takes no empty text, and no
    signature in another place."""
    request = inject(body_of(), (CLOCK,), allows_parallel=False)
    assert request is not None
    blocks = [{"type": kind, "data": "1"}, {"type": "text", "text": ""}, {"type": kind, "data": "2"}]
    said = json.loads(request.continued(blocks, []).body())["messages"][-2]["content"]
    assert said == [blocks[0], {"type": "text", "text": " "}, blocks[2]]


def test_results_without_an_error_do_not_speak_of_one() -> None:
    assert "is_error" not in tool_result(ToolUse("t", "n", {}), [], is_error=False)


def test_empty_messages_are_added_to() -> None:
    request = inject(b'{"model":"m","messages":[ ]}', (CLOCK,), allows_parallel=False)
    assert request is not None
    continued = json.loads(request.continued([{"type": "text", "text": "x"}], []).body())
    assert [message["role"] for message in continued["messages"]] == ["assistant", "user"]


def test_last_turn_forbids_tools() -> None:
    request = inject(body_of(tools=[OWN]), (CLOCK,), allows_parallel=False)
    assert request is not None
    document = json.loads(request.without_tools().body())
    assert document["tool_choice"] == {"type": "none"}
    assert [tool["name"] for tool in document["tools"]] == ["bmcp_time_now", "read_file"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=6), st.sampled_from([None, 1, 4]), st.booleans())
def test_members_are_those_of_any_object(document: dict[str, Any], indent: int | None, is_ascii: bool) -> None:
    """Given any object however it is written, then its members are found, and their texts mean what they meant."""
    try:
        body = json.dumps(document, indent=indent, ensure_ascii=is_ascii).encode()
    except UnicodeEncodeError:
        body = json.dumps(document, indent=indent).encode()
    members = members_of(b" \n" + body + b"\r\n")
    assert members is not None
    assert {member.name: member.value for member in members} == document
    assert {json.loads(member.name_text): json.loads(member.value_text) for member in members} == document


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"a"}', b'{"a":1,}', b'{"a":1 "b":2}', b"\xff{}", b'{"a":' + b"[" * 100_000]
)
def test_what_is_no_object_has_no_members(body: bytes) -> None:
    assert members_of(body) is None
