"""The upstream through a proxy of every kind: what the proxy sees, what it may answer, and what of that is told."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest
import trustme

from gateway.access.credential import AuthHeader, Secret
from gateway.config.upstream_proxy import proxy_url
from gateway.protocol.errors import UpstreamError, UpstreamTimedOut
from gateway.runtime.pause import complete
from gateway.upstream import Call, Upstream
from gateway.upstream.dialer import Route
from gateway.upstream.tls import TlsInTls, tls_context
from gateway.upstream.watch import Watch
from tests.unit.tiny_proxies import HttpProxy, SocksProxy, carry
from tests.unit.tiny_server import Recorder, Script, TinyServer, pem_of, server_tls, take_request, until_hung_up
from tests.unit.waiting import received

CONNECT_SECONDS = 30.0
KEY = "sk-ant-planted-pool-key-0001"
POOLED = (AuthHeader("x-api-key", "", Secret(KEY)),)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
USER, PASSWORD = "us\u00e9r", "p@ss:/w%rd"
LOGIN = "us%C3%A9r:p%40ss%3A%2Fw%25rd@"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode())


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def post(body: bytes = b"{}") -> Call:
    return Call("POST", "/v1/messages", [], body)


def exchange(upper: Upstream, watch: Watch, body: bytes = b"{}") -> bytes:
    with closing(upper.send(post(body), POOLED, watch)) as reply:
        return complete(reply.read_whole())


class Way:
    """From here to an upstream through a proxy; `scheme` is how the proxy is spoken to."""

    def __init__(self, authority: trustme.CA, scheme: str, login: str = "") -> None:
        self.stack = ExitStack()
        self._authority = authority
        self._scheme = scheme
        self._login = login

    def upstream(self, script: Script, is_tls: bool) -> TinyServer:
        tls = server_tls(self._authority, "127.0.0.1", "upstream.test") if is_tls else None
        return self.stack.enter_context(TinyServer(script, tls=tls))

    def proxy(self, script: Script, *names: str) -> TinyServer:
        tls = server_tls(self._authority, *(names or ("127.0.0.1",))) if self._scheme == "https" else None
        return self.stack.enter_context(TinyServer(script, tls=tls))

    def to(self, url: str, proxy: TinyServer, connect_seconds: float = CONNECT_SECONDS, **route: object) -> Upstream:
        through = proxy_url(f"{self._scheme}://{self._login}127.0.0.1:{proxy.port}")
        chosen: dict[str, object] = {"ca_pem": pem_of(self._authority), "proxy": through} | route
        return self.stack.enter_context(closing(Upstream(Route(url, connect_seconds, 30.0, **chosen), 30.0)))  # type: ignore[arg-type]


@contextmanager
def way(authority: trustme.CA, scheme: str, login: str = "") -> Iterator[Way]:
    made = Way(authority, scheme, login)
    with made.stack:
        yield made


SCHEMES = ["http", "https", "socks5", "socks5h"]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
every_kind = pytest.mark.parametrize(
    ("scheme", "is_tls"),
    [(scheme, is_tls) for scheme in SCHEMES for is_tls in (False, True)],
    ids=[f"{'tls' if is_tls else 'plain'}-through-{scheme}" for scheme in SCHEMES for is_tls in (False, True)],
)


def proxy_for(scheme: str, login: tuple[str, str] | None = None) -> HttpProxy | SocksProxy:
    return SocksProxy(login) if scheme.startswith("socks") else HttpProxy(login)


@pytest.mark.parametrize("login", ["", LOGIN], ids=["open", "login"])
@every_kind
def test_calls_go_through_every_kind_of_proxy(
    watch: Watch, authority: trustme.CA, scheme: str, is_tls: bool, login: str
) -> None:
    """Given a proxy, plain or under TLS, with or without a login, then calls pass and share a connection; the proxy has
    the login, the upstream has not, and of what goes to a TLS upstream the proxy sees nothing.
    """
    known = (USER, PASSWORD) if login else None
    proxy, script = proxy_for(scheme, known), Recorder(OK)
    with way(authority, scheme, login) as path:
        server, used = path.upstream(script, is_tls), path.proxy(proxy)
        upper = path.to(server.url, used)
        assert [exchange(upper, watch) for _ in range(3)] == [b"ok"] * 3
        assert (used.connections, server.connections) == (1, 1)
    destination = f"127.0.0.1:{server.port}"
    if scheme.startswith("socks"):
        assert proxy.seen == [destination]
    else:
        assert proxy.seen == [f"CONNECT {destination}" if is_tls else f"POST http://{destination}/v1/messages"]
    assert proxy.logins == [known]
    assert KEY not in "".join(proxy.seen)
    sent = b"".join(script.requests)
    if is_tls or scheme.startswith("socks"):  # what forwards takes its own header out of each
        assert b"proxy-authorization" not in sent.lower()
        assert BASIC not in sent
    assert [request.split(b"\r\n")[0].split(b" ")[0] for request in script.requests] == [b"POST"] * 3


@pytest.mark.parametrize("login", ["", LOGIN], ids=["open", "login"])
@pytest.mark.parametrize("scheme", ["http", "HTTP"])
def test_http_goes_to_a_proxy_in_absolute_form(watch: Watch, authority: trustme.CA, scheme: str, login: str) -> None:
    """Given a plain upstream, then the proxy is asked for the whole URL, with the upstream's host, and the login each
    time.
    """
    script = Recorder(OK)
    with way(authority, "http", login) as path:
        upper = path.to(f"{scheme}://upstream.test:81", path.proxy(script))
        assert [exchange(upper, watch) for _ in range(2)] == [b"ok"] * 2
    for request in script.requests:
        lines = request.split(b"\r\n")
        assert lines[0].lower() == b"post http://upstream.test:81/v1/messages http/1.1"
        assert b"host: upstream.test:81" in lines
        assert (b"proxy-authorization: Basic " + BASIC in lines) is bool(login)


def test_connect_says_what_proxies_want_to_know(watch: Watch, authority: trustme.CA) -> None:
    """Given an upstream, by name, or by an IPv6 address, then CONNECT and Host name it in full."""
    for url, target in (
        ("https://upstream.test", b"upstream.test:443"),
        ("https://upstream.test:8443/base", b"upstream.test:8443"),
        ("https://[::1]:8443", b"[::1]:8443"),
        ("https://b\u00fccher.test", b"xn--bcher-kva.test:443"),
    ):
        script = Recorder(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        with way(authority, "http") as path, pytest.raises(UpstreamError, match="the proxy answers 403 Forbidden"):
            exchange(path.to(url, path.proxy(script)), watch)
        assert script.requests == [b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (target, target)]


@pytest.mark.parametrize("megabytes", [5])
@pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
def test_large_bodies_arrive_whole_through_tls_in_tls(
    watch: Watch, authority: trustme.CA, scheme: str, megabytes: int
) -> None:
    """Given megabytes both ways at once, through a proxy that is slower than either side, then every byte arrives."""
    body = os.urandom(1 << 20) * megabytes
    taken: list[bytes] = []

    def script(client: socket.socket) -> None:
        for _ in range(2):
            request = take_request(client)
            taken.append(hashlib.sha256(request.partition(b"\r\n\r\n")[2]).digest())
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with way(authority, scheme) as path:
        upper = path.to(path.upstream(script, is_tls=True).url, path.proxy(proxy_for(scheme)))
        assert [exchange(upper, watch, body) == body for _ in range(2)] == [True, True]
    assert taken == [hashlib.sha256(body).digest()] * 2


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_early_answer_through_a_proxy_is_read(watch: Watch, authority: trustme.CA, scheme: str) -> None:
    """Given an upstream that answers before it has the body, then its answer is read, under whatever TLS."""

    def script(client: socket.socket) -> None:
        client.recv(1000)
        client.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        until_hung_up(client)

    with way(authority, scheme) as path:
        upper = path.to(path.upstream(script, is_tls=True).url, path.proxy(proxy_for(scheme)))
        with closing(upper.send(post(b"x" * 30_000_000), POOLED, watch)) as reply:
            assert (reply.status, complete(reply.read_whole())) == (413, b"no")


@pytest.mark.parametrize("is_clean", [True, False], ids=["clean", "ragged"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_end_of_the_connection_is_seen_through_a_proxy(
    watch: Watch, authority: trustme.CA, scheme: str, is_clean: bool
) -> None:
    """Given an answer that ends with its connection, then its end is seen, whether TLS was closed or only TCP."""

    def script(client: ssl.SSLSocket) -> None:
        take_request(client)
        client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it")
        if is_clean:
            client.unwrap()

    with way(authority, scheme) as path:
        upper = path.to(path.upstream(script, is_tls=True).url, path.proxy(proxy_for(scheme)))  # type: ignore[arg-type]
        assert exchange(upper, watch) == b"all of it"


def test_many_events_under_tls_in_tls_are_all_handed_out(watch: Watch, authority: trustme.CA) -> None:
    """Given many chunks in one record, then all are read although the socket stays silent behind them."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in (b"data: %d\n\n" % n for n in range(500)))

    def script(client: socket.socket) -> None:
        take_request(client)
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        until_hung_up(client)

    with way(authority, "https") as path:
        upper = path.to(path.upstream(script, is_tls=True).url, path.proxy(HttpProxy()))
        with closing(upper.send(post(), POOLED, watch)) as reply:
            got = b""
            while got.count(b"\n\n") < 500:
                piece = received(reply, CONNECT_SECONDS)
                assert piece, f"only {got.count(b'data')} events came"
                got += piece


