"""Which tools are offered, under which names, and what is said of the others."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp_types import ToolExecution

from gateway.config.mcp_servers import McpServer
from gateway.tools.mcp.budget import NOTHING, ToolLimits, within_total
from gateway.tools.mcp.listing import LONGEST_NAME, injected_name, listing

SERVER = McpServer("files", "http://x")


@dataclass
class Listed:
    name: Any
    description: Any = None
    input_schema: Any = field(default_factory=lambda: {"type": "object"})
    execution: ToolExecution | None = None


def nested(levels: int) -> dict[str, Any]:
    """A schema of that many levels."""
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def offered(*tools: Listed, server: McpServer = SERVER, **limits: int):
    found = listing(server, tools, NOTHING, ToolLimits(**limits))
    return [tool.name for tool in found.tools], list(found.refusals)


def test_tool_is_offered_under_its_servers_name():
    """Given a tool, then its definition has the name, the description and the schema."""
    schema = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    (tool,) = listing(SERVER, [Listed("read", "Read it.", schema)], NOTHING).tools
    assert (tool.name, tool.server, tool.tool) == ("bmcp_files_read", "files", "read")
    assert tool.definition == {"name": "bmcp_files_read", "description": "Read it.", "input_schema": schema}


def test_tools_are_sorted_by_name():
    """Given tools in any order, then they are sorted, so that prompt caches hold."""
    assert offered(Listed("b"), Listed("a"), Listed("B"))[0] == ["bmcp_files_B", "bmcp_files_a", "bmcp_files_b"]


def test_what_is_not_allowed_is_no_refusal():
    """Given a deny list, then the tools on it are absent without a word."""
    server = McpServer("files", "http://x", deny=(re.compile("^write$"),))
    assert offered(Listed("read"), Listed("write"), server=server) == (["bmcp_files_read"], [])


@pytest.mark.parametrize(
    ("name", "injected"),
    [("read", "bmcp_s_read"), ("a.b/c", "bmcp_s_a_b_c"), ("ä b", "bmcp_s___b"), ("A-1_", "bmcp_s_A-1_")],
)
def test_odd_characters_become_underscores(name, injected):
    """Given characters that models' tools cannot have, then `_` stands for each."""
    assert injected_name("s", name) == injected


def test_longest_name_is_taken_and_a_longer_one_is_refused():
    """Given names of 128 characters, which is the API's limit, and of 129, then the line names the second."""
    assert LONGEST_NAME == 128
    fits, too_long = "a" * (LONGEST_NAME - len("bmcp_files_")), "b" * (LONGEST_NAME - len("bmcp_files_") + 1)
    names, (refusal,) = offered(Listed(fits), Listed(too_long))
    assert names == [f"bmcp_files_{fits}"]
    assert too_long in refusal
    assert "129 characters" in refusal


def test_tools_that_would_have_one_name_are_all_refused():
    """Given two tools that differ in an odd character alone, then neither is offered, and each has a line."""
    names, refusals = offered(Listed("a.b"), Listed("a/b"), Listed("c"))
    assert names == ["bmcp_files_c"]
    assert [refusal.split("'")[1] for refusal in refusals] == ["a.b", "a/b"]
    assert all("bmcp_files_a_b" in refusal for refusal in refusals)


def test_tool_that_is_listed_twice_is_offered_once():
    """Given a server that repeats itself, then the tool is there once."""
    assert offered(Listed("a"), Listed("a")) == (["bmcp_files_a"], [])


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        pytest.param({"type": "string"}, "not an object", id="no-object"),
        pytest.param({"type": "object", "anyOf": []}, "anyOf at the top level", id="any-of"),
        pytest.param({"type": "object", "oneOf": [{}]}, "oneOf at the top level", id="one-of"),
        pytest.param(
            {"type": "object", "properties": {"a b": {}}}, "an input's name has characters", id="odd-property"
        ),
        pytest.param(
            {"type": "object", "properties": {"x" * 65: {}}}, "an input's name has characters", id="long-property"
        ),
        pytest.param(
            {"type": "object", "properties": []}, "an input's name has characters", id="properties-are-a-list"
        ),
        pytest.param(
            {"type": "object", "properties": {"a": {"type": "strnig"}}}, "not valid JSON Schema", id="invalid"
        ),
        pytest.param({"type": "object", "required": "a"}, "not valid JSON Schema", id="required-is-a-text"),
        pytest.param({"type": ["object"]}, "not an object", id="type-is-a-list"),
        pytest.param({"type": "object", "allOf": [{}]}, "allOf at the top level", id="all-of"),
        pytest.param(True, "not an object", id="schema-is-true"),
        pytest.param(None, "not an object", id="no-schema"),
        pytest.param([], "not an object", id="schema-is-a-list"),
        pytest.param({"properties": {"a": {"maximum": float("nan")}}}, "not finite", id="nan"),
        pytest.param({"properties": {"a": {"maximum": float("inf")}}}, "not finite", id="infinity"),
        pytest.param({"properties": {"a": {"enum": [1, [-float("inf")]]}}}, "not finite", id="infinity-deep-inside"),
        pytest.param({"properties": {"a": {"maximum": 10**400}}}, "too large", id="integer-that-no-float-holds"),
        pytest.param({"description": "\ud800"}, "half a character", id="half-a-character"),
        pytest.param({"$defs": {"\udfff": {}}}, "half a character", id="half-a-character-in-a-name"),
        pytest.param({"properties": {"a": nested(70)}}, "levels", id="deep"),
        pytest.param({"properties": {"a": nested(100_000)}}, "levels", id="very-deep"),
        pytest.param({"properties": {"a": {"pattern": "("}}}, "not valid JSON Schema", id="no-pattern"),
        pytest.param({"properties": {"a": {"pattern": "a{99999999999}"}}}, "cannot be checked", id="pattern-too-much"),
    ],
)
def test_schema_that_the_api_would_refuse_is_left_out(schema, fault):
    """Given one such tool beside a good one, then the good one alone is offered, and a line says what is wrong."""
    names, (refusal,) = offered(Listed("bad", input_schema=schema), Listed("good"))
    assert names == ["bmcp_files_good"]
    assert fault in refusal
    assert "'bad' of server files" in refusal


