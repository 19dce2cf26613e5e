"""A client's connection with deadlines.

Owns: how long a client may take to send what was begun, and how long it may take none of what is sent to it.
Edge layer; a socket belongs to one thread at a time.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from typing import Any


class ReadDeadlineExceeded(Exception):
    """The client did not send what it began in time. No OSError: the connection itself is well."""


class ClientSocket(socket.socket):
    """An accepted socket. `read_deadline_at` is a monotonic time; past it `recv` raises ReadDeadlineExceeded.

    `owes_continue` holds while a client waits to be told that its request's body is wanted.
    """

    read_deadline_at: float | None = None
    owes_continue = False
    _readable_poll: select.poll | None = None

    @classmethod
    def adopt(cls, accepted: socket.socket, write_timeout_seconds: float) -> ClientSocket:
        """Take an accepted socket over; the given object is empty afterwards."""
        client = cls(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        whole, fraction = divmod(write_timeout_seconds, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(whole), int(fraction * 1e6)))
        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # The kernel's buffer may take pings for hours after a client fell silent without a word: what it was
            # sent has to be acknowledged in time, too.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(write_timeout_seconds * 1000))
        return client

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive, within the deadline if there is one."""
        if self.read_deadline_at is not None:
            if self.gettimeout() is None:  # else Python itself would wait, and for every byte anew
                try:
                    return super().recv(bufsize, flags | socket.MSG_DONTWAIT)  # it is there already, most often
                except BlockingIOError:
                    pass
            if not self.is_readable(self.read_deadline_at - time.monotonic()):
                raise ReadDeadlineExceeded
        return super().recv(bufsize, flags)

    def is_readable(self, timeout_seconds: float) -> bool:
        """Whether bytes, or the end, are there now or come in time."""
        if self._readable_poll is None:
            self._readable_poll = select.poll()
            self._readable_poll.register(self, select.POLLIN)
        return bool(self._readable_poll.poll(max(0.0, timeout_seconds) * 1000))

    def setblocking(self, flag: bool, /) -> None:
        """As ever, but a system call only where something changes."""
        if self.getblocking() != flag:
            super().setblocking(flag)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send everything; a client that takes nothing for too long counts as gone."""
        try:
            super().sendall(data, flags)
        except BlockingIOError as error:  # the kernel's send timeout
            raise BrokenPipeError(errno.EPIPE, "the client takes nothing") from error