class Carrier:
    """The outer TLS of a proxy, without a socket: `takes` says how many bytes at a time it takes, 0 for none now.

    At its other end is the upstream's side of the inner TLS.
    """

    def __init__(self, authority: trustme.CA) -> None:
        self.takes = 1000
        self._arriving, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = server_tls(authority, "upstream.test")
        self.upstream = context.wrap_bio(self._arriving, self._leaving, server_side=True)

    def send(self, data: memoryview) -> int:
        if not self.takes:
            raise ssl.SSLWantWriteError
        return self._arriving.write(data[: self.takes])

    def recv(self, most_bytes: int) -> bytes:
        data = self._leaving.read(min(most_bytes, 1000))
        if not data:
            raise ssl.SSLWantReadError
        return data


@pytest.fixture
def carried(authority: trustme.CA) -> tuple[TlsInTls, Carrier]:
    """TLS inside TLS whose handshake is over, and what carries it."""
    carrier = Carrier(authority)
    inner = TlsInTls(carrier, tls_context(pem_of(authority)), "upstream.test")  # type: ignore[arg-type]
    sides = [inner.do_handshake, carrier.upstream.do_handshake]
    while sides:
        side = sides.pop(0)
        try:
            side()
        except ssl.SSLWantReadError:
            sides.append(side)
    return inner, carrier


