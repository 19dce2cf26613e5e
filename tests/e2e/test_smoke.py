"""deploy/smoke.sh: content with a good gateway, and in words about everything else."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.e2e.nginx_deployed import DeployedNginx
from tests.e2e.raw_upstream import FIRST_EVENT, stream_head, whole
from tests.e2e.talk import token_line
from tests.harness import ROOT, GatewayProcess
from tests.ports import free_port
from tests.unit.tiny_server import Recorder, TinyServer, take_request

KEY = "sk-ant-api03-the-only-key"
TOKEN = "gateway-token-of-alice-0123456789"
PLANTED = (KEY, TOKEN)

Start = Callable[..., GatewayProcess]


def smoke(*arguments: str, **environ: str) -> tuple[int, str]:
    """Exit status and output of the smoke test."""
    plain = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [str(ROOT / "deploy" / "smoke.sh"), *arguments],
        env=plain | environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not any(secret in done.stdout + done.stderr for secret in PLANTED)
    return done.returncode, done.stdout + done.stderr


def steps(output: str) -> list[str]:
    """The verdict and the name of each step."""
    return [" ".join(line.split()[:2]) for line in output.splitlines()[:-1]]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """One upstream for the module."""
    with Simulator(keys={KEY: "ok"}) as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def _good_key(simulator: Simulator) -> None:
    simulator.script(KEY, "ok")


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token file that knows alice."""
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(token_line("alice", TOKEN))
    return file


@pytest.fixture(scope="module")
def gateway(simulator: Simulator, tokens_file: Path) -> Iterator[GatewayProcess]:
    """One good gateway for the module."""
    process = GatewayProcess(simulator.url, [f"only={KEY}"], client_tokens_file=str(tokens_file))
    yield process
    process.stop()


GOOD = ["ok health", "ok models", "ok whole", "ok streamed", "ok errors", "ok errors"]


def test_good_gateway_passes(gateway: GatewayProcess) -> None:
    """Given a good gateway and a token, then every step is ok, whichever way the token is given."""
    for arguments, environ in (((gateway.url, TOKEN), {}), ((f"{gateway.url}/",), {"GATEWAY_TOKEN": TOKEN})):
        status, output = smoke(*arguments, **environ)
        assert status == 0, output
        assert steps(output) == [*GOOD, "ok metrics"]
        assert "1 of 1 keys are valid" in output


def test_good_gateway_behind_nginx_passes_and_its_metrics_are_closed(gateway: GatewayProcess) -> None:
    """Given the gateway behind deploy/nginx, then all is well, and closed metrics are said and not failed."""
    with DeployedNginx([gateway.port]) as nginx:
        status, output = smoke(nginx.url, TOKEN, CURL_CA_BUNDLE=nginx.ca_file)
        assert status == 0, output
        assert steps(output) == [*GOOD, "note metrics"]
        assert "closed here" in output
        status, output = smoke(nginx.url, TOKEN, CURL_CA_BUNDLE="", SSL_CERT_FILE="")
        assert (status, "is not trusted here" in output) == (1, True)
        status, output = smoke(f"http://localhost:{nginx.plain_port}", TOKEN)
        assert (status, "HTTPS only" in output) == (1, True)


def test_open_gateway_passes_without_a_token(gateway_process: Start, simulator: Simulator) -> None:
    """Given an open gateway on this machine, then no token is needed; one that is given proves nothing, and is told."""
    gateway = gateway_process(simulator.url, keys=[KEY])
    status, output = smoke(gateway.url)
    assert status == 0, output
    status, output = smoke(gateway.url, "anything")
    assert (status, "no token file?" in output) == (1, True)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        pytest.param("unauthorized", "no key works", id="revoked"),
        pytest.param(
            "rate_limited:retry-after=42", "every key is rate limited, the first one for another 4", id="limited"
        ),
        pytest.param("close", "no good answer from its upstream", id="upstream-breaks"),
        pytest.param("server_error", "status 500", id="upstream-fails"),
        pytest.param("html", "no good answer from its upstream", id="middle-box"),
        pytest.param("overloaded", "overloaded", id="overloaded"),
    ],
)
def test_keys_and_upstreams_that_fail_are_told(
    gateway_process: Start, simulator: Simulator, tokens_file: Path, script: str, said: str
) -> None:
    """Given a gateway that cannot serve, then the models fail with the reason and no message is tried."""
    simulator.script(KEY, script)
    gateway = gateway_process(simulator.url, keys=[KEY], client_tokens_file=str(tokens_file))
    status, output = smoke(gateway.url, TOKEN)
    assert status == 1
    assert steps(output)[:5] == ["ok health", "FAIL models", "note whole", "note streamed", "ok errors"], output
    assert said in output


def test_upstream_that_is_down_is_told(gateway_process: Start, tokens_file: Path) -> None:
    """Given an upstream that refuses connections, then the gateway is not blamed."""
    gateway = gateway_process(f"http://127.0.0.1:{free_port()}", keys=[KEY], client_tokens_file=str(tokens_file))
    status, output = smoke(gateway.url, TOKEN)
    assert (status, "no good answer from its upstream: " in output) == (1, True)


