"""Calls to the upstream: what is sent, what is read, which exceptions come out; and the connections below.

The upper half answers with `responses` in the transport's place, the lower half talks to real sockets.
"""

from __future__ import annotations

import gzip
import socket
import threading
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing

import pytest
import requests
import responses
import trustme
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from gateway.access.credential import AuthHeader, Secret
from gateway.protocol.errors import ClientGone, Stopping, UpstreamError, UpstreamSilent, UpstreamTimedOut
from gateway.runtime.pause import READABLE, Pause, complete
from gateway.upstream import Call, Upstream
from gateway.upstream.adapter import SocketAdapter
from gateway.upstream.connections import Connections
from gateway.upstream.dialer import Route
from gateway.upstream.watch import Watch
from tests.harness import wait_until
from tests.unit.fakes import FakeClock
from tests.unit.tiny_server import Recorder, TinyServer, pem_of, server_tls, take_request
from tests.unit.waiting import received

URL = "https://upstream.test/base"
POOLED = (AuthHeader("x-api-key", "", Secret("sk-ant-planted-pool-key-0001")),)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class FakeBody:
    """The body of an answer: hands out pieces, raises exceptions among them; None stands for silence."""

    end: bytes | None = b""

    def __init__(self, *pieces: object) -> None:
        self.pieces = list(pieces)
        self.closed = 0
        self.reads = 0

    @property
    def wanted(self) -> tuple[tuple[int, int], ...]:
        return ((_SILENT[0].fileno(), READABLE),)

    def receive(self) -> bytes | None:
        self.reads += 1
        piece = self.pieces.pop(0) if self.pieces else self.end
        if isinstance(piece, BaseException):
            raise piece
        return piece

    def close(self) -> None:
        self.closed += 1


class EndlessBody(FakeBody):
    """Is silent for good behind its pieces."""

    end = None


_SILENT: list[socket.socket] = []  # one on which nothing ever happens


@pytest.fixture(autouse=True, scope="module")
def silent_socket() -> Iterator[None]:
    one, other = socket.socketpair()
    _SILENT.append(one)
    with one, other:
        yield
    _SILENT.clear()


@pytest.fixture
def answered(monkeypatch) -> Iterator[responses.RequestsMock]:
    """`responses` in the place of the transport; `answered.body` is the body that the next reply reads."""
    # What responses wants of an adapter and this transport, which is no HTTPAdapter, has no use for.
    monkeypatch.setattr(SocketAdapter, "build_response", HTTPAdapter.build_response, raising=False)
    monkeypatch.setattr(SocketAdapter, "max_retries", Retry(0), raising=False)

    def exchange(
        self: SocketAdapter, request: requests.PreparedRequest, timeout_seconds: float, watch: Watch
    ) -> Generator[Pause, None, requests.Response]:
        yield from ()
        return self.send(request, timeout=timeout_seconds, watch=watch)

    monkeypatch.setattr(SocketAdapter, "exchange", exchange)

    def with_raw(response: requests.Response) -> requests.Response:
        lowered = [(name.lower(), value) for name, value in response.headers.items()]
        response.headers = requests.structures.CaseInsensitiveDict(lowered)
        response.raw.close()
        response.raw = mock.body
        return response

    mock = responses.RequestsMock(target="gateway.upstream.adapter.SocketAdapter.send", response_callback=with_raw)
    mock.body = FakeBody()
    with mock:
        yield mock


def upstream(url: str = URL, read_idle_seconds: float = 30.0, **route: object) -> Upstream:
    return Upstream(Route(url, 5.0, 30.0, **route), read_idle_seconds)


def post(body: bytes = b"{}", headers: dict[str, str] | None = None, target: str = "/v1/messages") -> Call:
    return Call("POST", target, list((headers or {}).items()), body)