def test_answer_is_read_while_tls_in_tls_cannot_send(carried: tuple[TlsInTls, Carrier]) -> None:
    """Given a carrier that takes nothing more, when the upstream answers all the same, then the answer is read; and
    once the carrier takes again, what was held up arrives once and whole.
    """
    inner, carrier = carried
    body = os.urandom(300_000)
    rest = memoryview(body)
    carrier.takes = 0
    with pytest.raises(ssl.SSLWantWriteError):
        inner.send(rest)
    carrier.upstream.write(b"too large")
    assert inner.recv(65536) == b"too large"
    with pytest.raises(ssl.SSLWantReadError):
        inner.recv(65536)
    carrier.takes = 1000
    arrived = b""
    while len(arrived) < len(body):
        if rest:
            rest = rest[inner.send(rest) :]
        arrived += carrier.upstream.read(65536)
    assert arrived == body


def test_tls_in_tls_that_breaks_is_an_error(carried: tuple[TlsInTls, Carrier]) -> None:
    """Given bytes that are no TLS, then reading fails, and does not end as if all had come."""
    inner, carrier = carried
    carrier._leaving.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
    with pytest.raises(ssl.SSLError):
        inner.recv(65536)


# Trust.


@pytest.mark.parametrize("names", [["elsewhere.test"], []], ids=["another-name", "unknown-authority"])
def test_untrusted_proxy_gets_no_login(watch: Watch, authority: trustme.CA, names: list[str]) -> None:
    """Given a proxy under TLS whose certificate is for another name or of an unknown authority, then nothing is said
    to it.
    """
    script = Recorder(OK)
    with way(authority, "https", LOGIN) as path:
        trusted = authority if names else trustme.CA()
        upper = path.to("https://upstream.test", path.proxy(script, *names), ca_pem=pem_of(trusted))
        with pytest.raises(UpstreamError, match="the proxy cannot be reached: its certificate is not trusted"):
            exchange(upper, watch)
    assert script.requests == []


@every_scheme
def test_untrusted_upstream_behind_a_proxy_gets_no_secret(watch: Watch, authority: trustme.CA, scheme: str) -> None:
    """Given a proxy that leads to somebody without the upstream's certificate, then no request is sent."""
    script = Recorder(OK)
    with way(authority, scheme) as path:
        server = path.upstream(script, is_tls=True)
        proxy = proxy_for(scheme)
        proxy.reach = lambda *_: ("127.0.0.1", server.port)
        upper = path.to("https://127.0.0.2:443", path.proxy(proxy))
        with pytest.raises(UpstreamError, match="cannot be reached: its certificate is not trusted"):
            exchange(upper, watch)
    assert script.requests == []


