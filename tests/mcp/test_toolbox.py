"""The toolbox over the official SDK's own server, of the newest protocol revision: calls, faults, changes."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config.mcp_servers import McpServer
from gateway.protocol.outcomes import ToolOutcome
from gateway.tools.mcp import keeper
from gateway.tools.toolbox import InjectedTool
from tests.harness import wait_until
from tests.mcp.rig import ToolboxRig, is_ready, result_of, text_of
from tests.mcp.servers import FaultServer
from tests.ports import free_port

TOOLS = ("add", "die", "echo", "fail", "grow", "long", "show", "sing", "slow")


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultServer]:
    """A server for all tests: one that kills or changes it starts it anew."""
    made = FaultServer(tmp_path_factory.mktemp("faults"))
    with made:
        yield made


@pytest.fixture(scope="module")
def other(process: FaultServer) -> Iterator[FaultServer]:
    """A second one, that nothing happens to."""
    made = FaultServer(process.folder)
    with made:
        yield made


@pytest.fixture
def server(process: FaultServer) -> FaultServer:
    """The server, with an empty journal."""
    process.forget()
    return process


@pytest.fixture
def rig(server: FaultServer) -> Iterator[ToolboxRig]:
    """A toolbox with the server."""
    with ToolboxRig(at(server)) as made:
        yield made


def threads() -> list[str]:
    return [
        thread.name for thread in threading.enumerate() if thread.name == "mcp" or thread.name.startswith("asyncio")
    ]


def at(server: FaultServer, seconds: float = 20.0) -> McpServer:
    return McpServer("f", server.url, timeout_seconds=seconds)


def eventfds() -> int:
    """How many of this process's descriptors are of the kind that calls have."""
    found = 0
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # another thread has closed it
            found += "eventfd" in os.readlink(file)
    return found


@pytest.mark.parametrize("arguments", [{"text": "\ud83d"}, {"text": "a", "\ud83d": 1}], ids=["value", "name"])
def test_half_a_character_is_refused_and_ends_no_session(rig, server, arguments):
    """Given a model that writes half a surrogate pair while another call runs, then it is told so, and the other call
    comes to its result: JSON cannot carry it, and the SDK's session would break on it."""
    with contextlib.closing(rig.begin("slow", seconds=0.5)) as other:
        made = rig.call("echo", **arguments)
        assert (made.outcome, "half a character" in text_of(made)) == (ToolOutcome.INVALID_INPUT, True)
        assert result_of(other).outcome is ToolOutcome.OK
    assert rig.call("echo", text="\U0001f600 1").outcome is ToolOutcome.OK


def test_tools_are_offered_once_the_server_has_answered(rig):
    """Given a server, when it has answered, then its tools are there, sorted, and it counts as up."""
    assert rig.names == [f"bmcp_f_{name}" for name in TOOLS]
    assert rig.is_up("f")
    assert rig.tool("add").definition["input_schema"]["properties"].keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("tool", "arguments", "outcome", "kinds"),
    [
        pytest.param("echo", {"text": "grüß 你好"}, ToolOutcome.OK, ["text"], id="text"),
        pytest.param("add", {"a": 1, "b": 2}, ToolOutcome.OK, ["text"], id="structured"),
        pytest.param("show", {}, ToolOutcome.OK, ["text", "image", "text"], id="image-and-link"),
        pytest.param("sing", {}, ToolOutcome.ERROR, ["text"], id="audio"),
        pytest.param("fail", {}, ToolOutcome.ERROR, ["text"], id="error"),
        pytest.param("echo", {}, ToolOutcome.ERROR, ["text"], id="missing-argument"),
        pytest.param("add", {"a": "x", "b": []}, ToolOutcome.ERROR, ["text"], id="wrong-arguments"),
    ],
)
def test_call_has_the_tools_result(rig, tool, arguments, outcome, kinds):
    """Given a call, then its result is there with its outcome, in content that models take."""
    result = rig.call(tool, **arguments)
    assert (result.outcome, [block["type"] for block in result.content]) == (outcome, kinds)


def test_words_of_the_tool_reach_the_model(rig):
    """Given texts and an error's words, then they are passed on as they are."""
    assert text_of(rig.call("echo", text="grüß 你好")) == "grüß 你好"
    assert "no kumquat left" in text_of(rig.call("fail"))


