"""`gateway tokens`: tokens that work, a file that nobody else reads, and what is said when something is wrong."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.access.authentication import ByokMode, authenticate, parse_tokens
from gateway.cli import main
from gateway.protocol.errors import Unauthenticated
from tests.harness import ROOT

LINE = re.compile(r"[\w.@-]+ sha256:[0-9a-f]{64}( operator)?( group=[\w.@-]+)?\n")


class Tokens:
    """The command over a file of its own, and what it printed last."""

    def __init__(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = file
        self._capsys = capsys
        self.out = self.err = ""

    def run(self, *arguments: str) -> int:
        code = main(["tokens", "--file", str(self.file), *arguments])
        self.out, self.err = self._capsys.readouterr()
        return code

    def made(self, *arguments: str) -> str:
        """Make a token; what it is."""
        assert self.run("make", *arguments) == 0
        assert self.err == ""
        (token,) = self.out.splitlines()
        return token

    def caller(self, token: str) -> tuple[str | None, bool]:
        """Who a client with this token is to a gateway that reads the file."""
        caller = authenticate({"x-api-key": token}, parse_tokens(self.file.read_text()), ByokMode.ALLOWED)
        return caller.token_name, caller.is_operator

    @property
    def mode(self) -> int:
        return stat.S_IMODE(self.file.stat().st_mode)


@pytest.fixture
def tokens(tmp_path, capsys, monkeypatch) -> Tokens:
    monkeypatch.delenv("GATEWAY_CLIENT_TOKENS_FILE", raising=False)
    return Tokens(tmp_path / "tokens", capsys)


def test_made_token_opens_the_gateway_under_its_name(tokens):
    """Given no file, when tokens are made, then each opens the gateway as who it is for, and nothing else does."""
    ann, bob = tokens.made("ann"), tokens.made("bob@example.org", "--operator")
    assert ann != bob
    assert tokens.caller(ann) == ("ann", False)
    assert tokens.caller(bob) == ("bob@example.org", True)
    with pytest.raises(Unauthenticated):
        tokens.caller(ann[:-1])


def test_file_holds_no_token(tokens):
    """Given a made token, then the file has its hash alone, in the documented form."""
    token = tokens.made("ann")
    assert LINE.fullmatch(tokens.file.read_text())
    assert token not in tokens.file.read_text()
    assert len(token) >= 32 * 4 / 3, "32 random bytes"


def test_new_file_is_private_and_an_old_one_keeps_its_mode(tokens):
    """Given no file, then it is made for its owner alone; given one with another mode, then the mode stays."""
    tokens.made("ann")
    assert tokens.mode == 0o600
    tokens.file.chmod(0o640)
    tokens.made("bob")
    assert tokens.mode == 0o640
    tokens.run("revoke", "ann")
    assert tokens.mode == 0o640


def test_list_shows_names_and_operators(tokens):
    """Given tokens, then their names are listed in the file's order, and neither token nor hash."""
    assert tokens.made("ann", "--operator")
    assert tokens.made("bob")
    assert tokens.run("list") == 0
    assert tokens.out == "ann operator\nbob\n"


def test_token_of_a_group_is_made_and_listed(tokens):
    """Given a group, then the token is of it, and the list says so; a group with odd characters makes no token."""
    ann = tokens.made("ann", "--group", "research")
    assert LINE.fullmatch(tokens.file.read_text())
    tokens.made("bob", "--operator", "--group", "a.b")
    tokens.made("cid")
    caller = authenticate({"x-api-key": ann}, parse_tokens(tokens.file.read_text()), ByokMode.ALLOWED)
    assert (caller.token_name, caller.token_group) == ("ann", "research")
    assert tokens.run("list") == 0
    assert tokens.out == "ann group=research\nbob operator group=a.b\ncid\n"


@pytest.mark.parametrize("group", ["", "a b", "a#", "ünn", "a\nb", "a operator", "a group=b"])
def test_group_that_cannot_be_used_is_told(tokens, group):
    """Given a group with odd characters, then one line says so, no token is shown, and the file is as it was."""
    tokens.made("ann")
    before = tokens.file.read_bytes()
    assert tokens.run("make", "bob", "--group", group) == 1
    assert "the group" in tokens.err
    assert (tokens.out, len(tokens.err.splitlines())) == ("", 1)
    assert tokens.file.read_bytes() == before