# Names, and several addresses.


def found(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> list[str]:
    """From now on upstream.test has these addresses; the names that are looked up."""
    real, asked = socket.getaddrinfo, []

    def lookup(host: str, port: int, *args: object, **named: object) -> object:
        if host != "upstream.test":
            return real(host, port, *args, **named)  # type: ignore[arg-type]
        if named.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        asked.append(host)
        return [entry for address in hosts for entry in real(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return asked


@pytest.mark.parametrize(
    ("scheme", "told"),
    [("http", "CONNECT upstream.test:443"), ("socks5h", "upstream.test:443"), ("socks5", "127.0.0.7:443")],
)
def test_names_are_looked_up_where_the_scheme_says(
    watch: Watch, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, scheme: str, told: str
) -> None:
    """Given an upstream's name, then the proxy is told the name, and an address only if it is a socks5 one."""
    asked = found(monkeypatch, "127.0.0.7")
    with way(authority, scheme) as path:
        server, proxy = path.upstream(Recorder(OK), is_tls=True), proxy_for(scheme)
        proxy.reach = lambda *_: ("127.0.0.1", server.port)
        assert exchange(path.to("https://upstream.test", path.proxy(proxy)), watch) == b"ok"
    assert proxy.seen == [told]
    assert asked == (["upstream.test"] if scheme == "socks5" else [])


@pytest.mark.parametrize("fault", ["refuses", "black-hole"])
def test_socks_proxy_is_told_the_next_address_if_one_does_not_serve(
    watch: Watch, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Given a name with several addresses, IPv6 first, when the proxy refuses one or does not get through, then the
    next has its turn within the one deadline.
    """
    found(monkeypatch, "::7", "127.0.0.7")
    with way(authority, "socks5") as path:
        server = path.upstream(Recorder(OK), is_tls=True)
        proxy = SocksProxy(refusals={"::7": 3} if fault == "refuses" else {})

        def script(client: socket.socket) -> None:
            if fault == "black-hole" and not proxy.seen:
                proxy.seen.append("[::7]:443")
                until_hung_up(client)
            else:
                proxy(client)

        proxy.reach = lambda *_: ("127.0.0.1", server.port)
        upper = path.to("https://upstream.test", path.proxy(script), connect_seconds=8.0)
        assert exchange(upper, watch) == b"ok"
        assert len(proxy.seen) == 2
        assert proxy.seen[-1] == "127.0.0.7:443"


def test_socks_proxy_that_reaches_no_address_says_why(
    watch: Watch, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a proxy that refuses all addresses, then the error has the last one's reason."""
    found(monkeypatch, "::7", "127.0.0.7")
    with way(authority, "socks5") as path:
        upper = path.to("https://upstream.test", path.proxy(SocksProxy(refusals={"::7": 3, "127.0.0.7": 5})))
        with pytest.raises(UpstreamError, match="cannot be reached: the proxy answers connection refused"):
            exchange(upper, watch)


# Odd answers, and logins that are refused.


def answers(data: bytes) -> Script:
    """A script that says this whatever it is told, and hangs up."""

    def script(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        until_hung_up(client)

    return script


def floods(first: bytes, then: bytes) -> Script:
    """A script that does not end what it says."""

    def script(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(first)
        while True:
            client.sendall(then * 1000)

    return script


def resets(client: socket.socket) -> None:
    """A script that breaks the connection when it has been told something."""
    client.recv(65536)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


ODD_HTTP: dict[str, tuple[Script, str]] = {
    "bad-status": (answers(b"HTTP/1.1 abc\r\n\r\n"), r"not HTTP: HTTP/1\.1 abc$"),
    "rubbish": (answers(b"\x00\xff\x1b[31mrubbish\r\n\r\n"), r"not HTTP: \\x00\\xff\\x1b\[31mrubbish$"),
    "another-protocol": (answers(b"SSH-2.0-OpenSSH_9.2\r\n"), r"not HTTP: SSH-2\.0-OpenSSH_9\.2$"),
    "tls": (answers(b"\x15\x03\x01\x00\x02\x02\x46"), r"not HTTP: \\x15\\x03\\x01\\x00\\x02\\x02F$"),
    "http-2": (answers(b"HTTP/2 200\r\n\r\n"), r"not HTTP: HTTP/2 200$"),
    "status-of-four-digits": (answers(b"HTTP/1.1 2000 OK\r\n\r\n"), r"not HTTP: HTTP/1\.1 2000 OK$"),
    "half-a-head": (
        answers(b"HTTP/1.1 200 OK\r\nVia: so"),
        r"closed the connection after it had sent HTTP/1\.1 200 OK$",
    ),
    "nothing": (answers(b""), r"closed the connection without an answer$"),
    "reset": (resets, r"the proxy broke the connection: Connection reset by peer$"),
    "forged-lines": (
        answers(b"HTTP/1.1 502 a\x0bb\xe2\x80\xaec\r\nfoo: bar\r\n\r\n"),
        r"(answers|not HTTP:).* 502 a\\x0bb\\u202ec$",
    ),
    "long-reason": (answers(b"HTTP/1.1 502 " + b"x" * 5000 + b"\r\n\r\n"), r"answers .*502 x{100,200}\.\.\.$"),
    "long-line": (answers(b"HTTP/1.1 502 " + b"x" * 70_000 + b"\r\n\r\n"), r"too large: HTTP/1\.1 502 x+\.\.\.$"),
    "endless-line": (floods(b"HTTP/1.1 200 OK\r\nx-endless: ", b"x"), r"too large: HTTP/1\.1 200 OK$"),
    "endless-head": (floods(b"HTTP/1.1 200 OK\r\n", b"x-more: x\r\n"), r"too large: HTTP/1\.1 200 OK$"),
    "endless-hints": (floods(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"), r"too large: HTTP/1\.1 103 Early Hints$"),
    "refusal": (answers(b"HTTP/1.1 407 Proxy Auth\r\nContent-Length: 0\r\n\r\n"), r"the proxy answers 407 Proxy Auth$"),
    "no-reason": (answers(b"HTTP/1.1 503\r\n\r\n"), r"the proxy answers 503$"),
    "refusal-behind-hints": (
        answers(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 403 No\r\n\r\n"),
        r"the proxy answers 403$",
    ),
    "redirect": (
        answers(b"HTTP/1.0 302 Found\r\nLocation: http://elsewhere/\r\n\r\n"),
        r"the proxy answers 302 Found$",
    ),
    "upgrade": (answers(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), r"HTTP/1\.1 101 X$"),
}
ODD_SOCKS: dict[str, tuple[Script, str]] = {
    "reset": (resets, r"the proxy broke the connection: Connection reset by peer$"),
    "http": (answers(b"HTTP/1.1 400 Bad Request\r\n\r\n"), r"not SOCKS5: HT$"),
    "version-4": (answers(b"\x00\x5a" + bytes(6)), r"not SOCKS5: \\x00Z$"),
    "method-not-offered": (answers(b"\x05\x01"), r"not SOCKS5: \\x05\\x01$"),
    "half-a-method": (answers(b"\x05"), r"closed the connection after it had sent \\x05$"),
    "nothing": (answers(b""), r"closed the connection without an answer$"),
    "no-login-known": (answers(b"\x05\xff"), r"the proxy takes nobody without a login$"),
    "rubbish-reply": (answers(b"\x05\x00rubb"), r"not SOCKS5: \\x05\\x00rubb$"),
    "unknown-address-kind": (answers(b"\x05\x00\x05\x00\x00\x07"), r"not SOCKS5: \\x05\\x00\\x05\\x00\\x00\\x07$"),
    "half-an-address": (answers(b"\x05\x00\x05\x00\x00\x01\x7f"), r"closed the connection after it had sent"),
    "general-failure": (answers(b"\x05\x00\x05\x01\x00\x01"), r"the proxy answers general failure$"),
    "unknown-failure": (answers(b"\x05\x00\x05\x77\x00\x01"), r"the proxy answers with error 119$"),
}


@pytest.mark.parametrize(
    ("scheme", "script", "told"),
    [
        pytest.param(scheme, script, told, id=f"{scheme}-{name}")
        for scheme, table in (("http", ODD_HTTP), ("https", ODD_HTTP), ("socks5h", ODD_SOCKS))
        for name, (script, told) in table.items()
        if (scheme, name) != ("https", "reset")  # TLS may tell it as an end
    ],
)
def test_odd_answer_of_a_proxy_is_an_error_that_tells_it(
    watch: Watch, authority: trustme.CA, scheme: str, script: Script, told: str
) -> None:
    """Given a proxy's answer that is none, or no tunnel, then UpstreamError with what it sent, short and printable."""
    with way(authority, scheme) as path:
        upper = path.to("https://upstream.test", path.proxy(script))
        with pytest.raises(UpstreamError, match=r"^the upstream cannot be reached: .*" + told) as raised:
            exchange(upper, watch)
    assert type(raised.value) is UpstreamError
    assert len(raised.value.message) < 400
    assert raised.value.message.isprintable()


@every_scheme
def test_login_that_is_refused_is_an_error_without_it(watch: Watch, authority: trustme.CA, scheme: str) -> None:
    """Given a wrong login, then the error says so and does not have it."""
    with way(authority, scheme, "me:wr0ngp4ss@") as path:
        proxy = proxy_for(scheme, (USER, PASSWORD))
        upper = path.to("https://127.0.0.1:9", path.proxy(proxy))
        told = "refuses the user and password" if scheme.startswith("socks") else "407 Proxy Authentication Required"
        with pytest.raises(UpstreamError, match=told) as raised:
            exchange(upper, watch)
    assert proxy.logins == [("me", "wr0ngp4ss")]
    assert "wr0ngp4ss" not in raised.value.message


def echo(client: socket.socket) -> None:
    """Send everything back."""
    while data := client.recv(65536):
        client.sendall(data)


def echo_in_the_reason(client: socket.socket) -> None:
    """Send back the login that was shown, as it came and in clear."""
    shown = take_request(client).rpartition(b"Basic ")[2].strip()
    client.sendall(b"HTTP/1.1 407 " + shown + b" is " + base64.b64decode(shown) + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("scheme", "script"),
    [("http", echo), ("https", echo), ("http", echo_in_the_reason), ("socks5", echo), ("socks5h", echo)],
    ids=["http-echo", "https-echo", "http-reason", "socks5-echo", "socks5h-echo"],
)
def test_login_that_a_proxy_sends_back_is_not_told(
    watch: Watch, authority: trustme.CA, scheme: str, script: Callable[[socket.socket], None]
) -> None:
    """Given a proxy that sends back what it is sent, then the error has neither user nor password, in any form."""
    with way(authority, scheme, "AlicesName:AlicesPass@") as path:
        upper = path.to("https://127.0.0.1:9", path.proxy(script))
        with pytest.raises(UpstreamError) as raised:
            exchange(upper, watch)
    encoded = base64.b64encode(b"AlicesName:AlicesPass").decode()
    error: BaseException | None = raised.value
    while error is not None:
        assert not [secret for secret in ("AlicesName", "AlicesPass", encoded) if secret in repr(error)]
        error = error.__cause__ or error.__context__


@every_scheme
def test_proxy_that_is_not_there_is_told_as_the_proxy(watch: Watch, authority: trustme.CA, scheme: str) -> None:
    """Given a proxy that refuses connections, or whose name is unknown, then the error says that it is the proxy."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    for url, told in (
        (f"{scheme}://127.0.0.1:{port}", "the proxy cannot be reached: Connection refused"),
        (f"{scheme}://nowhere.invalid:1", "the proxy cannot be reached: its name cannot be resolved"),
    ):
        route = Route("https://127.0.0.1:9", CONNECT_SECONDS, 30.0, pem_of(authority), proxy_url(url))
        with closing(Upstream(route, 30.0)) as upper, pytest.raises(UpstreamError, match=told):
            exchange(upper, watch)


def test_proxy_that_is_too_slow_is_a_time_out(watch: Watch, authority: trustme.CA) -> None:
    """Given a proxy that does not answer, then UpstreamTimedOut, not UpstreamError."""
    with way(authority, "http") as path:
        upper = path.to("https://upstream.test", path.proxy(until_hung_up), connect_seconds=0.2)
        with pytest.raises(UpstreamTimedOut):
            exchange(upper, watch)


def test_word_behind_the_proxy_s_answer_is_not_the_upstream_s(watch: Watch, authority: trustme.CA) -> None:
    """Given a proxy that sends a body with its 200, then the tunnel works all the same."""

    class Talkative(HttpProxy):
        def __call__(self, client: socket.socket) -> None:
            host, _, port = take_request(client).split(b" ")[1].decode().rpartition(":")
            with socket.create_connection((host, int(port)), 10) as upstream:
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
                carry(client, upstream)

    with way(authority, "http") as path:
        server = path.upstream(Recorder(OK), is_tls=True)
        assert exchange(path.to(server.url, path.proxy(Talkative())), watch) == b"ok"
