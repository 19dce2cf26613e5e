"""What a hostile reader found: answers nobody should send, clients nobody should meet, a machine that runs short."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trustme

from tests.e2e.raw_upstream import (
    FIRST_EVENT,
    LAST_EVENT,
    MESSAGE,
    Incoming,
    Play,
    RawUpstream,
    answer,
    close_behind,
    event,
    fall_silent_behind,
    head,
    stream_head,
    stream_without_end,
    whole,
    zeros_gzipped,
)
from tests.e2e.talk import Talk, error_of, events_of, message, token_line
from tests.harness import Answer, GatewayProcess, wait_until
from tests.unit.tiny_server import Recorder, TinyServer

KEY = "first=sk-ant-api03-the-only-key"
TOKEN, REVOKED = "gwt_alices-token-0123456789abcdef", "gwt_bobs-token-0123456789abcdef"
THREADS, RESERVED = 12, 4
PLACES = THREADS - RESERVED
BODY_LIMIT = 32 * 1024 * 1024
PROMPT_SECONDS = 1.5  # nobody has waited for a goodbye, which takes 2 s
SOON_SECONDS = 30.0
MEBIBYTE = 1 << 20

Start = Callable[..., GatewayProcess]


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    """One upstream for the module."""
    with RawUpstream() as upstream:
        yield upstream


@pytest.fixture(autouse=True)
def _well_meant(upstream: RawUpstream) -> None:
    upstream.play = answer(whole())
    upstream.requests.clear()


@pytest.fixture(scope="module")
def gateway(upstream: RawUpstream) -> Iterator[GatewayProcess]:
    """A gateway with few threads and little patience for heads."""
    process = GatewayProcess(
        upstream.url, [KEY], threads=str(THREADS), reserved_threads=str(RESERVED), head_timeout_seconds="2"
    )
    yield process
    process.stop()


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token file with one token."""
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(token_line("alice", TOKEN))
    return path


@pytest.fixture(scope="module")
def guarded(upstream: RawUpstream, tokens_file: Path) -> Iterator[GatewayProcess]:
    """A gateway that wants a token."""
    process = GatewayProcess(
        upstream.url,
        [KEY],
        threads=str(THREADS),
        reserved_threads=str(RESERVED),
        client_tokens_file=str(tokens_file),
    )
    yield process
    process.stop()


def ask(gateway: GatewayProcess, *, streamed: bool = False, **headers: str) -> Answer:
    """One message on a connection of its own."""
    return gateway.request("POST", "/v1/messages", message(streamed=streamed), headers)


def is_idle(gateway: GatewayProcess) -> bool:
    """Whether no message is being served."""
    return gateway.metric("requests_inflight", route="messages") == 0


def worker_of(gateway: GatewayProcess) -> int:
    """The only worker's process id."""
    (pid,) = gateway.worker_pids
    return pid


def resident_bytes(pid: int, what: str = "VmRSS") -> int:
    """A process's resident memory now, or with VmHWM at its highest."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(f"{what}:")]
    return int(line.split()[1]) * 1024


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def slowest_probe_seconds(gateway: GatewayProcess, count: int) -> float:
    """The longest that `/healthz` takes, each time on a connection of its own."""
    taken = []
    for _ in range(count):
        begun_at = time.monotonic()
        assert gateway.request("GET", "/healthz").status == 200
        taken.append(time.monotonic() - begun_at)
    return max(taken)


@contextmanager
def every_place_streaming(gateway: GatewayProcess, upstream: RawUpstream) -> Iterator[None]:
    """As many streams as are admitted, none of which ends by itself."""
    upstream.play = stream_without_end
    with ExitStack() as stack:
        for _ in range(PLACES):
            stack.enter_context(Talk(gateway)).begin_stream()
        yield
    assert wait_until(lambda: is_idle(gateway), SOON_SECONDS)


# Answers nobody should send


@pytest.mark.parametrize("location", ["http://[::1", "//[x", "http://\x7f/"], ids=["half-ipv6", "no-host", "control"])
def test_location_that_is_no_url_is_relayed_and_costs_no_place(
    gateway: GatewayProcess, upstream: RawUpstream, location: str
) -> None:
    """Given a redirect to what is no URL, when it comes more often than there are places, then none is refused."""
    upstream.play = answer(head(f"Location: {location}", "Content-Length: 0", status="302 Found"))
    answers = [ask(gateway, streamed=number % 2 == 0) for number in range(2 * THREADS)]
    if location.isprintable():
        assert {(answer.status, answer.headers["location"]) for answer in answers} == {(302, location)}
    else:
        assert {answer.status for answer in answers} <= {302, 500, 502}  # a head that may be refused on either side
    assert wait_until(lambda: is_idle(gateway), SOON_SECONDS)


def gzip_that_spoils(is_told: threading.Event, is_silent: bool) -> Play:
    """A compressed stream whose first event is good and what follows is not; `is_told` lets the rest go out."""

    def play(incoming: Incoming) -> None:
        incoming.read()
        packer = zlib.compressobj(wbits=31)
        incoming.send(stream_head("Content-Encoding: gzip"))
        incoming.send(packer.compress(FIRST_EVENT) + packer.flush(zlib.Z_SYNC_FLUSH))
        assert is_told.wait(SOON_SECONDS)
        incoming.send(b"\xff" * 200)
        if is_silent:
            incoming.until_hung_up()
        incoming.client.shutdown(socket.SHUT_RDWR)

    return play


@pytest.mark.parametrize("is_silent", [True, False], ids=["left-open", "closed"])
def test_compressed_stream_that_spoils_ends_in_an_error(
    gateway: GatewayProcess, upstream: RawUpstream, is_silent: bool
) -> None:
    """Given a stream whose gzip is corrupt behind the first event, then that event and one `event: error`."""
    is_told = threading.Event()
    upstream.play = gzip_that_spoils(is_told, is_silent)
    truncated = gateway.counted("streams_ended_total", outcome="truncated")
    with Talk(gateway) as talk:
        first = talk.begin_stream()
        is_told.set()
        received = first + talk.rest()
    assert received.startswith(FIRST_EVENT)
    ((name, error),) = events_of(received)[1:]
    assert (name, error["error"]["type"]) == ("error", "api_error")
    assert gateway.counted("streams_ended_total", outcome="truncated") == truncated + 1


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        pytest.param(b"abcd", "gzip", id="no-gzip"),
        pytest.param(zlib.compress(MESSAGE, wbits=31)[:-12] + b"\xff" * 12, "gzip", id="corrupt-at-its-end"),
        pytest.param(zlib.compress(MESSAGE, wbits=31)[:-12], "gzip", id="cut-short"),
        pytest.param(b"abcd", "gzip, gzip, gzip, gzip, gzip, gzip", id="six-codings"),
        pytest.param(b"abcd", "rot13", id="unknown-coding"),
    ],
)
def test_whole_answer_that_cannot_be_decoded_is_a_502(
    gateway: GatewayProcess, upstream: RawUpstream, body: bytes, coding: str
) -> None:
    """Given a whole answer whose coding is broken, then 502 `api_error`, every time, and its slot is free again."""
    upstream.play = answer(whole(body, f"Content-Encoding: {coding}"))
    for _ in range(PLACES + 1):
        assert error_of(ask(gateway))[:2] == (502, "api_error")
    assert wait_until(lambda: is_idle(gateway), SOON_SECONDS)


def test_informational_answers_do_not_end_an_upload(gateway: GatewayProcess, upstream: RawUpstream) -> None:
    """Given `100 Continue` and `103 Early Hints` in mid-upload, then the whole body arrives, and the answer is relayed.

    The body is larger than what sockets buffer, so the gateway reads them before it has sent all.
    """
    bodies: list[bytes] = []

    def play(incoming: Incoming) -> None:
        incoming.read(1 * MEBIBYTE)
        incoming.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        incoming.read(10 * MEBIBYTE)
        incoming.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        bodies.append(incoming.read())
        incoming.send(whole())

    upstream.play = play
    body = message(pad_bytes=20_000_000)
    answered = gateway.request("POST", "/v1/messages", body)
    assert (answered.status, answered.body) == (200, MESSAGE)
    assert "link" not in answered.headers
    assert bodies == [body]
    assert len(upstream.requests) == 1


BOMB_MEBIBYTES = 2048


def bomb(first_lines: list[str], opening: bytes = b"") -> Play:
    """An answer of a few megabytes that stand for gigabytes."""

    def play(incoming: Incoming) -> None:
        incoming.read()
        incoming.send(head(*first_lines, "Content-Encoding: gzip", "Connection: close"))
        if opening:
            incoming.send(zlib.compress(opening, wbits=31))
        for member in zeros_gzipped(BOMB_MEBIBYTES):
            incoming.send(member)
        incoming.client.shutdown(socket.SHUT_RDWR)

    return play


@pytest.mark.parametrize(
    ("play", "is_streamed", "most_mebibytes"),
    [
        # What is read whole may take 256 MiB, an event 32 MiB; a copy of each, and what the allocator keeps.
        pytest.param(bomb(["Content-Type: application/json"]), False, 2 * 256 + 64, id="whole"),
        pytest.param(bomb(["Content-Type: text/event-stream"]), True, 3 * 32 + 64, id="first-event"),
        pytest.param(bomb(["Content-Type: text/event-stream"], FIRST_EVENT), True, 3 * 32 + 64, id="later-event"),
    ],
)
def test_compressed_bomb_is_an_error_and_takes_bounded_memory(
    gateway: GatewayProcess, upstream: RawUpstream, play: Play, is_streamed: bool, most_mebibytes: int
) -> None:
    """Given an answer that swells a thousandfold, then an error, and the worker has not grown by more than its limits.

    The bomb stands for 2 GiB.
    """
    worker = worker_of(gateway)
    upstream.play = play
    assert ask(gateway, streamed=True).status in (200, 502)  # what the worker has to load once is loaded
    before = resident_bytes(worker)
    Path(f"/proc/{worker}/clear_refs").write_text("5")  # VmHWM starts anew
    answered = ask(gateway, streamed=is_streamed)
    if answered.status == 200:
        ((name, error),) = events_of(answered.body.removeprefix(FIRST_EVENT))
        assert (name, error["error"]["type"]) == ("error", "api_error")
    else:
        assert error_of(answered)[:2] == (502, "api_error")
    assert resident_bytes(worker, "VmHWM") - before < most_mebibytes * MEBIBYTE


def test_compressed_stream_that_swells_is_relayed_piece_by_piece(
    gateway: GatewayProcess, upstream: RawUpstream
) -> None:
    """Given 256 MiB of small events in few bytes, then all of it is relayed, through little memory."""
    worker = worker_of(gateway)
    ping = event("ping")
    pings = ping * (16 * MEBIBYTE // len(ping))
    member = zlib.compress(pings, wbits=31)
    members = 16

    def play(incoming: Incoming) -> None:
        incoming.read()
        incoming.send(stream_head("Content-Encoding: gzip"))
        for part in (zlib.compress(FIRST_EVENT, wbits=31), *[member] * members, zlib.compress(LAST_EVENT, wbits=31)):
            incoming.send(part)
        incoming.client.shutdown(socket.SHUT_RDWR)

    upstream.play = play
    before = resident_bytes(worker)
    Path(f"/proc/{worker}/clear_refs").write_text("5")
    received, tail = 0, b""
    with Talk(gateway) as talk:
        talk.ask(body=message(streamed=True))
        response = talk.begin_answer()
        while piece := response.read1(MEBIBYTE):
            received += len(piece)
            tail = (tail + piece)[-len(LAST_EVENT) :]
    assert received == len(FIRST_EVENT) + members * len(pings) + len(LAST_EVENT)
    assert tail == LAST_EVENT
    assert resident_bytes(worker, "VmHWM") - before < 64 * MEBIBYTE


def for_ever(opening: bytes, piece: bytes, ended: threading.Event) -> Play:
    """A stream that begins so and sends the same on and on, until the other side hangs up."""

    def play(incoming: Incoming) -> None:
        incoming.read()
        incoming.send(stream_head() + opening)
        try:
            while True:
                incoming.send(piece)
        except OSError:
            ended.set()

    return play


@pytest.mark.parametrize(
    "piece", [b": nothing\n\n" * 4096, b"event: ping\n\n" * 4096, b"data: x\n" * 8192, b"x" * 65536, b"\r\n" * 32768]
)
def test_stream_for_ever_without_an_event_is_an_error_and_takes_bounded_memory(
    gateway: GatewayProcess, upstream: RawUpstream, piece: bytes
) -> None:
    """Given comments, or an event that does not end, for ever, then an error, and the upstream is hung up on."""
    worker, ended = worker_of(gateway), threading.Event()
    upstream.play = for_ever(b"", piece, ended)
    before = resident_bytes(worker)
    Path(f"/proc/{worker}/clear_refs").write_text("5")
    answered = ask(gateway, streamed=True)
    if answered.status == 200:  # it took more than half a second
        ((name, error),) = events_of(answered.body)
        assert (name, error["error"]["type"]) == ("error", "api_error")
    else:
        assert error_of(answered)[:2] == (502, "api_error")
    assert ended.wait(SOON_SECONDS)
    assert resident_bytes(worker, "VmHWM") - before < 160 * MEBIBYTE


@pytest.mark.parametrize("piece", [event("ping") * 1000, b": more\n\n" * 4096, b"x" * 65536, FIRST_EVENT * 100])
def test_what_an_upstream_sends_behind_its_last_event_reaches_nobody(
    gateway: GatewayProcess, upstream: RawUpstream, piece: bytes
) -> None:
    """Given `message_stop` and more for ever, then the message ends there, whole, and the upstream is hung up on."""
    ended = threading.Event()
    upstream.play = for_ever(FIRST_EVENT + LAST_EVENT, piece, ended)
    answered = ask(gateway, streamed=True)
    assert (answered.status, answered.body) == (200, FIRST_EVENT + LAST_EVENT)
    assert ended.wait(SOON_SECONDS)


@pytest.mark.parametrize("framing", ["close", "chunked", "length"])
@pytest.mark.parametrize("missing", [1, 2])
def test_last_event_that_lacks_its_blank_line_is_relayed_with_it(
    gateway: GatewayProcess, upstream: RawUpstream, framing: str, missing: int
) -> None:
    """Given a body that ends properly behind the data of `message_stop`, then the client has the whole message."""
    body = (FIRST_EVENT + LAST_EVENT)[:-missing]
    lines = {
        "close": "Connection: close",
        "chunked": "Transfer-Encoding: chunked",
        "length": f"Content-Length: {len(body)}",
    }
    framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if framing == "chunked" else body
    play = close_behind if framing == "close" else answer
    upstream.play = play(head("Content-Type: text/event-stream", lines[framing]) + framed)
    answered = ask(gateway, streamed=True)
    assert (answered.status, answered.body) == (200, FIRST_EVENT + LAST_EVENT)


# What the gateway keeps, and what it tells


def test_bodies_are_not_kept_while_their_streams_run(gateway_process: Start, upstream: RawUpstream) -> None:
    """Given ten streams with bodies of 20 MB that have begun, then the worker holds none of the bodies any more."""
    gateway = gateway_process(upstream.url, keys=[KEY])
    worker = worker_of(gateway)
    body = message(streamed=True, pad_bytes=20_000_000)
    upstream.play = stream_without_end
    with Talk(gateway) as first:
        first.begin_stream()
    before = resident_bytes(worker)
    with ExitStack() as stack:
        for _ in range(10):
            talk = stack.enter_context(Talk(gateway))
            talk.ask(body=body)
            assert talk.begin_answer().read1() == FIRST_EVENT
            upstream.requests.clear()
        grown = resident_bytes(worker) - before
    assert grown < 10 * 4 * MEBIBYTE, f"{grown / MEBIBYTE:.0f} MiB for 10 streams"


def failing_whole(incoming: Incoming) -> None:
    """A 500."""
    answer(whole(b'{"type":"error"}', status="500 Oops"))(incoming)


def overloaded_first(incoming: Incoming) -> None:
    """A stream that has nothing but an overload to tell."""
    error = event("error", error={"type": "overloaded_error", "message": "busy"})
    close_behind(stream_head() + error)(incoming)


def hung_up(incoming: Incoming) -> None:
    """No answer at all."""
    close_behind(b"")(incoming)


@pytest.mark.parametrize(
    ("play", "outcome"),
    [
        pytest.param(failing_whole, "server_error", id="500"),
        pytest.param(hung_up, "transport_error", id="no-answer"),
        pytest.param(close_behind(head("Content-Length: x")), "transport_error", id="no-http"),
        pytest.param(overloaded_first, "overloaded", id="overloaded-in-a-stream"),
        pytest.param(answer(whole(b"{}", status="529 Busy")), "overloaded", id="529"),
    ],
)
def test_trouble_upstream_is_told_with_key_and_request(
    gateway: GatewayProcess, upstream: RawUpstream, play: Play, outcome: str
) -> None:
    """Given an attempt that fails through no fault of its key, then a warning names key and request; it is counted."""
    upstream.play = play
    counted = gateway.counted("key_attempts_total", key="first", outcome=outcome)
    log = gateway.log
    answered = ask(gateway, streamed=True)
    assert gateway.counted("key_attempts_total", key="first", outcome=outcome) == counted + 1
    told = [line for line in gateway.log.removeprefix(log).splitlines() if "WARNING" in line and "key first" in line]
    assert len(told) == 1, gateway.log.removeprefix(log)
    assert answered.headers["request-id"] in told[0]
    assert outcome in told[0]


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nbad\r\n\r\n", 400, "invalid_request_error", id="no-header"),
        pytest.param(b"GET /%s HTTP/1.1\r\n\r\n" % (b"a" * 9000), 414, "invalid_request_error", id="long-line"),
        pytest.param(b"POST /v1/messages HTTP/1.1\r\nHo", 408, "timeout_error", id="half-a-head"),
    ],
)
def test_requests_that_never_became_one_are_counted(
    gateway: GatewayProcess, sent: bytes, status: int, reason: str
) -> None:
    """Given a malformed or half-sent head, when it is refused, then rejections and requests of no route count it."""

    def counted() -> tuple[float, float]:
        requests = gateway.counted("requests_total", route="unknown", credential="none", status=str(status))
        return requests, gateway.counted("rejections_total", reason=reason)

    before = counted()
    with Talk(gateway) as talk:
        talk.send(sent)
        assert error_of(talk.answer())[:2] == (status, reason)
    assert counted() == (before[0] + 1, before[1] + 1)


# Clients nobody should meet


@contextmanager
def dribbling(talks: list[Talk]) -> Iterator[None]:
    """Meanwhile each connection sends a byte of its body every now and then, for as long as the gateway takes it."""
    is_done = threading.Event()

    def send() -> None:
        alive = list(talks)
        while not is_done.wait(0.005):
            for talk in list(alive):
                try:
                    talk.socket.send(b"x", socket.MSG_DONTWAIT)
                except OSError:
                    alive.remove(talk)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("refusal", [401, 529])
def test_refused_clients_that_go_on_uploading_delay_nobody(
    gateway: GatewayProcess, guarded: GatewayProcess, upstream: RawUpstream, refusal: int
) -> None:
    """Given more refused uploads than reserved threads, all of them slow, when health is asked for, then in time."""
    chosen = guarded if refusal == 401 else gateway
    with ExitStack() as stack:
        if refusal == 529:
            stack.enter_context(every_place_streaming(gateway, upstream))
        talks = [stack.enter_context(Talk(chosen)) for _ in range(2 * RESERVED)]
        for talk in talks:
            talk.send_head("POST", "/v1/messages", {"Content-Length": "100000", "X-Gateway-Token": "wrong"})
        stack.enter_context(dribbling(talks))
        slowest = slowest_probe_seconds(chosen, 30)
        assert [talk.answer().status for talk in talks] == [refusal] * len(talks)
    assert slowest < PROMPT_SECONDS


@pytest.mark.parametrize(
    "request_text",
    [
        pytest.param("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n", id="root"),
        pytest.param("POST /v1/messages HTTP/1.0\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}", id="no-token"),
        pytest.param("GET / HTTP/1.1\r\nbad\r\n\r\n", id="malformed"),
    ],
)
def test_strangers_that_do_not_hang_up_hold_no_thread(guarded: GatewayProcess, request_text: str) -> None:
    """Given as many answered connections as threads, none of which hangs up, when health is asked for, then in time."""
    with ExitStack() as stack:
        strangers = [stack.enter_context(Talk(guarded)) for _ in range(THREADS)]
        for stranger in strangers:
            stranger.send(request_text.encode())
        assert {stranger.begin_answer().status for stranger in strangers} <= {200, 400, 401}
        assert slowest_probe_seconds(guarded, 30) < PROMPT_SECONDS


EXPECTING = {"Expect": "100-continue", "Content-Length": "1000"}


@pytest.mark.parametrize(
    ("path", "headers", "refusal"),
    [
        pytest.param("/v1/messages", {"X-Gateway-Token": "wrong"}, 401, id="401"),
        pytest.param("/nothing", {"X-Gateway-Token": TOKEN}, 404, id="404"),
        pytest.param("/healthz", {"X-Gateway-Token": TOKEN}, 405, id="405"),
        pytest.param("/v1/messages", {"X-Gateway-Token": TOKEN, "Content-Length": str(BODY_LIMIT + 1)}, 413, id="413"),
        pytest.param("/v1/messages", {"X-Gateway-Token": TOKEN}, 529, id="529"),
    ],
)
def test_refused_client_is_not_asked_for_its_body(
    guarded: GatewayProcess, upstream: RawUpstream, path: str, headers: dict[str, str], refusal: int
) -> None:
    """Given `Expect: 100-continue`, when a request is refused by its head, then the refusal is the first it hears."""
    with ExitStack() as stack:
        if refusal == 529:
            fill_places_with_token(stack, guarded, upstream)
        talk = stack.enter_context(Talk(guarded))
        talk.send_head("POST", path, EXPECTING | headers)
        received = talk.socket.recv(MEBIBYTE)
        assert received.startswith(b"HTTP/1.1 %d " % refusal), received
        assert b"100 Continue" not in received


def fill_places_with_token(stack: ExitStack, guarded: GatewayProcess, upstream: RawUpstream) -> None:
    """Streams in every place, to the end of `stack`."""
    upstream.play = stream_without_end
    for _ in range(PLACES):
        stack.enter_context(Talk(guarded)).begin_stream({"X-Gateway-Token": TOKEN})


def test_accepted_client_is_asked_for_its_body(guarded: GatewayProcess, upstream: RawUpstream) -> None:
    """Given `Expect: 100-continue`, when the request is let in, then it is asked for its body once, and served."""
    assert wait_until(lambda: is_idle(guarded), SOON_SECONDS)
    body = message()
    with Talk(guarded) as talk:
        talk.send_head("POST", "/v1/messages", EXPECTING | {"Content-Length": str(len(body)), "X-Gateway-Token": TOKEN})
        assert talk.socket.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        talk.send(body)
        response = talk.begin_answer()
        assert (response.status, response.read()) == (200, MESSAGE)
    assert [incoming.read() for incoming in upstream.requests] == [body]


@pytest.mark.parametrize(
    "header",
    [{"x-api-key": REVOKED}, {"Authorization": f"Bearer {REVOKED}"}, {"Authorization": f"bearer  {REVOKED} "}],
    ids=["x-api-key", "bearer", "bearer-spelt-oddly"],
)
def test_revoked_token_beside_a_valid_one_never_goes_upstream(
    guarded: GatewayProcess, upstream: RawUpstream, tokens_file: Path, header: dict[str, str]
) -> None:
    """Given a token that was revoked, when it comes beside a valid one, then the pool pays and it stays here."""
    tokens_file.write_text(token_line("alice", TOKEN) + token_line("bob", REVOKED))
    assert wait_until(lambda: ask(guarded, **header).status == 200, SOON_SECONDS)
    tokens_file.write_text(token_line("alice", TOKEN))
    assert wait_until(lambda: ask(guarded, **header).status == 401, SOON_SECONDS)
    assert ask(guarded, **header, **{"X-Gateway-Token": TOKEN}).status == 200
    heads = b"".join(incoming.head for incoming in upstream.requests)
    assert b"gwt_" not in heads
    assert b"the-only-key" in upstream.requests[-1].head


# Files that are broken


def deep_toml(folder: Path) -> str:
    """A document that is nested too deeply."""
    return "x = " + "[" * 100_000


def path_with_nul(folder: Path) -> str:
    """A file name that none can have."""
    return 'api_keys_file = "/etc/\\u0000/keys"\n'


def empty_authorities(folder: Path) -> str:
    """A file of authorities that has none."""
    (folder / "empty.pem").write_text("")
    return f'upstream_ca_file = "{folder / "empty.pem"}"\n'


def commented_nothing(folder: Path) -> str:
    """A file of authorities that only speaks of them."""
    (folder / "comments.pem").write_text("# Autorité de certification\n")
    return f'upstream_ca_file = "{folder / "comments.pem"}"\n'


def spoilt_authority(folder: Path) -> str:
    """A certificate that is none."""
    (folder / "spoilt.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return f'upstream_ca_file = "{folder / "spoilt.pem"}"\n'


def binary_toml(folder: Path) -> str:
    """What is not even text."""
    return "x = \udcff"


BROKEN = [
    pytest.param(empty_authorities, "GATEWAY_UPSTREAM_CA_FILE", id="empty-ca-file"),
    pytest.param(commented_nothing, "GATEWAY_UPSTREAM_CA_FILE", id="ca-file-of-comments"),
    pytest.param(spoilt_authority, "GATEWAY_UPSTREAM_CA_FILE", id="spoilt-certificate"),
    pytest.param(deep_toml, "not valid TOML", id="nested-too-deeply"),
    pytest.param(path_with_nul, "GATEWAY_API_KEYS_FILE", id="path-with-nul"),
    pytest.param(binary_toml, "GATEWAY_CONFIG", id="no-text"),
]


class Configured:
    """A gateway over TLS whose TOML file can be rewritten. `good` is what the file says when all is well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.toml = folder / "gateway.toml"
        self.good = f'upstream_ca_file = "{folder / "authorities.pem"}"\n'
        self.write(self.good)
        authority = trustme.CA()
        pem = authority.cert_pem.bytes().decode()
        (folder / "authorities.pem").write_text(f"# Autoridade de Certificação «Ćma»\n{pem}", encoding="utf-8")
        with ExitStack() as stack:
            upstream = stack.enter_context(TinyServer(Recorder(whole()), tls=ssl_context_of(authority)))
            self.process = GatewayProcess(
                f"https://localhost:{upstream.port}", [KEY], config=str(self.toml), idle_connection_seconds="0.001"
            )
            stack.callback(self.process.stop)
            self._stack = stack.pop_all()

    def write(self, text: str) -> None:
        """Replace the file."""
        self.toml.write_bytes(text.encode("utf-8", "surrogateescape"))

    def lines_of_sighup(self, until: str) -> list[str]:
        """SIGHUP; the log's new lines, once one of them says `until`."""
        before = self.process.log
        self.process.send_signal(signal.SIGHUP)
        assert wait_until(lambda: until in self.process.log.removeprefix(before), SOON_SECONDS), self.process.log
        return self.process.log.removeprefix(before).splitlines()

    def close(self) -> None:
        self._stack.close()