def sent(answered: responses.RequestsMock) -> requests.PreparedRequest:
    assert len(answered.calls) == 1
    return answered.calls[0].request


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("/v1/messages", f"{URL}/v1/messages"),
        ("/v1/messages?beta=true", f"{URL}/v1/messages?beta=true"),
        ("/v1/models?limit=5&after_id=a%2Fb", f"{URL}/v1/models?limit=5&after_id=a%2Fb"),
    ],
)
def test_target_goes_behind_the_base_url(answered, watch, target, url):
    """Given a base URL with a path, then the target with its query string is put behind it unchanged."""
    answered.get(url)
    upstream().send(Call("GET", target, []), POOLED, watch).close()
    assert sent(answered).url == url


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"model": "m",  "x":"\\ud83d"}', bytes(range(256)), "é€😀".encode(), b"x" * 1_000_000],
    ids=["empty", "small", "odd-json", "all-bytes", "utf-8", "megabyte"],
)
def test_body_goes_upstream_byte_for_byte(answered, watch, body):
    """Given any body, then exactly its bytes are sent."""
    answered.post(f"{URL}/v1/messages")
    upstream().send(post(body), POOLED, watch).close()
    assert (sent(answered).body or b"") == body


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        pytest.param(POOLED, {"x-api-key": "sk-ant-planted-pool-key-0001"}, id="pool"),
        pytest.param(
            (AuthHeader("authorization", "Bearer ", Secret("own")),), {"authorization": "Bearer own"}, id="own-bearer"
        ),
        pytest.param((AuthHeader("x-api-key", "", Secret("own")),), {"x-api-key": "own"}, id="own-key"),
        pytest.param(
            (AuthHeader("x-api-key", "", Secret("a")), AuthHeader("authorization", "Bearer ", Secret("b"))),
            {"x-api-key": "a", "authorization": "Bearer b"},
            id="own-both",
        ),
        pytest.param((), {}, id="none"),
    ],
)
def test_credential_goes_under_its_header(answered, watch, credentials, expected):
    """Given what pays, then its headers carry it, and no other credential, agent or cookie is made up."""
    answered.post(f"{URL}/v1/messages")
    upstream().send(post(headers={"anthropic-beta": "a,b"}), credentials, watch).close()
    assert dict(sent(answered).headers) == {"anthropic-beta": "a,b", "accept-encoding": "identity"} | expected


def test_identity_is_asked_for_whatever_the_client_took(answered, watch):
    """Given a call with another accept-encoding, then identity is asked for."""
    answered.post(f"{URL}/v1/messages")
    upstream().send(post(headers={"accept-encoding": "gzip, br"}), POOLED, watch).close()
    assert sent(answered).headers["accept-encoding"] == "identity"


