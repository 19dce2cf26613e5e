"""Admission, deadlines and connections of a gateway that is crowded or whose clients dawdle."""

from __future__ import annotations

import select
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.e2e.talk import Talk, error_of, events_of, message
from tests.harness import GatewayProcess, wait_until

KEY = "sk-ant-api03-the-only-key"
THREADS, RESERVED = 12, 4
PLACES = THREADS - RESERVED
PROMPT_SECONDS = 1.5  # nobody has waited for a goodbye, which takes 2 s
SOON_SECONDS = 30.0
WRITE_SECONDS = 2


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """One upstream for the module."""
    with Simulator(keys={KEY: "ok"}) as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def _good_key(simulator: Simulator) -> None:
    simulator.script(KEY, "ok")


def _crowdable(simulator: Simulator, **settings: str) -> GatewayProcess:
    return GatewayProcess(simulator.url, [KEY], threads=str(THREADS), reserved_threads=str(RESERVED), **settings)


@pytest.fixture(scope="module")
def gateway(simulator: Simulator) -> Iterator[GatewayProcess]:
    """A gateway with few threads."""
    process = _crowdable(simulator)
    yield process
    process.stop()


@pytest.fixture(scope="module")
def impatient(simulator: Simulator) -> Iterator[GatewayProcess]:
    """A gateway with few threads and little patience: for clients that are later than that, however busy the machine
    is."""
    process = _crowdable(
        simulator, head_timeout_seconds="1", body_timeout_seconds="1", write_timeout_seconds=str(WRITE_SECONDS)
    )
    yield process
    process.stop()


@pytest.fixture
def talk(gateway: GatewayProcess) -> Iterator[Talk]:
    """One client connection."""
    with Talk(gateway) as talk:
        yield talk


@pytest.fixture
def hurried(impatient: GatewayProcess) -> Iterator[Talk]:
    """One client connection to the impatient gateway."""
    with Talk(impatient) as talk:
        yield talk


def _is_idle(gateway: GatewayProcess) -> bool:
    return gateway.metric("requests_inflight", route="messages") == 0


def test_each_place_streams_and_the_next_request_is_refused_at_once(
    gateway: GatewayProcess, simulator: Simulator, talk: Talk
) -> None:
    """Given a stream in every slot, when one more is asked for, then 529 on a kept connection; streams end well."""
    simulator.script(KEY, "ok:events=50,delay=0.2")
    refused_before = gateway.metric("rejections_total", reason="overloaded_error")
    with ExitStack() as stack:
        streams = [stack.enter_context(Talk(gateway)) for _ in range(PLACES)]
        begun = [stream.begin_stream() for stream in streams]
        assert gateway.metric("admission_limit") == PLACES
        assert gateway.metric("requests_inflight", route="messages") == PLACES
        calls = len(simulator.requests)
        for path in ("/v1/messages", "/v1/messages", "/v1/messages/count_tokens"):
            answer = talk.exchange("POST", path, message(pad_bytes=100_000))
            assert error_of(answer)[:2] == (529, "overloaded_error")
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["connection"] == "keep-alive"
        assert talk.exchange("GET", "/v1/models").status == 529
        assert len(simulator.requests) == calls
        assert gateway.metric("rejections_total", reason="overloaded_error") == refused_before + 4
        for stream, first in zip(streams, begun, strict=True):
            assert events_of(first + stream.rest())[-1][0] == "message_stop"
    simulator.script(KEY, "ok")
    assert talk.exchange(body=message()).status == 200


def test_overload_is_told_before_the_body_is_sent(gateway: GatewayProcess, simulator: Simulator, talk: Talk) -> None:
    """Given no slot, when a client has sent only its head, then it has its 529, and may send body and next request."""
    simulator.script(KEY, "stall:after=2")
    with ExitStack() as stack:
        for _ in range(PLACES):
            stack.enter_context(Talk(gateway)).begin_stream()
        body = message(pad_bytes=100_000)
        talk.send_head("POST", "/v1/messages", {"Content-Length": str(len(body))})
        response = talk.begin_answer()
        assert response.status == 529
        talk.send(body)
        talk.answer()
        assert talk.exchange("GET", "/healthz").status == 200
    assert wait_until(lambda: _is_idle(gateway), SOON_SECONDS)


def _probe_seconds(gateway: GatewayProcess, path: str, count: int) -> list[float]:
    taken = []
    with Talk(gateway) as talk:
        for _ in range(count):
            begun_at = time.monotonic()
            assert talk.exchange("GET", path).status == 200
            taken.append(time.monotonic() - begun_at)
    return taken


