"""`gateway keys`: what it shows of every key, what it changes, and what it says when it cannot."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from gateway.access.credential import Secret
from gateway.cli import main
from gateway.keys import keys_file
from gateway.keys.file_store import FileStore
from gateway.keys.key_record import Cause, Record
from gateway.keys.places import Place
from gateway.keys.pool import BY_OPERATOR
from gateway.keys.redis.store import RedisStore
from gateway.keys.store import MemoryStore
from gateway.runtime.machine_clock import machine_time
from gateway.web import configured
from tests.stores.redis_server import RedisServer

PLANTED = "sk-ant-api03-{}-PLANTED-0123456789-abcd{}"
NAMES = ["primary", "second", "third"]
SECRETS = {name: PLANTED.format(name, name[:4]) for name in NAMES}
FINGERPRINTS = {name: Secret(secret).fingerprint for name, secret in SECRETS.items()}
LIMITED_STATUS, REFUSED_STATUS = 429, 401
ORGANISATION, WORKSPACE = "4f1c2e00-0000-4000-8000-0000000001aa", "wrkspc_01JwQvzr7rXLA5AGx3HKfFUJ"


class Keys:
    """The command over a data folder of its own, and what it printed last."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self.out = self.err = ""

    def run(self, *arguments: str) -> int:
        code = main(["keys", *arguments])
        self.out, self.err = self._capsys.readouterr()
        for text in (self.out, self.err):
            assert "PLANTED" not in text
            assert not [fingerprint for fingerprint in FINGERPRINTS.values() if fingerprint in text]
        return code

    def run_alone(self, *arguments: str) -> int:
        """The same as a process of its own."""
        command = [sys.executable, "-m", "gateway.cli", "keys", *arguments]
        root = Path(__file__).parents[3]
        ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
        self.out, self.err = ended.stdout, ended.stderr
        assert "PLANTED" not in self.out + self.err
        return ended.returncode

    def listed(self) -> dict[str, dict[str, object]]:
        """What `--json` tells of each key."""
        assert self.run("--json") == 0
        return {entry["key"]: entry for entry in json.loads(self.out)}

    def records(self) -> dict[str, Record]:
        with self.store() as store:
            return dict(zip(NAMES, store.read([FINGERPRINTS[name] for name in NAMES]), strict=True))

    @contextmanager
    def store(self) -> Iterator[FileStore]:
        """The state that a gateway on this folder has."""
        store = FileStore(self.folder)
        try:
            yield store
        finally:
            store.close()

    def known(self, *marks: Callable[[FileStore], object]) -> None:
        """A gateway has run on the folder and marked its keys."""
        with self.store() as store:
            store.start_anew(machine_time())
            for mark in marks:
                mark(store)


@pytest.fixture
def keys(tmp_path, capsys, monkeypatch) -> Keys:
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GATEWAY_API_KEYS", ",".join(f"{name}={secret}" for name, secret in SECRETS.items()))
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "data"))
    return Keys(tmp_path / "data", capsys)


def cool(name: str, cooldown_seconds: float, ago_seconds: float = 0.0) -> Callable[[FileStore], object]:
    """A 429 so long before the mark is made, with a cooldown from then on."""

    def mark(store: FileStore) -> object:
        at = machine_time() - ago_seconds
        return store.cool(FINGERPRINTS[name], at + cooldown_seconds, 0, Cause("rate_limited", LIMITED_STATUS, at))

    return mark


def retire(name: str, ago_seconds: float = 0.0) -> Callable[[FileStore], object]:
    """A 401 so long before the mark is made."""

    def mark(store: FileStore) -> object:
        cause = Cause("unauthorized", REFUSED_STATUS, machine_time() - ago_seconds)
        return store.retire(FINGERPRINTS[name], 0, cause)

    return mark


def disable(name: str) -> Callable[[FileStore], object]:
    return lambda store: store.disable(FINGERPRINTS[name], Cause(BY_OPERATOR, 0, machine_time()))


def limit(name: str, scope: str, cooldown_seconds: float) -> Callable[[FileStore], object]:
    """A 429 for one scope."""
    until_at, cause = machine_time() + cooldown_seconds, Cause("rate_limited", LIMITED_STATUS, machine_time())
    return lambda store: store.cool(f"{FINGERPRINTS[name]}/{scope}", until_at, 0, cause)