def test_netrc_and_environment_proxies_are_not_read(answered, watch, monkeypatch, tmp_path):
    """Given a .netrc and proxies in the environment, then neither changes the request."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine upstream.test login u password p\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    answered.post(f"{URL}/v1/messages")
    upstream().send(post(), POOLED, watch).close()
    assert "authorization" not in sent(answered).headers
    assert "proxies" not in sent(answered).req_kwargs


@pytest.mark.parametrize("status", [200, 301, 307, 400, 401, 429, 500, 529])
def test_answer_is_what_came(answered, watch, status):
    """Given any status, redirects included, then one call was made and the reply is what came."""
    answered.post(f"{URL}/v1/messages", status=status, headers={"Location": "https://evil.test/", "request-id": "r"})
    answered.body = FakeBody(b'{"a":', b"1}")
    reply = upstream().send(post(), POOLED, watch)
    assert reply.status == status
    assert ("request-id", "r") in reply.headers
    assert complete(reply.read_whole()) == b'{"a":1}'
    assert len(answered.calls) == 1


@pytest.mark.parametrize(
    ("status", "content_type", "is_event_stream"),
    [
        (200, "text/event-stream", True),
        (200, "Text/Event-Stream; charset=utf-8", True),
        (200, "application/json", False),
        (200, "text/html", False),
        (500, "text/event-stream", False),
    ],
)
def test_event_stream_is_told_by_status_and_type(answered, watch, status, content_type, is_event_stream):
    """Given an answer, then it is a stream of events only as a 200 of that type."""
    answered.post(f"{URL}/v1/messages", status=status, content_type=content_type)
    reply = upstream().send(post(), POOLED, watch)
    assert reply.is_event_stream is is_event_stream
    assert reply.content_type == content_type.partition(";")[0].lower()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        pytest.param(requests.exceptions.ConnectTimeout("too long"), UpstreamTimedOut, id="connect-timeout"),
        pytest.param(requests.exceptions.ReadTimeout("x"), UpstreamSilent, id="read-timeout"),
        pytest.param(requests.exceptions.ConnectionError("refused"), UpstreamError, id="connection-error"),
        pytest.param(requests.exceptions.SSLError("bad certificate"), UpstreamError, id="tls"),
        pytest.param(requests.exceptions.ProxyError("no proxy"), UpstreamError, id="proxy"),
        pytest.param(requests.exceptions.ChunkedEncodingError("broke"), UpstreamError, id="broken-body"),
        pytest.param(requests.exceptions.RequestException("other"), UpstreamError, id="other"),
        pytest.param(ClientGone(), ClientGone, id="client-gone"),
        pytest.param(Stopping("stopping"), Stopping, id="stopping"),
    ],
)
@pytest.mark.parametrize("when", ["head", "body"])
def test_exceptions_of_the_transport_are_translated(answered, watch, raised, expected, when):
    """Given an exception before the head or in the body, then the gateway's own comes out, with it as its cause."""
    answered.post(f"{URL}/v1/messages", body=raised if when == "head" else b"")
    answered.body = FakeBody(b"half", raised)
    with pytest.raises(expected) as caught:  # noqa: PT012  # one of the two raises, by parameter
        reply = upstream().send(post(), POOLED, watch)
        assert received(reply, 1) == b"half"
        received(reply, 1)
    assert type(caught.value) is expected
    if caught.value is not raised:
        assert caught.value.__cause__ is raised


def test_statuses_of_transport_errors_are_the_design_s():
    """Given the transport's errors, then unreachable is 502 api_error and too late is 504 timeout_error."""
    assert (UpstreamError.status, UpstreamError.kind) == (502, "api_error")
    assert (UpstreamTimedOut.status, UpstreamTimedOut.kind) == (504, "timeout_error")


def deflate(data: bytes, window_bits: int) -> bytes:
    compressor = zlib.compressobj(wbits=window_bits)
    return compressor.compress(data) + compressor.flush()


PLAIN = b'event: ping\ndata: {"type": "ping"}\n\n' * 40


@pytest.mark.parametrize(
    ("coding", "encoded"),
    [
        ("gzip", gzip.compress(PLAIN)),
        ("GZIP", gzip.compress(PLAIN)),
        ("x-gzip", gzip.compress(PLAIN)),
        ("deflate", deflate(PLAIN, 15)),
        ("deflate", deflate(PLAIN, -15)),
        ("identity", PLAIN),
        ("", PLAIN),
        ("identity, gzip", gzip.compress(PLAIN)),
        ("deflate, gzip", gzip.compress(deflate(PLAIN, 15))),
    ],
    ids=["gzip", "capitals", "x-gzip", "deflate", "raw-deflate", "identity", "empty", "identity-gzip", "two"],
)
@pytest.mark.parametrize("piece_bytes", [1, 7, 1 << 20])
def test_encoded_answer_is_decoded_however_it_is_cut(answered, watch, coding, encoded, piece_bytes):
    """Given an answer encoded though identity was asked for, in any pieces, then plain bytes come out."""
    answered.post(f"{URL}/v1/messages", headers={"content-encoding": coding})
    answered.body = FakeBody(*(encoded[at : at + piece_bytes] for at in range(0, len(encoded), piece_bytes)))
    assert complete(upstream().send(post(), POOLED, watch).read_whole()) == PLAIN


