"""Ports for servers that are told theirs, and that come back at the same one after a restart."""

from __future__ import annotations

import atexit
import socket
from contextlib import suppress
from pathlib import Path
from random import SystemRandom

_LOWEST = 10_000
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port that nothing listens on, and that no other process of the tests is given until this one ends.

    It is below those that the kernel gives to connections, and to servers that leave the choice to it.
    """
    end = int(_RANGE_FILE.read_text().split()[0])
    while True:
        port = SystemRandom().randrange(_LOWEST, end)
        reservation = socket.socket(socket.AF_UNIX)
        with suppress(OSError), socket.socket() as probe:
            reservation.bind(f"\0messages-gateway/tests/{port}")
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            atexit.register(reservation.close)  # it is held until then
            return port
        reservation.close()
