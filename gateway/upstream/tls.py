"""TLS to the upstream and to its proxy, over sockets that do not block.

Owns: what a certificate is verified with, the handshake, and TLS inside TLS. A connection belongs to one
thread at a time.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Generator
from contextlib import suppress
from typing import cast

import certifi

from gateway.runtime.pause import Pause
from gateway.upstream.deadline import Deadline

_CARRIED_BYTES = 64 * 1024


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
    context.set_alpn_protocols(["http/1.1"])
    return context


class TlsInTls:
    """TLS over a connection that is under TLS already, which an SSLSocket cannot be; else it acts like one.

    What it says it waits for, to read or to write, is waited for on its descriptor, which is the carrier's.
    """

    def __init__(self, carrier: ssl.SSLSocket, context: ssl.SSLContext, server_hostname: str) -> None:
        self._carrier = carrier
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=server_hostname)
        self._unsent = memoryview(b"")  # of the inner TLS, taken out for the carrier
        self._written = 0  # by a `send` that cannot return before the carrier has taken it

    def do_handshake(self) -> None:
        """As an SSLSocket's; to be called again after each wait."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
                continue
            self._flush()
            return

    def send(self, data: bytes | memoryview) -> int:
        """Send some of `data`; after a wait it has to be called again with the same."""
        if not self._written:
            while True:
                try:
                    self._written = self._tls.write(memoryview(data)[:_CARRIED_BYTES])
                    break
                except ssl.SSLWantReadError:
                    self._flush()
                    self._fill()
        self._flush()
        written, self._written = self._written, 0
        return written

    def recv(self, most_bytes: int) -> bytes:
        """What has come; empty at the end."""
        while True:
            try:
                return self._tls.read(most_bytes)
            except ssl.SSLWantReadError:
                with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):  # it may take nothing, and yet send
                    self._flush()  # of what TLS itself answers to what it has read
                self._fill()
            except ssl.SSLEOFError:
                return b""

    def _fill(self) -> None:
        data = self._carrier.recv(_CARRIED_BYTES)
        if data:
            self._received.write(data)
        else:
            self._received.write_eof()

    def _flush(self) -> None:
        while self._unsent or self._to_send.pending:
            if not self._unsent:
                self._unsent = memoryview(self._to_send.read())
            self._unsent = self._unsent[self._carrier.send(self._unsent) :]

    def fileno(self) -> int:
        """The carrier's descriptor; negative once it is closed."""
        return self._carrier.fileno()

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Set an option of the carrier's socket."""
        self._carrier.setsockopt(level, option, value)

    def close(self) -> None:
        """Close the carrier; may be called again."""
        self._carrier.close()


Stream = socket.socket | TlsInTls


def is_tls(stream: Stream) -> bool:
    """Whether what is received may already be there, decrypted, where no poll of the socket would tell of it."""
    return isinstance(stream, ssl.SSLSocket | TlsInTls)


def secure(stream: Stream, context: ssl.SSLContext, host: str, deadline: Deadline) -> Generator[Pause, None, Stream]:
    """TLS over a connected stream, with a server whose certificate is good for `host`.

    Raises ssl.SSLError, OSError, UnicodeError for a name that is none, and as a Deadline does. `stream` is used up.
    """
    secured: Stream = stream
    try:
        name = host.rstrip(".")
        if isinstance(stream, ssl.SSLSocket):
            tls: ssl.SSLSocket | TlsInTls = TlsInTls(stream, context, name)
        else:
            tls = context.wrap_socket(cast(socket.socket, stream), server_hostname=name, do_handshake_on_connect=False)
        secured = tls
        yield from deadline.complete(tls.do_handshake, tls.fileno())
    except BaseException:
        secured.close()
        raise
    return tls
