"""Real MCP servers behind a real gateway: the official SDK's stream helper ends with the final message, the upstream
sees what the tools returned, and the client sees no trace of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.harness import wait_until
from tests.mcp.raw_server import Raw, RawMcpServer, tool
from tests.mcp.servers import HERE, FaultServer, ServerProcess, everything_server, time_server
from tests.mcp.stage import ToolStage, result_in, says, uses
from tests.ports import free_port

MODES = pytest.mark.parametrize("is_streaming", [True, False], ids=["streamed", "whole"])
# For what takes seconds: the loop is the same code in both modes.
SLOW_MODES = pytest.mark.parametrize(
    "is_streaming", [True, pytest.param(False, marks=pytest.mark.long)], ids=["streamed", "whole"]
)
SETUP_SECONDS = 600
PLANTED = "PLANTED-0123456789-abcdefghij"


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ServerProcess]]:
    """The servers: the reference server from npm, one from PyPI, and the project's own."""
    made = subprocess.run([str(HERE / "setup.sh")], capture_output=True, encoding="utf-8", timeout=SETUP_SECONDS)
    assert made.returncode == 0, made.stderr
    fault = FaultServer(tmp_path_factory.mktemp("faults"))
    with everything_server() as everything, time_server() as time, fault:
        yield {"everything": everything, "time": time, "fault": fault}


@pytest.fixture(scope="module")
def module_stage(processes, tmp_path_factory) -> Iterator[ToolStage]:
    """A gateway with these servers; the project's own stands there twice, once with a time limit out of reach."""
    tables: dict[str, Any] = {
        name: {"url": process.url, "timeout_seconds": 3, "headers": {"X-Tools-Token": "${TEST_TOOLS_TOKEN}"}}
        for name, process in processes.items()
    }
    tables["patient"] = tables["fault"] | {"timeout_seconds": 600}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_TOOLS_TOKEN", f"Bearer {PLANTED}")
        made = ToolStage(tmp_path_factory.mktemp("stage"), log_level="debug", **tables)
    with made:
        yield made


@pytest.fixture
def fault(processes) -> FaultServer:
    """The project's own server, with an empty journal."""
    found = processes["fault"]
    found.forget()
    return found


@pytest.fixture
def stage(module_stage, processes) -> ToolStage:
    """The gateway, with all three servers up."""
    assert wait_until(lambda: all(module_stage.is_up(name) for name in processes), 20), module_stage.gateway.log
    return module_stage


def shows_no_trace(message: anthropic.types.Message) -> bool:
    """Whether nothing in the client's message tells of the gateway's tools."""
    return "bmcp" not in message.to_json() and {block.type for block in message.content} == {"text"}


CALLS = [
    pytest.param("bmcp_everything_echo", {"message": "hello"}, "Echo: hello", id="npm"),
    pytest.param(
        "bmcp_time_convert_time",
        {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"},
        "T21:00:00+09:00",
        id="pypi",
    ),
    pytest.param("bmcp_fault_add", {"a": 2, "b": 3}, "5", id="newest-protocol"),
]


@MODES
@pytest.mark.parametrize(("name", "arguments", "words"), CALLS)
def test_tool_is_called_and_the_client_sees_no_trace(stage, is_streaming, name, arguments, words):
    """Given a model that calls a tool and then answers, then the client has the answer, the upstream the result."""
    stage.script(uses(name, **arguments), says("Done."))
    message = stage.ask(is_streaming)
    assert (message.content[-1].text, message.stop_reason) == ("Done.", "end_turn")
    assert shows_no_trace(message)
    first, second = stage.bodies
    names = [entry["name"] for entry in first["tools"]]
    assert names[-1] == "own"
    assert names[:-1] == sorted(names[:-1])
    assert name in names
    result = result_in(second)
    assert words in json.dumps(result["content"])
    assert "is_error" not in result


@MODES
def test_several_calls_of_several_servers_follow_each_other(stage, is_streaming):
    """Given a model that calls three tools in three turns, then each result goes up, and the last answer comes down."""
    stage.script(*(uses(param.values[0], **param.values[1]) for param in CALLS), says("All done."))
    assert stage.ask(is_streaming).content[-1].text == "All done."
    assert [param.values[2] in json.dumps(result_in(body)) for param, body in zip(CALLS, stage.bodies[1:], strict=True)]


@MODES
def test_image_goes_to_the_model(stage, is_streaming):
    """Given a tool that shows a picture, then the upstream sees it as an image."""
    stage.script(uses("bmcp_everything_get-tiny-image"), says("Nice."))
    assert shows_no_trace(stage.ask(is_streaming))
    assert [block["type"] for block in result_in(stage.bodies[1])["content"]] == ["text", "image", "text"]


@MODES
@pytest.mark.parametrize(
    ("call", "words"),
    [
        pytest.param(uses("bmcp_fault_fail"), "no kumquat left", id="failing"),
        pytest.param(uses("bmcp_fault_sing"), "audio", id="audio"),
        pytest.param(uses("bmcp_fault_nothing"), "bmcp_fault_nothing", id="unknown"),
        pytest.param(uses("bmcp_fault_slow", seconds=60), "did not answer in 3 seconds", id="slow"),
    ],
)
def test_failing_tool_is_a_result_and_no_failure(stage, is_streaming, call, words):
    """Given a tool that fails, then the model reads why, and the client has the model's answer."""
    stage.script(call, says("I see."))
    message = stage.ask(is_streaming)
    assert message.content[-1].text == "I see."
    assert shows_no_trace(message)
    result = result_in(stage.bodies[1])
    assert result["is_error"]
    assert words in json.dumps(result["content"])


@SLOW_MODES
def test_server_that_dies_in_mid_call_fails_no_request(stage, fault, is_streaming):
    """Given a server that ends in mid-call, then the model is told, the request ends well, the tools are absent; and
    when the server is back, so are they."""
    stage.script(uses("bmcp_fault_die"), says("It died."))
    message = stage.ask(is_streaming)
    assert (message.content[-1].text, shows_no_trace(message)) == ("It died.", True)
    assert result_in(stage.bodies[1])["is_error"]
    assert fault.journal == ["die"]
    assert wait_until(lambda: not stage.is_up("fault"), 90)
    assert not [name for name in stage.offered() if name.startswith("bmcp_fault")]
    fault.start()
    assert wait_until(lambda: stage.is_up("fault"), 90)
    stage.script(uses("bmcp_fault_echo", text="back"), says("Fine."))
    assert stage.ask(is_streaming).content[-1].text == "Fine."
    assert "is_error" not in result_in(stage.bodies[1])


@SLOW_MODES
@pytest.mark.parametrize("name", ["everything", "time"])
def test_published_server_that_is_killed_and_restarted_serves_again(stage, processes, is_streaming, name):
    """Given a published server that is killed and restarted, then its tools go and come without anybody's help."""
    process, prefix = processes[name], f"bmcp_{name}"
    process.kill()
    assert wait_until(lambda: not stage.is_up(name), 90)
    assert not [found for found in stage.offered() if found.startswith(prefix)]
    process.start()
    assert wait_until(lambda: stage.is_up(name), 90)
    called, arguments, words = CALLS[0 if name == "everything" else 1].values
    stage.script(uses(called, **arguments), says("Fine."))
    assert stage.ask(is_streaming).content[-1].text == "Fine."
    assert words in json.dumps(result_in(stage.bodies[1]))


@SLOW_MODES
@pytest.mark.parametrize("name", ["everything", "time", "fault"])
def test_server_that_hangs_times_out(stage, processes, is_streaming, name):
    """Given a server that hangs, then its call times out, and the model goes on without it."""
    called, arguments, _ = CALLS[["everything", "time", "fault"].index(name)].values
    processes[name].freeze()
    try:
        stage.script(uses(called, **arguments), says("Too slow."))
        message = stage.ask(is_streaming)
    finally:
        processes[name].thaw()
    assert (message.content[-1].text, shows_no_trace(message)) == ("Too slow.", True)
    assert "did not answer in 3 seconds" in json.dumps(result_in(stage.bodies[1]))


@SLOW_MODES
def test_client_that_leaves_cancels_the_call(stage, fault, is_streaming):
    """Given a client that leaves while a tool runs, then the server stops working on it."""
    stage.script(uses("bmcp_patient_slow", seconds=600), says("Never said."))
    body = {"model": "claude-sonnet-5-5", "max_tokens": 9, "stream": is_streaming, "messages": [{"role": "user"}]}
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            [
                "curl",
                "-sN",
                f"{stage.gateway.url}/v1/messages",
                "-H",
                "content-type: application/json",
                "-d",
                json.dumps(body),
            ],
            timeout=1,
            capture_output=True,
        )
    assert wait_until(lambda: fault.journal == ["slow begins", "slow cancelled"], 30), fault.journal
    assert len(stage.bodies) == 1