def ssl_context_of(authority: trustme.CA) -> ssl.SSLContext:
    """What a TLS server for localhost needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Configured]:
    """One gateway for all that is broken."""
    configured = Configured(tmp_path_factory.mktemp("configured"))
    yield configured
    configured.close()


@pytest.mark.parametrize(("content", "told"), BROKEN)
def test_reload_of_what_cannot_be_read_changes_nothing(
    configured: Configured, content: Callable[[Path], str], told: str
) -> None:
    """Given a configuration broken in an odd way, when SIGHUP comes, then one line says so and all goes on; mended: on.

    The good one has authorities with comments in several alphabets, over which the upstream is verified.
    """
    process = configured.process
    worker = worker_of(process)
    assert ask(process).status == 200
    configured.write(content(configured.folder))
    lines = configured.lines_of_sighup("reload refused")
    assert sum("configuration:" in line for line in lines) == 1, lines
    assert sum(told in line for line in lines) == 1, lines
    assert "Traceback" not in "\n".join(lines)
    assert process.metric("config_reload_success") == 0
    assert ask(process).status == 200
    configured.write(configured.good)
    configured.lines_of_sighup("configuration reloaded")
    assert process.metric("config_reload_success") == 1
    assert ask(process).status == 200
    assert process.worker_pids == [worker]


def refused_start(*arguments: str, **settings: str) -> tuple[int, list[str]]:
    """Exit status and log lines of a gateway that is expected not to start."""
    process = GatewayProcess("http://127.0.0.1:9", [KEY], arguments, must_start=False, **settings)
    try:
        status = process.wait(20)
    finally:
        log = process.stop()
    assert "Traceback" not in log
    return status, [line for line in log.splitlines() if line.strip()]


@pytest.mark.parametrize(("content", "told"), BROKEN)
def test_start_with_what_cannot_be_read_is_refused_in_one_line(
    tmp_path: Path, content: Callable[[Path], str], told: str
) -> None:
    """Given a configuration broken in an odd way, when the gateway is started, then it exits non-zero with one line."""
    toml = tmp_path / "gateway.toml"
    toml.write_bytes(content(tmp_path).encode("utf-8", "surrogateescape"))
    status, lines = refused_start(config=str(toml))
    assert status != 0
    (line,) = lines
    assert told in line


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        pytest.param(("--worker-connections", "8"), "", "--worker-connections", id="worker-connections"),
        pytest.param(("--graceful-timeout", "3"), "", "--graceful-timeout", id="graceful-timeout"),
        pytest.param(("--max-requests", "5"), "", "--max-requests", id="max-requests"),
        pytest.param(("--preload",), "", "--preload", id="preload"),
        pytest.param(("--reload",), "", "--reload", id="reload"),
        pytest.param(("--reuse-port",), "", "--reuse-port", id="reuse-port"),
        pytest.param((), "--max-requests 5", "--max-requests", id="cmd-args-max-requests"),
        pytest.param((), "--graceful-timeout=1", "--graceful-timeout", id="cmd-args-graceful-timeout"),
        pytest.param((), "--threads 3", "--threads", id="cmd-args-threads"),
        pytest.param((), "-k gthread", "--worker-class", id="cmd-args-worker-class"),
    ],
)
def test_options_that_would_break_promises_are_refused(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], environment: str, told: str
) -> None:
    """Given one of gunicorn's options that undoes a setting, when the gateway is started, then one line refuses it."""
    monkeypatch.setenv("GUNICORN_CMD_ARGS", environment)
    status, lines = refused_start(*arguments)
    assert status != 0
    assert sum(line.startswith("gateway: ") and told in line for line in lines) == 1, lines