def learn(name: str, organisation: str, workspace: str) -> Callable[[FileStore], object]:
    """An answer has said where the key belongs."""
    detail = Place(organisation, workspace).detail
    return lambda store: store.confirm(f"{FINGERPRINTS[name]}/{detail}", 0, machine_time())


def confirm(name: str) -> Callable[[FileStore], object]:
    return lambda store: store.confirm(FINGERPRINTS[name], 0, machine_time())


def seconds_since(text: object) -> float:
    """How long ago a point in time was that was printed."""
    assert isinstance(text, str)
    at = datetime.fromisoformat(text)
    assert at.tzinfo is not None
    return time.time() - at.timestamp()


@pytest.mark.parametrize("arguments", [[], ["list"], ["--json"], ["--json", "list"], ["list", "--json"]], ids=" ".join)
def test_keys_are_listed_in_failover_order(keys, arguments):
    """Given keys, then each has its place, by name and hint."""
    keys.known()
    assert keys.run(*arguments) == 0
    assert re.findall(rf"\b(?:{'|'.join(NAMES)})\b", keys.out) == NAMES
    for name, secret in SECRETS.items():
        hint = Secret(secret).hint
        assert hint.endswith(name[:4])
        assert hint in keys.out
    assert keys.err == ""


@pytest.mark.parametrize(
    ("marks", "state", "why", "is_until_given", "limited", "refused"),
    [
        pytest.param([], "valid", "", False, 0, 0, id="valid"),
        pytest.param([cool("second", 600, 60)], "cooling down", "rate_limited (429)", True, 1, 0, id="cooling"),
        pytest.param([cool("second", 30, 60)], "on trial", "rate_limited (429)", False, 1, 0, id="on-trial"),
        pytest.param([cool("second", 30, 60), confirm("second")], "valid", "", False, 1, 0, id="confirmed"),
        pytest.param([retire("second", 60)], "retired", "unauthorized (401)", False, 0, 1, id="retired"),
        pytest.param(
            [retire("second", 60), cool("second", 600)], "retired", "unauthorized (401)", False, 1, 1, id="both"
        ),
        pytest.param([disable("second")], "disabled", "operator", False, 0, 0, id="disabled"),
        pytest.param([retire("second", 60), disable("second")], "disabled", "operator", False, 0, 1, id="and-retired"),
    ],
)
def test_every_key_s_state_is_told(keys, marks, state, why, is_until_given, limited, refused):
    """Given a key that was marked, then its state, the reason and status, since when, until when and the counts."""
    keys.known(*marks)
    listed = keys.listed()
    entry = listed["second"]
    assert (entry["state"], entry["why"]) == (state, why)
    assert (entry["limited"], entry["refused"]) == (limited, refused)
    if why == "":
        assert entry["since"] == ""
    else:
        assert seconds_since(entry["since"]) == pytest.approx(0 if why == "operator" else 60, abs=15)
    if is_until_given:
        assert seconds_since(entry["until"]) == pytest.approx(-540, abs=15)
    else:
        assert entry["until"] == ""
    assert {name: listed[name]["state"] for name in ("primary", "third")} == {"primary": "valid", "third": "valid"}


def test_table_has_a_row_a_key_under_its_columns(keys):
    """Given keys, then the table's head names the columns, and what is empty is a dash; lines below say why."""
    keys.known(learn("primary", ORGANISATION, WORKSPACE), cool("second", 600), retire("third"))
    assert keys.run() == 0
    head, *lines = keys.out.splitlines()
    rows = [line for line in lines if not line.startswith(" ")]
    remarks = [line.strip() for line in lines if line.startswith(" ")]
    assert head.split() == ["key", "hint", "state", "until", "organisation", "workspace"]
    columns = [match.start() for match in re.finditer(r"\S+", head)]
    cells = [[row[start:end].strip() for start, end in zip(columns, [*columns[1:], None], strict=True)] for row in rows]
    assert [row[0] for row in cells] == NAMES
    assert [row[2] for row in cells] == ["valid", "cooling down", "retired"]
    assert cells[0][3:] == ["-", "...0001aa", "...HKfFUJ"]
    assert re.fullmatch(r"\d\d:\d\d:\d\d \(in (600|59\d) s\)", cells[1][3])
    assert cells[2][3:] == ["-", "-", "-"]
    assert remarks[0].startswith("why:   limited, since ")
    assert remarks[1] == "next:  wait"
    assert remarks[2].startswith("why:   refused (401), since ")
    assert remarks[3] == "next:  replace or enable it: gateway keys enable third"
    assert max(map(len, keys.out.splitlines())) <= 100


