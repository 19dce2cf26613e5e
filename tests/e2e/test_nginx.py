"""The gateway behind the nginx of deploy/nginx: its own files, real TLS, real gunicorn."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.e2e.clients import Client, Received, message_body
from tests.e2e.nginx_deployed import DeployedNginx
from tests.e2e.talk import token_line
from tests.harness import GatewayProcess, wait_until
from tests.ports import free_port
from tests.unit.tiny_server import Recorder, TinyServer, take_request

KEY = "sk-ant-api03-the-only-key"
TOKEN = "gateway-token-of-alice-0123456789"
HEADERS = (f"X-Gateway-Token: {TOKEN}",)
MAX_BODY_BYTES = 32 * 1024 * 1024
# The design's two seconds, with a margin for a busy machine.
FREE_SECONDS = 8.0  # the next ping, which would notice, too, takes 10 s

Start = Callable[..., GatewayProcess]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """One upstream for the module."""
    with Simulator(keys={KEY: "ok"}) as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def _good_key(simulator: Simulator) -> None:
    simulator.script(KEY, "ok")
    simulator.clear_requests()


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token file that knows alice."""
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(token_line("alice", TOKEN))
    return file


@pytest.fixture(scope="module")
def gateway(simulator: Simulator, tokens_file: Path) -> Iterator[GatewayProcess]:
    """One gateway for the module."""
    process = GatewayProcess(simulator.url, [f"only={KEY}"], client_tokens_file=str(tokens_file))
    yield process
    process.stop()


@pytest.fixture(scope="module")
def nginx(gateway: GatewayProcess) -> Iterator[DeployedNginx]:
    """deploy/nginx in front of it."""
    with DeployedNginx([gateway.port]) as nginx:
        yield nginx


def ask(nginx: DeployedNginx, body: bytes = b"", address: str = "127.0.0.1", **request: object) -> Received:
    """One request on a connection of its own, and its answer."""
    with nginx.client(address) as client:
        client.send(body, **({"headers": HEADERS} | request))  # type: ignore[arg-type]
        return client.read_answer()


def error_of(answer: Received) -> tuple[int, str, str]:
    """Status, type and message of an error in the protocol's shape."""
    document = answer.json()
    assert document["type"] == "error"
    assert document["request_id"] == answer.header("request-id")
    assert answer.header("content-type") == "application/json"
    return answer.status, document["error"]["type"], document["error"]["message"]


def test_configuration_is_good_and_needs_no_excuse(nginx: DeployedNginx) -> None:
    """Given the files as they are deployed, when nginx checks them, then it finds nothing to warn of."""
    said = nginx.run("-t").splitlines()
    assert [line for line in said if not line.endswith(("syntax is ok", "test is successful"))] == []
    assert "[warn]" not in nginx.log


def test_first_event_is_not_kept_back(simulator: Simulator, nginx: DeployedNginx) -> None:
    """Given an upstream that falls silent behind its first tiny event, then the client has that event."""
    simulator.script(KEY, "stall:after=1")
    with nginx.client() as client:
        client.send(message_body(True), headers=HEADERS)
        answer = client.read_head()
        assert answer.status == 200
        client.read_body(answer, lambda body: b"\n\n" in body)
        assert [name for name, _ in answer.events] == ["message_start"]


def test_events_come_through_as_the_upstream_sent_them(simulator: Simulator, nginx: DeployedNginx) -> None:
    """Given a slow stream, then its bytes are the upstream's, and they came in as many pieces as there were events."""
    simulator.script(KEY, "ok:events=20,delay=0.05")
    through = ask(nginx, message_body(True))
    with Client(simulator.url) as client:
        client.send(message_body(True), headers=[f"x-api-key: {KEY}"])
        direct = client.read_answer()
    assert (through.status, through.body) == (200, direct.body)
    assert through.is_complete
    assert through.header("content-encoding") is None
    assert len(through.arrivals) >= 20


def test_body_of_32_mib_arrives_whole(simulator: Simulator, nginx: DeployedNginx) -> None:
    """Given the largest body that is allowed, then the upstream gets every byte of it."""
    frame = len(message_body(False, metadata={"bulk": ""}))
    body = message_body(False, metadata={"bulk": "x" * (MAX_BODY_BYTES - frame)})
    assert len(body) == MAX_BODY_BYTES
    answer = ask(nginx, body)
    assert answer.status == 200
    (request,) = simulator.requests
    assert request.body == body


def test_body_over_the_limit_is_refused_by_the_gateway(simulator: Simulator, nginx: DeployedNginx) -> None:
    """Given one byte too many, then the 413 is the gateway's and names its limit."""
    frame = len(message_body(False, metadata={"bulk": ""}))
    answer = ask(nginx, message_body(False, metadata={"bulk": "x" * (MAX_BODY_BYTES + 1 - frame)}))
    assert error_of(answer) == (
        413,
        "request_too_large",
        f"the request body is larger than {MAX_BODY_BYTES} bytes",
    )
    assert simulator.requests == []