# Signals, and a machine that runs short


def is_refused(gateway: GatewayProcess) -> bool:
    """Whether new connections are refused."""
    try:
        socket.create_connection(("127.0.0.1", gateway.port), timeout=SOON_SECONDS).close()
    except (ConnectionRefusedError, ConnectionResetError):  # the latter in the moment of closing
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["int", "quit"])
def test_quick_stop_tells_its_streams_and_ends(gateway_process: Start, upstream: RawUpstream, number: int) -> None:
    """Given open streams and others on the way, when SIGINT or SIGQUIT comes, then each has a word, and all is over.

    The drain time, which is for SIGTERM, is a minute.
    """
    gateway = gateway_process(upstream.url, keys=[KEY], drain_seconds="60")
    upstream.play = stream_without_end
    with ExitStack() as stack:
        streams = [stack.enter_context(Talk(gateway)) for _ in range(5)]
        begun = [stream.begin_stream() for stream in streams]
        upstream.play = fall_silent_behind(b"")
        waiting = stack.enter_context(Talk(gateway))
        waiting.ask(body=message())
        uploading = stack.enter_context(Talk(gateway))
        uploading.send_head("POST", "/v1/messages", {"Content-Length": "1000"})
        assert wait_until(lambda: gateway.metric("requests_inflight", route="messages") == 7, SOON_SECONDS)
        told_at = time.monotonic()
        gateway.send_signal(number)
        for stream, first in zip(streams, begun, strict=True):
            ((name, error),) = events_of((first + stream.rest()).removeprefix(FIRST_EVENT))
            assert (name, error["error"]["type"]) == ("error", "overloaded_error")
        assert error_of(waiting.answer())[:2] == (529, "overloaded_error")
        assert wait_until(lambda: is_refused(gateway), SOON_SECONDS)
        assert gateway.wait(SOON_SECONDS) == 0
        assert time.monotonic() - told_at < SOON_SECONDS
    assert "Traceback" not in gateway.log