def test_result_over_the_limit_is_cut_off(server):
    """Given a limit for results, then a longer one has the beginning and a note."""
    with ToolboxRig(at(server), result_max_bytes=1000) as rig:
        beginning, note = rig.call("long", size=5000).content
        assert beginning["text"] == "x" * 1000
        assert "4000 more bytes" in note["text"]


def test_calls_run_side_by_side(rig):
    """Given calls begun one after the other, then none waits for another; each has its own result."""
    slow = rig.begin("slow", seconds=30)
    calls = [rig.begin("echo", text=str(number)) for number in range(50)]
    assert [text_of(result_of(call)) for call in calls] == [str(number) for number in range(50)]
    assert not is_ready(slow, 0)
    slow.close()


def test_descriptor_stays_readable_and_is_freed(rig):
    """Given a call that has ended, then its descriptor is readable until it is closed, which may be done twice."""
    before = eventfds()
    call = rig.begin("echo", text="x")
    assert eventfds() == before + 1
    assert is_ready(call, 10)
    assert call.result() is call.result()
    assert is_ready(call, 0)
    call.close()
    call.close()
    assert call.fileno() == -1
    assert eventfds() == before


def test_closed_call_is_cancelled_at_the_server(server):
    """Given a call that runs, when it is closed, then the server stops working on it."""
    with ToolboxRig(at(server)) as rig:
        call = rig.begin("slow", seconds=60)
        assert wait_until(lambda: "slow begins" in server.journal, 30)
        call.close()
        assert call.result().outcome is ToolOutcome.CANCELLED
        assert wait_until(lambda: server.journal == ["slow begins", "slow cancelled"], 30)
        assert text_of(rig.call("echo", text="on")) == "on"


def test_call_that_takes_too_long_times_out_and_is_cancelled(server):
    """Given a server's time limit, when a call is over it, then it has timed out and the server stops working on it."""
    with ToolboxRig(at(server, seconds=0.5)) as rig:
        result = rig.call("slow", seconds=60)
        assert result.outcome is ToolOutcome.TIMED_OUT
        assert "0.5 seconds" in text_of(result)
        assert wait_until(lambda: server.journal == ["slow begins", "slow cancelled"], 30)
        assert text_of(rig.call("echo", text="on")) == "on"


def test_server_that_dies_in_mid_call_fails_the_call_and_comes_back(server, caplog):
    """Given a server that is killed in mid-call, then the call fails at once and is not made again; the tools are
    absent until it is back, and then they are there without anybody's help."""
    caplog.set_level(logging.INFO, "gateway.tools.mcp")
    with ToolboxRig(at(server)) as rig:
        other = rig.begin("slow", seconds=60)
        tool = rig.tool("echo")
        result = rig.call("die")
        assert (result.outcome, server.journal.count("die")) == (ToolOutcome.FAILED, 1)
        assert result_of(other).outcome is ToolOutcome.FAILED
        rig.wait_for()
        assert not rig.is_up("f")
        assert result_of(rig.toolbox.begin(tool, {"text": "x"}, {})).outcome is ToolOutcome.FAILED
        assert wait_until(lambda: rig.failures("f") >= 3, 20)
        server.start()
        rig.wait_for(*TOOLS)
        assert rig.is_up("f")
        assert text_of(rig.call("echo", text="back")) == "back"
    told = [record.getMessage().partition(":")[0] for record in caplog.records if record.levelno >= logging.INFO]
    assert told == ["mcp server f is up", "mcp server f is down", "mcp server f is up"]


def test_server_that_hangs_times_out_its_calls_alone(server, other, monkeypatch):
    """Given two servers of which one hangs, then its calls time out, and the other's are answered meanwhile; it is
    found to be down, and to be up again when it goes on."""
    with ToolboxRig(at(server, seconds=1), McpServer("g", other.url)) as rig:
        echoes = {tool.server: tool for tool in rig.toolbox.tools() if tool.tool == "echo"}
        server.freeze()
        try:
            monkeypatch.setattr(keeper, "OPENING_SECONDS", 1.0)
            hanging = rig.toolbox.begin(echoes["f"], {"text": "x"}, {})
            assert result_of(rig.toolbox.begin(echoes["g"], {"text": "y"}, {})).outcome is ToolOutcome.OK
            assert result_of(hanging).outcome is ToolOutcome.TIMED_OUT
            assert wait_until(lambda: not rig.is_up("f"), 20)
            monkeypatch.undo()  # a server that works again may take longer, on a busy machine
        finally:
            server.thaw()
        assert wait_until(lambda: rig.is_up("f"), 20)
        assert wait_until(
            lambda: result_of(rig.toolbox.begin(echoes["f"], {"text": "z"}, {})).outcome is ToolOutcome.OK, 20
        )


