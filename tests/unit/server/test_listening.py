"""The addresses that the gateway listens on: one that is taken is told, and the start is one line."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway import __version__
from gateway.access.authentication import ByokMode, ClientToken
from gateway.access.credential import Key, Secret
from gateway.config.settings import Settings, SettingsError
from gateway.server.listening import refuse_exposure, refuse_taken_addresses, tell_start

KEY = Key("a", Secret("sk-a"))
TOKEN = ClientToken("ann", Secret("gwt_ann").fingerprint, False, None)


@dataclass
class FakeListener:
    """A socket as gunicorn keeps it."""

    sock: socket.socket

    def __str__(self) -> str:
        address = self.sock.getsockname()
        return f"http://{address[0]}:{address[1]}" if isinstance(address, tuple) else f"unix:{address}"


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_taken_address_is_refused_in_one_line(taken) -> None:
    """Given an address that another listens on, then one line names it and what to do."""
    with pytest.raises(SettingsError) as refused:
        refuse_taken_addresses([taken.getsockname()])
    (line,) = refused.value.complaints
    assert line.startswith(f"cannot listen on 127.0.0.1:{taken.getsockname()[1]}: it is in use")
    assert "--bind" in line


def test_free_address_stays_free(taken) -> None:
    """Given an address that nobody has, then nothing is said, and it can be bound."""
    address = taken.getsockname()
    taken.close()
    refuse_taken_addresses([address, "unix:/nonexistent/socket", 7])
    socket.create_server(address).close()


@pytest.mark.parametrize("name", ["LISTEN_FDS", "GUNICORN_FD"])
def test_address_of_a_socket_that_is_handed_over_is_not_tried(taken, monkeypatch, name) -> None:
    """Given sockets that another process has bound for us, then the address is theirs already, and nothing is said."""
    monkeypatch.setenv(name, "1")
    refuse_taken_addresses([taken.getsockname()])


def test_open_gateway_is_refused_where_others_reach_it() -> None:
    """Given a socket on every address, then an open gateway is refused, and one with tokens is not."""
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        with pytest.raises(SettingsError, match=r"0\.0\.0\.0:\d+ is not a loopback address"):
            refuse_exposure([FakeListener(everywhere)], Settings(keys=(KEY,)))
        refuse_exposure([FakeListener(everywhere)], Settings(keys=(KEY,), tokens=(TOKEN,)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param(Settings(keys=(KEY,)), "1 key; open to this machine, without tokens", id="open"),
        pytest.param(
            Settings(keys=(KEY, KEY), tokens=(TOKEN,)), "2 keys; clients need a token, and 1 is known", id="tokens"
        ),
        pytest.param(
            Settings(allow_byok=ByokMode.ONLY, tokens=()),
            "no keys, clients bring their own; clients need a token, and 0 are known",
            id="own-keys",
        ),
    ],
)
def test_start_is_one_line(taken, caplog, settings, said) -> None:
    """Given a gateway on one address, then one line has version, address, keys, clients and the status page."""
    with caplog.at_level(logging.INFO, "gateway"):
        tell_start([FakeListener(taken)], settings)
    url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    assert caplog.messages == [f"messages-gateway {__version__} listens on {url}; {said}; status page: {url}/status"]


def test_status_page_is_named_by_an_address_that_can_be_opened(caplog) -> None:
    """Given a socket on every address, then the status page has one that a browser on this machine can open."""
    with socket.create_server(("0.0.0.0", 0)) as everywhere, caplog.at_level(logging.INFO, "gateway"):
        tell_start([FakeListener(everywhere)], Settings(keys=(KEY,), tokens=(TOKEN,)))
        (line,) = caplog.messages
        assert line.endswith(f"status page: http://127.0.0.1:{everywhere.getsockname()[1]}/status")


def test_gateway_on_a_unix_socket_has_a_line_too(tmp_path: Path, caplog) -> None:
    """Given a socket in the file system, then the line names it, and the status page by its path."""
    with socket.socket(socket.AF_UNIX) as listening, caplog.at_level(logging.INFO, "gateway"):
        listening.bind(str(tmp_path / "socket"))
        tell_start([FakeListener(listening)], Settings(keys=(KEY,)))
    (line,) = caplog.messages
    assert f"listens on unix:{tmp_path}/socket; 1 key" in line
    assert line.endswith("status page: /status")
