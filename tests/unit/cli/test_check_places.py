"""`gateway check` and the places that a gateway needs: what a start would meet there is told beforehand."""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.unit.cli.test_check import Check, check

__all__ = ["check"]  # the fixture


@contextmanager
def listening(family: int = socket.AF_INET, address: object = ("127.0.0.1", 0)) -> Iterator[socket.socket]:
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen()
        yield listener


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """A gateway holds this data folder."""
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fault(check: Check, *arguments: str) -> str:
    """The one fault of a configuration; the status is 1."""
    assert check.run(*arguments) == 1
    (line,) = check.err.splitlines()
    assert check.said("result").startswith("1 fault")
    return line


@pytest.mark.parametrize("place", ["file", "below-a-file", "kernel", "dangling"])
def test_data_folder_that_cannot_be_used_is_a_fault(check: Check, place: str) -> None:
    """Given a path where no folder is or can be made, then the setting, the path, and what to do."""
    check.file("taken", "")
    (check.folder / "link").symlink_to("/proc/nowhere/at/all")
    path = {
        "file": str(check.folder / "taken"),
        "below-a-file": str(check.folder / "taken" / "data"),
        "kernel": "/proc/gateway/data",
        "dangling": str(check.folder / "link"),
    }[place]
    check.given(data_dir=path)
    line = fault(check)
    assert line.startswith(f"gateway: GATEWAY_DATA_DIR: the data folder {path} cannot be used: ")
    assert "name a folder that the user " in line


def test_usable_data_folder_is_left_as_it_is(check: Check) -> None:
    """Given a data folder with something in it, then all is good, and nothing was added."""
    (check.folder / "data" / "journal").mkdir(parents=True)
    assert check.run("--strict") == 0
    assert os.listdir(check.folder / "data") == ["journal"]
    assert os.listdir(check.folder) == ["data"]