def test_quick_stop_is_not_kept_by_a_client_that_takes_nothing(gateway_process: Start, upstream: RawUpstream) -> None:
    """Given a thread stuck in sending to a client, when SIGQUIT comes, then the gateway is gone in time."""
    gateway = gateway_process(upstream.url, keys=[KEY], drain_seconds="60")

    is_stuck = threading.Event()

    def flood(incoming: Incoming) -> None:
        incoming.read()
        incoming.send(stream_head() + FIRST_EVENT)
        while select.select([], [incoming.client], [], 0.5)[1]:
            incoming.client.send(event("ping") * 1000, socket.MSG_DONTWAIT)
        is_stuck.set()
        incoming.until_hung_up()

    upstream.play = flood
    with Talk(gateway, receive_buffer_bytes=4096) as talk:
        talk.ask(body=message(streamed=True))
        assert is_stuck.wait(3 * SOON_SECONDS)
        gateway.send_signal(signal.SIGQUIT)
        assert gateway.wait(SOON_SECONDS) == 0


def connections_to(url: str, pid: int) -> int:
    """How many connections to a local port a process has open."""
    port = f":{int(url.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[2].endswith(port) and row[3] == "01"}
    return sum(target in sockets for target in map(_target, Path(f"/proc/{pid}/fd").iterdir()))


