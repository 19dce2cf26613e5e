"""The log's two forms and the access log, end to end: every line can be read, every request has its line."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator import Simulator
from tests.e2e.clients import ask, message_body
from tests.e2e.rig import Rig
from tests.e2e.talk import Talk, message, token_line
from tests.harness import GatewayProcess, wait_until

STREAMED, WHOLE = message_body(is_streamed=True), message_body(is_streamed=False)
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SOON_SECONDS = 30.0
ALWAYS = {"time", "level", "logger", "pid", "message"}


def lines_of(gateway: GatewayProcess) -> list[dict[str, Any]]:
    """Every line of a JSON log so far; it fails if one is not an object with what every line has."""
    lines = [json.loads(line) for line in gateway.log.splitlines()]
    assert all(set(line) >= ALWAYS for line in lines)
    return lines


def accesses(gateway: GatewayProcess, number: int) -> list[dict[str, Any]]:
    """The access log's lines, once there are so many."""

    def found() -> list[dict[str, Any]]:
        return [line for line in lines_of(gateway) if line["logger"] == "gateway.access"]

    assert wait_until(lambda: len(found()) >= number, SOON_SECONDS), gateway.log
    assert len(found()) == number
    return found()


def test_every_line_of_a_gateways_life_is_a_json_object(gateway_process: Callable[..., GatewayProcess]) -> None:
    """Given the form `json`, when a gateway starts, reloads, refuses a reload, loses a worker, fails over, is sent
    garbage and stops, then every line of its own and of the server's is one object.
    """
    with Simulator(keys={"sk-a": "rate_limited:retry-after=9", "sk-b": "cut"}) as simulator:
        gateway = gateway_process(simulator.url, ["sk-a", "sk-b"], log_format="json", log_level="debug")
        ask(gateway.url, STREAMED)
        with Talk(gateway) as talk:
            talk.send(b"this is not HTTP\r\n\r\n")
            assert talk.is_closed_by_gateway()
        gateway.send_signal(signal.SIGHUP)
        gateway.wait_for_log("configuration reloaded")
        (worker,) = gateway.worker_pids
        os.kill(worker, signal.SIGKILL)
        assert wait_until(lambda: gateway.worker_pids not in ([], [worker]), SOON_SECONDS)
        gateway.send_signal(signal.SIGTERM)
        assert gateway.wait(SOON_SECONDS) == 0
        lines = lines_of(gateway)
    loggers = {line["logger"] for line in lines}
    assert {"gunicorn.error", "gateway.access", "gateway.narrator", "gateway.worker", "gateway.web.launch"} <= loggers
    assert {line["level"] for line in lines} >= {"debug", "info", "warning"}
    assert len({line["pid"] for line in lines}) >= 3


def test_a_line_tells_what_a_request_came_to() -> None:
    """Given streamed and whole requests, failed over, in error, refused and unroutable, then each has its line, whose
    ids are the client's, the upstream's and the trace's.
    """
    with Rig(log_format="json") as rig:
        url = rig.gateway.url
        rig.keys("rate_limited:retry-after=60", "ok")
        streamed = ask(
            url,
            STREAMED,
            headers=[f"traceparent: 00-{TRACE_ID}-b7ad6b7169203331-01", "user-agent: claude-cli/2.1.0 (external, cli)"],
        )
        accesses(rig.gateway, 1)  # a line is written behind the last byte, when the next request may have begun
        whole = ask(url, WHOLE)
        accesses(rig.gateway, 2)
        ask(url, b"", method="GET", path="/v1/models")
        accesses(rig.gateway, 3)
        ask(url, b"{}")
        accesses(rig.gateway, 4)
        ask(url, b"{}", path="/v1/nothing")
        ask(url, b"", method="GET", path="/healthz")
        lines = accesses(rig.gateway, 5)
    first = lines[0]
    assert first.pop("first_event_seconds") <= first.pop("duration_seconds")
    assert first.pop("request_id").startswith("req_gw_")
    for name in ALWAYS:
        first.pop(name)
    assert first == {
        "upstream_request_id": streamed.header("request-id"),
        "trace_id": TRACE_ID,
        "route": "messages",
        "mode": "streamed",
        "model": "claude-simulated",
        "status": 200,
        "outcome": "completed",
        "credential": "pooled",
        "key": "k1",
        "attempts": 2,
        "turns": 1,
        "input_tokens": 25,
        "output_tokens": 5,
        "cache_read_tokens": 7,
        "cache_write_tokens": 3,
        "cost": 0.000545,  # the simulated model has no price: 25 and 5 tokens at 10 and 50 dollars a million, and so on
        "cost_estimated": True,
        "client": "127.0.0.1",
        "user_agent": "claude-code/2.1.0",
    }
    assert lines[1]["upstream_request_id"] == whole.header("request-id")
    assert (lines[1]["mode"], lines[1]["attempts"]) == ("whole", 1)
    told = [(line["route"], line["status"], line["outcome"], line.get("error", "")[:21]) for line in lines[2:]]
    assert told == [
        ("models", 200, "completed", ""),
        ("messages", 400, "rejected", "invalid_request_error"),
        ("unknown", 404, "rejected", "not_found_error"),
    ]
    assert "input_tokens" not in lines[2]


