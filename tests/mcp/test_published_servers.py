"""Real, published servers of the previous protocol revision: one from npm, one from PyPI."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from gateway.config.mcp_servers import McpServer
from gateway.protocol.outcomes import ToolOutcome
from tests.harness import wait_until
from tests.mcp.rig import ToolboxRig, text_of
from tests.mcp.servers import HERE, ServerProcess, everything_server, time_server

SETUP_SECONDS = 600


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """The servers, installed if need be."""
    made = subprocess.run([str(HERE / "setup.sh")], capture_output=True, encoding="utf-8", timeout=SETUP_SECONDS)
    if made.returncode != 0:
        pytest.fail(made.stderr, pytrace=False)


@pytest.fixture(scope="module")
def everything() -> Iterator[ServerProcess]:
    with everything_server() as process:
        yield process


@pytest.fixture(scope="module")
def time() -> Iterator[ServerProcess]:
    with time_server() as process:
        yield process


def at(process: ServerProcess) -> McpServer:
    return McpServer("s", process.url, timeout_seconds=20)


@pytest.mark.parametrize(
    ("tool", "arguments", "kinds", "words"),
    [
        pytest.param("echo", {"message": "hello"}, ["text"], "Echo: hello", id="text"),
        pytest.param("get-sum", {"a": 2, "b": 3}, ["text"], "5", id="arguments"),
        pytest.param("get-tiny-image", {}, ["text", "image", "text"], "image", id="image"),
        pytest.param("get-structured-content", {"location": "Chicago"}, ["text"], "temperature", id="structured"),
        pytest.param("get-resource-links", {"count": 2}, ["text"] * 3, "demo://resource", id="resource-links"),
        pytest.param(
            "get-resource-reference", {"resourceType": "Blob", "resourceId": 1}, ["text"] * 3, "Resource 1", id="blob"
        ),
    ],
)
def test_everything_server_answers(everything, tool, arguments, kinds, words):
    """Given the reference server, then each kind of its results is content that models take."""
    with ToolboxRig(at(everything)) as rig:
        result = rig.call(tool, **arguments)
        assert (result.outcome, [block["type"] for block in result.content]) == (ToolOutcome.OK, kinds)
        assert words in json.dumps(list(result.content))


def test_time_server_answers(time):
    """Given the time server behind a proxy, then it converts a time, and says what is wrong with another."""
    with ToolboxRig(at(time)) as rig:
        asked = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
        assert "T21:00:00+09:00" in text_of(rig.call("convert_time", **asked))
        assert rig.call("convert_time", **asked | {"target_timezone": "Mars"}).outcome is ToolOutcome.ERROR


@pytest.mark.parametrize("name", ["everything", "time"])
def test_restarted_server_gets_a_new_session(name, request):
    """Given a server that is killed and started again, then its tools come back and can be called."""
    process: ServerProcess = request.getfixturevalue(name)
    with ToolboxRig(at(process)) as rig:
        before = rig.names
        assert before
        process.kill()
        rig.wait_for()
        process.start()
        assert wait_until(lambda: rig.names == before, 20)
        tool, arguments = (
            ("echo", {"message": "x"}) if name == "everything" else ("get_current_time", {"timezone": "UTC"})
        )
        assert rig.call(tool, **arguments).outcome is ToolOutcome.OK


def test_session_is_ended_at_the_server(everything):
    """Given a session, when the toolbox is closed, then the server has been told."""
    before = everything.log.count("Received session termination request")
    with ToolboxRig(at(everything)):
        pass
    assert wait_until(lambda: everything.log.count("Received session termination request") == before + 1, 30)
