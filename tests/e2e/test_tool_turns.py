"""The second table of the design, end to end: an interception's later turns, over a real tool of a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clients import Client, Received, ask, message_body
from tests.e2e.rig import Rig
from tests.harness import wait_until
from tests.mcp.servers import FaultServer

CALL = 'tool_use:name=bmcp_faults_echo,input={"text":"ebb and flow"},text="Let me see."'
SLOW = 'tool_use:name=bmcp_faults_slow,input={"seconds":60}'
VALID, TEMPORARY, PERMANENT = "valid", "temporary", "permanent"
LIMITED = "all configured keys are rate-limited"
REFUSED = "all configured keys failed authentication"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultServer]:
    server = FaultServer(tmp_path_factory.mktemp("faults"))
    with server:
        yield server


@pytest.fixture(scope="module")
def rig(server: FaultServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    config: Path = tmp_path_factory.mktemp("gateway") / "gateway.toml"
    config.write_text(f'[[mcp_servers]]\nname = "faults"\nurl = "{server.url}"\n')
    with Rig(config=config, ping_seconds=0.2) as rig:
        assert rig.gateway.metric("mcp_server_up", server="faults") == 1
        yield rig


@dataclass(frozen=True)
class Row:
    """A row of the table: the keys' scripts, which keys are seen, and how it ends: well, or with an error.

    `error` is type, message, the status of whole mode, and its Retry-After; a message of None is the upstream's.
    """

    scripts: tuple[str, ...]
    calls: tuple[int, ...]
    states: tuple[str, ...]
    error: tuple[str, str | None, int, str | None] | None = None


ROWS = {
    "call, text": Row((f"{CALL} then ok", "ok"), (0, 0), (VALID, VALID)),
    "call, 429, text": Row((f"{CALL} then rate_limited:retry-after=5", "ok"), (0, 0, 1), (TEMPORARY, VALID)),
    "call, 429, 429": Row(
        (f"{CALL} then rate_limited:retry-after=5", "rate_limited:retry-after=3"),
        (0, 0, 1),
        (TEMPORARY, TEMPORARY),
        ("rate_limit_error", LIMITED, 429, "3"),
    ),
    "call, 401, 401": Row(
        (f"{CALL} then unauthorized", "unauthorized"),
        (0, 0, 1),
        (PERMANENT, PERMANENT),
        ("api_error", REFUSED, 502, None),
    ),
    "call, 500": Row((f"{CALL} then server_error", "ok"), (0, 0), (VALID, VALID), ("api_error", None, 500, None)),
}


def told(answer: Received) -> dict[str, Any]:
    """The message that a client has in the end, or the error."""
    if answer.header("content-type") == "application/json":
        document: dict[str, Any] = answer.json()
        return document
    document = {}
    for name, data in answer.events:
        if name == "message_start":
            document = data["message"]
        elif name == "content_block_start":
            assert data["index"] == len(document["content"])
            document["content"].append(data["content_block"])
        elif name == "content_block_delta" and "text" in data["delta"]:
            document["content"][data["index"]]["text"] += data["delta"]["text"]
        elif name == "message_delta":
            document |= data["delta"] | {"usage": document["usage"] | data["usage"]}
        elif name == "error":
            document = data
    return document


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "whole"])
def test_second_table(rig: Rig, server: FaultServer, row: Row, is_streamed: bool) -> None:
    """Given a turn that calls a tool and what the next ones meet, then the keys are seen in this order, the upstream
    reads the tool's result, and the client has one message or one error, and no trace of the tool."""
    rig.keys(*row.scripts)
    executed = len(server.journal)
    answer = ask(rig.gateway.url, message_body(is_streamed))
    assert tuple(rig.calls) == row.calls
    assert tuple(rig.states) == row.states
    assert server.journal[executed:] == ["echo ebb and flow"]
    for request in rig.simulator.requests[1:]:
        (result,) = json.loads(request.body)["messages"][-1]["content"]
        assert result["content"] == [{"type": "text", "text": "ebb and flow"}]
    assert b"bmcp_" not in answer.body
    document = told(answer)
    if row.error is None:
        assert [block["type"] for block in document["content"]] == ["text", "text"]
        assert document["content"][0]["text"] == "Let me see."
        assert (document["stop_reason"], document["usage"]["input_tokens"]) == ("end_turn", 50)
        assert [name for name, _ in answer.events].count("message_stop") == is_streamed
        return
    kind, words, status, retry_after = row.error
    assert document["error"]["type"] == kind
    assert words in (None, document["error"]["message"].partition(": ")[0])
    if is_streamed:
        assert answer.status == 200
        assert [name for name, _ in answer.events].count("error") == 1
        assert answer.events[-1][0] == "error"
    else:
        assert (answer.status, answer.header("retry-after")) == (status, retry_after)


