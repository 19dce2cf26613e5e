"""Connecting, end to end: through proxies of every kind, to proxies that do not answer or answer oddly, and its end.

What each step of connecting does by itself is shown in tests/unit/upstream/test_connecting.py and
tests/unit/upstream/test_proxies.py.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from select import select

import pytest
import trustme

from gateway.simulator import Simulator
from tests.e2e.clients import Client, ask, message_body
from tests.harness import GatewayProcess, wait_until
from tests.unit.tiny_proxies import HttpProxy, SocksProxy
from tests.unit.tiny_server import Script, TinyServer, pem_of, server_tls, until_hung_up

KEY = "sk-ant-api03-the-only-key"
THREADS, RESERVED = 16, 4
ADMITTED = THREADS - RESERVED
STREAMED, WHOLE = message_body(is_streamed=True), message_body(is_streamed=False)
USER, PASSWORD = "gateway", "proxy-p4ssword"
LONG_SECONDS = 600.0  # beyond what any test takes
SOON_SECONDS = 60.0

Start = Callable[..., GatewayProcess]
Stuck = Callable[..., GatewayProcess]


def dripping_proxy(client: socket.socket) -> None:
    """Answer CONNECT, a byte every now and then, and never to the end."""
    client.sendall(b"HTTP/1.1 200 OK\r\nx-endless: ")
    while not select([client], [], [], 0.1)[0] or client.recv(65536):
        client.sendall(b"x")


@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
def test_messages_pass_through_a_proxy_with_a_password(gateway_process: Start, tmp_path: Path, scheme: str) -> None:
    """Given a proxy of any kind that wants a password, and an upstream under TLS, then answers are the upstream's,
    byte for byte, streamed and whole; neither the log nor the upstream has the password.
    """
    authority = trustme.CA()
    proxy = (SocksProxy if scheme.startswith("socks") else HttpProxy)((USER, PASSWORD))
    tls = server_tls(authority, "127.0.0.1") if scheme == "https" else None
    script = "ok:events=50"
    with Simulator(tls=True, keys={KEY: script}) as simulator, TinyServer(proxy, tls=tls) as server:
        bundle = tmp_path / "ca.pem"
        bundle.write_text(Path(simulator.ca_file).read_text() + pem_of(authority))
        gateway = gateway_process(
            simulator.url,
            keys=[KEY],
            upstream_ca_file=bundle,
            upstream_proxy=f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{server.port}",
            log_level="debug",
        )
        for body in (STREAMED, WHOLE, STREAMED):
            simulator.script(KEY, script)
            direct = ask(simulator.url, body, ca_file=simulator.ca_file, headers=[f"x-api-key: {KEY}"])
            simulator.script(KEY, script)
            answer = ask(gateway.url, body)
            assert (answer.status, answer.body) == (200, direct.body)
        assert server.connections == 1
        assert proxy.logins == [(USER, PASSWORD)]
        assert not [seen for seen in simulator.requests if "proxy-authorization" in dict(seen.headers)]
        log = gateway.stop()
    assert "[DEBUG]" in log
    assert PASSWORD not in log


@pytest.mark.parametrize("body", [STREAMED, WHOLE], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"HTTP/1.1 abc\r\n\r\n", "the proxy's answer is not HTTP: HTTP/1.1 abc"),
        (b"\x1b[2J\x00rubbish\n\n", "the proxy's answer is not HTTP: \\x1b[2J\\x00rubbish"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", "the head of the proxy's answer is too large"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000 + b"\r\n", "the head of the proxy's answer is too large"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "the proxy answers 407 Proxy Authentication Required"),
        (b"", "the proxy closed the connection without an answer"),
    ],
    ids=["bad-status", "rubbish", "long-line", "long-head", "refusal", "nothing"],
)
def test_odd_answer_of_a_proxy_is_a_502(odd_proxy: OddProxy, body: bytes, said: bytes, told: str) -> None:
    """Given a CONNECT proxy that answers oddly, then 502 `api_error` with what it sent, and a warning, no traceback."""
    odd_proxy.said = said
    answer = ask(odd_proxy.gateway.url, body)
    error = answer.json()["error"]
    assert (answer.status, error["type"]) == (502, "api_error")
    assert error["message"].startswith(f"the upstream cannot be reached: {told}")
    assert error["message"].isprintable()
    assert "Traceback" not in odd_proxy.gateway.log


class OddProxy:
    """A proxy that says `said` whatever it is told, and the gateway that uses it."""

    def __init__(self, stack: ExitStack) -> None:
        self.said = b""
        server = stack.enter_context(TinyServer(self._serve))
        self.gateway = GatewayProcess("https://upstream.test", [KEY], upstream_proxy=f"http://127.0.0.1:{server.port}")
        stack.callback(self.gateway.stop)

    def _serve(self, client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(self.said)
        client.shutdown(socket.SHUT_WR)
        until_hung_up(client)


@pytest.fixture(scope="module")
def odd_proxy() -> Iterator[OddProxy]:
    with ExitStack() as stack:
        yield OddProxy(stack)


STUCK: dict[str, tuple[str, Script]] = {
    "silent-tls": ("", until_hung_up),
    "dripping-proxy": ("http", dripping_proxy),
    "silent-proxy": ("http", until_hung_up),
    "silent-tls-of-proxy": ("https", until_hung_up),
    "silent-socks": ("socks5h", until_hung_up),
}


@pytest.fixture(params=list(STUCK))
def stuck(request: pytest.FixtureRequest, gateway_process: Start) -> Iterator[Stuck]:
    """Starts a gateway that connects without end, whatever its deadline."""
    scheme, script = STUCK[request.param]
    with TinyServer(script) as server:

        def start(**settings: object) -> GatewayProcess:
            where = f"127.0.0.1:{server.port}"
            route = {"upstream_proxy": f"{scheme}://{where}"} if scheme else {}
            return gateway_process(
                "https://127.0.0.1:9" if scheme else f"https://{where}",
                keys=[KEY],
                threads=THREADS,
                reserved_threads=RESERVED,
                connect_timeout_seconds=LONG_SECONDS,
                **route,
                **settings,
            )

        yield start


def begin(stack: ExitStack, gateway: GatewayProcess) -> list[Client]:
    """As many requests as there are places, all of which are connecting."""
    clients = [stack.enter_context(Client(gateway.url)) for _ in range(ADMITTED)]
    for number, client in enumerate(clients):
        client.send(STREAMED if number % 2 else WHOLE)
    assert wait_until(lambda: gateway.metric("requests_inflight", route="messages") == ADMITTED, SOON_SECONDS)
    return clients


def test_a_client_that_leaves_while_connecting_frees_its_slot(stuck: Stuck) -> None:
    """Given a dozen requests that connect without end, and so hold every place, when their clients hang up, each in
    its way, then every slot is free, long before the deadline, and nothing is charged.
    """
    gateway = stuck()
    with ExitStack() as stack:
        clients = begin(stack, gateway)
        assert ask(gateway.url, WHOLE).status == 529
        for number, client in enumerate(clients):
            (client.close, client.reset, client.shut_down)[number % 3]()
        assert wait_until(lambda: gateway.metric("requests_inflight", route="messages") == 0, SOON_SECONDS)
        for client in begin(stack, gateway):
            client.close()
        assert wait_until(lambda: gateway.metric("requests_inflight", route="messages") == 0, SOON_SECONDS)
    assert gateway.counted("requests_total", route="messages", credential="pooled", status="499") == 2 * ADMITTED
    assert gateway.total("cost_dollars_total") == 0, "the upstream has had none of them"


@pytest.mark.parametrize(
    ("stuck", "number"),
    [
        *((kind, signal.SIGTERM) for kind in STUCK),
        ("dripping-proxy", signal.SIGQUIT),
        ("dripping-proxy", signal.SIGINT),
    ],
    indirect=["stuck"],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else value,
)
def test_stopping_ends_what_is_connecting(stuck: Stuck, number: signal.Signals) -> None:
    """Given requests that connect without end, when the gateway is told to stop, then the end of the drain time is
    theirs, each is told so, and the process ends.
    """
    gateway = stuck(drain_seconds=1)
    with ExitStack() as stack:
        clients = begin(stack, gateway)
        gateway.send_signal(number)
        for client in clients:
            answer = client.read_answer()
            assert (answer.status, answer.json()["error"]["type"]) == (529, "overloaded_error")
        assert gateway.wait(SOON_SECONDS) == 0
