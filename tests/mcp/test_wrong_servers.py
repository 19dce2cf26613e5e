"""The toolbox with servers that are wrong in every way: what the model is told, and that nothing else suffers."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from itertools import count

import pytest

from gateway.access.credential import Secret
from gateway.config.mcp_servers import McpServer
from gateway.protocol.outcomes import ToolOutcome
from gateway.simulator import Simulator
from gateway.tools.mcp import session, wire
from gateway.tools.mcp.keeper import Keeper
from tests.harness import wait_until
from tests.mcp.raw_server import Handler, Raw, RawMcpServer, error, result, texts, tool
from tests.mcp.rig import ToolboxRig, result_of, text_of

PLANTED = "PLANTED-0123456789-abcdefghij"
EMPTY_STREAM = "text/event-stream"


@pytest.fixture
def server() -> Iterator[RawMcpServer]:
    """A server with one tool, `one`."""
    with RawMcpServer([tool("one")]) as made:
        yield made


def at(server: RawMcpServer, seconds: float = 20.0, **more: object) -> McpServer:
    return McpServer("r", server.url, timeout_seconds=seconds, **more)  # type: ignore[arg-type]


def raw(*arguments: object, **more: object) -> Handler:
    return lambda _: Raw(*arguments, **more)  # type: ignore[arg-type]


def deep(request) -> Raw:
    meta: dict[str, object] = {}
    for _ in range(80):
        meta = {"deeper": meta}
    return result(request, {"content": [{"type": "text", "text": "x", "_meta": meta}]})


ANSWERS = [
    pytest.param(raw(b"<html>oops</html>", 500, "text/html"), ToolOutcome.FAILED, "status 500", id="500"),
    pytest.param(raw(b"", 502), ToolOutcome.FAILED, "status 502", id="502-empty"),
    pytest.param(raw(b'{"detail": "no"}', 403), ToolOutcome.FAILED, "status 403", id="403-other-json"),
    pytest.param(raw(b"[" * 100_000, 500), ToolOutcome.FAILED, "status 500", id="500-nested-json"),
    pytest.param(
        raw(b"", 302, headers={"location": "http://127.0.0.1:9/"}), ToolOutcome.FAILED, "", id="redirect-away"
    ),
    pytest.param(raw(b"garbage"), ToolOutcome.FAILED, "cannot be read", id="no-json"),
    pytest.param(raw(b"\xff\xfe"), ToolOutcome.FAILED, "cannot be read", id="no-utf-8"),
    pytest.param(raw(b"{}"), ToolOutcome.FAILED, "cannot be read", id="no-json-rpc"),
    pytest.param(raw(b"<html>", content_type="text/html"), ToolOutcome.FAILED, "protocol", id="html"),
    pytest.param(raw(b"", 202), ToolOutcome.FAILED, "protocol", id="202"),
    pytest.param(raw(b'{"jsonrpc": "2.0"', is_cut=True), ToolOutcome.FAILED, "cannot be read", id="cut"),
    pytest.param(raw(b"", content_type=EMPTY_STREAM), ToolOutcome.FAILED, "session has ended", id="empty-stream"),
    pytest.param(
        raw(b"data: {oops\n\n", content_type=EMPTY_STREAM), ToolOutcome.FAILED, "cannot be read", id="bad-event"
    ),
    pytest.param(raw(b"data: {", content_type=EMPTY_STREAM, is_cut=True), ToolOutcome.FAILED, "ended", id="cut-stream"),
    pytest.param(lambda r: result(r, {}), ToolOutcome.FAILED, "cannot be read", id="no-content"),
    pytest.param(lambda r: result(r, {"content": "x"}), ToolOutcome.FAILED, "cannot be read", id="content-is-text"),
    pytest.param(
        lambda r: result(r, {"content": [{"type": "x"}]}), ToolOutcome.FAILED, "cannot be read", id="unknown-kind"
    ),
    pytest.param(lambda r: result(r, {"content": []}), ToolOutcome.OK, "returned nothing", id="empty"),
    pytest.param(deep, ToolOutcome.OK, "x", id="deeply-nested"),
    pytest.param(lambda r: error(r, -32602, "Unknown tool: one"), ToolOutcome.ERROR, "Unknown tool: one", id="error"),
    pytest.param(lambda r: error(r, 42, "y" * 9_999), ToolOutcome.ERROR, "y" * 2_000, id="long-error"),
    pytest.param(lambda r: error(r, -32603, "boom"), ToolOutcome.FAILED, "failed inside", id="internal-error"),
]


@pytest.mark.parametrize(("answer", "outcome", "words"), ANSWERS)
def test_wrong_answer_ends_one_call_and_nothing_else(server, answer, outcome, words):
    """Given a wrong answer to a call, then the model is told, the call is not repeated, and the session goes on."""
    with ToolboxRig(at(server)) as rig:
        server.answers["tools/call"] = answer
        found = rig.call("one")
        assert (found.outcome, words in text_of(found)) == (outcome, True), found.content
        assert server.asked("tools/call") == 1
        del server.answers["tools/call"]
        assert text_of(rig.call("one")) == "called one"
        assert (server.sessions, rig.failures("r")) == (1, 0)


def test_answer_without_end_is_bounded(server, monkeypatch):
    """Given an answer over the limit, then it is not read further, and the call has failed."""
    monkeypatch.setattr(wire, "LARGEST_ANSWER_BYTES", 10_000)
    with ToolboxRig(at(server)) as rig:
        server.answers["tools/call"] = lambda request: result(request, texts("x" * 20_000))
        assert rig.call("one").outcome is ToolOutcome.FAILED


@pytest.mark.parametrize("status", [404, 400])
def test_session_that_the_server_forgot_is_opened_again_and_the_call_made_there(server, status):
    """Given a server that does not know the session any more, then the call is made once, in a new one."""
    with ToolboxRig(at(server)) as rig:
        executed = []

        def call(request) -> Raw:
            session_id = server.seen[-1][1]["mcp-session-id"]
            if session_id != f"session-{server.sessions}" or server.sessions == 1:
                return error(request, -32000, "no valid session", status=status)
            executed.append(session_id)
            return result(request, texts("done"))

        server.answers["tools/call"] = call
        assert text_of(rig.call("one")) == "done"
        assert executed == ["session-2"]
        assert rig.is_up("r")


def test_error_with_status_400_is_not_taken_for_a_lost_session(server):
    """Given a server that refuses a call's arguments with status 400, then the model is told, in the same session."""
    with ToolboxRig(at(server)) as rig:
        server.answers["tools/call"] = lambda request: error(request, -32602, "no such thing", status=400)
        found = rig.call("one")
        assert (found.outcome, text_of(found)) == (ToolOutcome.ERROR, "The tool failed: no such thing")
        assert (server.asked("tools/call"), server.sessions) == (1, 1)