def test_health_metrics_and_status_answer_in_time_while_overload_is_refused(
    gateway: GatewayProcess, simulator: Simulator
) -> None:
    """Given a stream in every slot and a throng refused, then health, metrics and status come in time."""
    simulator.script(KEY, "ok:events=100000,delay=0.1")
    done = threading.Event()
    statuses: list[int] = []

    def throng() -> None:
        with Talk(gateway) as talk:
            while not done.is_set():
                statuses.append(talk.exchange(body=message(pad_bytes=100_000)).status)

    with ExitStack() as stack:
        for _ in range(PLACES):
            stack.enter_context(Talk(gateway)).begin_stream()
        refused = [threading.Thread(target=throng) for _ in range(RESERVED - 1)]
        for thread in refused:
            thread.start()
        try:
            health = _probe_seconds(gateway, "/healthz", 12)
            metrics = _probe_seconds(gateway, "/metrics", 12)
            status = _probe_seconds(gateway, "/status", 12)
        finally:
            done.set()
            for thread in refused:
                thread.join(20)
    assert len(statuses) > 20
    assert set(statuses) == {529}
    for taken in (health, metrics, status):
        assert statistics.median(taken) < PROMPT_SECONDS
    assert wait_until(lambda: _is_idle(gateway), SOON_SECONDS)


def _dribble(talk: Talk, data: bytes) -> None:
    """Send a byte at a time, until all is sent or the gateway says something."""
    for position in range(len(data)):
        if select.select([talk.socket], [], [], 0.05)[0]:
            return
        talk.send(data[position : position + 1])


_HEAD = b"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"
_CHUNKED = b"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("at_once", "dribbled"),
    [
        pytest.param(b"P", b"", id="a-byte-of-a-head"),
        pytest.param(_HEAD[:40], b"", id="half-a-head"),
        pytest.param(b"", b"GET /healthz HTTP/1.1\r\nx-slow: " + b"x" * 500, id="dribbling-head"),
        pytest.param(_HEAD, b"", id="no-body"),
        pytest.param(_HEAD + b'{"model":', b"", id="half-a-body"),
        pytest.param(_HEAD, b"{" * 900, id="dribbling-body"),
        pytest.param(_CHUNKED + b"a\r\n{", b"", id="half-a-chunk"),
        pytest.param(_CHUNKED + b"1\r\n{\r\n", b"1\r\n \r\n" * 200, id="dribbling-chunks"),
        pytest.param(_CHUNKED + b"1\r\n{\r\n0\r\n", b"", id="chunks-without-their-end"),
    ],
)
def test_half_sent_requests_are_408_and_closed(
    impatient: GatewayProcess, simulator: Simulator, hurried: Talk, at_once: bytes, dribbled: bytes
) -> None:
    """Given a request that does not arrive in time, when its deadline is over, then 408, closed; no upstream call."""
    calls = len(simulator.requests)
    hurried.send(at_once)
    _dribble(hurried, dribbled)
    assert error_of(hurried.answer())[:2] == (408, "timeout_error")
    assert hurried.is_closed_by_gateway(3 * SOON_SECONDS)
    assert wait_until(lambda: _is_idle(impatient), SOON_SECONDS)
    assert len(simulator.requests) == calls


def test_half_a_head_on_a_kept_connection_is_408(hurried: Talk) -> None:
    """Given a connection that was served, when its next head is cut in half, then 408."""
    assert hurried.exchange("GET", "/healthz").status == 200
    hurried.send(_HEAD[:30])
    assert error_of(hurried.answer())[:2] == (408, "timeout_error")


def test_silent_connections_are_closed_in_time(hurried: Talk) -> None:
    """Given a connection on which nothing is ever sent, when the head's deadline is over, then it is closed."""
    assert hurried.is_closed_by_gateway(SOON_SECONDS)


def _threads(gateway: GatewayProcess) -> int:
    (worker,) = gateway.worker_pids
    return len(list(Path(f"/proc/{worker}/task").iterdir()))


def test_silent_and_idle_connections_hold_no_thread(gateway: GatewayProcess) -> None:
    """Given ten times more silent and idle connections than threads, when a message is asked for, then it is served."""
    with ExitStack() as stack:
        idle = [stack.enter_context(Talk(gateway)) for _ in range(5 * THREADS)]
        for kept in idle:
            assert kept.exchange("GET", "/healthz").status == 200
        for _ in range(5 * THREADS):
            stack.enter_context(Talk(gateway))
        with Talk(gateway) as talk:
            assert talk.exchange(body=message()).status == 200
        assert max(_probe_seconds(gateway, "/healthz", 5)) < SOON_SECONDS
        assert _threads(gateway) <= THREADS + 5  # the main thread, the recorder's two, that of key news, one to spare
        assert all(kept.exchange("GET", "/healthz").status == 200 for kept in idle)


def test_crowd_of_half_sent_requests_delays_others_by_a_deadline_at_most(impatient: GatewayProcess) -> None:
    """Given more half-sent heads than threads, none of which hangs up, when the deadline is over, then others go on."""
    with ExitStack() as stack:
        for _ in range(2 * THREADS):
            stack.enter_context(Talk(impatient)).send(_HEAD[:40])
        begun_at = time.monotonic()
        assert impatient.request("GET", "/healthz").status == 200
        assert time.monotonic() - begun_at < 3 * SOON_SECONDS


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", id="connection-close"),
        pytest.param(b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n", id="http-1.0"),
        pytest.param(b"no http at all\r\n\r\n", id="malformed"),
    ],
)
def test_clients_that_do_not_hang_up_hold_nobody_up(gateway: GatewayProcess, ending: bytes) -> None:
    """Given connections that the gateway ends and the client does not, when others ask, then they are answered."""
    with ExitStack() as stack:
        lingering = [stack.enter_context(Talk(gateway)) for _ in range(3)]
        taken = []
        for talk in lingering:
            talk.send(ending)
            assert talk.answer().status in (200, 400)
            taken += _probe_seconds(gateway, "/healthz", 5)
    assert statistics.median(taken) < PROMPT_SECONDS


@pytest.mark.parametrize(
    ("is_streamed", "script"),
    [
        pytest.param(True, "ok:events=4000,bytes=10000", id="streamed"),
        pytest.param(False, "ok:events=4000,bytes=10000", id="whole"),
    ],
)
def test_client_that_takes_nothing_is_cut_off(
    impatient: GatewayProcess, simulator: Simulator, is_streamed: bool, script: str
) -> None:
    """Given a client that never reads, when it has taken nothing for write_timeout_seconds, then its thread is free."""
    simulator.script(KEY, script)
    with Talk(impatient, receive_buffer_bytes=4096) as talk:
        talk.ask(body=message(streamed=is_streamed))
        assert wait_until(lambda: not _is_idle(impatient), SOON_SECONDS)
        assert wait_until(lambda: _is_idle(impatient), 3 * SOON_SECONDS)
        if is_streamed:
            idle = 1  # the upstream's connection in mid-answer is not kept
            assert simulator.wait_until(lambda: simulator.open_connections <= idle + PLACES, SOON_SECONDS)
            assert impatient.counted("streams_ended_total", outcome="client_disconnected") >= 1


def test_slow_reader_that_goes_on_reading_is_served_to_the_end(impatient: GatewayProcess, simulator: Simulator) -> None:
    """Given a client that reads little and late but does read, when the answer is long, then it gets all of it."""
    simulator.script(KEY, "ok:events=200,bytes=10000")
    begun_at = time.monotonic()
    with Talk(impatient, receive_buffer_bytes=4096) as talk:
        talk.ask(body=message(streamed=True))
        response = talk.begin_answer()
        pause = threading.Event()
        taken = b""
        while piece := response.read1(65536):
            taken += piece
            pause.wait(0.008)
    assert events_of(taken)[-1][0] == "message_stop"
    assert time.monotonic() - begun_at > WRITE_SECONDS  # later than who takes nothing is cut off


def _nothing_here(talk: Talk) -> None:
    assert talk.exchange("GET", "/nothing").status == 404


_KINDS: list[tuple[str, Callable[[Talk], None]]] = [
    ("whole", lambda talk: _is(talk.exchange(body=message()).status, 200)),
    ("streamed", lambda talk: _is(talk.exchange(body=message(streamed=True)).status, 200)),
    ("count", lambda talk: _is(talk.exchange(path="/v1/messages/count_tokens", body=message()).status, 200)),
    ("health", lambda talk: _is(talk.exchange("GET", "/healthz").status, 200)),
    ("head", lambda talk: _is(talk.exchange("HEAD", "/").status, 200)),
    ("405", lambda talk: _is(talk.exchange("OPTIONS", "/v1/messages").status, 405)),
    ("404", lambda talk: _is(talk.exchange("POST", "/nothing", message(pad_bytes=200_000)).status, 404)),
    ("400", lambda talk: _is(talk.exchange(body=b"nonsense").status, 400)),
]


def _is(status: int, wanted: int) -> None:
    assert status == wanted


def test_one_connection_serves_all_kinds_in_turn(gateway: GatewayProcess, simulator: Simulator, talk: Talk) -> None:
    """Given one connection, when good and bad requests take turns on it, then it is kept, and so is the upstream's."""
    assert talk.exchange(body=message()).status == 200
    opened = simulator.opened_connections
    for _ in range(3):
        for _, ask in _KINDS:
            ask(talk)
    assert simulator.opened_connections == opened


def test_pipelined_requests_are_answered_in_order(talk: Talk) -> None:
    """Given several requests in one segment, when they are sent at once, then each has its answer, in order."""
    body = message(streamed=True)
    head = f"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    health = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    talk.send(head + body + b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + health)
    received = b""
    while piece := talk.socket.recv(65536):
        received += piece
    places = [received.find(part) for part in (b"HTTP/1.1 200 OK", b"message_stop", b"HTTP/1.1 404", b"ok\n")]
    assert places == sorted(places)
    assert places[0] == 0
    assert received.count(b"HTTP/1.1 ") == 3


def test_expect_continue_is_answered_before_the_body(talk: Talk) -> None:
    """Given curl's `Expect: 100-continue`, when the head is there, then 100 comes, and the answer after the body."""
    body = message()
    talk.send_head("POST", "/v1/messages", {"Content-Length": str(len(body)), "Expect": "100-continue"})
    assert talk.socket.recv(4096).startswith(b"HTTP/1.1 100")
    talk.send(body)
    assert talk.answer().status == 200
