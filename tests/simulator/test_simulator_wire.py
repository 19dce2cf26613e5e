"""The simulator over real sockets, plain and TLS: endings, silence, counting, stopping."""

import socket
import threading
import time

import pytest

from gateway.simulator import Simulator
from tests.simulator.wired import Client

TIMEOUT_SECONDS = 60.0


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_answers_follow_each_other_on_one_connection(is_tls, stream, connect):
    with Simulator({"sk-a": "ok then rate_limited then ok"}, tls=is_tls) as simulator:
        client = connect(simulator)
        statuses = []
        for _ in range(3):
            client.ask(stream=stream)
            statuses.append(client.read_answer().status)
        assert statuses == [200, 429, 200]
        assert (simulator.open_connections, simulator.opened_connections) == (1, 1)


# A reset under TLS reaches Python as a missing close_notify.
@pytest.mark.parametrize(
    ("script", "ending", "tls_ending"),
    [
        ("cut", "closed", "closed"),
        ("cut:ragged", "closed", "ragged"),
        ("cut_half", "closed", "closed"),
        ("cut_at:byte=10", "closed", "closed"),
        ("reset:hold=0.2", "reset", "ragged"),
        ("bad_chunk", "closed", "closed"),
        ("short_length", "closed", "closed"),
        ("ok:framing=close", "closed", "closed"),
        ("ok:hang-up", "closed", "closed"),
        ("close", "closed", "closed"),
        ("close:reset", "reset", "ragged"),
        ("garbage", "closed", "closed"),
    ],
)
def test_connection_ends_as_told(script, ending, tls_ending, is_tls, connect):
    with Simulator({"sk-a": script}, tls=is_tls) as simulator:
        client = connect(simulator)
        client.ask(stream=True)
        raw, how = client.read_to_end()
        assert how == (tls_ending if is_tls else ending)
        assert bool(raw) is not script.startswith("close")
        assert simulator.wait_until(lambda: simulator.open_connections == 0, TIMEOUT_SECONDS)


@pytest.mark.parametrize(
    "script",
    [
        "silent",
        "stall:after=2",
        "stall_half",
        "late_end",
        "slow_head:seconds=60",
        "ok:first=60",
        "ok:delay=60",
        "cut:hold=60",
        "drip_head:delay=60",
        "split:delay=60",
        "rate_limited:hang",
        "rate_limited:delay=60",
        "early_answer",
        "no_read",
    ],
)
def test_peer_that_leaves_a_silence_is_noticed(script, is_tls, connect):
    with Simulator({"sk-a": script}, tls=is_tls) as simulator:
        client = connect(simulator)
        client.ask(stream=True)
        assert simulator.wait_until(lambda: len(simulator.requests) == 1, TIMEOUT_SECONDS)
        assert simulator.open_connections == 1
        client.close()
        assert simulator.wait_until(lambda: simulator.open_connections == 0, TIMEOUT_SECONDS)


@pytest.mark.parametrize("script", ["silent", "stall", "no_read", "ok", "slow_head:seconds=60"])
def test_stop_is_prompt_while_connections_are_open(script, is_tls, connect):
    before = threading.active_count()
    with Simulator({"sk-a": script}, tls=is_tls) as simulator:
        for _ in range(10):
            connect(simulator).ask(stream=True)
        assert simulator.wait_until(lambda: len(simulator.requests) == 10, TIMEOUT_SECONDS)
        connect(simulator)  # says nothing: idle, or in the middle of a handshake
        assert simulator.wait_until(lambda: simulator.open_connections == 11, TIMEOUT_SECONDS)
        started_at = time.monotonic()
    assert time.monotonic() - started_at < 30  # a connection that is waited for takes a minute, or for ever
    assert simulator.open_connections == 0
    assert threading.active_count() == before
    simulator.stop()


def test_stop_wakes_a_thread_that_waits_in_send(connect):
    """Given a client that reads nothing of a long answer, then stopping does not wait for it."""
    with Simulator({"sk-a": "ok:big=50000000"}) as simulator:
        connect(simulator).ask(stream=True)
        assert simulator.wait_until(lambda: len(simulator.requests) == 1, TIMEOUT_SECONDS)


def test_no_read_holds_up_a_large_body(connect):
    with Simulator({"sk-a": "no_read"}) as simulator:
        client = connect(simulator)
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.ask(body=b"x" * 32_000_000)
        assert simulator.requests[0].body == b""


def test_early_answer_comes_before_the_body_is_sent(connect):
    with Simulator({"sk-a": "early_answer:close"}) as simulator:
        client = connect(simulator)
        head = b"POST /v1/messages HTTP/1.1\r\nx-api-key: sk-a\r\ncontent-length: 1000000\r\n\r\n"
        client.socket.sendall(head)
        raw, how = client.read_to_end()
        assert raw.startswith(b"HTTP/1.1 413 ")
        assert how == "closed"


def test_request_is_seen_as_it_came(is_tls, connect):
    with Simulator({"sk-a": "ok"}, tls=is_tls) as simulator:
        client = connect(simulator)
        client.ask(path="/v1/messages?beta=true", extra="X-Twice: a\r\nx-TWICE:  b \r\n", body=b"{}")
        client.read_answer()
        [request] = simulator.requests
        assert (request.index, request.key, request.method) == (0, "sk-a", "POST")
        assert (request.path, request.query, request.body) == ("/v1/messages", "beta=true", b"{}")
        assert request.headers[2:] == [("X-Twice", "a"), ("x-TWICE", "b"), ("Content-Length", "2")]
        assert request.arrived_at <= time.monotonic()
        assert "sk-a" not in repr(request)


def test_chunked_body_is_read_out_of_its_chunks(connect):
    with Simulator({"sk-a": "ok"}) as simulator:
        client = connect(simulator)
        head = b"POST /v1/messages HTTP/1.1\r\nx-api-key: sk-a\r\ntransfer-encoding: chunked\r\n\r\n"
        for byte in head + b'1\r\n{\r\n2;x=y\r\n"a\r\n5\r\n":1}\n\r\n0\r\ntrailer: x\r\n\r\n':
            client.socket.sendall(bytes([byte]))
        assert client.read_answer().status == 200
        assert simulator.requests[0].body == b'{"a":1}\n'
        client.ask()
        assert client.read_answer().status == 200


def test_expected_continue_is_given(connect):
    with Simulator({"sk-a": "ok"}) as simulator:
        client = connect(simulator)
        client.socket.sendall(
            b"POST /v1/messages HTTP/1.1\r\nx-api-key: sk-a\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n"
        )
        assert client.read_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.socket.sendall(b"{}")
        assert client.read_answer().status == 200


@pytest.mark.parametrize(
    "header", ["connection: close\r\n", "Connection: TE, Close\r\n"], ids=["close", "among others"]
)
def test_connection_is_closed_when_the_client_wants_it(header, connect):
    with Simulator({"sk-a": "ok"}) as simulator:
        client = connect(simulator)
        client.ask(extra=header)
        raw, how = client.read_to_end()
        assert raw.startswith(b"HTTP/1.1 200 ")
        assert how == "closed"


@pytest.mark.parametrize(
    "raw",
    [
        b"hello\r\n\r\n",
        b"GET / SPDY/3\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nx-api-key: sk-a\r\ncontent-length: x\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nx-api-key: sk-a\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
    ],
)
def test_malformed_request_gets_400(raw, connect):
    with Simulator({"sk-a": "ok"}) as simulator:
        client = connect(simulator)
        client.socket.sendall(raw)
        answer, how = client.read_to_end()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert how == "closed"


