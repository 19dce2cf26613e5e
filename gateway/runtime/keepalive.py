"""TCP keepalive for connections that may be silent for long.

Owns: how often a silent peer is asked whether it is still there. Any thread. A NAT or a firewall on the way
forgets a connection that has been silent for some minutes; the kernel's own two hours are far beyond that.
"""

from __future__ import annotations

import socket

_IDLE_SECONDS = 60
_INTERVAL_SECONDS = 15
_COUNT = 4  # of unanswered probes, after which the peer counts as gone
_OPTIONS = (("TCP_KEEPIDLE", _IDLE_SECONDS), ("TCP_KEEPINTVL", _INTERVAL_SECONDS), ("TCP_KEEPCNT", _COUNT))


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel probe a TCP peer that is silent; nothing for a socket of another kind."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS:
        if hasattr(socket, name):  # not every system has all three
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