def test_scopes_are_told_with_what_remains_of_each(keys):
    """Given a key that is limited for a class of models, then table and JSON say for which and for how long."""
    keys.known(limit("second", "messages/opus-4", 600))
    assert keys.run() == 0
    assert "why:   limited for messages/opus-4, since " in keys.out
    assert re.search(r"scope: messages/opus-4 until \d\d:\d\d:\d\d \(in (600|59\d) s\)", keys.out)
    entry = keys.listed()["second"]
    assert (entry["state"], entry["cause"], entry["next"]) == ("cooling down", "limited for messages/opus-4", "wait")
    (scope,) = entry["scopes"]
    assert (scope["scope"], scope["state"], scope["because_of"]) == ("messages/opus-4", "cooling down", "")
    assert scope["remaining_seconds"] == pytest.approx(600, abs=30)


def test_place_and_the_organisations_cooldown_are_told(keys):
    """Given a key whose organisation has no credit, then JSON has its place whole, the cause and what to do."""
    organisation = f"organisation/{ORGANISATION}"
    cause = Cause("out_of_credit", 400, machine_time())
    keys.known(
        learn("second", ORGANISATION, WORKSPACE),
        lambda store: store.cool(organisation, machine_time() + 600, 0, cause),
    )
    entry = keys.listed()["second"]
    assert (entry["organisation"], entry["workspace"]) == (ORGANISATION, WORKSPACE)
    assert entry["cause"] == "its organisation is out of credit"
    assert entry["next"] == "top up credit, then: gateway keys enable second"


@pytest.mark.parametrize("marks", [[cool("second", 600)], [retire("second")], [disable("second")], []])
def test_enabled_key_is_valid_whatever_was_held_against_it(keys, marks):
    """Given a key in any state, when it is enabled, then it is valid in a new generation; the others keep theirs."""
    keys.known(*marks, retire("third"))
    assert keys.run("enable", "second", "--json") == 0
    assert [entry["state"] for entry in json.loads(keys.out)] == ["valid", "valid", "retired"]
    record = keys.records()["second"]
    assert (record.generation, record.is_permanent, record.is_unconfirmed) == (1, False, False)


@pytest.mark.parametrize("whose", [f"organisation/{ORGANISATION}", f"workspace/{WORKSPACE}"])
def test_enabling_one_key_ends_what_its_organisation_is_held_against_for(keys, whose):
    """Given keys of one workspace, for which no key of it may be used, when one is enabled, then both are valid."""
    cause = Cause("out_of_credit", 400, machine_time())
    keys.known(
        learn("third", ORGANISATION, WORKSPACE),
        learn("second", ORGANISATION, WORKSPACE),
        lambda store: store.cool(whose, machine_time() + 600, 0, cause),
    )
    assert [keys.listed()[name]["state"] for name in ("second", "third")] == ["cooling down"] * 2
    assert keys.run("enable", "second", "--json") == 0
    assert [keys.listed()[name]["state"] for name in ("second", "third")] == ["valid"] * 2


@pytest.mark.parametrize("marks", [[cool("second", 600)], [retire("second")], []], ids=["cooling", "retired", "valid"])
def test_disabled_key_is_out_of_use_until_it_is_enabled(keys, marks):
    """Given a key, when it is disabled, then it is out of use, over a restart too, until it is enabled."""
    keys.known(*marks)
    assert keys.run("disable", "second") == 0
    with keys.store() as store:
        store.start_anew(machine_time())
    assert keys.listed()["second"]["state"] == "disabled"
    assert keys.run("enable", "second") == 0
    assert keys.listed()["second"]["state"] == "valid"


@pytest.mark.parametrize("seconds", ["90", "90.5", "0.9e2"])
def test_cooled_key_cools_for_that_long(keys, seconds):
    """Given a valid key, when it is cooled by hand, then it cools down so many seconds from now; the operator is
    why."""
    keys.known()
    before = machine_time()
    assert keys.run("cool", "second", seconds) == 0
    after = machine_time()
    record = keys.records()["second"]
    assert before + float(seconds) <= record.cooling_until_at <= after + float(seconds)
    assert (record.reason, record.status) == (BY_OPERATOR, 0)
    entry = keys.listed()["second"]
    assert (entry["state"], entry["why"]) == ("cooling down", "operator")
    assert entry["limited"] == 0, "the upstream has not limited it"