def test_calls_are_counted(stage):
    """Given calls with different ends, then the metric has them by server, tool and outcome."""
    labels = {"server": "fault", "tool": "echo"}
    before = stage.gateway.counted("tool_calls_total", outcome="ok", **labels)
    stage.script(uses("bmcp_fault_echo", text="x"), uses("bmcp_fault_echo"), says("Done."))
    stage.ask(True)
    assert stage.gateway.counted("tool_calls_total", outcome="ok", **labels) == before + 1
    assert stage.gateway.counted("tool_calls_total", outcome="error", **labels) >= 1


def test_secrets_arguments_and_results_are_not_shown(stage):
    """Given secrets in headers, arguments and results, at debug level, then no log and no metric has them."""
    stage.script(uses("bmcp_fault_echo", text="ArgumentCore7Q"), says("Done."))
    stage.ask(True)
    assert "ArgumentCore7Q" in json.dumps(stage.bodies[1])
    shown = stage.gateway.log + stage.gateway.request("GET", "/metrics").body.decode()
    assert not re.search(f"{PLANTED}|ArgumentCore7Q", shown)


@MODES
def test_call_is_made_although_the_turn_says_that_it_has_ended(stage, is_streaming):
    """Given a compatible upstream that ends a call with `end_turn`, then the client has the answer, not nothing."""
    stage.script(uses("bmcp_fault_add", a=2, b=3).replace("tool_use:", "tool_use:stop=end_turn,"), says("Five."))
    message = stage.ask(is_streaming)
    assert [block.text for block in message.content] == ["Five."]
    assert result_in(stage.bodies[1])["content"] == [{"type": "text", "text": "5"}]


def test_session_keeps_its_tools_in_every_worker_and_over_a_restart(tmp_path):
    """Given a session, when its server lists other tools, then its requests go on with those that it began with, as
    they were and as long as they exist, in both workers and after a restart; a new session has those of now."""
    one = {"name": "one", "description": "old", "inputSchema": {"type": "object"}}
    data, numbers = tmp_path / "data", count()
    with RawMcpServer([one, tool("two")]) as server:
        table = {"url": server.url}
        settings: dict[str, Any] = {"raw": table, "workers": 2, "mcp_refresh_seconds": 0.2, "data_dir": data}

        def offered(stage: ToolStage, session: str) -> list[tuple[str, str]]:
            headers = {"X-Claude-Code-Session-Id": session, "Connection": "close"}
            stage.script(says("x"))
            stage.ask(False, tools=(), extra_headers=headers)
            return [(entry["name"], entry["description"]) for entry in stage.bodies[0].get("tools", ())]

        def has_changed(stage: ToolStage) -> bool:
            new = ("bmcp_raw_three", "The tool three.")
            return all(new in offered(stage, f"new-{next(numbers)}") for _ in range(8))

        kept = [("bmcp_raw_one", "old")]
        with ToolStage(tmp_path, **settings) as stage:
            assert offered(stage, "session-1") == [*kept, ("bmcp_raw_two", "The tool two.")]
            server.tools = [one | {"description": "new"}, tool("three")]
            assert wait_until(lambda: has_changed(stage), 30)
            assert [offered(stage, "session-1") for _ in range(8)] == [kept] * 8
        with ToolStage(tmp_path, **settings) as stage:
            assert wait_until(lambda: has_changed(stage), 30)
            assert [offered(stage, "session-1") for _ in range(4)] == [kept] * 4