def test_flushed_events_of_a_compressed_stream_come_at_once(answered, watch):
    """Given a gzip stream that is flushed behind each event, then each event is handed out with its piece."""
    compressor = zlib.compressobj(wbits=31)
    events = [b"data: %d\n\n" % number for number in range(5)]
    pieces = [compressor.compress(event) + compressor.flush(zlib.Z_SYNC_FLUSH) for event in events]
    answered.post(f"{URL}/v1/messages", headers={"content-encoding": "gzip"})
    answered.body = FakeBody(*pieces)
    reply = upstream().send(post(), POOLED, watch)
    assert [received(reply, 1) for _ in events] == events


@pytest.mark.parametrize(
    ("coding", "piece"),
    [
        pytest.param("gzip", b"this is no gzip", id="not-gzip"),
        pytest.param("deflate", b"\xff\xff\xff\xff", id="not-deflate"),
        pytest.param("rot13", b"uryyb", id="unknown-coding"),
        pytest.param("gzip, rot13", gzip.compress(b"x"), id="known-and-unknown"),
        pytest.param(",".join(["gzip"] * 6), gzip.compress(b"x"), id="too-many"),
    ],
)
def test_undecodable_answer_is_an_error_when_read(answered, watch, coding, piece):
    """Given a coding that cannot be undone, then the reply opens, can be discarded, and is a 502 when it is read."""
    for is_read in (True, False):
        answered.post(f"{URL}/v1/messages", headers={"content-encoding": coding})
        answered.body = FakeBody(piece)
        reply = upstream().send(post(), POOLED, watch)
        if is_read:
            with pytest.raises(UpstreamError):
                complete(reply.read_whole())
        else:
            reply.discard()
            assert answered.body.closed == 1


def test_silence_is_none_until_the_idle_limit(answered, watch):
    """Given silence, when it is shorter than the idle limit, then None; past the limit, UpstreamSilent."""
    answered.post(f"{URL}/v1/messages")
    answered.body = FakeBody(None)
    assert upstream().send(post(), POOLED, watch).receive() is None
    answered.body = EndlessBody()
    with pytest.raises(UpstreamSilent):
        upstream(read_idle_seconds=1e-9).send(post(), POOLED, watch).receive()


def test_silence_behind_a_part_that_decodes_to_nothing_is_no_end(answered, watch):
    """Given a gzip header and then silence past the limit, when read whole, then UpstreamSilent and no empty body."""
    answered.post(f"{URL}/v1/messages", headers={"content-encoding": "gzip"})
    answered.body = EndlessBody(None, gzip.compress(b"{}")[:10])
    reply = upstream(read_idle_seconds=0.1).send(post(), POOLED, watch)
    with pytest.raises(UpstreamSilent):
        complete(reply.read_whole())


@pytest.mark.parametrize(
    ("pieces", "reads"),
    [
        pytest.param([b"x" * 100, b""], 2, id="short-to-its-end"),
        pytest.param([b"x" * 60_000] * 50, 2, id="long-is-bounded"),
        pytest.param([None, b"late"], 1, id="slow-is-not-waited-for"),
        pytest.param([b"x", requests.exceptions.ChunkedEncodingError("broke")], 2, id="broken"),
    ],
)
def test_discarding_is_bounded_quiet_and_closes(answered, watch, pieces, reads):
    """Given a failed attempt's answer, when discarded, then at most a little is read, nothing raised, all closed."""
    answered.post(f"{URL}/v1/messages", status=429)
    answered.body = FakeBody(*pieces)
    upstream().send(post(), POOLED, watch).discard()
    assert answered.body.reads == reads
    assert answered.body.closed >= 1


# From here on real sockets.


def connect(server: TinyServer, clock: FakeClock | None = None, idle_seconds: float = 30.0, **route) -> Connections:
    return Connections(Route(server.url, 5.0, idle_seconds, **route), clock or FakeClock())


def exchange(upper: Upstream, watch: Watch, call: Call | None = None) -> bytes:
    reply = upper.send(call or post(), POOLED, watch)
    try:
        return complete(reply.read_whole())
    finally:
        reply.close()