@pytest.mark.parametrize(
    ("order", "failed", "said"),
    [
        pytest.param(["ok", "cut:after=3"], "FAIL whole", "no good answer", id="whole-is-cut"),
        pytest.param(["ok", "ok", "cut_clean:after=4"], "FAIL streamed", "broke off with an error", id="stream-is-cut"),
        pytest.param(["ok", "ok", "json_to_stream"], "FAIL streamed", "a stream was asked for", id="no-stream"),
        pytest.param(["ok", "overloaded", "ok"], "FAIL whole", "overloaded", id="overloaded"),
    ],
)
def test_messages_that_fail_are_told(
    gateway: GatewayProcess, simulator: Simulator, order: list[str], failed: str, said: str
) -> None:
    """Given models that come and a message that does not, then that step alone fails."""
    simulator.order(*order, "ok")
    status, output = smoke(gateway.url, TOKEN)
    assert status == 1
    assert [step for step in steps(output) if step.startswith("FAIL")] == [failed], output
    assert said in output


@pytest.mark.parametrize(
    ("token", "said"),
    [
        pytest.param([], "the gateway wants a token", id="none"),
        pytest.param(["gwt_wrong"], "the token is not accepted", id="wrong"),
    ],
)
def test_token_that_does_not_open_is_told(gateway: GatewayProcess, token: list[str], said: str) -> None:
    """Given no token or a wrong one, then that is said once, and the shape of the refusal is still looked at."""
    status, output = smoke(gateway.url, *token)
    assert status == 1
    assert output.count("FAIL") == 1, output
    assert "ok    errors" in output
    assert said in output


def _html(status: str) -> bytes:
    page = b"<!DOCTYPE html><html><body>Welcome</body></html>"
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {len(page)}\r\n\r\n"
    return head.encode() + page


def _stream_cut_by_a_proxy(client: socket.socket) -> None:
    """A gateway whose streams something cuts cleanly."""
    while request := take_request(client):
        path = request.split(b" ")[1]
        if path in (b"/healthz", b"/readyz"):
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n")
        elif path == b"/v1/models":
            client.sendall(whole(b'{"data":[{"id":"claude-a"}]}'))
        elif b'"stream":true' in request:
            client.sendall(stream_head() + FIRST_EVENT)
            return
        else:
            client.sendall(whole(b'{"type":"message","stop_reason":"end_turn"}'))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        pytest.param(Recorder(_html("200 OK")), "it is not the gateway", id="some-site"),
        pytest.param(Recorder(_html("502 Bad Gateway")), "an HTML page with status 502", id="some-proxy"),
        pytest.param(
            Recorder(b"HTTP/1.1 301 Moved\r\nLocation: https://gw.example/healthz\r\nContent-Length: 0\r\n\r\n"),
            "it redirects to https://gw.example/healthz",
            id="redirect",
        ),
        pytest.param(Recorder(b"SSH-2.0-OpenSSH_9.2\r\n"), "does not speak HTTP", id="no-http"),
        pytest.param(take_request, "the connection broke", id="hangs-up"),
        pytest.param(lambda client: (take_request(client), client.recv(1)), "no whole answer within 1 s", id="silent"),
        pytest.param(_stream_cut_by_a_proxy, "something on the way cuts streams", id="cuts-streams"),
    ],
)
def test_what_is_no_gateway_is_told(script: Callable[[socket.socket], object], said: str) -> None:
    """Given something else than a gateway at the URL, or something in between, then the failure says so."""
    with TinyServer(script) as server:
        status, output = smoke(server.url, TOKEN, SMOKE_SECONDS="1")
    assert status == 1
    assert said in output


def test_wrong_urls_are_told(gateway: GatewayProcess) -> None:
    """Given a URL with a path, of a port where nobody listens, or with the wrong scheme, then that is what is said."""
    assert "a path too many" in smoke(f"{gateway.url}/v1", TOKEN)[1]
    assert "nothing listens" in smoke(f"http://127.0.0.1:{free_port()}", TOKEN)[1]
    assert "no TLS" in smoke(gateway.url.replace("http", "https"), TOKEN)[1]


def test_nginx_without_gateways_is_told() -> None:
    """Given nginx whose gateways are all gone, then it is told from an upstream that is away."""
    with DeployedNginx([free_port()]) as nginx:
        status, output = smoke(nginx.url, TOKEN, CURL_CA_BUNDLE=nginx.ca_file)
    assert (status, "reaches no gateway" in output) == (1, True)


@pytest.mark.parametrize("arguments", [(), ("gateway.example.com",), ("http://a", "b", "c")], ids=len)
def test_wrong_call_is_told_how_to_call(arguments: tuple[str, ...]) -> None:
    """Given no URL, one without a scheme, or too many words, then the usage is printed and the status is 2."""
    status, output = smoke(*arguments)
    assert (status, output.startswith("usage: ")) == (2, True)
