"""Proxies for tests, as scripts of a TinyServer: CONNECT, forwarding, and SOCKS5.

Each notes what it was asked for in `seen`, and who asked in `logins`; with a `login` it carries for nobody else.
"""

from __future__ import annotations

import base64
import ipaddress
import selectors
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.unit.tiny_server import take_request, until_hung_up

Login = tuple[str, str]
Reach = Callable[[str, int], tuple[str, int]]


@dataclass
class _Proxy:
    """`reach` says where a destination is really to be found."""

    login: Login | None = None
    reach: Reach = lambda host, port: (host, port)
    seen: list[str] = field(default_factory=list)
    logins: list[Login | None] = field(default_factory=list)

    def _connected(self, host: str, port: int) -> socket.socket:
        return socket.create_connection(self.reach(host, port), 10)


class HttpProxy(_Proxy):
    """Opens a tunnel for CONNECT, and passes on what names a whole URL."""

    def __call__(self, client: socket.socket) -> None:
        """Serve one connection."""
        request = take_request(client)
        if not request:
            return
        head, _, rest = request.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        self.seen.append(f"{method} {target}")
        self.logins.append(_basic(lines))
        if self.login is not None and self.logins[-1] != self.login:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            with self._connected(host.strip("[]"), int(port)) as upstream:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                carry(client, upstream)
            return
        authority, _, path = target.removeprefix("http://").partition("/")
        host, _, port = authority.rpartition(":")
        kept = [line for line in lines if not line.lower().startswith("proxy-")]
        with self._connected(host, int(port)) as upstream:
            upstream.sendall("\r\n".join([f"{method} /{path} HTTP/1.1", *kept, "", ""]).encode("latin-1") + rest)
            carry(client, upstream)  # a next request would not be looked into: tests have one a connection


@dataclass
class SocksProxy(_Proxy):
    """Speaks SOCKS5; `refusals` are the codes with which it refuses addresses; `said` is all that it says, if set."""

    refusals: dict[str, int] = field(default_factory=dict)
    said: bytes | None = None

    def __call__(self, client: socket.socket) -> None:
        """Serve one connection."""
        if self.said is not None:
            client.sendall(self.said)
            client.shutdown(socket.SHUT_WR)
            until_hung_up(client)
            return
        methods = _exactly(client, _exactly(client, 2)[1])
        wanted = 0 if self.login is None else 2
        if wanted not in methods:
            client.sendall(b"\x05\xff")
            return
        client.sendall(bytes([5, wanted]))
        login = None
        if self.login is not None:
            login = (
                _exactly(client, _exactly(client, 2)[1]).decode(),
                _exactly(client, _exactly(client, 1)[0]).decode(),
            )
            client.sendall(bytes([1, login != self.login]))
        self.logins.append(login)
        if login != self.login:
            return
        kind = _exactly(client, 4)[3]
        length = _exactly(client, 1)[0] if kind == 3 else {1: 4, 4: 16}[kind]
        named = _exactly(client, length)
        host = named.decode() if kind == 3 else str(ipaddress.ip_address(named))
        port = int.from_bytes(_exactly(client, 2))
        self.seen.append(f"{host}:{port}")
        refusal = self.refusals.get(host, 0)
        if refusal:
            client.sendall(bytes([5, refusal, 0, 1]) + bytes(6))
            return
        with self._connected(host, port) as upstream:
            client.sendall(b"\x05\x00\x00\x03\x05bound\x12\x34")
            carry(client, upstream)


def _basic(lines: list[str]) -> Login | None:
    for line in lines:
        name, _, value = line.partition(": ")
        if name.lower() == "proxy-authorization" and value.startswith("Basic "):
            user, _, password = base64.b64decode(value.removeprefix("Basic ")).decode().partition(":")
            return user, password
    return None


def _exactly(client: socket.socket, number: int) -> bytes:
    data = b""
    while len(data) < number:
        piece = client.recv(number - len(data))
        if not piece:
            raise ConnectionResetError("hung up in the middle")
        data += piece
    return data


def carry(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until either side hangs up, or is closed."""
    with selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        while True:
            for ready, _ in selector.select(30):
                try:
                    data = ready.fileobj.recv(65536)  # type: ignore[union-attr]
                except ValueError:  # of a TLS socket that is closed
                    return
                if not data:
                    return
                ready.data.sendall(data)