@pytest.mark.parametrize(
    ("key", "method", "path", "status", "kind"),
    [
        ("sk-x", "POST", "/v1/messages", 401, "authentication_error"),
        ("", "POST", "/v1/messages", 401, "authentication_error"),
        ("sk-a", "POST", "/v1/other", 404, "not_found_error"),
        ("sk-a", "GET", "/", 404, "not_found_error"),
        ("sk-a", "GET", "/v1/messages", 405, "invalid_request_error"),
        ("sk-a", "POST", "/v1/models", 405, "invalid_request_error"),
    ],
)
def test_wrong_request_uses_up_no_step(key, method, path, status, kind, connect):
    with Simulator({"sk-a": "ok then close"}) as simulator:
        client = connect(simulator)
        client.ask(key, method=method, path=path)
        answer = client.read_answer()
        assert (answer.status, answer.json()["error"]["type"]) == (status, kind)
        client.ask()
        assert client.read_answer().status == 200


@pytest.mark.parametrize("any_key", [True, "ok"])
def test_any_key_lets_all_in(any_key, connect):
    with Simulator(any_key=any_key) as simulator:
        client = connect(simulator)
        client.ask("sk-x")
        assert client.read_answer().status == 200
        assert simulator.keys_seen == ["sk-x"]


def test_bearer_token_is_a_key(connect):
    with Simulator({"sk-a": "ok"}) as simulator:
        client = connect(simulator)
        client.socket.sendall(b"GET /v1/models HTTP/1.1\r\nAuthorization: bearer sk-a\r\n\r\n")
        assert client.read_answer().status == 200
        assert simulator.keys_seen == ["sk-a"]


def test_script_and_order_change_while_running(connect):
    with Simulator({"sk-a": "ok"}) as simulator:
        client = connect(simulator)

        def status() -> int:
            client.ask()
            return client.read_answer().status

        assert status() == 200
        simulator.script("sk-a", ["overloaded", "ok"])
        assert [status(), status()] == [529, 200]
        simulator.order("server_error", "rate_limited")
        assert [status(), status(), status()] == [500, 429, 429]
        simulator.order()
        assert status() == 200
        simulator.clear_requests()
        assert simulator.requests == []


def test_requests_are_numbered_under_a_storm():
    """Given many clients at once, then every request is seen once and in order."""
    clients, requests = 16, 25
    gate = threading.Barrier(clients)

    def storm(simulator: Simulator) -> None:
        client = Client(simulator)
        gate.wait(TIMEOUT_SECONDS)
        for _ in range(requests):
            client.ask()
            assert client.read_answer().status == 200
        client.close()

    with Simulator({"sk-a": "ok"}) as simulator:
        threads = [threading.Thread(target=storm, args=(simulator,)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_SECONDS)
        indexes = [request.index for request in simulator.requests]
        assert indexes == list(range(clients * requests))
        assert simulator.wait_until(lambda: simulator.open_connections == 0, TIMEOUT_SECONDS)
        assert simulator.opened_connections == clients


def test_wait_until_gives_up_in_time():
    with Simulator() as simulator:
        started_at = time.monotonic()
        assert simulator.wait_until(lambda: False, 0.05) is False
        assert 0.05 <= time.monotonic() - started_at < 5


def test_tls_is_verified_by_its_own_authority(connect):
    with Simulator({"sk-a": "ok"}, tls=True) as simulator:
        assert simulator.url.startswith("https://localhost:")
        client = connect(simulator)
        assert client.socket.server_hostname == "localhost"


def test_client_that_does_not_speak_tls_is_counted_out():
    with Simulator({"sk-a": "ok"}, tls=True) as simulator:
        port = int(simulator.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert simulator.wait_until(lambda: simulator.opened_connections == 1, TIMEOUT_SECONDS)
            assert simulator.wait_until(lambda: simulator.open_connections == 0, TIMEOUT_SECONDS)


def test_one_record_is_one_record(connect):
    """Given a whole stream in one record, then one read of the TLS layer brings all of it."""
    with Simulator({"sk-a": "one_record:events=20"}, tls=True) as simulator:
        client = connect(simulator)
        client.ask(stream=True)
        assert client.read_some().endswith(b"0\r\n\r\n")