def test_revoked_token_is_out_and_the_others_stay(tokens):
    """Given three tokens, when one is revoked, then it opens nothing, and the others do as before."""
    made = {name: tokens.made(name) for name in ("ann", "bob", "ann.b")}
    assert tokens.run("revoke", "ann") == 0
    assert (tokens.out, tokens.err) == ("", "")
    with pytest.raises(Unauthenticated):
        tokens.caller(made["ann"])
    assert [tokens.caller(made[name]) for name in ("bob", "ann.b")] == [("bob", False), ("ann.b", False)]


def test_comments_and_spaces_of_the_file_survive(tokens):
    """Given a file that its owner has commented, and that lacks its last line's end, then what is there stays."""
    digest = "0" * 64
    written = f"# the team\n\n  ann   sha256:{digest}\n# not ours\nbob sha256:{digest[:-1]}1 operator"
    tokens.file.write_text(written)
    tokens.made("cid")
    assert tokens.file.read_text().startswith(written + "\ncid sha256:")
    assert tokens.run("revoke", "ann") == 0
    assert tokens.run("revoke", "cid") == 0
    assert tokens.file.read_text() == f"# the team\n\n# not ours\nbob sha256:{digest[:-1]}1 operator\n"


def test_file_behind_a_link_is_changed_and_the_link_stays(tokens, tmp_path):
    """Given a link to the file, as secrets are often mounted, then the file is replaced where it is."""
    real = tmp_path / "elsewhere" / "real"
    real.parent.mkdir()
    real.write_text("")
    tokens.file.symlink_to(real)
    tokens.made("ann")
    assert tokens.file.is_symlink()
    assert [token.name for token in parse_tokens(real.read_text())] == ["ann"]
    assert os.listdir(real.parent) == ["real"], "nothing is left behind"


def test_setting_names_the_file(tokens, monkeypatch, capsys):
    """Given the gateway's setting and no option, then its file is used; the option wins."""
    monkeypatch.setenv("GATEWAY_CLIENT_TOKENS_FILE", str(tokens.file))
    assert main(["tokens", "make", "ann"]) == 0
    other = tokens.file.with_name("other")
    assert main(["tokens", "--file", str(other), "make", "bob"]) == 0
    capsys.readouterr()
    assert main(["tokens", "list"]) == 0
    assert capsys.readouterr().out == "ann\n"
    assert [token.name for token in parse_tokens(other.read_text())] == ["bob"]


def test_no_file_named_is_told(tokens, capsys):
    """Given neither option nor setting, then one line names both."""
    assert main(["tokens", "list"]) == 1
    said = "no token file is configured: give --file FILE, or set GATEWAY_CLIENT_TOKENS_FILE"
    assert capsys.readouterr().err == f"gateway: {said}\n"


