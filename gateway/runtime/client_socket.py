"""A client's connection: reading with a deadline, and sending with an eye on what the client takes.

Owns: how long a client may take to send what was begun, and how much it has taken of what was sent to it. A
socket belongs to one thread at a time, but for `stalled_seconds`, which the main loop asks.
"""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import struct
import termios
import time
from typing import Any, NoReturn

from gateway.runtime.keepalive import keep_alive

_AT_ONCE = int(socket.MSG_DONTWAIT)  # as a plain number: an IntFlag takes its time
_send = socket.socket.send

# What the network says of a peer that is not there any more, beside what ConnectionError stands for.
_LOST = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET}


class ReadDeadlineExceeded(Exception):
    """The client did not send what it began in time. No OSError: the connection itself is well."""


class ClientSocket(socket.socket):
    """An accepted socket. `read_deadline_at` is a monotonic time; past it `recv` raises ReadDeadlineExceeded.

    `owes_continue` holds while a client waits to be told that its request's body is wanted. Whatever the network says
    of a client that has gone is raised as a ConnectionError.
    """

    read_deadline_at: float | None = None
    owes_continue = False
    _sent_bytes = 0
    _taken: tuple[int | None, float] = (None, 0.0)  # bytes, None for all, and since when they have not become more
    _readable_poll: select.poll | None = None

    @classmethod
    def adopt(cls, accepted: socket.socket) -> ClientSocket:
        """Take an accepted socket over; the given object is empty afterwards."""
        client = cls(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(client)
        return client

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive, within the deadline if there is one."""
        if self.read_deadline_at is not None:
            if self.gettimeout() is None:  # else Python itself would wait, and for every byte anew
                data = self.receive_now(bufsize, flags)  # it is there already, most often
                if data is not None:
                    return data
            if not self.is_readable(self.read_deadline_at - time.monotonic()):
                raise ReadDeadlineExceeded
        try:
            return super().recv(bufsize, flags)
        except OSError as error:
            _translate(error)

    def receive_now(self, bufsize: int, flags: int = 0) -> bytes | None:
        """What is there, without waiting; b"" at the end, None if there is nothing."""
        try:
            return super().recv(bufsize, flags | _AT_ONCE)
        except BlockingIOError:
            return None
        except OSError as error:
            _translate(error)

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

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send what the client's connection takes, and count it."""
        try:
            sent = _send(self, data, flags)
        except OSError as error:
            _translate(error)
        self._sent_bytes += sent
        return sent

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send everything, however slowly the client takes it.

        There is no time limit here: whoever looks at `stalled_seconds` shuts the connection down, which ends this.
        """
        while True:
            try:
                sent = self.send(data, flags | _AT_ONCE)
            except BlockingIOError:
                sent = 0
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
            writable = select.poll()
            writable.register(self, select.POLLOUT)
            writable.poll()

    @property
    def taken_bytes(self) -> int:
        """How much of what was sent to it the client's side has taken."""
        return self._sent_bytes - self._untaken_bytes()

    def stalled_seconds(self, now: float) -> float:
        """For how long the client has taken nothing although there is something for it: between two looks at least.

        That the kernel takes what is sent says little: its buffer holds megabytes, and may take pings for hours.
        """
        untaken_bytes = self._untaken_bytes()
        taken_bytes = self._sent_bytes - untaken_bytes
        before, since = self._taken
        # A socket in the file system counts the kernel's own overhead, too: what is sent there may lower the number.
        if before is None or taken_bytes > before:
            since = now
        self._taken = (taken_bytes if untaken_bytes else None, since)
        return now - since if untaken_bytes else 0.0

    def _untaken_bytes(self) -> int:
        """What the kernel holds for the client: not sent yet, or not acknowledged (SIOCOUTQ, tcp(7))."""
        held = fcntl.ioctl(self.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        (untaken_bytes,) = struct.unpack("@i", held)
        return int(untaken_bytes)


def _translate(error: OSError) -> NoReturn:
    if error.errno in _LOST:
        raise ConnectionResetError(errno.ECONNRESET, f"the client is gone: {error.strerror}") from error
    raise error
