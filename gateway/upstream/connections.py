"""Sockets to the upstream: dialling, keeping, dropping; and bytes over them without blocking past a hang-up.

Owns: every upstream socket. Edge layer. A Connection belongs to one exchange at a time; the pool of idle ones is
thread-safe. Dialling (addresses, TLS, proxies) is urllib3's, which requests stands on; from then on the socket is
non-blocking and every wait goes through the request's Watch.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import certifi
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ConnectTimeout, ReadTimeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError
from urllib3.util import parse_url

from gateway.watch import READABLE, WRITABLE, Watch

_RECEIVE_BYTES = 64 * 1024
_WANTS_READ = (BlockingIOError, ssl.SSLWantReadError)


@dataclass(frozen=True, slots=True)
class Route:
    """Where connections lead and how; timeouts in seconds.

    `ca_pem` holds the certificates of the authorities to trust instead of the public ones; `proxy` is a URL.
    """

    url: str
    connect_timeout_seconds: float
    idle_seconds: float
    ca_pem: str | None = None
    proxy: str | None = None


class Connection:
    """One connected socket. `has_sent_all` is False when a request was cut short: no further one may follow."""

    def __init__(self, dialled: HTTPConnection) -> None:
        self._dialled = dialled  # owns the socket, and for TLS what verified it
        self._socket: socket.socket = dialled.sock
        self._socket.settimeout(0)
        self._descriptor = self._socket.fileno()
        self._is_tls = isinstance(self._socket, ssl.SSLSocket)
        self.may_hold_more = True  # that can be received without waiting
        self._quiet_poll: select.poll | None = None
        self.has_sent_all = True

    def send(self, data: bytes, watch: Watch, timeout_seconds: float, heard: Callable[[bytes], bool]) -> None:
        """Send all of `data`, or stop early when the upstream answers before it has read everything.

        What comes meanwhile goes to `heard`, which says whether that is the answer. Raises OSError if the connection
        breaks, ReadTimeout if the upstream takes nothing for so long, ClientGone, Stopping.
        """
        rest = memoryview(data)
        self.has_sent_all = False
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
                continue
            except ssl.SSLWantReadError:
                wanted = READABLE
            except (BlockingIOError, ssl.SSLWantWriteError):
                wanted = WRITABLE | READABLE
            ready = watch.wait(self._descriptor, wanted, timeout_seconds)
            if not ready:
                raise ReadTimeout("the upstream took no more of the request")
            if ready & ~WRITABLE:
                early = self._receive_now()
                if early is not None and (not early or heard(early)):
                    return
        self.has_sent_all = True

    def receive(self, watch: Watch, timeout_seconds: float) -> bytes | None:
        """What is there, as soon as anything is; b"" at the end; None if nothing came in time.

        What TLS has already decrypted is handed out before the socket is waited on. Raises OSError, ClientGone,
        Stopping.
        """
        deadline = time.monotonic() + timeout_seconds
        wanted = READABLE
        while True:
            if self.may_hold_more:
                watch.check()
                try:
                    data = self._socket.recv(_RECEIVE_BYTES)
                    self.may_hold_more = self._is_tls or len(data) == _RECEIVE_BYTES
                    return data
                except _WANTS_READ:
                    wanted = READABLE
                except ssl.SSLWantWriteError:
                    wanted = WRITABLE
            if not watch.wait(self._descriptor, wanted, deadline - time.monotonic()):
                return None
            self.may_hold_more = True

    def is_quiet(self) -> bool:
        """Whether an idle connection is still open and silent, as it must be before it is used again."""
        if self._quiet_poll is None:
            self._quiet_poll = select.poll()
            self._quiet_poll.register(self._descriptor, select.POLLIN)
        if not self._quiet_poll.poll(0):
            return True
        try:  # a TLS record that carries no data, such as a session ticket, is no reason to drop it
            return self._is_tls and self._receive_now() is None
        except OSError:
            return False

    def close(self) -> None:
        """Close the socket; may be called again."""
        if not self.has_sent_all and self._socket.fileno() >= 0:
            # An upstream that does not read would not see a FIN behind what it has not taken: reset the connection.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._dialled.close()

    def _receive_now(self) -> bytes | None:
        try:
            return self._socket.recv(_RECEIVE_BYTES)
        except (*_WANTS_READ, ssl.SSLWantWriteError):
            return None


# Name servers answer when they like; threads of their own keep a request's thread to its deadline.
_resolvers = ThreadPoolExecutor(max_workers=8, thread_name_prefix="resolver")


class _OneDeadline(HTTPConnection):
    """Connecting as urllib3 does it, but with one deadline over the name, all its addresses, and what follows."""

    def _new_conn(self) -> socket.socket:
        timeout_seconds = self.timeout if isinstance(self.timeout, int | float) else 0.0
        deadline = time.monotonic() + timeout_seconds
        addresses = self._addresses(timeout_seconds)
        failure: OSError = OSError("the name has no address")
        for family, kind, protocol, _, address in addresses:
            candidate = socket.socket(family, kind, protocol)
            try:
                candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                candidate.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                candidate.settimeout(max(0.001, deadline - time.monotonic()))
                candidate.connect(address)
                candidate.settimeout(max(0.001, deadline - time.monotonic()))  # for TLS and proxies
                return candidate
            except OSError as error:
                candidate.close()
                failure = error
        raise failure

    def _addresses(self, timeout_seconds: float) -> list[Any]:
        lookup = partial(socket.getaddrinfo, self._dns_host, self.port, type=socket.SOCK_STREAM)
        try:
            return lookup(flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            looking_up = _resolvers.submit(lookup)  # a name, not an address
        try:
            return looking_up.result(timeout_seconds)
        except TimeoutError as error:
            looking_up.cancel()
            raise ConnectTimeoutError(self, "looking up the name took too long") from error
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error


class _PlainConnection(_OneDeadline):
    """An unencrypted connection."""


class _TlsConnection(_OneDeadline, HTTPSConnection):
    """A connection under TLS."""


class Connections:
    """The idle connections of one route, newest first, and the dialling of new ones. Thread-safe."""

    def __init__(self, route: Route, clock: Callable[[], float] = time.monotonic) -> None:
        self._route = route
        self._parts = urlsplit(route.url)
        self._clock = clock
        self._context = tls_context(route.ca_pem) if self._parts.scheme == "https" else None
        self._lock = threading.Lock()  # guards _idle and _is_closed
        self._idle: deque[tuple[Connection, float]] = deque()
        self._is_closed = False

    def take(self) -> Connection | None:
        """An idle connection that is still good, or None."""
        oldest_at = self._clock() - self._route.idle_seconds
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection, idle_since_at = self._idle.pop()
            if idle_since_at > oldest_at and connection.is_quiet():
                return connection
            connection.close()

    def put(self, connection: Connection) -> None:
        """Keep a connection whose exchange is complete."""
        with self._lock:
            if not self._is_closed:
                self._idle.append((connection, self._clock()))
                return
        connection.close()

    def drop_stale(self) -> None:
        """Close what has been idle for too long."""
        oldest_at = self._clock() - self._route.idle_seconds
        stale = []
        with self._lock:
            while self._idle and self._idle[0][1] <= oldest_at:
                stale.append(self._idle.popleft()[0])
        for connection in stale:
            connection.close()

    def close(self) -> None:
        """Close the idle ones now and the others when they come back."""
        with self._lock:
            self._is_closed = True
            idle = list(self._idle)
            self._idle.clear()
        for connection, _ in idle:
            connection.close()

    def dial(self) -> Connection:
        """Connect anew. Raises requests' ConnectTimeout or ConnectionError, with a message that may be shown."""
        dialled = self._undialled()
        try:
            dialled.connect()
            return Connection(dialled)
        except (HTTPError, OSError) as error:
            dialled.close()
            # urllib3 derives its refusals from its time-outs.
            if isinstance(error, ConnectTimeoutError | TimeoutError) and not isinstance(error, NewConnectionError):
                raise ConnectTimeout("connecting to the upstream took too long") from error
            raise RequestsConnectionError(f"the upstream cannot be reached: {_cause(error)}") from error

    def _undialled(self) -> HTTPConnection:
        host = self._parts.hostname or ""
        port = self._parts.port or (80 if self._context is None else 443)
        proxy = parse_url(self._route.proxy) if self._route.proxy else None
        dial_host, dial_port = (proxy.host or "", proxy.port) if proxy else (host, port)
        timeout = self._route.connect_timeout_seconds
        if self._context is None:
            return _PlainConnection(dial_host, dial_port, timeout=timeout, proxy=proxy)
        dialled = _TlsConnection(
            dial_host,
            dial_port,
            timeout=timeout,
            proxy=proxy,
            ssl_context=self._context,
            cert_reqs=ssl.CERT_REQUIRED,
        )
        if proxy:
            dialled.set_tunnel(host, port, scheme="http")
        return dialled

    def __repr__(self) -> str:
        with self._lock:
            return f"<Connections to {self._parts.netloc}, {len(self._idle)} idle>"


def tls_context(ca_pem: str | None) -> ssl.SSLContext:
    """What an upstream's certificate is verified with. Raises ssl.SSLError or ValueError if `ca_pem` has none."""
    if ca_pem is None:
        context = ssl.create_default_context(cafile=certifi.where())
    elif not ca_pem.strip():
        raise ValueError("there is no certificate")
    else:
        # Real bundles name their authorities in every alphabet, in comments that the TLS library does not take.
        context = ssl.create_default_context(cadata=ca_pem.encode("ascii", "ignore").decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _cause(error: Exception) -> str:
    if isinstance(error, NameResolutionError):
        return "its name cannot be resolved"
    root: BaseException = error
    while root.__cause__ is not None or root.__context__ is not None:
        root = root.__cause__ or root.__context__ or root
    if isinstance(root, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {root.verify_message}"
    if str(root).startswith("Tunnel connection failed"):
        return f"the proxy answers {str(root).partition(': ')[2]}"
    return getattr(root, "strerror", None) or type(root).__name__
