"""The addresses that the gateway listens on: whether they are free, who reaches them, and the start told in one line.

Owns: what the master does about its sockets beside gunicorn. The master's only thread.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterable
from typing import Any

from gateway import __version__
from gateway.config.settings import Settings, SettingsError
from gateway.config.values import exposure, is_local_address

log = logging.getLogger(__name__)

# Sockets that another process has bound already: systemd, or a gunicorn that this one takes over from.
_INHERITED = ("LISTEN_FDS", "GUNICORN_FD")
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # looked up, not bound
_WHY = {
    errno.EADDRINUSE: "it is in use; stop what listens there, or take another address",
    errno.EACCES: "this user may not; take a port from 1024 upwards, or another address",
}


def refuse_taken_addresses(addresses: Iterable[object]) -> None:
    """Raise SettingsError for an address that cannot be had: gunicorn would try it five times, in eleven lines.

    `addresses` are gunicorn's: a TCP address is a tuple of host and port.
    """
    if any(name in os.environ for name in _INHERITED):
        return
    for address in addresses:
        if isinstance(address, tuple):
            _try(*address)


def _try(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gunicorn binds
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in _WHY:
                where = f"cannot listen on {_joined(host, port)}: {_WHY[error.errno]}"
                raise SettingsError([f"{where} (GATEWAY_BIND, or `gateway serve --bind HOST:PORT`)"]) from error


def refuse_exposure(listeners: Iterable[Any], settings: Settings) -> None:
    """Raise SettingsError if these settings would open the gateway on an address that others reach.

    `listeners` are gunicorn's, wherever their sockets came from.
    """
    if not settings.is_open:
        return
    for host, port in _tcp_addresses(listeners):
        if not is_local_address(_joined(host, 0)):
            raise SettingsError([exposure(_joined(host, port))])


def tell_start(listeners: Iterable[Any], settings: Settings) -> None:
    """Log the one line that says what has started: version, addresses, keys, clients, status page."""
    listeners = list(listeners)
    pages = [f"http://{_joined(_EVERY_ADDRESS.get(host, host), port)}" for host, port in _tcp_addresses(listeners)]
    log.info(
        "messages-gateway %s listens on %s; %s; %s; status page: %s/status",
        __version__,
        ", ".join(map(str, listeners)),
        _keys_words(len(settings.keys)),
        _clients_words(settings),
        pages[0] if pages else "",
    )


def _keys_words(number: int) -> str:
    if not number:
        return "no keys, clients bring their own"
    return "1 key" if number == 1 else f"{number} keys"


def _clients_words(settings: Settings) -> str:
    if settings.tokens is None:
        return "open to this machine, without tokens"
    number = len(settings.tokens)
    return f"clients need a token, and {f'{number} are' if number != 1 else '1 is'} known"


def _tcp_addresses(listeners: Iterable[Any]) -> list[tuple[str, int]]:
    return [
        listener.sock.getsockname()[:2]
        for listener in listeners
        if listener.sock.family in (socket.AF_INET, socket.AF_INET6)
    ]


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
