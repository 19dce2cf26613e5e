"""Connecting has one deadline over all its steps, watches the client, and takes the address that answers first."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from select import select

import pytest
import trustme
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ConnectTimeout

from gateway.config.upstream_proxy import proxy_url
from gateway.protocol.errors import ClientGone, Stopping
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.pause import Pause, complete
from gateway.upstream import race, resolver
from gateway.upstream.connections import Connection, Connections
from gateway.upstream.deadline import Deadline
from gateway.upstream.dialer import Route
from gateway.upstream.watch import Watch
from tests.harness import ROOT, wait_until
from tests.unit.fakes import descriptors
from tests.unit.tiny_proxies import HttpProxy, SocksProxy
from tests.unit.tiny_server import Recorder, Script, TinyServer, pem_of, server_tls, until_hung_up

LIMIT_SECONDS = 1.0
LONG_SECONDS = 120.0  # beyond what any test takes
SOON_SECONDS = 30.0
LOOKUPS_AT_ONCE = 8

Address = tuple[object, ...]
Lookup = Callable[..., list[Address]]


def address(host: str, port: int) -> Address:
    """One of the entries that getaddrinfo gives."""
    family, target = (socket.AF_INET6, (host, port, 0, 0)) if ":" in host else (socket.AF_INET, (host, port))
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", target)


def black_hole(stack: ExitStack, host: str) -> socket.socket:
    """A listening socket whose queue is full: it takes no connection and refuses none."""
    listener = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
    listener.bind((host, 0))
    listener.listen(0)
    for _ in range(4):
        filler = stack.enter_context(socket.socket(listener.family))
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
    return listener


def address_of(listener: socket.socket) -> Address:
    return address(*listener.getsockname()[:2])


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def black_holes(stack: ExitStack) -> list[Address]:
    """Addresses that take no connection and refuse none."""
    return [address_of(black_hole(stack, f"127.0.0.{number}")) for number in range(1, 5)]


def by_name(answer: Callable[[], list[Address]]) -> Lookup:
    """A getaddrinfo that knows names only, as it is for what is no address."""

    def lookup(*_: object, flags: int = 0, **__: object) -> list[Address]:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        return answer()

    return lookup


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Address]:
    """The addresses that every name has."""
    addresses: list[Address] = []
    monkeypatch.setattr(socket, "getaddrinfo", by_name(lambda: addresses))
    return addresses


def connections(limit_seconds: float = LIMIT_SECONDS) -> Connections:
    return Connections(Route("http://upstream.test", limit_seconds, 30.0))


def seconds_until_timed_out(dialling: Connections, watch: Watch) -> float:
    begun_at = time.monotonic()
    with pytest.raises(ConnectTimeout):
        complete(dialling.dial(watch))
    return time.monotonic() - begun_at


def peer_of(connection: Connection) -> Address:
    with socket.socket(fileno=os.dup(connection.descriptor)) as sock:
        return address(*sock.getpeername()[:2])


# Several addresses.


@pytest.mark.parametrize(
    ("families", "expected"),
    [("", ""), ("4", "4"), ("444", "444"), ("6644", "6464"), ("4466", "4646"), ("64444", "64444"), ("6664", "6466")],
)
def test_families_take_turns(families: str, expected: str) -> None:
    """Given addresses in the system's order, then families alternate, the first one's first, each in its order."""
    given = [address("::1" if family == "6" else "127.0.0.1", n) for n, family in enumerate(families)]
    taken = race.interleaved(given)  # type: ignore[arg-type]
    assert "".join("6" if entry[0] == socket.AF_INET6 else "4" for entry in taken) == expected
    for family in (socket.AF_INET, socket.AF_INET6):
        ports = [entry[4][1] for entry in taken if entry[0] == family]
        assert all(one < other for one, other in pairwise(ports))


@pytest.mark.parametrize(
    "holes",
    [["::1"], ["127.0.0.2"], ["::1", "127.0.0.2", "::1", "127.0.0.3", "127.0.0.4"], ["::1"] * 8],
    ids=["ipv6-first", "one", "several-of-both", "many-of-ipv6"],
)
def test_address_that_does_not_answer_costs_a_moment(
    watch: Watch, stack: ExitStack, found: list[Address], holes: list[str]
) -> None:
    """Given a name whose first addresses take no connection, then the good one has its turn long before the deadline,
    and no socket of the others is left.
    """
    good = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    found += [*(address_of(black_hole(stack, hole)) for hole in holes), address_of(good)]
    dialling = connections(LONG_SECONDS)
    before = descriptors()
    begun_at = time.monotonic()
    with closing(complete(dialling.dial(watch))) as connection:
        assert time.monotonic() - begun_at < LONG_SECONDS / 2
        assert peer_of(connection) == address_of(good)
        assert wait_until(lambda: len(descriptors() - before) <= 1, SOON_SECONDS)


def test_every_address_has_its_turn_before_the_deadline(watch: Watch, stack: ExitStack, found: list[Address]) -> None:
    """Given more addresses that take no connection than the deadline has quarters of a second, then the good one
    behind them is reached.
    """
    good = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    hole = address_of(black_hole(stack, "127.0.0.2"))
    found += [*[hole] * 60, address_of(good)]
    with closing(complete(connections(8.0).dial(watch))) as connection:  # 60 quarters are 15 s
        assert peer_of(connection) == address_of(good)


def test_refusing_addresses_are_passed_over_at_once(
    watch: Watch, stack: ExitStack, found: list[Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given addresses that refuse, when the delay between two is long, then it is not waited for."""
    monkeypatch.setattr(race, "DELAY_SECONDS", LONG_SECONDS)
    refusing = stack.enter_context(socket.socket())
    refusing.bind(("127.0.0.1", 0))  # bound, not listening
    good = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    found += [*[address_of(refusing)] * 20, address_of(good)]
    begun_at = time.monotonic()
    with closing(complete(connections(10 * LONG_SECONDS).dial(watch))) as connection:
        assert peer_of(connection) == address_of(good)
    assert time.monotonic() - begun_at < SOON_SECONDS  # twenty delays would be minutes