def test_body_over_nginx_own_limit_is_refused_in_the_same_shape(simulator: Simulator, nginx: DeployedNginx) -> None:
    """Given a body that nginx itself refuses by its announced length, then the 413 is JSON as well."""
    with nginx.client() as client:
        lines = ["POST /v1/messages HTTP/1.1", "Host: localhost", *HEADERS, "Content-Length: 100000000", "", ""]
        client.socket.sendall("\r\n".join(lines).encode())
        answer = client.read_answer()
    assert error_of(answer) == (413, "request_too_large", "the request body is too large")
    assert answer.header("x-should-retry") == "false"
    assert simulator.requests == []


HANG_UPS: dict[str, Callable[[Client], None]] = {"fin": Client.close, "rst": Client.reset}


@pytest.mark.parametrize("hang_up", HANG_UPS.values(), ids=HANG_UPS)
@pytest.mark.parametrize("script", ["silent", "stall:after=4"], ids=["before-the-head", "in-mid-stream"])
def test_client_that_goes_away_is_noticed(
    simulator: Simulator, gateway: GatewayProcess, nginx: DeployedNginx, script: str, hang_up: Callable[[Client], None]
) -> None:
    """Given a client that waits on a silent upstream, when it hangs up at nginx, then all is free behind it soon."""
    simulator.script(KEY, script)
    client = nginx.client()
    client.send(message_body(True), headers=HEADERS)
    assert simulator.wait_until(lambda: len(simulator.requests) == 1, 30)
    if "after" in script:
        client.read_body(client.read_head(), lambda body: b"content_block_delta" in body)
    assert gateway.metric("requests_inflight", route="messages") == 1
    hang_up(client)
    assert simulator.wait_until(lambda: simulator.open_connections == 0, FREE_SECONDS)
    assert wait_until(lambda: gateway.metric("requests_inflight", route="messages") == 0, FREE_SECONDS)


@pytest.mark.parametrize(
    "target",
    [
        *("/metrics", "/metrics?name[]=x", "//metrics", "/./metrics", "/v1/../metrics", "/%6d%65trics"),
        *("/metrics/", "/metrics%00", "/metrics;x", "https://localhost/metrics", "/METRICS", "/metrics%2f"),
    ],
)
def test_metrics_are_closed_to_the_world(nginx: DeployedNginx, target: str) -> None:
    """Given any way to write the metrics' path, then nothing of them comes out."""
    answer = ask(nginx, method="GET", path=target)
    assert answer.status in (400, 404)
    assert error_of(answer)[1] in ("not_found_error", "invalid_request_error")
    assert b"gateway_" not in answer.body


@pytest.mark.parametrize("path", ["/status", "/status/", "/status/events", "//status", "/%73tatus"])
def test_status_page_is_closed_to_strangers(nginx: DeployedNginx, gateway: GatewayProcess, path: str) -> None:
    """Given an address that is not the operators', then nginx refuses; for theirs the gateway answers."""
    assert error_of(ask(nginx, method="GET", path=path, address="127.0.0.9"))[:2] == (403, "permission_error")
    own = ask(nginx, method="GET", path=path)
    assert own.status == gateway.request("GET", path, headers={"X-Gateway-Token": TOKEN}).status


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
def test_other_routes_are_the_gateways(nginx: DeployedNginx, path: str) -> None:
    """Given a path that asks for no token, then the gateway answers it through nginx."""
    assert ask(nginx, method="GET", path=path, headers=()).status == 200