@pytest.mark.parametrize(("support", "is_offered"), [("required", False), ("optional", True), ("forbidden", True)])
def test_tool_that_only_runs_as_a_task_is_refused(support, is_offered):
    """Given what a tool says of tasks, then it is offered unless it can be called in no other way."""
    names, refusals = offered(Listed("a", execution=ToolExecution(task_support=support)))
    assert (len(names), len(refusals)) == ((1, 0) if is_offered else (0, 1))


SCHEMA_WORDS = st.sampled_from(["type", "properties", "items", "$ref", "$defs", "pattern", "required", "enum", "$id"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(SCHEMA_WORDS | st.text(), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=100)
@given(st.text(), st.dictionaries(SCHEMA_WORDS | st.text(), JSON))
def test_any_tool_is_either_offered_or_refused(name, schema):
    """Given any name and any schema, then nothing raises, and the tool is in one of the two lists."""
    names, refusals = offered(Listed(name, input_schema=schema))
    assert len(names) + len(refusals) == 1


def test_schema_without_a_type_is_an_objects():
    """Given a schema that does not say its type, then it is that of an object, as the protocol has it."""
    (tool,) = listing(SERVER, [Listed("a", input_schema={})], NOTHING).tools
    assert tool.definition["input_schema"] == {"type": "object"}


def test_schema_that_has_changed_is_checked_again():
    """Given a tool that was good before, when its schema becomes a bad one, then it is refused."""
    before = listing(SERVER, [Listed("a")], NOTHING)
    after = listing(SERVER, [Listed("a", input_schema={"type": "object", "required": 5})], before)
    assert (len(after.tools), len(after.refusals)) == (0, 1)


@pytest.mark.parametrize(
    ("tool", "fault"),
    [
        pytest.param(Listed(5), "tool None of server files is not offered: it has no name", id="name-is-a-number"),
        pytest.param(Listed(None), "it has no name", id="no-name"),
        pytest.param(Listed("\ud800"), "its name has half a character", id="half-a-character-in-its-name"),
        pytest.param(Listed("bad", 5), "its description is not a text", id="description-is-a-number"),
        pytest.param(Listed("bad", "\ud800"), "half a character", id="half-a-character-in-its-description"),
        pytest.param(
            Listed("bad", "x" * 20_000_000), "20000000 bytes, and 32768 are allowed", id="endless-description"
        ),
        pytest.param(Listed("bad", input_schema={"title": "x" * 200_000}), "131072 are allowed", id="endless-schema"),
    ],
)
def test_tool_that_is_wrong_in_itself_takes_no_other_with_it(tool, fault):
    """Given one such tool beside a good one, then the good one alone is offered, and a line says what is wrong."""
    names, (refusal,) = offered(tool, Listed("good"))
    assert names == ["bmcp_files_good"]
    assert fault in refusal
    assert len(refusal) < 300


@pytest.mark.parametrize("schema", [nested(62), {"properties": {"a": {"pattern": r"^a+$", "maximum": 1.5e300}}}])
def test_schema_within_bounds_is_offered(schema):
    assert offered(Listed("a", input_schema=schema)) == (["bmcp_files_a"], [])


@pytest.mark.parametrize(
    ("limits", "fits"),
    [
        pytest.param({"description_bytes": 9}, True, id="description-fits"),
        pytest.param({"description_bytes": 8}, False, id="description-is-counted-in-bytes"),
        pytest.param({"definition_bytes": 85}, True, id="definition-fits"),
        pytest.param({"definition_bytes": 84}, False, id="definition-does-not"),
    ],
)
def test_limits_of_one_tool_are_those_that_are_set(limits, fits):
    names, refusals = offered(Listed("read", "\u00e4\u00f6\u00fc\u20ac"), **limits)
    assert (len(names), len(refusals)) == ((1, 0) if fits else (0, 1))


def test_tools_of_all_servers_together_are_bounded():
    """Given two servers, then the first has precedence, a tool that does not fit is named, and smaller ones stay."""
    first = listing(SERVER, [Listed("a"), Listed("b", "x" * 500), Listed("c")], NOTHING)
    second = listing(McpServer("more", "http://y"), [Listed("d"), Listed("e" * 80)], NOTHING)
    within = within_total([first, second], 250)
    assert [[tool.tool for tool in found.tools] for found in within] == [["a", "c"], ["d"]]
    words = "is not offered: with it, all tools together would have more than 250 bytes"
    assert [found.refusals for found in within] == [
        (f"tool 'b' of server files {words}",),
        (f"tool '{'e' * 80}' of server more {words}",),
    ]
    assert within_total([first, second], 10_000) == [first, second]


def test_name_in_a_line_for_the_operator_is_safe_to_show():
    """Given a tool whose name has line ends and escape sequences, then the line has none."""
    _, (refusal,) = offered(Listed("x\n\x1b[31m" + "y" * 200))
    assert refusal.isprintable()