def test_file_of_the_configuration_is_taken(tokens, tmp_path, monkeypatch, capsys):
    """Given a TOML file that names the token file and has no key, then that is the one, though it is not there yet."""
    config = tmp_path / "gateway.toml"
    config.write_text(f'client_tokens_file = "{tokens.file}"\n')
    monkeypatch.setenv("GATEWAY_CONFIG", str(config))
    assert main(["tokens", "make", "ann"]) == 0
    assert main(["tokens", "make", "bob", "--config", str(config)]) == 0
    capsys.readouterr()
    assert main(["tokens", "list"]) == 0
    assert capsys.readouterr().out == "ann\nbob\n"
    assert tokens.mode == 0o600


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("", "set client_tokens_file in {}", id="names-none"),
        pytest.param("client_tokens_file = 7", "set client_tokens_file in {}", id="no-text"),
        pytest.param("client_tokens_file =", "gateway: {}: not valid TOML", id="no-toml"),
    ],
)
def test_configuration_that_names_no_token_file_is_told(tokens, tmp_path, monkeypatch, capsys, content, said):
    """Given a TOML file without a token file in it, then one line says what to set, and where."""
    config = tmp_path / "gateway.toml"
    config.write_text(content)
    monkeypatch.setenv("GATEWAY_CONFIG", str(config))
    assert main(["tokens", "list"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said.format(config) in line


@pytest.mark.parametrize("action", [["make", "ann"], ["revoke", "ann"], ["list"]])
def test_file_may_be_named_behind_the_action(tokens, capsys, action):
    """Given `--file` at the end, then it counts, over one before the action as well."""
    tokens.made("ann")
    if action[0] == "make":
        assert main(["tokens", "revoke", "ann", "--file", str(tokens.file)]) == 0
    assert main(["tokens", "--file", "/nonexistent/tokens", *action, "--file", str(tokens.file)]) == 0
    names = [token.name for token in parse_tokens(tokens.file.read_text())]
    assert names == ([] if action[0] == "revoke" else ["ann"])


@pytest.mark.parametrize("name", ["ann", "a b", "", "ann#", "ünn", "#ann", "a\nb", f"a sha256:{'0' * 64}\nb"])
def test_name_that_cannot_be_used_is_told(tokens, name):
    """Given a name that is taken or has odd characters, then one line says so, and the file is as it was."""
    tokens.made("ann")
    before = tokens.file.read_bytes()
    assert tokens.run("make", name) == 1
    assert len(tokens.err.splitlines()) == 1
    assert ("has a token called ann already" if name == "ann" else "cannot be a name") in tokens.err
    assert tokens.out == ""
    assert tokens.file.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "arguments", "what"),
    [
        pytest.param(None, ["list"], "No such file", id="list-without-a-file"),
        pytest.param(None, ["revoke", "ann"], "No such file", id="revoke-without-a-file"),
        pytest.param(b"", ["revoke", "ann"], "there is no token called ann", id="revoke-unknown"),
        pytest.param(b"ann sha256:" + b"0" * 64, ["revoke", "anne"], "anne; did you mean ann?", id="revoke-typo"),
        pytest.param(b"# ann\n", ["revoke", "ann"], "there is no token called ann", id="revoke-a-comment"),
        pytest.param(b"nonsense\n", ["list"], "line 1", id="list-of-a-bad-file"),
        pytest.param(b"nonsense\n", ["make", "ann"], "line 1", id="make-in-a-bad-file"),
        pytest.param(b"nonsense\n", ["revoke", "ann"], "line 1", id="revoke-in-a-bad-file"),
        pytest.param(b"\xff\n", ["make", "ann"], "not UTF-8", id="not-text"),
        pytest.param(b"\xff\n", ["list"], "not UTF-8", id="list-of-what-is-not-text"),
    ],
)
def test_file_that_is_of_no_use_is_told_and_stays_as_it_is(tokens, content, arguments, what):
    """Given a file that is missing, bad or without the name, then one line says so, and nothing is changed or made."""
    if content is not None:
        tokens.file.write_bytes(content)
    assert tokens.run(*arguments) == 1
    (line,) = tokens.err.splitlines()
    assert what in line
    assert (tokens.file.read_bytes() if tokens.file.exists() else None) == content


def test_folder_that_is_not_there_is_told(tokens):
    """Given a path below a folder that is missing, then one line names it, and no token was promised."""
    tokens.file = tokens.file / "below"
    assert tokens.run("make", "ann") == 1
    assert str(tokens.file) in tokens.err
    assert tokens.out == ""


def test_failed_writing_leaves_the_file_and_nothing_else(tokens, monkeypatch):
    """Given a disk that fails at the last moment, then the old file stands, no half is left, no token is shown."""
    tokens.made("ann")
    before = tokens.file.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert tokens.run("make", "bob") == 1
    assert "No space left" in tokens.err
    assert tokens.out == ""
    assert tokens.file.read_bytes() == before
    assert os.listdir(tokens.file.parent) == ["tokens"]


@pytest.mark.parametrize("arguments", [["list"], ["make", "ann"], ["revoke", "ann"]])
def test_pipe_in_the_file_s_place_is_told(tokens, arguments):
    """Given a pipe that nobody writes to, then one line says what is wrong, and nothing waits for it."""
    os.mkfifo(tokens.file)
    assert tokens.run(*arguments) == 1
    assert "not a regular file" in tokens.err


def test_commands_at_once_lose_nothing(tokens):
    """Given 24 commands at once, of which half revoke and half make, then each revoked token is gone, each printed one
    is there, and the comments are, too."""
    old = {f"old-{number}": tokens.made(f"old-{number}") for number in range(12)}
    with tokens.file.open("a") as file:
        file.write("# the end\n")
    asked = [["revoke", name] for name in old] + [["make", f"new-{number}"] for number in range(12)]
    program = [sys.executable, "-m", "tests.unit.tokens_at_once", str(tokens.file), json.dumps(asked)]
    ran = json.loads(subprocess.run(program, cwd=ROOT, capture_output=True, check=True, timeout=100).stdout)
    assert [status for status, _ in ran] == [0] * 24, ran
    text = tokens.file.read_text()
    assert {token.name for token in parse_tokens(text)} == {f"new-{number}" for number in range(12)}
    for (_, printed), (_, name) in zip(ran[12:], asked[12:], strict=True):
        assert tokens.caller(printed.strip()) == (name, False)
    assert "# the end\n" in text
    assert os.listdir(tokens.file.parent) == [tokens.file.name]