def test_connection_is_used_again(watch):
    """Given several calls one after the other, then they share one connection."""
    with TinyServer(Recorder(OK)) as server, closing(upstream(server.url)) as upper:
        assert [exchange(upper, watch) for _ in range(5)] == [b"ok"] * 5
        assert server.connections == 1


def test_request_on_the_wire_is_what_was_called_for(watch):
    """Given a call, then its bytes on the wire are the head, with host, length and credential, and the body."""
    script = Recorder(OK)
    with TinyServer(script) as server, closing(upstream(f"{server.url}/base")) as upper:
        exchange(
            upper, watch, post(b'{"a": 1}', {"anthropic-version": "v", "x-odd": "caf\xe9"}, "/v1/messages?beta=true")
        )
        head, _, body = script.requests[0].partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        assert first == b"POST /base/v1/messages?beta=true HTTP/1.1"
        assert sorted(lines) == [
            b"accept-encoding: identity",
            b"anthropic-version: v",
            b"content-length: 8",
            b"host: 127.0.0.1:%d" % server.port,
            b"x-api-key: sk-ant-planted-pool-key-0001",
            b"x-odd: caf\xe9",
        ]
        assert body == b'{"a": 1}'


@pytest.mark.parametrize(
    ("call", "length"), [(Call("GET", "/v1/models", []), None), (post(b""), b"0")], ids=["get", "empty-post"]
)
def test_length_is_sent_where_it_belongs(watch, call, length):
    """Given a GET, then no length is sent; given an empty POST, then a length of 0 is."""
    script = Recorder(OK)
    with TinyServer(script) as server, closing(upstream(server.url)) as upper:
        exchange(upper, watch, call)
    lines = dict(line.split(b": ", 1) for line in script.requests[0].strip().split(b"\r\n")[1:])
    assert lines.get(b"content-length") == length


def test_connection_that_was_idle_for_too_long_is_dropped(watch):
    """Given connections idle for various times, then those past the limit are closed, newest are used first."""
    clock = FakeClock()
    with TinyServer(Recorder(OK)) as server, closing(connect(server, clock)) as connections:
        old, young = complete(connections.dial(watch)), complete(connections.dial(watch))
        connections.put(old)
        clock.advance(20)
        connections.put(young)
        clock.advance(10)
        connections.drop_stale()
        assert repr(connections).endswith(", 1 idle>")
        assert connections.take() is young
        assert connections.take() is None
        connections.put(young)
        clock.advance(30)
        assert connections.take() is None


def test_newest_idle_connection_is_taken_first(watch):
    """Given several idle connections, then the one used last is used next, so that the others can grow old."""
    with TinyServer(Recorder(OK)) as server, closing(connect(server)) as connections:
        one, other = complete(connections.dial(watch)), complete(connections.dial(watch))
        connections.put(one)
        connections.put(other)
        assert [connections.take(), connections.take()] == [other, one]
        one.close()
        other.close()


def test_connection_that_comes_back_after_the_close_is_closed(watch):
    """Given a reload that closed the route, when an exchange ends after it, then its connection is not kept."""
    with TinyServer(Recorder(OK)) as server:
        connections = connect(server)
        late = complete(connections.dial(watch))
        connections.close()
        connections.put(late)
        assert connections.take() is None
        with pytest.raises(OSError, match="Bad file descriptor"):
            late._socket.getpeername()


@pytest.mark.parametrize(
    "spoils",
    [
        pytest.param(lambda client: None, id="closed"),
        pytest.param(lambda client: client.sendall(b"HTTP/1.1 408 Timeout\r\n\r\n") or client.recv(1), id="spoken-on"),
    ],
)
def test_spoiled_idle_connection_is_replaced(watch, spoils):
    """Given an idle connection that the upstream closed or spoke on, when called, then a new one serves the call."""
    is_idle = threading.Event()

    def script(client: socket.socket) -> None:
        take_request(client)
        client.sendall(OK)
        is_idle.wait(30)
        spoils(client)

    with TinyServer(script, Recorder(OK)) as server, closing(upstream(server.url)) as upper:
        assert exchange(upper, watch) == b"ok"
        ((idle, _),) = upper._adapter._connections._idle
        is_idle.set()
        assert wait_until(lambda: not idle.is_quiet(), 30)
        assert exchange(upper, watch) == b"ok"
        assert server.connections == 2