def test_changed_tools_are_listed_again_when_the_server_says_so(server):
    """Given a server that offers one more tool and says so, then it is there at once, long before any age."""
    with ToolboxRig(at(server), refresh_seconds=3600) as rig:
        rig.call("grow", name="bigger")
        rig.wait_for(*TOOLS, "bigger")
        assert text_of(rig.call("bigger")) == "I am bigger"
    server.kill()
    server.start()


def test_tool_that_is_gone_is_unknown(rig):
    """Given a tool that its server does not offer now, or one of no server that is configured, then it is unknown."""
    for missing in (InjectedTool("bmcp_f_x", "f", "x", {}), InjectedTool("bmcp_z_x", "z", "x", {})):
        assert result_of(rig.toolbox.begin(missing, {}, {})).outcome is ToolOutcome.UNKNOWN


def test_allow_and_deny_are_applied(server):
    """Given patterns, then the tools they leave are offered."""
    chosen = McpServer("f", server.url, allow=(re.compile("^[a-e]"),), deny=(re.compile("die"),))
    with ToolboxRig(chosen) as rig:
        assert rig.names == ["bmcp_f_add", "bmcp_f_echo"]


def test_down_server_delays_nothing(server):
    """Given a server that is up and one that nobody listens at, then the wait is over as soon as both have answered."""
    down = McpServer("down", f"http://127.0.0.1:{free_port()}/mcp")
    with ToolboxRig(at(server), down) as rig:
        assert rig.names == [f"bmcp_f_{name}" for name in TOOLS]
        assert (rig.is_up("f"), rig.is_up("down")) == (True, False)


def test_servers_are_exchanged_without_cutting_calls(server, other):
    """Given a call that runs, when its server is taken out and another put in, then the call ends as it would have."""
    with ToolboxRig(at(server)) as rig:
        running = rig.begin("slow", seconds=1.5)
        assert wait_until(lambda: "slow begins" in server.journal, 30)
        rig.apply(McpServer("g", other.url))
        assert wait_until(lambda: rig.names == [f"bmcp_g_{name}" for name in TOOLS], 30)
        assert text_of(result_of(running)) == "at last"
        assert rig.is_up("g")
        assert "bmcp_f" not in str(rig.names)
        rig.apply()
        assert rig.names == [] or wait_until(lambda: rig.names == [], 30)


def test_changed_server_keeps_its_running_calls(server):
    """Given a call that runs, when only its server's deny list changes, then the call ends as it would have, and the
    new list holds."""
    with ToolboxRig(at(server)) as rig:
        running = rig.begin("slow", seconds=1.5)
        assert wait_until(lambda: "slow begins" in server.journal, 30)
        rig.apply(McpServer("f", server.url, deny=(re.compile("^[^e]"),)))
        rig.wait_for("echo")
        assert text_of(result_of(running)) == "at last"


def test_close_cancels_what_runs_and_ends_the_thread(server):
    """Given a call that runs, when the toolbox is closed, then it is cancelled at both ends, and no thread is left."""
    rig = ToolboxRig(at(server))
    call = rig.begin("slow", seconds=60)
    assert wait_until(lambda: "slow begins" in server.journal, 30)
    tool = rig.tool("echo")
    rig.toolbox.close(10)
    assert result_of(call).outcome is ToolOutcome.CANCELLED
    assert wait_until(lambda: server.journal == ["slow begins", "slow cancelled"], 30)
    assert threads() == []
    assert result_of(rig.toolbox.begin(tool, {"text": "x"}, {})).outcome is ToolOutcome.UNKNOWN


def test_toolbox_without_servers_costs_nothing():
    """Given no servers, then there is no thread, no tool, and nothing to close."""
    with ToolboxRig() as rig:
        assert rig.names == []
        assert threads() == []
