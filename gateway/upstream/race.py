"""The address of several that answers first: Happy Eyeballs, https://www.rfc-editor.org/rfc/rfc8305.

Owns: the sockets of connections that are being tried. No state. An address that takes no connection and
refuses none, as behind a broken IPv6 path, costs a quarter of a second and not all the time there is.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from itertools import chain, zip_longest

from gateway.runtime.keepalive import keep_alive
from gateway.runtime.pause import WRITABLE, Pause
from gateway.upstream.deadline import Deadline
from gateway.upstream.resolver import Address

# RFC 8305, section 5: the Connection Attempt Delay, and the least that it may be.
DELAY_SECONDS = 0.25
LEAST_DELAY_SECONDS = 0.01


def interleaved(addresses: Sequence[Address]) -> list[Address]:
    """The addresses with their families by turns, that of the first address first; else in their order."""
    if not addresses:
        return []
    first = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for address in chain.from_iterable(zip_longest(first, others)) if address is not None]


def connect_first(addresses: Sequence[Address], deadline: Deadline) -> Generator[Pause, None, socket.socket]:
    """Connect to whichever address answers first; the socket does not block.

    A next one is tried when the one before has failed, or has not answered after the delay; the others are given up as
    soon as one is connected. Raises OSError, the last one's, if all fail, and as a Deadline does.
    """
    untried = deque(interleaved(addresses))
    # However many there are, the last one is begun before half of the time is over.
    delay_seconds = max(LEAST_DELAY_SECONDS, min(DELAY_SECONDS, deadline.left_seconds / (2 * max(1, len(untried)))))
    tried: dict[int, socket.socket] = {}
    failure = OSError(errno.EADDRNOTAVAIL, "the name has no address")
    next_at = time.monotonic()
    try:
        while untried or tried:
            if untried and time.monotonic() >= next_at:
                next_at = time.monotonic() + delay_seconds
                try:
                    begun = _begin(untried.popleft())
                    tried[begun.fileno()] = begun
                except OSError as error:
                    failure, next_at = error, 0.0
                continue
            wanted = tuple((begun, WRITABLE) for begun in tried)
            yield from deadline.wait_any(wanted, next_at if untried else math.inf)
            for descriptor in _connected(tried):
                answered = tried.pop(descriptor)
                code = answered.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    return answered
                answered.close()
                failure, next_at = OSError(code, os.strerror(code)), 0.0
        raise failure
    finally:
        for loser in tried.values():
            loser.close()


def _connected(descriptors: Iterable[int]) -> list[int]:
    """Those of which it is known how it went."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLOUT)
    return [descriptor for descriptor, _ in poll.poll(0)]


def _begin(address: Address) -> socket.socket:
    family, kind, protocol, _, target = address
    begun = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    try:
        begun.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(begun)
        begun.connect(target)
    except BlockingIOError:
        pass  # it is under way
    except BaseException:
        begun.close()
        raise
    return begun