@pytest.mark.parametrize(
    ("mark", "state", "said"),
    [
        (retire("second"), "retired", "second gets no requests at all until it is enabled"),
        (disable("second"), "disabled", "second gets no requests at all until it is enabled"),
        (cool("second", 600), "cooling down", "second already cools down for longer than that"),
    ],
    ids=["retired", "disabled", "cooling-longer"],
)
def test_cooling_that_would_change_nothing_is_refused(keys, mark, state, said):
    """Given a key that is out of use, or cools down for longer, when it is cooled by hand, then that is told, and it
    stands."""
    keys.known(mark)
    before = keys.records()["second"]
    assert keys.run("cool", "second", "5") == 1
    assert keys.err == f"gateway: {said}: nothing was changed\n"
    assert keys.records()["second"] == before
    assert keys.listed()["second"]["state"] == state


def test_a_running_gateway_sees_the_change_at_its_next_walk(keys):
    """Given a gateway that has its state open, when the command changes a key, then its next reading has it."""
    with keys.store() as store:
        store.retire(FINGERPRINTS["second"], 0, Cause("unauthorized", REFUSED_STATUS, machine_time()))
        assert keys.run_alone("enable", "second") == 0
        assert keys.err == ""
        (record,) = store.read([FINGERPRINTS["second"]])
        assert (record.generation, record.is_retired) == (1, False)
        stale = Cause("unauthorized", REFUSED_STATUS, machine_time())
        assert not store.retire(FINGERPRINTS["second"], 0, stale), "a refusal that was under way"


@pytest.mark.parametrize("arguments", [["enable"], ["disable"], ["cool"]], ids=" ".join)
def test_unknown_name_changes_nothing(keys, arguments):
    """Given a name that no key has, then one line names those there are, and no key is changed."""
    keys.known()
    seconds = ["5"] if arguments == ["cool"] else []
    assert keys.run(*arguments, "fourth", *seconds) == 1
    assert keys.err == "gateway: there is no key called fourth; there are primary, second, third\n"
    assert keys.out == ""
    assert set(keys.records().values()) == {Record()}


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e9"])
def test_no_time_to_cool_is_refused(keys, seconds):
    """Given a number of seconds that is none, then one line says so, and the key is as it was."""
    keys.known()
    assert keys.run("cool", "second", seconds) == 1
    assert keys.err == "gateway: SECONDS must be a positive number\n"
    assert keys.records()["second"] == Record()


@pytest.mark.parametrize(
    "arguments", [["cool", "second"], ["cool", "second", "soon"], ["enable"], ["retire", "second"]], ids=" ".join
)
def test_wrong_command_line_is_told_with_2(keys, arguments):
    """Given arguments that mean nothing, then the usage is shown and the status is 2."""
    with pytest.raises(SystemExit) as raised:
        keys.run(*arguments)
    assert raised.value.code == 2


@pytest.mark.parametrize(
    "arguments",
    [[], ["--json"], ["list"], ["enable", "second"], ["disable", "second"], ["cool", "second", "5"]],
    ids=" ".join,
)
def test_before_the_first_start_there_is_nothing_to_show_or_change(keys, arguments):
    """Given that no gateway has run on this folder, then no key is called valid, and none is changed where nobody
    looks: one line names the folder and the setting, and nothing is made."""
    assert keys.run(*arguments) == 1
    assert keys.out == ""
    unused = f"no gateway has been seen in the data folder {keys.folder} yet"
    assert keys.err.startswith(f"gateway: the keys' states are unknown: {unused}")
    assert "GATEWAY_DATA_DIR" in keys.err
    assert not keys.folder.exists()


@pytest.mark.parametrize("arguments", [[], ["--json"], ["disable", "second"]], ids=" ".join)
def test_state_server_that_nobody_has_used_shows_and_changes_nothing(keys, monkeypatch, arguments):
    """Given a Redis that no gateway has used, then no key is called valid and none is changed: one line names the
    server and the setting, and nothing is written there."""
    server = RedisServer()
    try:
        monkeypatch.setenv("GATEWAY_STATE_URL", server.url)
        assert keys.run(*arguments) == 1
        with closing(server.client()) as client:
            assert client.keys() == []
    finally:
        server.stop()
    assert keys.out == ""
    unused = f"no gateway has been seen at the state server 127.0.0.1:{server.port} yet"
    assert keys.err.startswith(f"gateway: the keys' states are unknown: {unused}")
    assert "GATEWAY_STATE_URL" in keys.err