def test_connection_to_the_gateway_is_kept() -> None:
    """Given requests one after the other on one connection, then nginx asks the gateway on one, too."""
    recorder = Recorder(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    with TinyServer(recorder) as server, DeployedNginx([server.port]) as nginx:
        with nginx.client() as client:
            for _ in range(10):
                client.send(message_body(False), headers=["Connection: keep-alive"])
                assert client.read_answer().body == b"{}"
        assert server.connections == 1
    assert len(recorder.requests) == 10
    assert all(b"\r\nconnection:" not in request.lower() for request in recorder.requests)


def test_log_tells_who_asked_and_ties_both_logs_together(
    simulator: Simulator, gateway: GatewayProcess, nginx: DeployedNginx
) -> None:
    """Given a request that fails, whose client made up an address and an id, then both logs have the true ones."""
    simulator.script(KEY, "empty")
    answer = ask(
        nginx,
        message_body(False),
        address="127.0.0.7",
        path="/v1/messages?secret-in-query",
        headers=[*HEADERS, "X-Forwarded-For: 6.6.6.6", "X-Gateway-Request-Id: forged-forged", "X-Real-IP: 6.6.6.6"],
    )
    assert error_of(answer)[:2] == (502, "api_error")
    request_id = answer.json()["request_id"]
    assert (given := re.fullmatch(r"req_gw_[0-9a-f]{24}\.([0-9a-f]{32})", request_id))
    [seen] = simulator.requests
    told = f"{request_id} (upstream {seen.request_id}): messages for alice at 127.0.0.7 answered 502"
    assert told in gateway.log
    assert wait_until(lambda: request_id in nginx.access_log, 30)
    (line,) = [line for line in nginx.access_log.splitlines() if request_id in line]
    assert line.startswith("127.0.0.7 [")
    assert f"id={given[1]} request-id={request_id} " in line
    assert not {"x-forwarded-for", "x-real-ip", "x-gateway-request-id"} & {name.lower() for name, _ in seen.headers}
    for made_up in ("6.6.6.6", "forged", TOKEN, "secret-in-query"):
        assert made_up not in nginx.access_log + gateway.log


def test_open_gateway_is_not_opened_to_the_world(gateway_process: Start, simulator: Simulator) -> None:
    """Given a gateway without a token file, when it is asked through nginx, then it refuses and says why."""
    gateway = gateway_process(simulator.url, keys=[KEY])
    assert gateway.request("GET", "/v1/models").status == 200
    simulator.clear_requests()
    with DeployedNginx([gateway.port]) as nginx:
        status, kind, message = error_of(ask(nginx, message_body(False)))
    assert (status, kind) == (403, "permission_error")
    assert "GATEWAY_CLIENT_TOKENS_FILE" in message
    assert simulator.requests == []


def test_plain_http_is_refused_without_a_redirect(simulator: Simulator, nginx: DeployedNginx) -> None:
    """Given a request over plain HTTP, then it is refused in words, and no gateway sees its token."""
    with Client(f"http://127.0.0.1:{nginx.plain_port}") as client:
        client.send(message_body(False), headers=HEADERS)
        answer = client.read_answer()
    assert (answer.status, answer.json()["error"]["type"]) == (403, "permission_error")
    assert answer.header("location") is None
    with Client(f"http://127.0.0.1:{nginx.port}") as client:  # plain HTTP to the TLS port
        client.send(method="GET", path="/v1/models", headers=HEADERS)
        assert error_of(client.read_answer())[:2] == (400, "invalid_request_error")
    assert simulator.requests == []


@pytest.mark.parametrize(
    "junk",
    [
        pytest.param(b"GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n", id="bad-escape"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 10_000 + b"\r\n\r\n", id="huge-header"),
        pytest.param(b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", id="huge-line"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no-host"),
    ],
)
def test_what_nginx_refuses_has_the_protocols_shape(nginx: DeployedNginx, junk: bytes) -> None:
    """Given a request that nginx cannot read, then its refusal is JSON as the gateway's would be."""
    with nginx.client() as client:
        client.socket.sendall(junk)
        answer = client.read_answer()
    assert error_of(answer)[1] == "invalid_request_error"
    assert answer.status in (400, 414)


def test_no_gateway_at_all_is_told_in_the_protocols_shape() -> None:
    """Given gateways that refuse connections, then the client gets a 502 it can read."""
    with DeployedNginx([free_port(), free_port()]) as nginx:
        answer = ask(nginx, message_body(False))
    assert error_of(answer) == (502, "api_error", "no gateway can be reached")
    assert answer.header("x-should-retry") is None


def test_refused_connection_goes_to_the_other_gateway(
    gateway: GatewayProcess, simulator: Simulator, tokens_file: Path
) -> None:
    """Given two gateways of which one is gone, then every request is served by the other."""
    with DeployedNginx([free_port(), gateway.port]) as nginx:
        assert [ask(nginx, message_body(False)).status for _ in range(10)] == [200] * 10
    assert len(simulator.requests) == 10


def test_request_that_may_have_been_served_is_never_sent_twice(gateway: GatewayProcess, simulator: Simulator) -> None:
    """Given a gateway that takes requests and dies, then each request has been at one gateway only."""
    taken: list[bytes] = []

    def take_and_die(client: socket.socket) -> None:
        taken.append(take_request(client))

    with TinyServer(take_and_die) as dying, DeployedNginx([dying.port, gateway.port]) as nginx:
        answers = [ask(nginx, message_body(False, metadata={"number": number})) for number in range(12)]
    lost = [answer for answer in answers if answer.status != 200]
    assert len(lost) == len(taken) > 0
    assert all(error_of(answer)[:2] == (502, "api_error") for answer in lost)
    assert len(simulator.requests) + len(taken) == 12
    seen = [json.loads(request.rpartition(b"\r\n\r\n")[2])["metadata"]["number"] for request in taken]
    assert len(set(seen)) == len(seen)