def take_one_answer_none(client: socket.socket) -> None:
    """Answer the first request; close on the second when it has come, without a byte."""
    take_request(client)
    client.sendall(OK)
    take_request(client)


def test_reused_connection_closed_without_an_answer_is_replaced_once(watch):
    """Given a kept connection that closes upon the request, then the request is sent once more, on a new one."""
    script = Recorder(OK)
    with TinyServer(take_one_answer_none, script) as server, closing(upstream(server.url)) as upper:
        assert [exchange(upper, watch), exchange(upper, watch)] == [b"ok", b"ok"]
        assert (server.connections, len(script.requests)) == (2, 1)


def test_fresh_connection_closed_without_an_answer_is_an_error(watch):
    """Given a new connection that closes upon the request, then 502: the request is not sent again."""
    with (
        TinyServer(lambda client: take_request(client) and None) as server,
        closing(upstream(server.url)) as upper,
        pytest.raises(UpstreamError, match="without an answer"),
    ):
        exchange(upper, watch)
    assert server.connections == 1


def half_an_answer(client: socket.socket) -> None:
    """Answer once in full, then half a head."""
    take_request(client)
    client.sendall(OK)
    take_request(client)
    client.sendall(b"HTTP/1.1 20")


def test_reused_connection_that_broke_in_the_head_is_not_replaced(watch):
    """Given a kept connection that closes after a byte of the answer, then 502 and no second sending."""
    with TinyServer(half_an_answer, Recorder(OK)) as server, closing(upstream(server.url)) as upper:
        assert exchange(upper, watch) == b"ok"
        with pytest.raises(UpstreamError):
            exchange(upper, watch)
        assert server.connections == 1


def test_half_read_answer_closes_its_connection(watch):
    """Given an answer that is closed before its end, then its connection is closed and not used again."""
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n" + b"x" * 1000
    with TinyServer(Recorder(long), Recorder(OK)) as server, closing(upstream(server.url)) as upper:
        reply = upper.send(post(), POOLED, watch)
        assert received(reply, 5)
        reply.close()
        reply.close()
        assert exchange(upper, watch) == b"ok"
        assert server.connections == 2


def answer_early(client: socket.socket) -> None:
    """Refuse a request of which only the head has come, and read no more of it."""
    client.recv(1000)
    client.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
    client.shutdown(socket.SHUT_WR)
    while client.recv(1 << 20):
        pass


def test_early_answer_to_a_long_request_is_read(watch):
    """Given an upstream that answers before it has the body, then its answer is relayed and the connection dropped."""
    with TinyServer(answer_early, Recorder(OK)) as server, closing(upstream(server.url)) as upper:
        reply = upper.send(post(b"x" * 30_000_000), POOLED, watch)
        assert (reply.status, complete(reply.read_whole())) == (413, b"no")
        reply.close()
        assert exchange(upper, watch) == b"ok"
        assert server.connections == 2