def test_call_carries_its_traces_context(server):
    """Given a call that is part of a trace, then the server finds the trace's context in `_meta`."""
    asked: list[dict[str, object]] = []

    def answer(request):
        asked.append(request["params"].get("_meta", {}))
        return result(request, texts("ok"))

    context = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}
    with ToolboxRig(at(server)) as rig:
        server.answers["tools/call"] = answer
        for given in (context, {}):
            assert result_of(rig.toolbox.begin(rig.tool("one"), {}, given)).outcome is ToolOutcome.OK
    assert context.items() <= asked[0].items()
    assert not {"traceparent", "tracestate"} & set(asked[1])


def test_session_that_is_never_known_is_not_tried_for_ever(server):
    """Given a server that refuses every session, then a call is made at most twice and has failed."""
    with ToolboxRig(at(server)) as rig:
        server.answers["tools/call"] = lambda request: error(request, -32000, "no session", status=404)
        found = rig.call("one")
        assert (found.outcome, server.asked("tools/call")) == (ToolOutcome.FAILED, 2)


def test_sessions_that_do_not_last_are_not_opened_in_a_whirl(server, caplog):
    """Given a server that refuses every session as soon as it is used, then it counts as down after the second, calls
    fail without waiting, and it is asked again after a pause."""
    with ToolboxRig(at(server)) as rig:
        server.answers["tools/call"] = lambda request: error(request, -32600, "no session", status=404)
        one = rig.tool("one")
        assert wait_until(lambda: result_of(rig.toolbox.begin(one, {}, {})) is not None and not rig.is_up("r"), 30)
        opened = server.sessions
        assert opened <= 4
        assert result_of(rig.toolbox.begin(one, {}, {})).outcome is ToolOutcome.FAILED
        assert server.sessions == opened
        del server.answers["tools/call"]
        rig.wait_for("one")
        assert text_of(rig.call("one")) == "called one"
    assert "its sessions do not last" in caplog.text