@SLOW_MODES
def test_garbage_from_a_server_fails_no_request(tmp_path, is_streaming):
    """Given a server that answers calls with garbage, then the model is told so, and the request ends well."""
    with RawMcpServer([tool("one")]) as server, ToolStage(tmp_path, raw={"url": server.url}) as stage:
        for garbage in (Raw(b"\xff\xfe{"), Raw(b"<html>", 500, "text/html"), Raw(b'{"jsonrpc"', is_cut=True)):
            server.answers["tools/call"] = lambda _, garbage=garbage: garbage
            stage.script(uses("bmcp_raw_one"), says("Oh."))
            message = stage.ask(is_streaming)
            assert (message.content[-1].text, shows_no_trace(message)) == ("Oh.", True)
            assert result_in(stage.bodies[1])["is_error"]


def test_servers_that_are_down_or_hang_delay_no_request(tmp_path):
    """Given a server nobody listens at and one that never answers, then the gateway starts when its time for that is
    over, and serves requests as they are."""
    with RawMcpServer() as server:
        server.answers["server/discover"] = server.hang
        down = {"url": f"http://127.0.0.1:{free_port()}/mcp"}
        with ToolStage(tmp_path, down=down, hangs={"url": server.url}, mcp_start_seconds=1) as stage:
            assert stage.gateway.request("GET", "/readyz").status == 200
            assert stage.offered() == []
            assert "not all MCP servers have answered in 1 s" in stage.gateway.log
            stage.gateway.wait_for_log("mcp server down is down: it cannot be reached")


def test_first_request_has_the_tools_of_a_server_that_is_slow_to_answer(tmp_path):
    """Given a server that takes a second to list its tools, then the first request that is served has them already."""
    lists = threading.Event()
    with RawMcpServer([tool("one")]) as server:

        def slowly(request) -> Raw:
            lists.wait(1)
            return server.usual("tools/list", request)

        server.answers["tools/list"] = slowly
        with ToolStage(tmp_path, raw={"url": server.url}, mcp_start_seconds=20) as stage:
            assert stage.offered() == ["bmcp_raw_one"]


def test_master_has_neither_threads_nor_the_sdk(tmp_path):
    """Given servers and two workers, then all threads and sessions are the workers' own, made after the fork."""
    with RawMcpServer([tool("one")]) as server, ToolStage(tmp_path, raw={"url": server.url}, workers=2) as stage:
        assert wait_until(lambda: server.sessions == 2, 20)
        master = Path(f"/proc/{stage.gateway.pid}")
        assert len(list((master / "task").iterdir())) == 1
        assert "pydantic_core" not in (master / "maps").read_text()
        assert all("pydantic_core" in Path(f"/proc/{pid}/maps").read_text() for pid in stage.gateway.worker_pids)
        assert stage.offered() == ["bmcp_raw_one"]


def test_worker_without_servers_does_not_load_the_sdk(tmp_path):
    """Given no servers, then a worker has not the SDK in memory and no thread for it."""
    with ToolStage(tmp_path) as stage:
        assert stage.offered() == []
        (pid,) = stage.gateway.worker_pids
        assert "pydantic_core" not in Path(f"/proc/{pid}/maps").read_text()