def _target(descriptor: Path) -> str:
    try:
        return os.readlink(descriptor)
    except FileNotFoundError:  # closed meanwhile
        return ""


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_gateway_out_of_descriptors_waits_and_recovers(gateway_process: Start, upstream: RawUpstream) -> None:
    """Given no descriptor left, then neither log nor processor run hot, and it serves again when there are some.

    More connections than descriptors are opened; none says anything.
    """
    gateway = gateway_process(upstream.url, keys=[KEY], head_timeout_seconds="600")
    worker = worker_of(gateway)
    limit = descriptors(worker) + 10
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (limit, limit))

    def complaints() -> int:
        return gateway.log.count("could not be accepted")

    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(Talk(gateway))
        assert wait_until(lambda: complaints() >= 1, SOON_SECONDS)
        begun_at, used, length = time.monotonic(), cpu_seconds(worker), len(gateway.log)
        assert wait_until(lambda: complaints() >= 4, 4 * SOON_SECONDS)
        elapsed = time.monotonic() - begun_at
        assert complaints() <= elapsed + 4
        assert len(gateway.log) - length < 1000 * (elapsed + 1)
        assert cpu_seconds(worker) - used < 0.3 * elapsed
    assert wait_until(lambda: descriptors(worker) < limit - 5, SOON_SECONDS)
    assert ask(gateway).status == 200
    assert worker_of(gateway) == worker


