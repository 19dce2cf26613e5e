"""The addresses of a name, without waiting for a name server longer than one cares to.

Owns: the threads that ask the system's resolver, which answers when it likes. Thread-safe. Those who ask
for the same name at the same time wait for one lookup; each may go before it has ended. The threads are daemons: a
process that ends does not wait for a name server.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from gateway.runtime.pause import READABLE, Pause
from gateway.upstream.deadline import Deadline

# As getaddrinfo has it: family, kind, protocol, canonical name, and what a socket connects to.
Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]

_SHARED_SECONDS = 1.0  # a lookup that lasts longer may be stuck, and is asked again beside
_MOST_LOOKUPS = 8  # of one name


class Resolver:
    """The lookups under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _under_way
        self._under_way: list[_Lookup] = []  # oldest first

    def addresses(self, host: str, port: int, deadline: Deadline) -> Generator[Pause, None, Sequence[Address]]:
        """The addresses of a name, or of an address itself. Raises socket.gaierror, and as a Deadline does."""
        try:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except (socket.gaierror, UnicodeError):
            return (yield from self._lookup(host, port).result(deadline))  # a name

    def _lookup(self, host: str, port: int) -> _Lookup:
        with self._lock:
            same = [lookup for lookup in self._under_way if lookup.question == (host, port)]
            if same and (same[-1].is_young or len(same) >= _MOST_LOOKUPS):
                return same[-1]
            lookup = _Lookup(host, port, self._ended)
            self._under_way.append(lookup)
        lookup.begin()
        return lookup

    def _ended(self, lookup: _Lookup) -> None:
        with self._lock:
            self._under_way.remove(lookup)

    def __repr__(self) -> str:
        return f"<Resolver {len(self._under_way)} lookups>"


class _Lookup:
    """One question to the system's resolver, and those who wait for its answer."""

    def __init__(self, host: str, port: int, ended: Callable[[_Lookup], None]) -> None:
        self.question = (host, port)
        self._ended = ended
        self._begun_at = time.monotonic()
        self._lock = threading.Lock()  # guards what follows
        self._answer: Sequence[Address] | Exception | None = None
        self._waiting: set[int] = set()  # a descriptor of each who waits; written to at the end

    @property
    def is_young(self) -> bool:
        """Whether it is worth waiting for."""
        return time.monotonic() - self._begun_at < _SHARED_SECONDS

    def begin(self) -> None:
        """Ask, in a thread of its own."""
        try:
            threading.Thread(target=self._run, name="resolver", daemon=True).start()
        except RuntimeError as error:  # the system grants no more of them
            self._finish(error)

    def result(self, deadline: Deadline) -> Generator[Pause, None, Sequence[Address]]:
        """Wait for the answer."""
        end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            with self._lock:
                self._waiting.add(end)
            while (answer := self._answer) is None:  # assigned once
                yield from deadline.wait(end, READABLE)
        finally:
            with self._lock:
                self._waiting.discard(end)
            os.close(end)
        if not isinstance(answer, Sequence):  # the exception is shared by all who waited: each raises one of its own
            raise socket.gaierror(socket.EAI_FAIL, "the name cannot be resolved") from answer
        return answer

    def _run(self) -> None:
        host, port = self.question
        try:
            self._finish(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # noqa: BLE001  # whatever it is, those who wait are told
            self._finish(error)

    def _finish(self, answer: Sequence[Address] | Exception) -> None:
        self._ended(self)
        with self._lock:
            self._answer = answer
            for end in self._waiting:
                os.eventfd_write(end, 1)
