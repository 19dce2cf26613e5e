"""Connecting to the upstream: the way there, and what went wrong on it, in words.

Owns: the order of name, address, proxy and TLS under one deadline. Thread-safe. No wait of it goes past the
client's hang-up or the end of the drain time.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ConnectTimeout

from gateway.config.upstream_proxy import UpstreamProxy
from gateway.runtime.pause import Pause
from gateway.upstream.deadline import Deadline
from gateway.upstream.proxy import DestinationRefused, ProxyError, open_tunnel
from gateway.upstream.race import connect_first, interleaved
from gateway.upstream.resolver import Resolver
from gateway.upstream.tls import Stream, secure, tls_context
from gateway.upstream.watch import Watch

# What OpenSSL says of a peer whose answer is no TLS, such as an HTTP error.
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "RECORD_LAYER_FAILURE")
_SPEAKS_TLS = "does it speak TLS at this port?"


@dataclass(frozen=True, slots=True)
class Route:
    """Where connections lead and how; timeouts in seconds.

    `ca_pem` holds the certificates of the authorities to trust instead of the public ones, for the upstream and for a
    proxy under TLS.
    """

    url: str
    connect_timeout_seconds: float
    idle_seconds: float
    ca_pem: str | None = None
    proxy: UpstreamProxy | None = None

    @property
    def is_forwarded(self) -> bool:
        """Whether a proxy reads the requests and passes them on, as HTTP proxies do without TLS."""
        return self.proxy is not None and not self.proxy.is_socks and urlsplit(self.url).scheme == "http"


class Dialer:
    """Makes connections of one route."""

    def __init__(self, route: Route) -> None:
        parts = urlsplit(route.url)
        self._route = route
        self._is_tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._is_tls else 80)
        is_proxy_tls = route.proxy is not None and route.proxy.scheme == "https"
        self._context = tls_context(route.ca_pem) if self._is_tls or is_proxy_tls else None  # it takes 20 ms
        self._resolver = Resolver()

    def dial(self, watch: Watch) -> Generator[Pause, None, Stream]:
        """Connect; the stream does not block.

        Raises requests' ConnectTimeout or ConnectionError, with a message that may be shown, ClientGone and Stopping.
        """
        deadline = Deadline(watch, self._route.connect_timeout_seconds)
        try:
            return (yield from self._reached(deadline))
        except HandshakeTimeout as error:
            raise ConnectTimeout(str(error)) from error
        except TimeoutError as error:
            raise ConnectTimeout("connecting to the upstream took too long") from error
        except (OSError, UnicodeError, ProxyError) as error:
            raise RequestsConnectionError(f"the upstream cannot be reached: {_cause(error)}") from error

    def _reached(self, deadline: Deadline) -> Generator[Pause, None, Stream]:
        stream = yield from self._transport(deadline)
        if self._is_tls:
            stream = yield from self._secured(stream, self._host, deadline)
        return stream

    def _transport(self, deadline: Deadline) -> Generator[Pause, None, Stream]:
        """What carries the bytes to the upstream, or to the proxy that forwards requests."""
        proxy = self._route.proxy
        if proxy is None:
            return (yield from self._connected(self._host, self._port, deadline))
        if self._route.is_forwarded:
            return (yield from self._to_proxy(proxy, deadline))
        if proxy.resolves_names:
            return (yield from self._through(proxy, self._host, deadline))
        return (yield from self._through_to_any(proxy, deadline))

    def _connected(self, host: str, port: int, deadline: Deadline) -> Generator[Pause, None, Stream]:
        addresses = yield from self._resolver.addresses(host, port, deadline)
        return (yield from connect_first(addresses, deadline))

    def _through_to_any(self, proxy: UpstreamProxy, deadline: Deadline) -> Generator[Pause, None, Stream]:
        """Through a proxy that is told addresses, not names. It cannot be raced: each address has its share of time."""
        addresses = interleaved((yield from self._resolver.addresses(self._host, self._port, deadline)))
        failure: Exception = OSError("the name has no address")
        for tried, address in enumerate(addresses):
            try:
                return (yield from self._through(proxy, address[4][0], deadline.share(len(addresses) - tried)))
            except (DestinationRefused, TimeoutError) as error:
                failure = error
        raise failure

    def _through(self, proxy: UpstreamProxy, host: str, deadline: Deadline) -> Generator[Pause, None, Stream]:
        stream = yield from self._to_proxy(proxy, deadline)
        with _closing_if_it_fails(stream), _told_of_the_proxy("broke the connection"):
            yield from open_tunnel(stream, proxy, host, self._port, deadline)
        return stream

    def _to_proxy(self, proxy: UpstreamProxy, deadline: Deadline) -> Generator[Pause, None, Stream]:
        with _told_of_the_proxy("cannot be reached"):
            stream = yield from self._connected(proxy.host, proxy.port, deadline)
            if proxy.scheme == "https":
                stream = yield from self._secured(stream, proxy.host, deadline)
            return stream

    def _secured(self, stream: Stream, host: str, deadline: Deadline) -> Generator[Pause, None, Stream]:
        if self._context is None:
            raise RuntimeError("this route has no TLS")
        try:
            return (yield from secure(stream, self._context, host, deadline))
        except TimeoutError as error:
            who = "the upstream" if host == self._host else "the proxy"
            raise HandshakeTimeout(f"{who} did not answer the TLS handshake: {_SPEAKS_TLS}") from error

    def __repr__(self) -> str:
        through = f" through {self._route.proxy.address}" if self._route.proxy else ""
        return f"<Dialer to {self._host}:{self._port}{through}>"


class HandshakeTimeout(TimeoutError):
    """The other end has not answered the TLS handshake in time: a server without TLS waits for a request."""


@contextmanager
def _closing_if_it_fails(stream: Stream) -> Iterator[None]:
    try:
        yield
    except BaseException:
        stream.close()
        raise


@contextmanager
def _told_of_the_proxy(what: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise
    except OSError as error:
        raise ProxyError(f"the proxy {what}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    if isinstance(error, ProxyError):
        return str(error)
    if isinstance(error, socket.gaierror | UnicodeError):
        return "its name cannot be resolved"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError):
        return f"it closed the connection in the TLS handshake: {_SPEAKS_TLS}"
    if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
        return "it does not speak TLS at this port"
    return getattr(error, "strerror", None) or type(error).__name__
