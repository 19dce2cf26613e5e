"""`gateway limits`: what it prints of limits and their use, and what it says when it cannot know."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.limits.counters import MachineCounters
from gateway.limits.shared_limiter import SharedLimiter
from gateway.pricing.money import PICODOLLARS
from gateway.web.configured import read_settings
from tests.ports import free_port
from tests.stores.redis_server import RedisServer

LIMITS = """
[limits.groups.research]
dollars_per_day = 50
concurrent = 4
[limits.tokens.ann]
requests_per_minute = 2
tokens_per_minute = 1000
dollars_per_month = 0.005
[limits.default]
requests_per_minute = 100
"""


class Command:
    """The command under an environment of its own, and what it printed last."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.out = self.err = ""

    def given(self, **settings: str) -> None:
        for name, value in settings.items():
            self._monkeypatch.setenv(f"GATEWAY_{name.upper()}", value)

    def given_limits(self, limits: str) -> None:
        """These tables, and the tokens ann and bob of the group `research`."""
        lines = [f"{name} sha256:{number:064} group=research\n" for number, name in enumerate(("ann", "bob"))]
        self.given(config=self.file("gateway.toml", limits), client_tokens_file=self.file("tokens", "".join(lines)))

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def use(self, token: str, tokens: int, picodollars: int) -> None:
        """A request of this token's has used so much, on this machine."""
        settings = read_settings()
        limiter = SharedLimiter(MachineCounters(Path(settings.data_dir)))
        limiter.enter(settings.limits.of(token, "research"), costs=True, is_own=False).settle(tokens, picodollars)
        limiter.close()

    def run(self, *arguments: str) -> int:
        code = main(["limits", *arguments])
        self.out, self.err = self._capsys.readouterr()
        return code

    @property
    def rows(self) -> list[list[str]]:
        """The cells of the table."""
        return [re.split(r"\s{2,}", line) for line in self.out.splitlines()]


@pytest.fixture
def command(tmp_path, monkeypatch, capsys) -> Command:
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)
    made = Command(tmp_path, monkeypatch, capsys)
    made.given(api_keys="k=sk-a", data_dir=str(tmp_path / "data"))
    return made


def test_no_limits_are_told(command):
    """Given no limits, then one line says so, and JSON has an empty list."""
    assert command.run() == 0
    assert (command.out, command.err) == ("there are no limits\n", "")
    assert command.run("--format", "json") == 0
    assert json.loads(command.out) == []


def test_limits_of_a_gateway_that_never_ran_are_unused(command):
    """Given limits and no counts, then each limit is a line with nothing used, and no file is made; a line names the
    folder that was looked into, and the status tells."""
    command.given_limits(LIMITS)
    assert command.run() == 1
    unused = f"nothing has been counted: no gateway has been seen in the data folder {command.folder}/data yet"
    assert command.err.startswith(f"gateway: {unused}")
    assert "GATEWAY_DATA_DIR" in command.err
    head, *rows = command.rows
    assert head == ["whose", "limit", "used", "of", "left", "%", "free again"]
    assert rows == [
        ["group research", "requests at once", "0", "4", "4", "0", "-"],
        ["group research", "dollars a day", "0.00", "50.00", "50.00", "0", "-"],
        ["token ann", "requests a minute", "0", "2", "2", "0", "-"],
        ["token ann", "tokens a minute", "0", "1000", "1000", "0", "-"],
        ["token ann", "dollars a month", "0.00", "0.005", "0.005", "0", "-"],
        ["token bob", "requests a minute", "0", "100", "100", "0", "-"],
    ]
    assert not (command.folder / "data").exists()


def test_limits_at_a_state_server_that_nobody_has_used_are_unknown(command):
    """Given a Redis that no gateway has used, then a line says so, and the status tells."""
    command.given_limits(LIMITS)
    server = RedisServer()
    try:
        command.given(state_url=server.url)
        assert command.run() == 1
    finally:
        server.stop()
    place = f"the state server 127.0.0.1:{server.port}"
    assert command.err.startswith(f"gateway: nothing has been counted: no gateway has been seen at {place} yet")
    assert "GATEWAY_STATE_URL" in command.err