def test_preloading_is_refused(tmp_path):
    """Given `--preload`, then the gateway does not start, says why, and has not talked with a server."""
    with (
        RawMcpServer([tool("one")]) as server,
        ToolStage(tmp_path, ["--preload"], False, raw={"url": server.url}) as stage,
    ):
        assert stage.gateway.wait(20) != 0
        assert "--preload" in stage.gateway.log
        assert server.seen == []


def test_replaced_worker_has_the_tools(tmp_path):
    """Given a worker that is killed, then the one in its place has sessions of its own."""
    with RawMcpServer([tool("one")]) as server, ToolStage(tmp_path, raw={"url": server.url}) as stage:
        (pid,) = stage.gateway.worker_pids
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: server.sessions == 2, 20)
        assert wait_until(lambda: stage.is_up("raw"), 20)
        assert stage.offered() == ["bmcp_raw_one"]


@MODES
def test_stop_lets_a_call_end_and_then_ends_the_session(tmp_path, is_streaming):
    """Given a call that runs, when the gateway is told to stop, then the request ends well within the drain time, and
    the server is told the end of the session."""
    released = threading.Event()
    with RawMcpServer([tool("one")]) as server, ToolStage(tmp_path, raw={"url": server.url}) as stage:

        def call(request) -> Raw:
            released.wait(20)
            return server.usual("tools/call", request)

        server.answers["tools/call"] = call
        stage.script(uses("bmcp_raw_one"), says("Just so."))
        said: list[str] = []
        client = threading.Thread(target=lambda: said.append(stage.ask(is_streaming).content[-1].text))
        client.start()
        assert wait_until(lambda: server.asked("tools/call") == 1, 30)
        stage.gateway.send_signal(signal.SIGTERM)
        stage.gateway.wait_for_log("stopping")
        released.set()
        client.join(20)
        assert said == ["Just so."]
        assert stage.gateway.wait(20) == 0
        assert server.asked("DELETE") == 1


def test_stop_is_not_held_up_by_a_server_that_hangs(tmp_path):
    """Given a server that does not answer the end of the session, then the gateway stops all the same."""
    with RawMcpServer([tool("one")]) as server, ToolStage(tmp_path, raw={"url": server.url}) as stage:
        server.answers["DELETE"] = server.hang
        stage.gateway.send_signal(signal.SIGTERM)
        assert stage.gateway.wait(20) == 0


def test_reload_exchanges_servers_and_cuts_no_call(tmp_path):
    """Given a call that runs, when its server is replaced by another in the file, then the request ends well, and the
    next one has the new server's tools; a broken file changes nothing."""
    released = threading.Event()
    with (
        RawMcpServer([tool("one")]) as old,
        RawMcpServer([tool("two")]) as new,
        ToolStage(tmp_path, a={"url": old.url}) as stage,
    ):

        def call(request) -> Raw:
            released.wait(20)
            return old.usual("tools/call", request)

        old.answers["tools/call"] = call
        stage.script(uses("bmcp_a_one"), says("Just so."))
        said: list[str] = []
        client = threading.Thread(target=lambda: said.append(stage.ask(True).content[-1].text))
        client.start()
        assert wait_until(lambda: old.asked("tools/call") == 1, 30)
        stage.write(b={"url": new.url})
        stage.reload()
        assert wait_until(lambda: stage.is_up("b"), 30)
        released.set()
        client.join(20)
        assert said == ["Just so."]
        assert "called one" in json.dumps(result_in(stage.bodies[1]))
        assert stage.offered() == ["bmcp_b_two"]
        assert ("gateway_mcp_server_up", frozenset({("server", "a")})) not in stage.gateway.metrics()
        assert wait_until(lambda: old.asked("DELETE") == 1, 30)
        stage.write(c={"url": "nowhere"})
        stage.gateway.send_signal(signal.SIGHUP)
        stage.gateway.wait_for_log("mcp_servers: c: url: a URL such as")
        assert stage.offered() == ["bmcp_b_two"]
