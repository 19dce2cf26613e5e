"""`gateway init`: files that make a good configuration, and nothing that was there before is touched."""

from __future__ import annotations

import os
import pty
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.access.authentication import ByokMode, authenticate
from gateway.cli import main
from gateway.config.loader import load_settings
from gateway.config.settings import Settings, setting_specs
from gateway.runtime.whole_file import read_now

FILES = ["gateway.toml", "keys", "tokens"]


def settings_in(folder: Path) -> Settings:
    return load_settings({"GATEWAY_CONFIG": str(folder / "gateway.toml")}, read_now)


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    file = tmp_path / "given"
    file.write_text("# ours\nfirst=sk-ant-1\n\nsk-ant-2\n")
    return file


def test_files_are_private_and_a_good_configuration(tmp_path, keys_file, capsys) -> None:
    """Given options alone, then three files that only their owner reads hold these settings, keys and one token."""
    folder = tmp_path / "made here"
    options = ["--upstream", "https://api.example.com/", "--bind", "127.0.0.1:9999", "--token-name", "ann"]
    assert main(["init", str(folder), "--yes", "--keys-from", str(keys_file), *options]) == 0
    assert sorted(os.listdir(folder)) == FILES
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in FILES} == {0o600}
    settings = settings_in(folder)
    assert [key.name for key in settings.keys] == ["first", "key-2"]
    assert (settings.upstream_url, settings.bind) == ("https://api.example.com", "127.0.0.1:9999")
    printed = capsys.readouterr().out
    (token,) = re.findall(r"^  (gwt_\S+)$", printed, re.MULTILINE)
    caller = authenticate({"x-api-key": token}, settings.tokens, ByokMode.ALLOWED)
    assert (caller.token_name, caller.is_operator) == ("ann", True)
    assert f"gateway serve --config '{folder}/gateway.toml'" in printed
    assert "sk-ant" not in printed
    assert token not in "".join((folder / name).read_text() for name in FILES)


def test_settings_that_are_commented_out_are_the_defaults(tmp_path, keys_file) -> None:
    """Given the written file, when every setting in its comments is put in force, then nothing is different."""
    assert main(["init", str(tmp_path / "new"), "--yes", "--keys-from", str(keys_file)]) == 0
    file = tmp_path / "new" / "gateway.toml"
    before = settings_in(tmp_path / "new")
    text, number = re.subn(r"^# (\w+ = )", r"\1", file.read_text(), flags=re.MULTILINE)
    file.write_text(text)
    assert number >= 5
    after = settings_in(tmp_path / "new")
    assert [getattr(after, name) for name, _ in setting_specs()] == [
        getattr(before, name) for name, _ in setting_specs()
    ]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("is_link", [False, True], ids=["file", "link to nothing"])