def test_calls_in_the_old_session_run_on_while_a_new_one_is_opened(server):
    """Given a call that runs when another one's session is refused, then the first ends as it would have."""
    with ToolboxRig(at(server)) as rig:
        goes_on, number = threading.Event(), count(1)

        def call(request) -> Raw:
            turn = next(number)
            if turn == 1:
                goes_on.wait(20)
            if turn == 2:
                return error(request, -32600, "no session", status=404)
            return result(request, texts(f"call {turn}"))

        server.answers["tools/call"] = call
        first = rig.begin("one")
        assert wait_until(lambda: server.asked("tools/call") == 1, 30)
        assert text_of(rig.call("one")) == "call 3"
        goes_on.set()
        assert text_of(result_of(first)) == "call 1"
        assert wait_until(lambda: server.asked("DELETE") == 1, 30)


def test_notification_that_is_never_answered_holds_nobody_up(server):
    """Given a server that answers no notification, then its tools are there all the same, and calls are answered."""
    server.answers["notifications/initialized"] = server.hang
    server.answers["notifications/cancelled"] = server.hang
    with ToolboxRig(at(server)) as rig:
        rig.begin("one").close()
        assert text_of(rig.call("one")) == "called one"


def test_cancelled_call_is_told_by_a_notification(server):
    """Given a server with sessions, when a call is closed, then it is sent the protocol's notification."""
    server.answers["tools/call"] = server.hang
    with ToolboxRig(at(server)) as rig:
        call = rig.begin("one")
        assert wait_until(lambda: server.asked("tools/call") == 1, 30)
        call.close()
        assert wait_until(lambda: server.asked("notifications/cancelled") == 1, 30)


def test_thousands_of_tools_in_pages_are_all_there(server):
    """Given 2000 tools on twenty pages, then all are offered."""
    pages = [[tool(f"t{page:02}-{entry:02}") for entry in range(100)] for page in range(20)]

    def listed(request) -> Raw:
        page = int(request.get("params", {}).get("cursor", "0"))
        more = {"nextCursor": str(page + 1)} if page + 1 < len(pages) else {}
        return result(request, {"tools": pages[page]} | more)

    server.answers["tools/list"] = listed
    with ToolboxRig(at(server)) as rig:
        assert len(rig.names) == 2000
        assert rig.names == sorted(rig.names)
        assert text_of(rig.call("t19-99")) == "called t19-99"


@pytest.mark.parametrize("cursor", ["the same", None], ids=["circle", "endless"])
def test_list_without_end_is_a_server_that_is_down(server, cursor, monkeypatch, caplog):
    """Given pages that never end, then no tool of them is offered, and the log says why."""
    monkeypatch.setattr(session, "MOST_TOOLS", 50)
    number = count()
    server.answers["tools/list"] = lambda request: result(
        request, {"tools": [tool(f"t{next(number)}")], "nextCursor": cursor or f"page {next(number)}"}
    )
    with ToolboxRig(at(server)) as rig:
        assert rig.names == []
        assert not rig.is_up("r")
    assert "repeats itself" in caplog.text if cursor else "more than 50 tools" in caplog.text


@pytest.mark.parametrize(
    ("method", "answer", "words"),
    [
        pytest.param("initialize", raw(b"", 401), "status 401", id="unauthorized"),
        pytest.param("initialize", raw(b"garbage"), "cannot be read", id="garbage"),
        pytest.param(
            "initialize", lambda r: result(r, {"protocolVersion": "1999-01-01"}), "protocol", id="old-protocol"
        ),
        pytest.param("tools/list", raw(b"", 500), "status 500", id="list-500"),
        pytest.param("tools/list", raw(b"garbage"), "cannot be read", id="list-garbage"),
        pytest.param("tools/list", lambda r: result(r, {"tools": [{"name": 5}]}), "protocol", id="list-of-no-tools"),
        pytest.param("tools/list", lambda r: error(r, -32601, PLANTED), "error -32601", id="list-error"),
    ],
)
def test_server_that_cannot_be_talked_with_is_down(server, method, answer, words, caplog):
    """Given a server that refuses or talks nonsense, then it is down, the log says why in the gateway's own words, and
    it is back when it has come to its senses."""
    server.answers[method] = answer
    with ToolboxRig(at(server)) as rig:
        assert rig.names == []
        assert wait_until(lambda: rig.failures("r") >= 2, 30)
        del server.answers[method]
        rig.wait_for("one")
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith("mcp server r is down: ")
    assert words in line
    assert PLANTED not in caplog.text


def test_untrusted_certificate_is_named(caplog):
    """Given a server whose certificate no known authority has signed, then it is down, and the log says that it is for
    that."""
    with Simulator(tls=True) as untrusted, ToolboxRig(McpServer("r", untrusted.url)) as rig:
        assert rig.names == []
    assert "the TLS handshake failed" in caplog.text


