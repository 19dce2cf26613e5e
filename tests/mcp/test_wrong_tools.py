"""Tools that are wrong in every way, listed by real servers: each is left out by itself, and its server stays up."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

import pytest

from gateway.config.mcp_servers import McpServer
from gateway.tools.mcp.budget import ToolLimits
from tests.harness import wait_until
from tests.mcp.raw_server import Raw, RawMcpServer, tool
from tests.mcp.rig import ToolboxRig, text_of

GOOD = json.dumps(tool("good"))


@pytest.fixture
def server() -> Iterator[RawMcpServer]:
    """A server of the revision with sessions; what it lists is up to the test."""
    with RawMcpServer() as made:
        yield made


def at(server: RawMcpServer, name: str = "r") -> McpServer:
    return McpServer(name, server.url, timeout_seconds=20)


def as_json(body: bytes) -> Raw:
    return Raw(body)


def as_event(body: bytes) -> Raw:
    priming = b": hello\n\nid: 1\ndata:\n\n"
    notice = b'event: message\ndata: {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}\n\n'
    return Raw(
        priming + notice + b"event: message\r\nid: 2\r\ndata: " + body + b"\r\n\r\n", content_type="text/event-stream"
    )


def lists(server: RawMcpServer, form: Callable[[bytes], Raw], *tools: str) -> None:
    """Have the server list these tools, written as they are."""

    def listed(request) -> Raw:
        page = f'{{"tools": [{", ".join(tools)}], "_meta": {{"x": 1}}}}'
        return form(f'{{"jsonrpc": "2.0", "id": {request["id"]}, "result": {page}}}'.encode("utf-8", "surrogateescape"))

    server.answers["tools/list"] = listed


def bad(schema: str, more: str = "") -> str:
    return f'{{"name": "bad", "inputSchema": {schema}{more}}}'


WRONG = [
    pytest.param(bad("true"), "not an object", id="schema-is-true"),
    pytest.param('{"name": "bad"}', "not an object", id="no-schema"),
    pytest.param(bad("3"), "not an object", id="schema-is-a-number"),
    pytest.param(bad('{"type": "object", "required": "a"}'), "not valid JSON Schema", id="required-is-a-text"),
    pytest.param(bad('{"type": "object", "properties": {"a": 5}}'), "not valid JSON Schema", id="property-is-a-number"),
    pytest.param(bad('{"type": "string"}'), "not an object", id="another-type"),
    pytest.param(bad('{"type": "object", "$schema": 5}'), "not valid JSON Schema", id="dialect-is-a-number"),
    pytest.param(bad('{"type": "object", "maximum": 1e999}'), "not finite", id="1e999"),
    pytest.param(bad('{"type": "object", "maximum": NaN}'), "not finite", id="NaN"),
    pytest.param(bad('{"type": "object", "maximum": -Infinity}'), "not finite", id="Infinity"),
    pytest.param(bad(f'{{"type": "object", "maximum": {"9" * 400}}}'), "too large", id="400-digits"),
    pytest.param(bad(f'{{"type": "object", "maximum": {"9" * 9000}}}'), "not finite", id="9000-digits"),
    pytest.param(bad('{"type": "object", "title": "\\ud800"}'), "half a character", id="half-a-character"),
    pytest.param(bad("{}", ', "description": "\\udc00"'), "half a character", id="half-a-character-in-its-description"),
    pytest.param('{"name": "\\ud800", "inputSchema": {}}', "half a character", id="half-a-character-in-its-name"),
    pytest.param(bad("{}", ', "description": 5'), "not a text", id="description-is-a-number"),
    pytest.param(bad('{"a":' * 300 + "1" + "}" * 300), "levels", id="300-levels"),
    pytest.param(bad('{"a":' + "[" * 50_000 + "]" * 50_000 + "}"), "levels", id="50000-levels"),
    pytest.param('{"name": 5, "inputSchema": {}}', "it has no name", id="name-is-a-number"),
    pytest.param('"bad"', "it has no name", id="a-text"),
    pytest.param("null", "it has no name", id="null"),
    pytest.param(bad("{}", f', "description": "{"x" * 40_000}"'), "32768 are allowed", id="long-description"),
]
HARMLESS = [
    pytest.param('{"name": "odd", "inputSchema": {}}', id="no-type"),
    pytest.param('{"name": "odd", "inputSchema": {}, "outputSchema": true}', id="output-schema-is-true"),
    pytest.param('{"name": "odd", "inputSchema": {}, "annotations": 3, "icons": 3, "title": 7}', id="odd-decoration"),
    pytest.param('{"name": "odd", "inputSchema": {}, "_meta": "x", "execution": 5}', id="odd-meta"),
]
FORMS = pytest.mark.parametrize("form", [as_json, as_event], ids=["json", "event-stream"])


@FORMS
@pytest.mark.parametrize(("wrong", "words"), WRONG)
def test_wrong_tool_is_left_out_alone(server, caplog, form, wrong, words):
    """Given one wrong tool beside a good one, then the server is up, the good one can be called, and the log names the
    other and what is wrong."""
    lists(server, form, wrong, GOOD)
    with ToolboxRig(at(server)) as rig:
        assert rig.is_up("r")
        assert rig.names == ["bmcp_r_good"]
        assert text_of(rig.call("good")) == "called good"
        assert (server.sessions, rig.failures("r")) == (1, 0)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "is not offered" in line
    assert words in line


@FORMS
@pytest.mark.parametrize("odd", HARMLESS)
def test_what_models_are_not_told_of_keeps_no_tool_out(server, form, odd):
    """Given oddities that no request would carry, then the tool is offered and can be called."""
    lists(server, form, odd, GOOD)
    with ToolboxRig(at(server)) as rig:
        assert rig.names == ["bmcp_r_good", "bmcp_r_odd"]
        assert text_of(rig.call("odd")) == "called odd"


def test_bytes_that_are_no_text_keep_out_the_tool_that_has_them(server):
    """Given a tool with bytes that are no UTF-8, then it alone is left out."""
    lists(server, as_json, bad("{}", ', "description": "\udcff"'), GOOD)
    with ToolboxRig(at(server)) as rig:
        assert rig.names == ["bmcp_r_good"]


def test_tools_that_are_all_wrong_leave_the_server_up(server):
    """Given a server of which no tool is offered, then it is up all the same: it does answer."""
    lists(server, as_json, bad("true"))
    with ToolboxRig(at(server)) as rig:
        assert (rig.is_up("r"), rig.names) == (True, [])


def test_description_of_20_megabytes_is_left_out(server):
    lists(server, as_json, bad("{}", f', "description": "{"x" * 20_000_000}"'), GOOD)
    with ToolboxRig(at(server)) as rig:
        assert rig.names == ["bmcp_r_good"]


def test_totals_of_all_servers_are_bounded_and_what_is_left_out_is_named_once(server, caplog):
    """Given two servers whose tools are too much together, then what does not fit is left out and named, until the
    limit is raised."""
    lists(server, as_json, *(json.dumps(tool(f"t{number}")) for number in range(3)))
    with RawMcpServer([tool("other")]) as second:
        both = (at(server), at(second, "s"))
        with ToolboxRig(*both, refresh_seconds=0.1, limits=ToolLimits(total_bytes=300)) as rig:
            rig.wait_for("t0", "t1", "t2")
            assert wait_until(lambda: second.asked("tools/list") >= 3, 30)
            rig.apply(*both, limits=ToolLimits())
            rig.wait_for("t0", "t1", "t2", "other")
            rig.apply(*both, limits=ToolLimits(definition_bytes=10))
            rig.wait_for()
    told = [record.getMessage() for record in caplog.records if "more than 300 bytes" in record.getMessage()]
    assert len(told) == 1
    assert "tool 'other' of server s is not offered" in told[0]