def test_file_that_may_not_be_written_is_named(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a file in the data folder that belongs to another user, then it is named, and what to do."""
    (check.folder / "data").mkdir()
    (check.folder / "data" / "keys").touch()
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode, **named: Path(path).name != "keys" and allowed(path, mode, **named)
    )
    assert f"{check.folder}/data/keys cannot be read and written by the user " in fault(check)


def test_port_that_another_program_has_is_a_fault(check: Check) -> None:
    """Given a program that listens at the address, then it is a fault that names it."""
    with listening() as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        check.given(bind=address)
        assert f"GATEWAY_BIND: {address} is taken" in fault(check)


def test_port_of_the_gateway_that_runs_is_good(check: Check) -> None:
    """Given a gateway that runs with this data folder and listens, then all is good: a reload may be checked."""
    with listening() as other, running(check.folder / "data"):
        check.given(bind=f"127.0.0.1:{other.getsockname()[1]}")
        assert check.run("--strict") == 0


def test_data_folder_of_a_gateway_that_listens_elsewhere_is_a_doubt(check: Check) -> None:
    """Given a gateway that runs with this data folder, and not at this address, then that is a warning."""
    with running(check.folder / "data"):
        assert check.run() == 0
        assert "a gateway is running with the data folder" in check.said("warning")
        assert check.run("--strict") == 1


@pytest.mark.parametrize("bind", ["192.0.2.1:8080", "no-such-host.invalid:8080"])
def test_address_that_is_not_this_machines_is_a_fault(check: Check, bind: str) -> None:
    """Given an address that cannot be listened at, then the setting, why, and what to do."""
    check.given(bind=bind, client_tokens_file=check.file("tokens", f"ann sha256:{'0' * 64}\n"))
    line = fault(check)
    assert line.startswith("gateway: GATEWAY_BIND: the user ")
    assert f"cannot listen at {bind}: " in line


def test_unix_sockets_are_tried_too(check: Check) -> None:
    """Given paths of sockets, then a free one and one that was left are good; a used one and a file are not."""
    path = check.folder / "socket"
    check.given(bind=f"unix:{path}")
    assert check.run("--strict") == 0
    with listening(socket.AF_UNIX, str(path)):
        assert "is taken" in fault(check)
    assert path.is_socket()
    assert check.run("--strict") == 0
    path.unlink()
    path.touch()
    assert "is not a socket" in fault(check)
    check.given(bind=f"unix:{check.folder}/nowhere/socket")
    assert "cannot make a socket in" in fault(check)


def test_public_address_without_tokens_is_refused_as_at_the_start(check: Check) -> None:
    """Given no token file and an address that others reach, then the words of a start; an empty file is a doubt."""
    check.given(bind="0.0.0.0:0")
    assert check.run() == 1
    assert "everybody who reaches it could use your keys" in check.err
    check.given(client_tokens_file=check.file("tokens", "# none yet\n"))
    assert check.run() == 0
    assert "holds no token, so nobody can use the gateway" in check.said("warning")
    assert check.run("--strict") == 1


def test_values_that_cannot_be_meant_are_faults(check: Check) -> None:
    """Given a quoted key and an upstream that ends in /v1, then each is a fault, and the report has the rest."""
    check.given(api_keys='a="sk-ant-api03-PLANTED-0123456789"', upstream_url="https://api.anthropic.com/v1")
    assert check.run() == 1
    assert [line.split(": ")[1] for line in check.err.splitlines()] == [
        "GATEWAY_UPSTREAM_URL",
        "GATEWAY_API_KEYS, entry 1",
    ]
    assert check.said("result") == "2 faults"


@pytest.mark.parametrize("setting", ["state_url", "record_url"])
def test_server_that_is_down_is_a_fault(check: Check, setting: str) -> None:
    """Given a Redis or a PostgreSQL that nobody listens for, then it is a fault, without limits too; no password."""
    scheme = "redis" if setting == "state_url" else "postgresql"
    check.given(**{setting: f"{scheme}://gateway:PLANTED@127.0.0.1:9/0"})
    line = fault(check)
    assert line.startswith(f"gateway: GATEWAY_{setting.upper()}: ")
    assert "cannot be used" in line
    assert "start it, or correct its address" in line


@pytest.mark.parametrize("setting", ["state_url", "record_url"])
def test_server_that_says_nothing_is_given_up(check: Check, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a server that takes connections and says nothing, then the command ends all the same, with a fault."""
    monkeypatch.setattr("gateway.cli.check_places._PATIENCE_SECONDS", 1.5)
    scheme = "redis" if setting == "state_url" else "postgresql"
    with listening() as silent:
        check.given(**{setting: f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/0"})
        began_at = time.monotonic()
        assert f"GATEWAY_{setting.upper()}: " in fault(check)
        assert time.monotonic() - began_at < 30.0


def test_upstream_that_says_nothing_is_asked_once(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given an upstream that hangs, then the keys after the first are not asked, and the command ends."""
    monkeypatch.setattr("gateway.keys.look._PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr("gateway.cli.check._SILENCE_SECONDS", 0.4)
    with listening() as silent:
        check.given(upstream_url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert check.run("--upstream") == 1
    assert check.said("key 1").endswith(": no answer in 0.5 s")
    assert check.said("key 2").endswith(": not asked: no answer in 0.5 s")
    assert check.said("result") == "2 faults"


def test_files_that_hang_are_given_up(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a file of the configuration on a file system that hangs, then a line says so."""
    ended = threading.Event()
    monkeypatch.setattr("gateway.web.configured.read_settings", lambda: ended.wait(60.0))
    monkeypatch.setattr("gateway.cli.check._READ_SECONDS", 0.1)
    try:
        assert check.run() == 1
    finally:
        ended.set()
    assert check.err == "gateway: the configuration: a file that it names could not be read within 0.1 s\n"


def test_sqlite_elsewhere_is_tried(check: Check) -> None:
    """Given a database file, then a folder that there is not, and a file that is no database, are faults; it is not
    made."""
    check.given(record_url=f"sqlite:///{check.folder}/nowhere/records.db")
    assert f"GATEWAY_RECORD_URL: the database of records cannot be used: there is no folder {check.folder}" in fault(
        check
    )
    check.given(record_url=f"sqlite:///{check.folder}/records.db")
    assert check.run("--strict") == 0
    assert os.listdir(check.folder) == []
    check.file("records.db", "no database " * 1000)
    assert "file is not a database" in fault(check)
    (check.folder / "records.db").unlink()
    with closing(sqlite3.connect(check.folder / "records.db")) as connection:
        connection.execute("CREATE TABLE others (a)")
    assert check.run("--strict") == 0
