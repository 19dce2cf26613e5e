"""Client tokens as their file has them now."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.access import parse_tokens
from gateway.token_file import TokenFile
from tests.unit.fakes import FakeClock

ANN, BOB = f"ann sha256:{'a' * 64}\n", f"bob sha256:{'b' * 64}\n"


class Fixture:
    """A token file on disk, the TokenFile over it, and its clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock(0.0)
        path.write_text(ANN + BOB)
        self.file = TokenFile(str(path), parse_tokens(ANN + BOB), self.clock)

    def replace(self, text: str) -> None:
        """Write the file anew, as editors and `gateway tokens` do, by renaming."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.path)

    @property
    def names(self) -> list[str]:
        return [token.name for token in self.file.tokens()]


@pytest.fixture
def fixture(tmp_path: Path) -> Fixture:
    return Fixture(tmp_path / "tokens")


def test_revoked_token_is_gone_within_two_seconds(fixture):
    """Given a token that was in force, when its line is taken out, then two seconds later it is not in force."""
    assert fixture.names == ["ann", "bob"]
    fixture.replace(BOB)
    fixture.clock.advance(2.0)
    assert fixture.names == ["bob"]


def test_new_token_is_found(fixture):
    """Given a file without a token, when its line is appended in place, then it is found at the next look."""
    fixture.replace(ANN)
    assert fixture.names == ["ann"]
    with fixture.path.open("a") as file:
        file.write(BOB)
    fixture.clock.advance(0.5)
    assert fixture.names == ["ann", "bob"]


def test_change_before_the_first_look_is_found(fixture):
    """Given a file that changed between the start and the first request, then the first look finds it."""
    fixture.replace(BOB)
    assert fixture.names == ["bob"]


def test_file_is_looked_at_at_most_twice_a_second(fixture, monkeypatch):
    """Given many requests, when half a second has not passed, then the file is not looked at again."""
    looks = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda *arguments, **options: looks.append(1) or real(*arguments, **options))
    for _ in range(40):
        fixture.file.tokens()
        fixture.clock.advance(0.125)
    assert len(looks) == 10


def test_unchanged_file_is_not_read_again(fixture, monkeypatch):
    """Given a file that stays the same, when looked at, then it is not opened."""
    assert fixture.names == ["ann", "bob"]
    monkeypatch.setattr("builtins.open", lambda *_, **__: pytest.fail("the file was opened"))
    fixture.clock.advance(5)
    assert fixture.names == ["ann", "bob"]


@pytest.mark.parametrize("bad", ["ann plaintext-token", b"\xff\xfe", None], ids=["bad-line", "not-utf-8", "gone"])
def test_file_that_turns_bad_keeps_the_last_good_tokens(fixture, caplog, bad):
    """Given a file that turns unreadable, then the tokens stay, the log says so without quoting it, and a good file
    is taken again."""
    assert fixture.names == ["ann", "bob"]
    if bad is None:
        fixture.path.unlink()
    else:
        fixture.path.write_bytes(bad if isinstance(bad, bytes) else bad.encode())
    fixture.clock.advance(1)
    assert fixture.names == ["ann", "bob"]
    assert str(fixture.path) in caplog.text
    assert "plaintext" not in caplog.text
    fixture.replace(BOB)
    fixture.clock.advance(1)
    assert fixture.names == ["bob"]


def test_bad_file_is_complained_of_once(fixture, caplog):
    """Given a bad file that stays bad, when requests go on, then the log has one line."""
    fixture.replace("bad")
    for _ in range(5):
        fixture.clock.advance(1)
        fixture.file.tokens()
    assert len(caplog.records) == 1


def test_emptied_file_lets_nobody_in(fixture):
    """Given a file that was emptied, then no token is in force: the gateway does not become an open one."""
    fixture.replace("")
    assert fixture.file.tokens() == ()
