"""Client tokens as their file has them now."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from gateway.access.authentication import parse_tokens
from gateway.access.token_file import TokenFile
from tests.unit.fakes import FakeClock

ANN, BOB, CID = (f"{name} sha256:{name[0] * 64}\n" for name in ("ann", "bob", "cid"))


WALL = 1_800_000_000.0


class Fixture:
    """A token file on disk, the TokenFile over it, and its clocks; the file's times are the wall clock's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock(0.0)
        self.write(ANN + BOB)
        self.clock.advance(60.0)
        self.file = TokenFile(str(path), parse_tokens(ANN + BOB), self.clock, self._wall_clock)

    def _wall_clock(self) -> float:
        return WALL + self.clock.now

    def write(self, text: str | bytes) -> None:
        """Write the file in place, as it is to be or a part of it."""
        self.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        os.utime(self.path, (self._wall_clock(), self._wall_clock()))

    def replace(self, text: str) -> None:
        """Write the file anew, as editors and `gateway tokens` do, by renaming."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        os.utime(fresh, (self._wall_clock(), self._wall_clock()))
        fresh.rename(self.path)

    @property
    def names(self) -> list[str]:
        return [token.name for token in self.file.tokens()]

    def names_over(self, seconds: float) -> list[list[str]]:
        """The different lists of names that requests see which come all the time."""
        seen = [self.names]
        for _ in range(int(seconds * 10)):
            self.clock.advance(0.1)
            if self.names != seen[-1]:
                seen.append(self.names)
        return seen


@pytest.fixture
def fixture(tmp_path: Path) -> Fixture:
    return Fixture(tmp_path / "tokens")


@pytest.mark.parametrize("after", [BOB, "", CID, BOB + CID])
@pytest.mark.parametrize("is_in_place", [False, True])
@pytest.mark.parametrize("is_busy", [False, True])
def test_revoked_token_is_gone_within_two_seconds(fixture, after, is_in_place, is_busy):
    """Given a token that was in force, when its line is taken out, however and with however many others, then a request
    two seconds later does not find it, whether others came before it or none."""
    assert fixture.names == ["ann", "bob"]
    (fixture.write if is_in_place else fixture.replace)(after)
    if is_busy:
        fixture.names_over(1.9)
        fixture.clock.advance(0.1)
    else:
        fixture.clock.advance(2.0)
    assert "ann" not in fixture.names


def test_new_token_is_found(fixture):
    """Given a file without a token, when its line is appended in place, then it is found soon."""
    with fixture.path.open("a") as file:
        file.write(CID)
    os.utime(fixture.path, (WALL + fixture.clock.now,) * 2)
    assert fixture.names_over(1.5) == [["ann", "bob"], ["ann", "bob", "cid"]]


def test_file_that_is_half_written_is_not_used(fixture):
    """Given a file that is emptied and written again in place, piece by piece, then no request misses a token."""
    whole = ANN + BOB + CID
    for end in range(0, len(whole), 7):
        fixture.write(whole[:end])
        assert fixture.names_over(0.9) == [["ann", "bob"]]
    fixture.write(whole)
    assert fixture.names_over(1.5) == [["ann", "bob"], ["ann", "bob", "cid"]]


def test_loss_of_most_tokens_waits_longer(fixture):
    """Given a writer that rests with most of the tokens still missing, then they are missed later than others are."""
    fixture.write(CID)
    assert fixture.names_over(1.4) == [["ann", "bob"]]
    fixture.write(ANN + BOB + CID)
    assert fixture.names_over(1.5) == [["ann", "bob"], ["ann", "bob", "cid"]]
    fixture.write(CID)
    assert fixture.names_over(1.9) == [["ann", "bob", "cid"], ["cid"]]


def test_file_that_changes_while_it_is_read_is_read_again(fixture, monkeypatch):
    """Given a writer that begins between the look and the reading, then what was read is not used."""
    fixture.replace(ANN)
    fixture.clock.advance(1.0)
    real = os.open

    def write_first(*arguments, **options):
        fixture.write(CID)
        return real(*arguments, **options)

    monkeypatch.setattr(os, "open", write_first)
    assert fixture.names == ["ann", "bob"]
    monkeypatch.undo()
    assert fixture.names_over(1.9) == [["ann", "bob"], ["cid"]]


def test_wall_clock_that_was_set_back_delays_nothing_for_long(fixture):
    """Given a file whose time lies ahead of the clock, then it counts when it has been seen to stay the same."""
    fixture.replace(BOB)
    os.utime(fixture.path, (WALL + 86_400,) * 2)
    assert fixture.names_over(2.0) == [["ann", "bob"], ["bob"]]


def test_pipe_in_its_place_keeps_the_tokens_and_holds_up_nobody(fixture, caplog):
    """Given a pipe that nobody writes to, then it is not opened, the tokens stay, and the log says so once."""
    assert fixture.names == ["ann", "bob"]
    fixture.path.unlink()
    os.mkfifo(fixture.path)
    assert fixture.names_over(3.0) == [["ann", "bob"]]
    assert [record.message for record in caplog.records] == [
        f"token file {fixture.path}: it is not a regular file; the tokens read before stay in force"
    ]


def test_request_does_not_wait_for_another_one_s_look(fixture, monkeypatch):
    """Given a look that hangs, as over a network, then other requests go on with the tokens that are known."""
    fixture.clock.advance(1.0)
    begun, may_end = threading.Event(), threading.Event()
    real = os.stat

    def hang(*arguments, **options):
        begun.set()
        assert may_end.wait(30)
        return real(*arguments, **options)

    monkeypatch.setattr(os, "stat", hang)
    looking = threading.Thread(target=fixture.file.tokens)
    looking.start()
    try:
        assert begun.wait(30)
        fixture.clock.advance(1.0)
        assert fixture.names == ["ann", "bob"]
    finally:
        may_end.set()
        looking.join(30)


def test_change_before_the_first_look_is_found(fixture):
    """Given a file that changed between the start and the first request, then the first look finds it."""
    fixture.replace(BOB)
    fixture.clock.advance(1.0)
    assert fixture.names == ["bob"]


def test_change_is_logged_once(fixture, caplog):
    """Given a change, then the log says how many tokens there are; a file that stays the same says nothing."""
    caplog.set_level("INFO")
    fixture.names_over(3.0)
    assert caplog.records == []
    fixture.replace(BOB)
    fixture.names_over(3.0)
    assert [record.message for record in caplog.records] == [
        f"token file {fixture.path} has changed; tokens now: 1, before: 2"
    ]


def test_file_is_looked_at_at_most_four_times_a_second(fixture, monkeypatch):
    """Given many requests, when a quarter of a second has not passed, then the file is not looked at again."""
    fixture.file.tokens()
    fixture.clock.advance(0.25)
    looks = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda *arguments, **options: looks.append(1) or real(*arguments, **options))
    for _ in range(40):
        fixture.file.tokens()
        fixture.clock.advance(0.125)
    assert len(looks) == 20


def test_unchanged_file_is_not_read_again(fixture, monkeypatch):
    """Given a file that stays the same, when looked at, then it is not opened."""
    assert fixture.names == ["ann", "bob"]
    monkeypatch.setattr(os, "open", lambda *_, **__: pytest.fail("the file was opened"))
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
        fixture.write(bad)
    fixture.clock.advance(2)
    assert fixture.names == ["ann", "bob"]
    assert str(fixture.path) in caplog.text
    assert "plaintext" not in caplog.text
    fixture.replace(BOB)
    fixture.clock.advance(2)
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
    fixture.clock.advance(2)
    assert fixture.file.tokens() == ()


@pytest.mark.parametrize("is_in_place", [False, True])
def test_group_that_changes_counts_within_two_seconds(fixture, is_in_place):
    """Given a token, when its line gets a group, and then another one, then it has that group two seconds later."""
    for group in ("research", "sales", None):
        more = f" group={group}" if group else ""
        text = ANN.replace("\n", f"{more}\n") + BOB
        (fixture.write if is_in_place else fixture.replace)(text)
        fixture.names_over(2.0)
        assert [token.group for token in fixture.file.tokens()] == [group, None]