def test_unreachable_upstream_is_an_error_that_says_so(watch):
    """Given a port where nobody listens, then UpstreamError, in words that may be shown."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(UpstreamError, match="cannot be reached: Connection refused") as raised:
        upstream(f"http://127.0.0.1:{port}").send(post(), POOLED, watch)
    assert type(raised.value) is UpstreamError


def test_unknown_host_is_an_error_that_says_so(watch):
    """Given a name that no resolver knows, then UpstreamError, in words that may be shown."""
    with pytest.raises(UpstreamError, match="its name cannot be resolved"):
        upstream("http://nowhere.invalid").send(post(), POOLED, watch)


def test_silent_upstream_times_out_before_the_head(watch):
    """Given an upstream that takes the request and says nothing, then UpstreamSilent after the idle limit."""
    with (
        TinyServer(lambda client: take_request(client) and client.recv(1)) as server,
        closing(upstream(server.url, read_idle_seconds=0.05)) as upper,
        pytest.raises(UpstreamSilent),
    ):
        upper.send(post(), POOLED, watch)


def test_end_of_the_drain_time_interrupts_a_silent_exchange(lifecycle, watch):
    """Given a request that waits for a silent upstream, when the drain time ends, then Stopping at once."""
    with TinyServer(lambda client: take_request(client) and client.recv(1)) as server:
        lifecycle.drain(0.05)
        with closing(upstream(server.url)) as upper, pytest.raises(Stopping):
            upper.send(post(), POOLED, watch)


def test_client_s_hang_up_interrupts_a_silent_exchange(lifecycle):
    """Given a request that waits for a silent upstream, when its client hangs up, then ClientGone at once."""
    ours, theirs = socket.socketpair()

    def script(client: socket.socket) -> None:
        take_request(client)
        theirs.close()
        client.recv(1)

    with (
        ours,
        TinyServer(script) as server,
        closing(upstream(server.url)) as upper,
    ):
        watch = Watch(ours, lifecycle)
        with pytest.raises(ClientGone):
            upper.send(post(), POOLED, watch)
        assert watch.has_sent


def test_request_that_has_not_gone_upstream_whole_is_known_as_such(lifecycle):
    """Given a client that leaves while its request is sent, then the upstream is known not to have it."""
    ours, theirs = socket.socketpair()
    released = threading.Event()

    def script(client: socket.socket) -> None:
        theirs.close()
        released.wait(60)

    with ours, TinyServer(script) as server, closing(upstream(server.url)) as upper:
        watch = Watch(ours, lifecycle)
        watch.has_sent = True  # in an earlier exchange
        with pytest.raises(ClientGone):
            upper.send(post(b"x" * (16 << 20)), POOLED, watch)
        released.set()
    assert not watch.has_sent


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def test_tls_connection_is_verified_and_used_again(watch, authority):
    """Given a TLS upstream whose authority is configured, then calls pass and share one connection."""
    with (
        TinyServer(Recorder(OK), tls=server_tls(authority, "127.0.0.1")) as server,
        closing(upstream(server.url, ca_pem=pem_of(authority))) as upper,
    ):
        assert [exchange(upper, watch) for _ in range(3)] == [b"ok"] * 3
        assert server.connections == 1


@pytest.mark.parametrize("name", ["127.0.0.1", "elsewhere.test"], ids=["unknown-authority", "another-name"])
def test_untrusted_upstream_gets_no_secret(watch, authority, name):
    """Given a certificate of an unknown authority or for another name, then UpstreamError and nothing is sent."""
    script = Recorder(OK)
    trusted = trustme.CA() if name == "127.0.0.1" else authority
    with (
        TinyServer(script, tls=server_tls(authority, name)) as server,
        closing(upstream(server.url, ca_pem=pem_of(trusted))) as upper,
        pytest.raises(UpstreamError, match="certificate is not trusted"),
    ):
        upper.send(post(), POOLED, watch)
    assert script.requests == []


def test_many_events_in_one_record_are_all_handed_out(watch, authority):
    """Given a TLS record with many chunks, then all of them are read although the socket stays silent behind it."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in (b"data: %d\n\n" % n for n in range(500)))

    def script(client: socket.socket) -> None:
        take_request(client)
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        client.recv(1)

    with (
        TinyServer(script, tls=server_tls(authority, "127.0.0.1")) as server,
        closing(upstream(server.url, ca_pem=pem_of(authority))) as upper,
        closing(upper.send(post(), POOLED, watch)) as reply,
    ):
        got = b""
        while got.count(b"\n\n") < 500:
            piece = received(reply, 10)
            assert piece, f"only {got.count(b'data')} events came"
            got += piece


def test_environment_proxies_are_not_used(watch, monkeypatch):
    """Given proxies in the environment, then the upstream is reached directly."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with TinyServer(Recorder(OK)) as server, closing(upstream(server.url)) as upper:
        assert exchange(upper, watch) == b"ok"
