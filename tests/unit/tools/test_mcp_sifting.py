"""Pages of tools, between what servers write and what the SDK reads."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import JSONRPCResponse, ListToolsResult, jsonrpc_message_adapter

from gateway.tools.mcp.sifting import ListedTool, Sifter


def message(*tools: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": list(tools), "nextCursor": "n"}}).encode()


def page_of(body: bytes) -> ListToolsResult:
    """What the SDK makes of a message."""
    read = jsonrpc_message_adapter.validate_json(body, by_name=False)
    assert isinstance(read, JSONRPCResponse)
    return ListToolsResult.model_validate(read.result, by_name=False)


@pytest.mark.parametrize(
    "body",
    [
        b"garbage",
        b"[1]",
        b"\xff",
        b'{"jsonrpc": "2.0", "method": "ping", "id": 3}',
        b'{"jsonrpc": "2.0", "id": 1, "result": {"content": []}}',
        b'{"jsonrpc": "2.0", "id": 1, "result": {"tools": 5}}',
        b'{"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": 5}, 3]}}',
        b'{"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "no"}}',
        b"[" * 100_000,
    ],
)
def test_what_lists_no_tools_stays_as_it_is(body: bytes) -> None:
    assert Sifter().sift(body) == body
    event = b"event: message\ndata: " + body + b"\n\n"
    assert Sifter().sift_event(event) == event


def test_the_sdk_reads_the_page_and_the_tools_are_as_they_were_written() -> None:
    """Given a page, then the SDK has its cursor and schemas that it can heed, and the tools come back unchanged."""
    sifter = Sifter()
    schema = {"properties": {"a": {"x-mcp-header": "A"}}, "required": ["a"]}
    page = page_of(sifter.sift(message({"name": "a", "description": "d", "inputSchema": schema}, {"name": "b"})))
    assert page.next_cursor == "n"
    assert [tool.input_schema for tool in page.tools] == [{"type": "object"} | schema, {"type": "object"}]
    first, second = sifter.tools_of(page)
    assert (first.name, first.description, first.input_schema, first.fault) == ("a", "d", schema, None)
    assert (second.name, second.input_schema) == ("b", None)


def test_tool_that_the_sdk_drops_has_a_fault() -> None:
    """Given a tool that the protocol forbids to use for its `x-mcp-header`, then it is told apart from the others."""
    sifter = Sifter()
    page = page_of(sifter.sift(message({"name": "a", "inputSchema": {}}, {"name": "b", "inputSchema": {}})))
    page.tools = page.tools[1:]
    dropped, kept = sifter.tools_of(page)
    assert "x-mcp-header" in str(dropped.fault)
    assert kept.fault is None


def test_page_that_was_not_sifted_gives_what_the_sdk_has_read() -> None:
    tool = SimpleNamespace(name="a", description=None, input_schema={"type": "object"})
    page = cast(ListToolsResult, SimpleNamespace(meta=None, tools=[tool]))
    assert Sifter().tools_of(page) == [ListedTool("a", None, {"type": "object"})]


def test_pages_that_nobody_asks_for_are_forgotten() -> None:
    sifter = Sifter()
    first = page_of(sifter.sift(message({"name": "a", "description": "d", "inputSchema": {}})))
    for _ in range(20):
        sifter.sift(message({"name": "a", "inputSchema": {}}))
    assert [tool.description for tool in sifter.tools_of(first)] == [None]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    ["name", "description", "inputSchema", "outputSchema", "execution", "annotations", "icons", "_meta"]
)


@given(st.lists(st.dictionaries(names, anything), max_size=4))
def test_the_sdk_reads_every_page(tools: list[dict[str, Any]]) -> None:
    """Given tools of any form beside a good one, then the SDK takes the page, and each tool is there."""
    sifter = Sifter()
    page = page_of(sifter.sift(message(*tools, {"name": "good", "inputSchema": {"type": "object"}})))
    assert page.tools[-1].name == "good"
    assert len(sifter.tools_of(page)) == len(tools) + 1