def test_streamed_and_whole_give_the_same_message(rig: Rig) -> None:
    """Given three turns with counts of every kind, then both modes end in the same content, usage and stop reason."""
    messages = []
    for is_streamed in (True, False):
        rig.keys(f"{CALL} then {CALL} then ok:cache-read=7,cache-write=9,web-searches=2", "ok")
        message = told(ask(rig.gateway.url, message_body(is_streamed)))
        messages.append({name: message[name] for name in ("content", "usage", "stop_reason", "stop_sequence")})
    assert messages[0] == messages[1]
    assert messages[0]["usage"]["server_tool_use"] == {"web_search_requests": 2}


@pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "whole"])
def test_later_turn_takes_over_what_it_must_and_leaves_out_what_it_must(rig: Rig, is_streamed: bool) -> None:
    """Given a turn that another model has taken over, that ran code and calls a tool, then the next one names the
    container, leaves out the declined thought and claims no credit; all ask for dropping thoughts that do not fit, and
    the client is told the container and what each turn has cost."""
    rig.keys(f"{CALL},fallback=claude-b,container=container_011 then ok", "ok")
    asked = {"thinking": {"type": "adaptive"}, "fallback_credit_token": "fct_1", "container": {"skills": []}}
    message = told(ask(rig.gateway.url, message_body(is_streamed, **asked)))
    first, second = (json.loads(request.body) for request in rig.simulator.requests)
    assert [block["type"] for block in second["messages"][-2]["content"]] == ["fallback", "text", "tool_use"]
    assert (first["container"], second["container"]) == ({"skills": []}, {"skills": [], "id": "container_011"})
    assert (first["fallback_credit_token"], second.get("fallback_credit_token")) == ("fct_1", None)
    for request, body in zip(rig.simulator.requests, (first, second), strict=True):
        assert body["thinking"]["block_binding"] == {"prefix_mismatch_behavior": "drop_block"}
        assert request.header("anthropic-beta") == "thinking-binding-controls-2026-08-01"
    assert [block["type"] for block in message["content"]] == ["thinking", "fallback", "text", "text"]
    assert message["container"]["id"] == "container_011"
    iterations = message["usage"]["iterations"]
    assert [entry["type"] for entry in iterations] == ["message", "message"]
    assert sum(entry["input_tokens"] for entry in iterations) == message["usage"]["input_tokens"] == 50


def test_count_of_tokens_asks_as_the_message_will(rig: Rig) -> None:
    """Given a count of tokens with thoughts in it, then those that do not fit are no fault there either."""
    rig.keys("ok")
    body = message_body(is_streamed=False, thinking={"type": "adaptive"})
    assert ask(rig.gateway.url, body, path="/v1/messages/count_tokens").status == 200
    (request,) = rig.simulator.requests
    assert json.loads(request.body)["thinking"]["block_binding"] == {"prefix_mismatch_behavior": "drop_block"}
    assert request.header("anthropic-beta") == "thinking-binding-controls-2026-08-01"


def test_pings_go_out_while_a_tool_runs_and_a_hang_up_cancels_it(rig: Rig, server: FaultServer) -> None:
    """Given a tool that takes a minute, then the client hears pings; when it hangs up, then the server is told."""
    rig.keys(f"{SLOW} then ok", "ok")
    executed = len(server.journal)
    with Client(rig.gateway.url) as client:
        client.send(message_body(is_streamed=True))
        answer = client.read_body(client.read_head(), lambda body: body.count(b"event: ping") >= 3)
        assert answer.raw_body.count(b"event: ping") >= 3
    assert wait_until(lambda: server.journal[executed:] == ["slow begins", "slow cancelled"], 6)
    assert wait_until(lambda: rig.gateway.metric("requests_inflight", route="messages") == 0, 6)
    assert rig.gateway.counted("tool_calls_total", server="faults", tool="slow", outcome="cancelled") == 1
    assert rig.calls == [0]


def test_tools_count_in_count_tokens(rig: Rig) -> None:
    """Given a count of tokens, then the upstream counts what it will be sent: the gateway's tools as well."""
    rig.keys("ok")
    assert ask(rig.gateway.url, message_body(is_streamed=False), path="/v1/messages/count_tokens").status == 200
    (request,) = rig.simulator.requests
    assert "bmcp_faults_echo" in [tool["name"] for tool in json.loads(request.body)["tools"]]