def test_nothing_is_overwritten(tmp_path, keys_file, capsys, name, is_link) -> None:
    """Given one of the files, or a link of its name, then one line names it, and nothing is written or changed."""
    folder = tmp_path / "old"
    folder.mkdir()
    if is_link:
        (folder / name).symlink_to(tmp_path / "elsewhere")
    else:
        (folder / name).write_text("mine")
    assert main(["init", str(folder), "--yes", "--keys-from", str(keys_file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder / name) in line
    assert os.listdir(folder) == [name]
    assert not (tmp_path / "elsewhere").exists()
    assert is_link or (folder / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--keys-from", "FILE", "--bind", "8080"], "--bind: HOST:PORT", id="bind"),
        pytest.param(["--keys-from", "FILE", "--upstream", "api.example.com"], "--upstream: a URL", id="upstream"),
        pytest.param(["--keys-from", "FILE", "--token-name", "a b"], "--token-name: letters", id="token-name"),
        pytest.param(["--keys-from", "FILE", "--token-name", "#ann"], "--token-name: letters", id="comment"),
        pytest.param(["--keys-from", "/nonexistent"], "--keys-from: /nonexistent: No such file", id="no-file"),
        pytest.param(["--keys-from", "/dev/null"], "--keys-from: /dev/null: it is not a regular file", id="device"),
        pytest.param([], "--yes needs --keys-from", id="no-keys"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(tmp_path, keys_file, capsys, arguments, said) -> None:
    """Given an option that is no good, then one line says which and why, and no folder is made."""
    given = [str(keys_file) if word == "FILE" else word for word in arguments]
    assert main(["init", str(tmp_path / "new"), "--yes", *given]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gateway: {said}")
    assert not (tmp_path / "new").exists()


def test_bad_key_is_told_by_its_line_without_the_secret(tmp_path, keys_file, capsys) -> None:
    """Given a file with a secret twice, then the line's number is said, and the secret is not."""
    keys_file.write_text("# ours\na=sk-ant-1\nb=sk-ant-1\n")
    assert main(["init", str(tmp_path / "new"), "--yes", "--keys-from", str(keys_file)]) == 1
    assert capsys.readouterr().err == "gateway: --keys-from, line 3: b has the same secret as a\n"


@pytest.mark.parametrize("key", ["sk-ant-oat01-abc", "${KEY}", '"sk-ant-1"'])
def test_what_cannot_be_a_key_is_told_by_its_line(tmp_path, keys_file, capsys, key) -> None:
    """Given what `gateway check` would refuse as a key, then nothing is written."""
    keys_file.write_text(f"a=sk-ant-1\nb={key}\n")
    assert main(["init", str(tmp_path / "new"), "--yes", "--keys-from", str(keys_file)]) == 1
    assert capsys.readouterr().err.startswith("gateway: --keys-from, line 2: ")
    assert not (tmp_path / "new").exists()


def test_failed_writing_leaves_nothing(tmp_path, keys_file, capsys, monkeypatch) -> None:
    """Given a disk that is full after the first file, then that one is gone, too, and one line says why."""
    true_open = os.open

    def open_once(path: str, *arguments: object) -> int:
        if str(path).endswith("tokens"):
            raise OSError(28, "No space left on device", path)
        return true_open(path, *arguments)

    monkeypatch.setattr(os, "open", open_once)
    assert main(["init", str(tmp_path / "new"), "--yes", "--keys-from", str(keys_file)]) == 1
    assert "No space left on device; nothing was written" in capsys.readouterr().err
    assert os.listdir(tmp_path / "new") == []


class Terminal:
    """The command at a terminal, and what stands on its screen."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = pty.openpty()
        self._ours = ours
        self.screen = ""
        self._seen = 0
        program = [sys.executable, "-m", "gateway.cli", "init", str(folder)]
        self.process = subprocess.Popen(program, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)

    def see(self, text: str) -> None:
        """Wait for a text on the screen, after what was waited for before."""
        while (found := self.screen.find(text, self._seen)) < 0:
            assert self._read(), f"{text!r} is not on the screen:\n{self.screen}"
        self._seen = found + len(text)

    def answer(self, question: str, line: str) -> None:
        """Wait for a question, and type a line: not before, as asking for a secret drops what was typed earlier."""
        self.see(question)
        os.write(self._ours, f"{line}\n".encode())

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._ours)  # the command gets a hang-up, if it still runs
        self.process.wait(30)

    def end(self) -> int:
        """Read what it still prints; its exit status."""
        while self._read():
            pass
        return self.process.wait(30)

    def _read(self) -> bool:
        """Read something; False if nobody has the terminal any more."""
        try:
            more = os.read(self._ours, 4096)
        except OSError:
            return False
        self.screen += more.decode()
        return bool(more)


def test_questions_at_a_terminal(tmp_path) -> None:
    """Given answers, one of them wrong, then the wrong one is asked again, no key is on the screen, and all is good."""
    with Terminal(tmp_path / "new") as terminal:
        terminal.answer("Where should requests go? [https://api.anthropic.com] ", "somewhere")
        terminal.see("a URL such as")
        terminal.answer("Where should requests go? [https://api.anthropic.com] ", "")
        terminal.answer("API key 1: ", "")
        terminal.see("at least one key is needed")
        terminal.answer("API key 1: ", "main=sk-ant-unseen-1")
        terminal.answer("API key 2; an empty line to finish: ", "main=sk-ant-unseen-2")
        terminal.see("the name main is used twice")
        terminal.answer("API key 2; an empty line to finish: ", "sk-ant-unseen-2")
        terminal.answer("API key 3; an empty line to finish: ", "")
        terminal.answer("listen on? [127.0.0.1:8080] ", "0.0.0.0:8181")
        terminal.answer("[admin] ", "ann")
        assert terminal.end() == 0, terminal.screen
    settings = settings_in(tmp_path / "new")
    assert (settings.upstream_url, settings.bind) == ("https://api.anthropic.com", "0.0.0.0:8181")
    assert [key.name for key in settings.keys] == ["main", "key-2"]
    assert settings.tokens is not None
    assert [token.name for token in settings.tokens] == ["ann"]
    assert "unseen" not in terminal.screen
    assert "ANTHROPIC_BASE_URL=http://127.0.0.1:8181 " in terminal.screen


def test_interrupted_questions_write_nothing(tmp_path) -> None:
    """Given the end of the input in the midst of the questions, then one line says that nothing was written."""
    with Terminal(tmp_path / "new") as terminal:
        terminal.answer("Where should requests go?", "")
        terminal.answer("API key 1: ", "\x04")
        assert terminal.end() == 1
    assert "gateway: stopped: nothing was written" in terminal.screen
    assert not (tmp_path / "new").exists()


def test_without_a_terminal_nothing_is_asked(tmp_path) -> None:
    """Given a standard input that is no terminal and no `--yes`, then one line says what a script has to give."""
    program = [sys.executable, "-m", "gateway.cli", "init", str(tmp_path / "new")]
    done = subprocess.run(program, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "gateway: this is not a terminal, so nothing can be asked: give --yes and --keys-from FILE\n"
    )
    assert not (tmp_path / "new").exists()