def test_limits_of_a_gateway_that_only_just_began_are_unused(command):
    """Given a data folder that a gateway has held, and no counts, then there is nothing to say."""
    command.given_limits(LIMITS)
    (command.folder / "data").mkdir()
    (command.folder / "data" / "lock").touch()
    assert command.run() == 0
    assert command.err == ""


def test_nearest_to_its_limit_comes_first(command):
    """Given use of some limits, then the fullest comes first, one that is passed included, with when it is free."""
    command.given_limits(LIMITS)
    command.use("ann", 900, PICODOLLARS // 100)
    assert command.run() == 0
    assert [(row[0], row[1], *row[2:6]) for row in command.rows[1:5]] == [
        ("token ann", "dollars a month", "0.01", "0.005", "0.00", "100"),
        ("token ann", "tokens a minute", "900", "1000", "100", "90"),
        ("token ann", "requests a minute", "1", "2", "1", "50"),
        ("group research", "dollars a day", "0.01", "50.00", "49.99", "0"),
    ]
    assert [row[6] for row in command.rows[2:4]] == ["within a minute"] * 2
    assert re.fullmatch(r"\d{4}-\d\d-01 00:00 UTC", command.rows[1][6])


def test_json_has_amounts_and_times(command):
    """Given use of limits, then JSON has numbers of requests, tokens and dollars, and when money is free again."""
    command.given_limits(LIMITS)
    command.use("bob", 10, PICODOLLARS // 4)
    before = datetime.now(UTC)
    assert command.run("--format", "json") == 0
    found = {(each["kind"], each["name"], each["limit"]): each for each in json.loads(command.out)}
    day = found["group", "research", "dollars_per_day"]
    assert (day["used"], day["most"], day["left"], day["ratio"], day["is_reached"]) == (0.25, 50, 49.75, 0.005, False)
    resets_at = datetime.fromisoformat(day["resets_at"])
    assert before < resets_at <= before + timedelta(days=1, minutes=1)
    assert (resets_at.hour, resets_at.minute, resets_at.second) == (0, 0, 0)
    assert found["token", "bob", "requests_per_minute"]["used"] == 1
    assert found["token", "bob", "requests_per_minute"]["resets_at"] is None
    assert found["group", "research", "concurrent"]["resets_in_seconds"] is None


def test_store_out_of_reach_is_told_and_what_is_known_is_shown(command):
    """Given a shared store that nobody answers at, then a line says so, this machine's counts are shown, and the status
    is 1."""
    command.given_limits(LIMITS)
    command.use("bob", 10, PICODOLLARS)
    command.given(state_url=f"redis://127.0.0.1:{free_port()}/0")
    assert command.run() == 1
    (line,) = command.err.splitlines()
    assert re.match(r"gateway: the state server .* does not answer .*: what other machines have used may be", line)
    assert ["group research", "dollars a day", "1.00", "50.00", "49.00", "2"] in [row[:6] for row in command.rows]


def test_bad_configuration_is_complained_of(command):
    """Given limits with faults, then a line each on standard error, and nothing is printed."""
    command.given_limits("[limits.default]\nconcurrent = 0\nx = 1")
    assert command.run() == 1
    assert command.out == ""
    assert len(command.err.splitlines()) == 2


def test_counts_that_cannot_be_read_are_complained_of(command):
    """Given a folder in the place of the counts, then one line says what is wrong."""
    command.given_limits(LIMITS)
    (command.folder / "data" / "limits.counts").mkdir(parents=True)
    assert command.run() == 1
    (line,) = command.err.splitlines()
    assert line.startswith("gateway: the counts of limits cannot be read: ")