def test_kept_connection_is_answered_without_descriptors(gateway_process: Start, upstream: RawUpstream) -> None:
    """Given no descriptor left for an upstream connection, when a kept client asks, then 502; health is well."""
    gateway = gateway_process(
        upstream.url,
        keys=[KEY],
        head_timeout_seconds="600",
        idle_connection_seconds="0.001",
        record_url="none",  # it opens and closes files as it goes
    )
    worker = worker_of(gateway)
    with ExitStack() as stack:
        kept = stack.enter_context(Talk(gateway))
        assert kept.exchange(body=message()).status == 200
        assert wait_until(lambda: connections_to(upstream.url, worker) == 0, SOON_SECONDS)
        limit = descriptors(worker) + 3
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (limit, limit))
        for _ in range(10):
            stack.enter_context(Talk(gateway))
        # Twice, a second apart: a file that was open only when they were counted has been closed, and its place taken.
        assert wait_until(lambda: gateway.log.count("could not be accepted") >= 2, SOON_SECONDS)
        assert kept.exchange("GET", "/healthz").status == 200
        assert error_of(kept.exchange(body=message()))[:2] == (502, "api_error")
    # Those that hung up while they queued are accepted first, and closed.
    assert wait_until(lambda: ask(gateway).status == 200, SOON_SECONDS)
