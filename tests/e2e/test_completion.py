"""What `gateway completion` prints, in real shells: commands, options and their values are completed."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from select import select

import pytest

from gateway.cli import main

SOON_SECONDS = 30.0
# The shell runs this instead of the gateway, and so shows what stands on the line in the end.
SHOWN = 'gateway() { printf "[ran: %s]\\n" "$*"; }\n'
HOMES = {  # where each shell looks for what it completes with, as docs/commands.md says
    "bash": Path(".local/share/bash-completion/completions/gateway"),
    "zsh": Path(".zfunc/_gateway"),
    "fish": Path(".config/fish/completions/gateway.fish"),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with a folder and a file in it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "gateway.toml").touch()
    return tmp_path


def install(shell: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Put the script where the documentation says."""
    assert main(["completion", shell]) == 0
    file = home / HOMES[shell]
    file.parent.mkdir(parents=True)
    file.write_text(capsys.readouterr().out)


class Typed:
    """An interactive shell at a terminal, in a home folder, with what it has shown so far."""

    def __init__(self, command: list[str], home: Path) -> None:
        environ = {"HOME": str(home), "PATH": os.environ["PATH"], "TERM": "dumb", "PS1": "> "}
        self._terminal, side = pty.openpty()
        self._process = subprocess.Popen(
            command, stdin=side, stdout=side, stderr=side, cwd=home, env=environ, start_new_session=True
        )
        os.close(side)
        self.shown = ""

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def shows(self, text: str) -> bool:
        """Whether the text comes on the terminal soon."""
        ends_at = time.monotonic() + SOON_SECONDS
        while text not in self.shown and time.monotonic() < ends_at:
            if select([self._terminal], [], [], 0.1)[0]:
                self.shown += os.read(self._terminal, 65536).decode(errors="replace")
        return text in self.shown

    def close(self) -> None:
        self._process.kill()
        self._process.wait(SOON_SECONDS)
        os.close(self._terminal)


@pytest.fixture
def bash(home: Path, capsys: pytest.CaptureFixture[str]):
    install("bash", home, capsys)
    (home / "rc").write_text(f'source {HOMES["bash"]}\n{SHOWN}echo re""ady\n')
    shell = Typed(["bash", "--noprofile", "--rcfile", "rc", "-i"], home)
    yield shell
    shell.close()


@pytest.fixture
def zsh(home: Path, capsys: pytest.CaptureFixture[str]):
    install("zsh", home, capsys)
    (home / ".zshrc").write_text(f'fpath=(~/.zfunc $fpath)\nautoload -Uz compinit\ncompinit -u\n{SHOWN}echo re""ady\n')
    shell = Typed(["zsh", "-i"], home)
    yield shell
    shell.close()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(
    ("typed", "ran"),
    [
        ("gateway lim\t--form\tjs\t\n", "limits --format json"),
        ("gateway keys --js\tdisa\tkey-2\n", "keys --json disable key-2"),
        ("gateway che\t--config fol\tgatew\t\n", "check --config folder/gateway.toml"),
        ("gateway completion fi\t\n", "completion fish"),
    ],
    ids=["option", "action", "file", "choice"],
)
def test_line_is_completed(shell: str, typed: str, ran: str, request: pytest.FixtureRequest) -> None:
    """Given bash and zsh with the script where the documentation puts it, when the tab key is pressed behind the
    beginning of a word, then the word is completed, and the line runs as it was meant.
    """
    terminal: Typed = request.getfixturevalue(shell)
    assert terminal.shows("ready"), terminal.shown
    terminal.type(typed)
    assert terminal.shows(f"[ran: {ran}"), terminal.shown


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gateway lim", ["limits"]),
        ("gateway limits --form", ["--format"]),
        ("gateway limits --format js", ["json"]),
        ("gateway keys disa", ["disable"]),
        ("gateway check --config fol", ["folder/"]),
        ("gateway completion fi", ["fish"]),
    ],
)
def test_fish_completes(line: str, words: list[str], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given fish with the script where the documentation puts it, then it completes words as it should."""
    install("fish", home, capsys)
    done = subprocess.run(
        ["fish", "-c", f"complete --do-complete '{line}'"],
        cwd=home,
        env={"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},  # it must find gateway
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stderr == ""
    assert [offered.split("\t")[0] for offered in done.stdout.splitlines()] == words