@pytest.mark.parametrize(
    ("script", "status", "outcome"),
    [
        ("cut:after=2", 200, "truncated"),
        ("error_event:after=2", 200, "upstream_error"),
        ("server_error", 500, "upstream_error"),
        ("unauthorized", 502, "exhausted"),
        ("rate_limited:retry-after=60", 429, "exhausted"),
        ("close", 502, "upstream_failed"),
    ],
)
@pytest.mark.parametrize("rig", [{}], indirect=True)
def test_a_line_tells_how_it_went_wrong(rig: Rig, script: str, status: int, outcome: str) -> None:
    """Given each way in which an answer fails, then the line has the status that the client saw, and the outcome."""
    rig.keys(script)
    before = sum(line["logger"] == "gateway.access" for line in lines_of(rig.gateway))
    assert ask(rig.gateway.url, STREAMED).status == status
    line = accesses(rig.gateway, before + 1)[-1]
    assert (line["status"], line["outcome"], line["attempts"], line["key"]) == (status, outcome, 1, "k0")


@pytest.fixture(scope="module")
def rig(request: pytest.FixtureRequest) -> Any:
    with Rig(log_format="json", **request.param) as rig:
        yield rig


def test_a_line_names_the_token_and_the_client_behind_the_proxy(
    gateway_process: Callable[..., GatewayProcess], tmp_path: Path
) -> None:
    """Given tokens, and a proxy on this machine that says for whom it asks, then the line has the token's name and
    group, that client, and a cost where the pool paid; a wrong token's line has no name.
    """
    tokens = tmp_path / "tokens"
    tokens.write_text(token_line("alice", "gwt_alice", "group=research"))
    with Simulator(any_key="ok") as simulator:
        gateway = gateway_process(simulator.url, ["sk-a"], log_format="json", client_tokens_file=str(tokens))
        forwarded = {"X-Forwarded-For": "6.6.6.6, 203.0.113.9"}
        own = {"X-Gateway-Token": "gwt_alice", "x-api-key": "sk-ant-own"}
        assert gateway.request("POST", "/v1/messages", message(), {"x-api-key": "gwt_alice"} | forwarded).status == 200
        accesses(gateway, 1)
        assert gateway.request("POST", "/v1/messages", message(), own).status == 200
        accesses(gateway, 2)
        assert gateway.request("POST", "/v1/messages", message(), {"x-api-key": "gwt_wrong"} | forwarded).status == 401
        lines = accesses(gateway, 3)
    told = [(line.get("token"), line.get("group"), line.get("credential"), line.get("key")) for line in lines]
    assert told == [
        ("alice", "research", "pooled", "key-1"),
        ("alice", "research", "byok", None),
        (None, None, None, None),
    ]
    assert [line["client"] for line in lines] == ["203.0.113.9", "127.0.0.1", "203.0.113.9"]
    assert ["cost" in line for line in lines] == [True, False, False]
    assert (lines[2]["outcome"], lines[2]["error"]) == ("rejected", "authentication_error")


def test_a_client_that_leaves_has_its_line() -> None:
    """Given a client that hangs up in mid-stream, then the line says so, once."""
    with Rig(log_format="json") as rig:
        rig.keys("stall:after=3")
        with Talk(rig.gateway) as talk:
            talk.ask(body=STREAMED)
            assert rig.simulator.wait_until(lambda: len(rig.simulator.requests) > 0, SOON_SECONDS)
            talk.begin_answer()
        (line,) = accesses(rig.gateway, 1)
    assert (line["status"], line["outcome"]) == (200, "client_disconnected")


@pytest.mark.parametrize(
    ("settings", "has_lines"),
    [
        ({}, False),
        ({"access_log": "true"}, True),
        ({"log_format": "json"}, True),
        ({"log_format": "json", "access_log": "false"}, False),
    ],
    ids=["text", "text-on", "json", "json-off"],
)
def test_the_access_log_comes_with_json_and_can_be_switched(settings: dict[str, str], has_lines: bool) -> None:
    """Given each form and the switch, then there are lines where README says so; in text, one line a request."""
    with Rig(**settings) as rig:
        rig.keys("ok")
        assert ask(rig.gateway.url, WHOLE).status == 200
        assert ask(rig.gateway.url, b"{}").status == 400
        log = rig.gateway.stop()
    lines = [line for line in log.splitlines() if "gateway.access" in line]
    assert len(lines) == (2 if has_lines else 0)
    if has_lines and "log_format" not in settings:
        assert all("[INFO] gateway.access: request request_id=req_gw_" in line for line in lines)
        assert any(" status=200 outcome=completed credential=pooled key=k0 attempts=1 " in line for line in lines)