def test_first_address_may_still_answer_when_another_is_tried(
    watch: Watch, stack: ExitStack, found: list[Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given two addresses that do not answer, when the first does after the second was begun, then it is taken."""
    slow, hole = black_hole(stack, "127.0.0.1"), black_hole(stack, "127.0.0.2")
    found += [address_of(slow), address_of(hole)]
    begin = race._begin

    def begin_and_wake(given: Address) -> socket.socket:
        begun = begin(given)  # type: ignore[arg-type]
        if given == address_of(hole):
            slow.listen(16)
        return begun

    monkeypatch.setattr(race, "_begin", begin_and_wake)
    with closing(complete(connections(LONG_SECONDS).dial(watch))) as connection:
        assert peer_of(connection) == address_of(slow)


@pytest.mark.parametrize("hosts", [[], ["127.0.0.1"], ["::1", "127.0.0.1"]], ids=["none", "one", "two"])
def test_when_all_addresses_fail_the_error_says_why(
    watch: Watch, stack: ExitStack, found: list[Address], hosts: list[str]
) -> None:
    """Given a name all of whose addresses refuse, or that has none, then the error says so and no socket is left."""
    for host in hosts:
        refusing = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
        refusing.bind((host, 0))
        found.append(address_of(refusing))
    before = descriptors()
    with pytest.raises(RequestsConnectionError, match="Connection refused" if hosts else "no address"):
        complete(connections().dial(watch))
    assert wait_until(lambda: descriptors() <= before, SOON_SECONDS)


# Names.


def test_unknown_name_is_told_as_such(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a name that is not known, or is none at all, then the error says so."""
    for host in ("nowhere.invalid", "a" * 64 + ".test"):
        with pytest.raises(RequestsConnectionError, match="its name cannot be resolved"):
            complete(Connections(Route(f"http://{host}", SOON_SECONDS, 30.0)).dial(watch))


class SlowNames:
    """A name server that answers when it is told to; `asked` counts the questions."""

    def __init__(self, addresses: list[Address]) -> None:
        self.asked = 0
        self.may_answer = threading.Event()
        self._addresses = addresses

    def answer(self) -> list[Address]:
        self.asked += 1
        assert self.may_answer.wait(LONG_SECONDS)
        return self._addresses


@pytest.fixture
def slow_names(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowNames]:
    names = SlowNames([address_of(stack.enter_context(socket.create_server(("127.0.0.1", 0))))])
    monkeypatch.setattr(socket, "getaddrinfo", by_name(names.answer))
    yield names
    names.may_answer.set()


def dial_at_once(dialling: Connections, lifecycle: Lifecycle, number: int) -> list[float]:
    """Have many threads dial until each has timed out; how long each took."""
    taken: list[float] = []
    dials = [
        threading.Thread(target=lambda: taken.append(seconds_until_timed_out(dialling, Watch(None, lifecycle))))
        for _ in range(number)
    ]
    for dial in dials:
        dial.start()
    for dial in dials:
        dial.join(SOON_SECONDS)
        assert not dial.is_alive()
    return taken


@pytest.mark.parametrize(
    ("shared_seconds", "most_questions"), [(LONG_SECONDS, 1), (0.0, LOOKUPS_AT_ONCE)], ids=["shared", "apart"]
)
def test_silent_name_server_is_bounded_by_the_deadline(
    lifecycle: Lifecycle,
    slow_names: SlowNames,
    monkeypatch: pytest.MonkeyPatch,
    shared_seconds: float,
    most_questions: int,
) -> None:
    """Given a name server that is silent, when many ask for a name, then each ends in time, few threads wait for it,
    and once it answers all is well.
    """
    monkeypatch.setattr(resolver, "_SHARED_SECONDS", shared_seconds)
    dialling = connections()
    taken = dial_at_once(dialling, lifecycle, LOOKUPS_AT_ONCE + 4)
    assert len(taken) == LOOKUPS_AT_ONCE + 4
    assert slow_names.asked == most_questions
    slow_names.may_answer.set()
    with closing(complete(connections(LONG_SECONDS).dial(Watch(None, lifecycle)))):
        pass


def test_lookup_that_is_stuck_is_asked_again(
    lifecycle: Lifecycle, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a lookup that does not end, when the name server answers the next one, then that dial succeeds."""
    monkeypatch.setattr(resolver, "_SHARED_SECONDS", 0.0)
    good = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    stuck = SlowNames([])
    monkeypatch.setattr(
        socket, "getaddrinfo", by_name(lambda: stuck.answer() if not stuck.asked else [address_of(good)])
    )
    dialling = connections()
    try:
        seconds_until_timed_out(dialling, Watch(None, lifecycle))
        with closing(complete(dialling.dial(Watch(None, lifecycle)))) as connection:
            assert peer_of(connection) == address_of(good)
    finally:
        stuck.may_answer.set()


def test_lookup_that_cannot_begin_is_an_error(
    watch: Watch, slow_names: SlowNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a system that grants no more threads, when a name is looked up, then the error is the dial's, each time."""

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    dialling = connections()
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    for _ in range(LOOKUPS_AT_ONCE + 1):
        with pytest.raises(RequestsConnectionError, match="its name cannot be resolved"):
            complete(dialling.dial(watch))


def test_process_does_not_wait_for_a_name_server_to_end() -> None:
    """Given a lookup that does not end, when its process is to end, then it does."""
    script = """
import socket, threading
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.pause import complete
from gateway.upstream.connections import Connections
from gateway.upstream.dialer import Route
from gateway.upstream.watch import Watch

def never(*_, flags=0, **__):
    if flags:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    threading.Event().wait()

socket.getaddrinfo = never
try:
    complete(Connections(Route("http://upstream.test", 0.1, 30.0)).dial(Watch(None, Lifecycle())))
except OSError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "took too long" in done.stdout


# One deadline, and what ends connecting before it.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def dripping(first: bytes, then: bytes) -> Script:
    """A script that sends something and then a little more every now and then, until its client hangs up."""

    def script(client: socket.socket) -> None:
        client.sendall(first)
        while not select([client], [], [], 0.02)[0] or client.recv(65536):
            client.sendall(then)

    return script


def noting(reached: threading.Event, script: Script) -> Script:
    def noted(client: socket.socket) -> None:
        reached.set()
        script(client)

    return noted


SILENT_PROXIES: dict[str, tuple[str, Script]] = {
    "proxy-silent": ("http", until_hung_up),
    "proxy-dripping": ("http", dripping(b"HTTP/1.1 200 OK\r\nx-endless: ", b"a")),
    "proxy-of-early-hints": ("http", dripping(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n")),
    "socks-silent": ("socks5h", until_hung_up),
    "socks-method-only": ("socks5h", dripping(b"\x05\x00", b"")),
    "socks-dripping": ("socks5h", dripping(b"\x05\x00\x05\x00\x00\x03\xff", b"")),
    "socks-of-addresses": ("socks5", until_hung_up),
    "tls-of-proxy-silent": ("https", until_hung_up),
    "tls-of-proxy-dripping": ("https", dripping(b"\x16\x03\x03\x3f\x00\x02\x00\x3e\xfc", b"\x00")),
}
PHASES = [
    *("name", "address", "tls-silent", "tls-dripping", "tls-behind-proxy", "tls-behind-socks", "tls-in-tls"),
    *SILENT_PROXIES,
]


@contextmanager
def stuck_in(
    phase: str, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Route, threading.Event]]:
    """A route on which connecting comes as far as this phase and no further; the event says when it is there."""
    reached = threading.Event()
    never = threading.Event()

    def unanswered() -> list[Address]:
        reached.set()
        never.wait(LONG_SECONDS)
        return []

    def route(url: str, proxy: str | None = None) -> Route:
        return Route(url, LONG_SECONDS, 30.0, pem_of(authority), proxy_url(proxy) if proxy else None)

    silent, drip = noting(reached, until_hung_up), dripping(b"\x16\x03\x03\x3f\x00\x02\x00\x3e\xfc", b"\x00")
    with ExitStack() as stack:
        stack.callback(never.set)

        def serve(script: Script, tls: bool = False) -> int:
            context = server_tls(authority, "127.0.0.1") if tls else None
            return stack.enter_context(TinyServer(script, tls=context)).port

        if phase == "name":
            monkeypatch.setattr(socket, "getaddrinfo", by_name(unanswered))
            yield route("http://upstream.test"), reached
        elif phase == "address":
            reached.set()
            yield route(f"http://127.0.0.1:{black_hole(stack, '127.0.0.1').getsockname()[1]}"), reached
        elif phase in SILENT_PROXIES:
            scheme, script = SILENT_PROXIES[phase]
            yield route("https://127.0.0.1:9", f"{scheme}://127.0.0.1:{serve(noting(reached, script))}"), reached
        elif phase in ("tls-silent", "tls-dripping"):
            port = serve(silent if phase == "tls-silent" else noting(reached, drip))
            yield route(f"https://127.0.0.1:{port}"), reached
        else:
            scheme, proxy = {
                "tls-behind-proxy": ("http", HttpProxy()),
                "tls-behind-socks": ("socks5", SocksProxy()),
                "tls-in-tls": ("https", HttpProxy()),
            }[phase]
            through = f"{scheme}://127.0.0.1:{serve(proxy, tls=scheme == 'https')}"
            yield route(f"https://127.0.0.1:{serve(silent)}", through), reached


@pytest.mark.parametrize("phase", PHASES)
def test_deadline_ends_connecting(
    watch: Watch, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """Given an upstream, name server or proxy that is silent or gives a byte now and then, then ConnectTimeout."""
    with stuck_in(phase, authority, monkeypatch) as (route, _):
        short = Route(route.url, LIMIT_SECONDS, 30.0, route.ca_pem, route.proxy)
        assert seconds_until_timed_out(Connections(short), watch) < SOON_SECONDS


@pytest.mark.parametrize("ending", [ClientGone, Stopping])
@pytest.mark.parametrize("phase", PHASES)
def test_connecting_ends_with_the_client_and_with_the_drain_time(
    lifecycle: Lifecycle,
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    ending: type[Exception],
) -> None:
    """Given a dial that is stuck, when its client hangs up or the drain time ends, then it ends, long before its
    deadline, and leaves no socket.
    """
    ours, theirs = socket.socketpair()
    outcome: list[object] = []
    with ours, theirs, stuck_in(phase, authority, monkeypatch) as (route, reached):
        watch = Watch(ours, lifecycle)

        def dial() -> None:
            try:
                outcome.append(complete(Connections(route).dial(watch)))
            except Exception as error:  # noqa: BLE001  # what it is, is asserted
                outcome.append(error)

        dialling = threading.Thread(target=dial)
        dialling.start()
        assert reached.wait(SOON_SECONDS)
        if ending is ClientGone:
            theirs.close()
        else:
            lifecycle.end()
        dialling.join(SOON_SECONDS)
        assert not dialling.is_alive()
    assert [type(each) for each in outcome] == [ending]


def test_deadline_bounds_all_addresses_together(watch: Watch, found: list[Address], black_holes: list[Address]) -> None:
    """Given a name with many addresses, none of which answers, when it is dialled, then one time-out bounds them all.

    Thirtyfold the limit is allowed, for busy machines; sixty addresses with a time-out each would take sixtyfold.
    """
    found += black_holes * 15
    assert seconds_until_timed_out(connections(), watch) < SOON_SECONDS


def test_slow_steps_share_one_deadline(
    watch: Watch, black_holes: list[Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a name that is slow to be found and addresses that do not answer, then these have what the name left."""
    left: list[float] = []

    def slowly(_self: object, _host: str, _port: int, deadline: Deadline) -> Generator[Pause, None, list[Address]]:
        assert wait_until(lambda: deadline.left_seconds < LIMIT_SECONDS / 2, SOON_SECONDS)
        yield from ()
        return black_holes

    def noted(addresses: list[Address], deadline: Deadline) -> Generator[Pause, None, socket.socket]:
        left.append(deadline.left_seconds)
        return race.connect_first(addresses, deadline)  # type: ignore[arg-type]

    monkeypatch.setattr(resolver.Resolver, "addresses", slowly)
    monkeypatch.setattr("gateway.upstream.dialer.connect_first", noted)
    seconds_until_timed_out(connections(), watch)
    assert left[0] < LIMIT_SECONDS / 2


# Connected.


@pytest.mark.parametrize("kind", ["plain", "tls", "http-proxy", "https-proxy", "tls-in-tls", "socks"])
def test_upstream_and_proxy_are_kept_alive(watch: Watch, authority: trustme.CA, kind: str) -> None:
    """Given a connection of any kind, then the kernel probes it after a minute of silence, four times, 15 s apart."""
    tls = server_tls(authority, "127.0.0.1")
    is_tls = kind in ("tls", "http-proxy", "tls-in-tls")
    schemes = {"http-proxy": "http", "https-proxy": "https", "tls-in-tls": "https", "socks": "socks5"}
    with ExitStack() as stack:
        server = stack.enter_context(TinyServer(Recorder(b""), tls=tls if is_tls else None))
        proxy = None
        if kind in schemes:
            script: Script = SocksProxy() if kind == "socks" else HttpProxy()
            used = stack.enter_context(TinyServer(script, tls=tls if schemes[kind] == "https" else None))
            proxy = proxy_url(f"{schemes[kind]}://127.0.0.1:{used.port}")
        route = Route(server.url, LONG_SECONDS, 30.0, pem_of(authority), proxy)
        connection = stack.enter_context(closing(complete(Connections(route).dial(watch))))
        with socket.socket(fileno=os.dup(connection.descriptor)) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [60, 15, 4]


def hanging(client: socket.socket) -> None:
    """A server that waits for the rest of a request line."""
    until_hung_up(client)


def answering(answer: bytes) -> Script:
    """A server that answers at once, whatever it is sent, and closes."""

    def script(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(answer)

    return script


@pytest.mark.parametrize(
    ("script", "words"),
    [
        pytest.param(
            hanging, "the upstream did not answer the TLS handshake: does it speak TLS at this port?", id="waits"
        ),
        pytest.param(
            answering(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            "the upstream cannot be reached: it does not speak TLS at this port",
            id="answers",
        ),
        pytest.param(
            answering(b""),
            "the upstream cannot be reached: it closed the connection in the TLS handshake: "
            "does it speak TLS at this port?",
            id="closes",
        ),
    ],
)
def test_tls_at_a_port_without_it_is_told_as_such(watch: Watch, script: Script, words: str) -> None:
    """Given an https:// address, when plain HTTP is spoken at its port, then the error says so."""
    with TinyServer(script) as server:
        route = Route(server.url.replace("http:", "https:"), LIMIT_SECONDS, LONG_SECONDS)
        with pytest.raises(RequestsConnectionError) as raised:
            complete(Connections(route).dial(watch))
    assert str(raised.value) == words