def test_bad_configuration_is_complained_of(keys, monkeypatch):
    """Given a configuration with two faults, then each has its line and the status is 1."""
    monkeypatch.setenv("GATEWAY_TYPO", "x")
    monkeypatch.setenv("GATEWAY_THREADS", "none")
    assert keys.run() == 1
    lines = keys.err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("gateway: GATEWAY_") for line in lines)


def test_without_keys_of_its_own_the_list_is_empty(keys, monkeypatch):
    """Given a gateway whose clients bring their own keys, then the list is empty and nothing is wrong."""
    keys.known()
    monkeypatch.setenv("GATEWAY_API_KEYS", "")
    monkeypatch.setenv("GATEWAY_ALLOW_BYOK", "only")
    assert keys.run("--json") == 0
    assert json.loads(keys.out) == []
    assert keys.run("list") == 0
    assert len(keys.out.splitlines()) == 1


def test_state_that_cannot_be_read_is_told(keys, monkeypatch):
    """Given a disk that does not give the file's content, then one line says so and the status is 1."""
    keys.known(retire("second"))

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    assert keys.run() == 1
    assert keys.err == "gateway: the keys' state cannot be reached: [Errno 5] Input/output error\n"


def test_redis_out_of_reach_is_told(keys, monkeypatch):
    """Given a Redis that does not answer, then the command says so, rather than show what it cannot know."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        monkeypatch.setenv("GATEWAY_STATE_URL", f"redis://:PLANTED-password@127.0.0.1:{unheard.getsockname()[1]}")
        assert keys.run_alone() == 1
    assert keys.out == ""
    assert keys.err.endswith("gateway: the state server cannot be reached; is GATEWAY_STATE_URL right?\n")


def test_redis_url_that_is_none_is_told(keys, monkeypatch):
    """Given a URL whose port is none, then one line names the setting, without the password."""
    monkeypatch.setenv("GATEWAY_STATE_URL", "redis://:PLANTED-password@redis:port")
    assert keys.run("enable", "second") == 1
    (line,) = keys.err.splitlines()
    assert line.startswith("gateway: GATEWAY_STATE_URL: ")


def test_change_is_in_redis_when_the_command_has_ended(keys, monkeypatch):
    """Given a Redis, when a key is disabled, then the next process that asks Redis hears of it."""
    server = RedisServer()
    try:
        monkeypatch.setenv("GATEWAY_STATE_URL", server.url)
        with closing(RedisStore(server.url)) as store:
            assert store.flush()  # as a gateway that has begun
        assert keys.run_alone("disable", "second") == 0
        assert keys.err == ""
        assert keys.run_alone("--json") == 0
        assert [entry["state"] for entry in json.loads(keys.out)] == ["valid", "disabled", "valid"]
        assert keys.run_alone("--json", "enable", "second") == 0
        assert [entry["state"] for entry in json.loads(keys.out)] == ["valid", "valid", "valid"]
        assert not keys.folder.exists(), "the state is not in the data folder"
    finally:
        server.stop()


def test_change_that_cannot_be_written_is_told(keys, monkeypatch):
    """Given a disk that is full, when a key is disabled, then the command does not claim that it is."""
    keys.known()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(keys_file.KeysFile, "append", fail)
    monkeypatch.setattr(keys_file.KeysFile, "begun", fail)
    assert keys.run("disable", "second") == 1
    assert keys.out == ""
    assert "can no longer be reached" in keys.err


class FadingStore(MemoryStore):
    """A shared store whose server goes out of reach before it has heard of a change."""

    is_up = True

    def flush(self) -> None:
        self.is_up = False


def test_change_that_was_not_shared_is_told(keys, monkeypatch):
    """Given a server that goes away in the middle, then the command does not claim that the change is in effect."""
    monkeypatch.setenv("GATEWAY_STATE_URL", "redis://redis")
    monkeypatch.setattr(configured, "open_store", lambda settings: FadingStore())
    assert keys.run("disable", "second") == 1
    assert "can no longer be reached" in keys.err
    assert keys.out == ""