def test_list_that_fails_later_takes_the_tools_away_and_is_counted(server):
    """Given a server that stops listing its tools, then they are absent until it lists them again."""
    with ToolboxRig(at(server), refresh_seconds=0.2) as rig:
        server.answers["tools/list"] = raw(b"", 500)
        rig.wait_for()
        assert rig.failures("r") >= 1
        del server.answers["tools/list"]
        rig.wait_for("one")


def test_list_is_made_anew_at_its_age(server):
    """Given a server that says nothing when its tools change, then they are listed again at the age that is set."""
    with ToolboxRig(at(server), refresh_seconds=0.2) as rig:
        server.tools = [tool("two")]
        rig.wait_for("two")
        assert (server.sessions, rig.failures("r")) == (1, 0)


def test_notifications_stream_is_heeded(server):
    """Given a server with sessions, when it says that its tools have changed, then they are listed again."""
    said = b'event: message\ndata: {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}\n\n'
    has_changed = threading.Event()

    def stream(_) -> Raw:
        has_changed.wait(20)
        return Raw(said, content_type="text/event-stream")

    server.answers["GET"] = stream
    with ToolboxRig(at(server), refresh_seconds=3600) as rig:
        server.tools = [tool("two")]
        has_changed.set()
        rig.wait_for("two")


def test_refused_tools_are_told_once(server, caplog):
    """Given a tool whose name is too long beside a good one, then a line says so once, however often it is listed."""
    server.tools.append(tool("x" * 200))
    with ToolboxRig(at(server), refresh_seconds=0.1) as rig:
        assert rig.names == ["bmcp_r_one"]
        assert wait_until(lambda: server.asked("tools/list") >= 3, 30)
    assert [record.levelname for record in caplog.records if "is not offered" in record.getMessage()] == ["WARNING"]


def test_headers_are_sent_and_shown_nowhere(server, caplog):
    """Given a secret header, then every request has it, and no log has it at any level, whatever the server answers."""
    caplog.set_level(logging.DEBUG)
    server.answers["tools/call"] = lambda request: error(request, 7, f"bad token {PLANTED}", status=401)
    with ToolboxRig(at(server, headers=(("authorization", Secret(f"Bearer {PLANTED}")),))) as rig:
        assert rig.call("one").outcome is ToolOutcome.ERROR
    assert {headers.get("authorization") for _, headers in server.seen} == {f"Bearer {PLANTED}"}
    assert PLANTED not in caplog.text


def test_arguments_and_results_are_in_no_log(server, caplog):
    """Given arguments and results, good and broken, then no log has them at any level."""
    caplog.set_level(logging.DEBUG)
    with ToolboxRig(at(server)) as rig:
        for answer in (
            lambda request: result(request, texts(PLANTED)),
            lambda request: result(request, {"content": PLANTED}),
            raw(f"{{ {PLANTED}".encode()),
            raw(f"data: {PLANTED}\n\n".encode(), content_type="text/event-stream"),
        ):
            server.answers["tools/call"] = answer
            rig.call("one", argument=PLANTED)
    assert PLANTED not in caplog.text


def test_keeper_that_fails_inside_goes_on(server, caplog, monkeypatch):
    """Given a keeper that fails in the gateway itself as its server comes up, then it says so once, without a word of
    the server's, tries again, and the tools are there."""
    caplog.set_level(logging.INFO)
    went_up, failing = Keeper._went_up, count()

    def fail_twice(self: Keeper, *arguments: object) -> None:
        went_up(self, *arguments)  # type: ignore[arg-type]
        if next(failing) < 2:
            raise KeyError(PLANTED)

    monkeypatch.setattr(Keeper, "_went_up", fail_twice)
    with ToolboxRig(at(server)) as rig:
        assert wait_until(lambda: "the keeper of mcp server r works again" in caplog.text, 20), caplog.text
        rig.wait_for("one")
        assert rig.is_up("r")
        assert rig.call("one").outcome is ToolOutcome.OK
    assert caplog.text.count("the keeper of mcp server r fails") == 1
    assert "KeyError in the gateway" in caplog.text
    assert PLANTED not in caplog.text


def test_loop_that_is_left_runs_on(server, caplog):
    """Given something in the loop that raises what no loop survives, then its thread tells and runs it again."""
    with ToolboxRig(at(server)) as rig:
        rig.toolbox._soon(lambda: sys.exit(1))
        assert wait_until(lambda: "the thread mcp fails" in caplog.text, 20)
        assert rig.call("one").outcome is ToolOutcome.OK
