"""A fake upstream that is not the bottleneck: one thread, one epoll, answers prepared before they are asked for.

Run as `python -m bench.upstream`; it prints its port. What it answers is set, for all that follows, by a request to
`/answer/KIND`, where KIND is one of

    whole           one message as JSON, about 1 KB
    burst-N         a stream of N text deltas, all at once, each a chunk of its own
    paced-N         a stream of N text deltas, ten a second; each holds the nanosecond (CLOCK_MONOTONIC) it was sent at
    slow-N          the same, one a second
    idle            a stream that has begun, and then says nothing

A request whose head holds the limited key is answered with 429, and one that asks for no stream with `whole`.
"""

from __future__ import annotations

import gc
import select
import socket
import sys
import time
from collections import deque

from bench.wording import (
    LIMITED_KEY,
    NO_STREAM,
    RATE_LIMITED,
    STREAM_HEAD,
    WHOLE,
    burst,
    chunk,
    delta,
    stream_begin,
    stream_end,
)

_PERIODS_NS = {"paced": 100_000_000, "slow": 1_000_000_000}
_RECEIVE_BYTES = 256 * 1024


class _Client:
    """One accepted connection, and what has come of its next request."""

    __slots__ = ("is_open", "left", "received", "socket", "unsent", "wanted")

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.received = b""
        self.wanted = 0  # bytes of the request, once its head is there
        self.unsent = b""
        self.left = 0  # paced events still to come
        self.is_open = True


class FakeUpstream:
    """Serves until it is killed. Paced streams stand in a queue in the order in which they are due."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._clients: dict[int, _Client] = {}
        self._due: deque[tuple[int, _Client]] = deque()
        self._answer = WHOLE
        self._paced_events: int | None = None

    def serve(self) -> None:
        """Answer whoever asks, and send each paced stream its next event when that is due."""
        listener = self._listener.fileno()
        while True:
            for descriptor, events in self._epoll.poll(self._wait_seconds()):
                if descriptor == listener:
                    self._accept()
                elif events & select.EPOLLOUT:
                    self._send(self._clients[descriptor], b"")
                else:
                    self._read(self._clients[descriptor])
            if self._due:
                self._pace()

    def _wait_seconds(self) -> float:
        if not self._due:
            return -1
        return max(0.0, (self._due[0][0] - time.monotonic_ns()) / 1e9)

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._clients[accepted.fileno()] = _Client(accepted)
            self._epoll.register(accepted, select.EPOLLIN)

    def _read(self, client: _Client) -> None:
        try:
            data = client.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(client)
            return
        client.received = client.received + data if client.received else data
        if not client.wanted and not self._read_head(client):
            return
        if client.wanted > 0:
            is_whole = len(client.received) >= client.wanted
        else:
            is_whole = client.received.endswith(b"0\r\n\r\n")
        if is_whole:
            request, client.received, client.wanted = client.received, b"", 0
            self._respond(client, request)

    def _read_head(self, client: _Client) -> bool:
        end = client.received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = client.received[:end].lower()
        at = head.find(b"content-length:")
        if at >= 0:
            client.wanted = end + 4 + int(head[at + 15 :].partition(b"\r\n")[0])
        else:
            client.wanted = -1 if b"transfer-encoding: chunked" in head else end + 4
        return True

    def _respond(self, client: _Client, request: bytes) -> None:
        target = request[: request.index(b"\r\n")].split(b" ")[1]
        if target.startswith(b"/answer/"):
            self._prepare(target.removeprefix(b"/answer/").decode())
            self._send(client, WHOLE)
        elif LIMITED_KEY in request:
            self._send(client, RATE_LIMITED)
        elif NO_STREAM in request:
            self._send(client, WHOLE)
        else:
            self._send(client, self._answer)
            if self._paced_events is not None:
                client.left = self._paced_events
                self._due.append((time.monotonic_ns() + self._period_ns, client))

    def _prepare(self, kind: str) -> None:
        name, _, number = kind.partition("-")
        self._paced_events = None
        if name == "whole":
            self._answer = WHOLE
        elif name == "burst":
            self._answer = burst(int(number))
        else:
            self._answer = STREAM_HEAD + stream_begin()
            self._paced_events = int(number) if name in _PERIODS_NS else None
            self._period_ns = _PERIODS_NS.get(name, 0)

    def _pace(self) -> None:
        now = time.monotonic_ns()
        due = self._due
        while due and due[0][0] <= now:
            due_at, client = due.popleft()
            if not client.is_open:
                continue
            if client.left:
                client.left -= 1
                now = time.monotonic_ns()
                self._send(client, chunk(delta(b"@%d@" % now)))
                due.append((due_at + self._period_ns, client))
            else:
                self._send(client, stream_end())

    def _send(self, client: _Client, data: bytes) -> None:
        """Send now what the kernel takes, and the rest when it takes more."""
        rest = client.unsent + data if client.unsent else data
        try:
            sent = client.socket.send(rest)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(client)
            return
        was_waiting = bool(client.unsent)
        client.unsent = rest[sent:] if sent < len(rest) else b""
        if bool(client.unsent) != was_waiting:
            self._epoll.modify(client.socket, select.EPOLLOUT if client.unsent else select.EPOLLIN)

    def _close(self, client: _Client) -> None:
        client.is_open = False
        del self._clients[client.socket.fileno()]
        client.socket.close()


def main() -> None:
    """Serve on the port of the first argument, or on any."""
    upstream = FakeUpstream(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    print(upstream.port, flush=True)
    gc.disable()  # nothing here makes cycles, and a pause would look like a contender's
    upstream.serve()


if __name__ == "__main__":
    main()
