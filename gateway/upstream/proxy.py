"""What is said to a proxy before it carries a connection: CONNECT, and SOCKS5.

Owns: both talks, and the login in them. What a proxy answers may be anything:
it is bounded, and what is told of it is short, printable and without the login.

https://www.rfc-editor.org/rfc/rfc9110#name-connect, https://www.rfc-editor.org/rfc/rfc1928,
https://www.rfc-editor.org/rfc/rfc1929.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Generator
from functools import partial

from gateway.config.upstream_proxy import Login, UpstreamProxy
from gateway.protocol.http_response import ResponseParser, WireError
from gateway.protocol.safe_text import safe_text
from gateway.runtime.pause import WRITABLE, Pause
from gateway.upstream.deadline import Deadline
from gateway.upstream.tls import Stream

_RECEIVE_BYTES = 4096
_LARGEST_HEAD_BYTES = 64 * 1024

_VERSION, _LOGIN_VERSION = 5, 1
_NO_LOGIN, _WITH_LOGIN, _NO_METHOD = 0, 2, 0xFF
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_REFUSALS = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "the network is unreachable",
    4: "the host is unreachable",
    5: "connection refused",
    6: "the time to live is over",
    7: "CONNECT is not supported",
    8: "this kind of address is not supported",
}


class ProxyError(Exception):
    """The proxy gives no tunnel; the message may be shown."""


class DestinationRefused(ProxyError):
    """The proxy is well, but gives no way to this address."""


def authorization(login: Login) -> str:
    """The value of the header `Proxy-Authorization`, https://www.rfc-editor.org/rfc/rfc7617."""
    return f"Basic {_encoded(login)}"


def _encoded(login: Login) -> str:
    return base64.b64encode(f"{login.user.reveal()}:{login.password.reveal()}".encode()).decode()


class _Talk:
    """The bytes that go to and fro before the tunnel is open. Each wait raises as a Deadline does."""

    def __init__(self, stream: Stream, login: Login | None, deadline: Deadline) -> None:
        self._stream = stream
        self._login = login
        self._deadline = deadline
        self.heard = b""

    def send(self, data: bytes) -> Generator[Pause, None, None]:
        rest = memoryview(data)
        while rest:
            step = partial(self._stream.send, rest)
            rest = rest[(yield from self._deadline.complete(step, self._stream.fileno(), WRITABLE)) :]

    def receive(self, most_bytes: int) -> Generator[Pause, None, bytes]:
        """What has come: a byte of it at least. Raises ProxyError at the end."""
        data = yield from self._deadline.complete(partial(self._stream.recv, most_bytes), self._stream.fileno())
        if not data:
            after = f" after it had sent {self.told}" if self.heard else " without an answer"
            raise ProxyError(f"the proxy closed the connection{after}")
        self.heard += data
        return data

    def receive_exactly(self, number: int) -> Generator[Pause, None, bytes]:
        data = b""
        while len(data) < number:
            data += yield from self.receive(number - len(data))
        return data

    @property
    def told(self) -> str:
        """The first line of what the proxy has sent, as it may be shown: a proxy may send back what it was sent."""
        line = self.heard.partition(b"\n")[0].strip()
        if self._login is not None:
            for secret in (_encoded(self._login), self._login.password.reveal(), self._login.user.reveal()):
                line = line.replace(secret.encode(), b"****") if secret else line
        return safe_text(line)


def open_tunnel(
    stream: Stream, proxy: UpstreamProxy, host: str, port: int, deadline: Deadline
) -> Generator[Pause, None, None]:
    """Have a proxy connect a stream to somebody, by name or address.

    Raises ProxyError, UnicodeError for a name that is none, OSError, and as a Deadline does.
    """
    talk = _Talk(stream, proxy.login, deadline)
    if proxy.is_socks:
        yield from _log_in(talk, proxy.login)
        yield from _ask_socks(talk, host, port)
    else:
        yield from _ask_http(talk, proxy.login, host, port)


def _ask_http(talk: _Talk, login: Login | None, host: str, port: int) -> Generator[Pause, None, None]:
    target = f"[{host}]:{port}" if ":" in host else f"{host.encode('idna').decode()}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if login is not None:
        lines.append(f"Proxy-Authorization: {authorization(login)}")
    yield from talk.send("\r\n".join([*lines, "", ""]).encode())
    parser = ResponseParser()
    try:
        while parser.head is None:
            parser.feed((yield from talk.receive(_RECEIVE_BYTES)))
            if len(talk.heard) > _LARGEST_HEAD_BYTES:
                raise ProxyError(f"the head of the proxy's answer is too large: {talk.told}")
    except WireError as error:
        raise ProxyError(f"the proxy's answer is not HTTP: {talk.told}") from error
    finally:
        parser.close()
    # Bytes behind the head belong to nobody, for the upstream speaks second; some proxies send a word with it.
    if not 200 <= parser.head.status < 300:
        status = str(parser.head.status)
        told = talk.told.partition(" ")[2]  # without the version; a 1xx may have come first
        raise ProxyError(f"the proxy answers {told if told.startswith(status) else status}")


def _log_in(talk: _Talk, login: Login | None) -> Generator[Pause, None, None]:
    """Agree with a SOCKS proxy on a method, and show the login if it asks for it."""
    methods = [_NO_LOGIN] if login is None else [_NO_LOGIN, _WITH_LOGIN]
    yield from talk.send(bytes([_VERSION, len(methods), *methods]))
    version, method = yield from talk.receive_exactly(2)
    if version == _VERSION and method == _NO_METHOD:
        raise ProxyError("the proxy takes nobody without a login" if login is None else "the proxy takes no password")
    if version != _VERSION or method not in methods:
        raise ProxyError(f"the proxy's answer is not SOCKS5: {talk.told}")
    if method == _WITH_LOGIN and login is not None:
        user, password = login.user.reveal().encode(), login.password.reveal().encode()
        yield from talk.send(bytes([_LOGIN_VERSION, len(user)]) + user + bytes([len(password)]) + password)
        if (yield from talk.receive_exactly(2))[1] != 0:
            raise ProxyError("the proxy refuses the user and password")


def _ask_socks(talk: _Talk, host: str, port: int) -> Generator[Pause, None, None]:
    yield from talk.send(bytes([_VERSION, _CONNECT, 0]) + _socks_address(host) + port.to_bytes(2))
    version, refusal, _, kind = yield from talk.receive_exactly(4)
    if version != _VERSION:
        raise ProxyError(f"the proxy's answer is not SOCKS5: {talk.told}")
    if refusal:
        raise DestinationRefused(f"the proxy answers {_REFUSALS.get(refusal, f'with error {refusal}')}")
    # From where it connects comes next, and is nobody's concern.
    if kind == _NAME:
        length = (yield from talk.receive_exactly(1))[0]
    elif kind in (_IPV4, _IPV6):
        length = 4 if kind == _IPV4 else 16
    else:
        raise ProxyError(f"the proxy's answer is not SOCKS5: {talk.told}")
    yield from talk.receive_exactly(length + 2)


def _socks_address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("idna")
        return bytes([_NAME, len(name)]) + name
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed
