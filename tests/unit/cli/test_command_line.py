"""What every command has: `--config`, examples, and a hint for a word that is nearly right."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import cli
from gateway.cli import command_line, main
from gateway.cli.parser import EXAMPLES
from gateway.keys.keys_file import FILE_NAME
from tests.harness import ROOT

PAGE = (ROOT / "docs" / "commands.md").read_text()
DOCUMENTED = re.findall(r"^\$ (gateway .*)$", PAGE, re.MULTILINE)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings but those of the test; what a command puts into the environment is taken out again."""
    for name in ("GATEWAY_CONFIG", "GATEWAY_CLIENT_TOKENS_FILE", "GATEWAY_API_KEYS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(cli, "_DEFAULT_CONFIG", str(tmp_path / "default.toml"))


def kept_in(folder: Path) -> None:
    """A gateway has run with this data folder."""
    folder.mkdir(exist_ok=True)
    (folder / FILE_NAME).touch()


def config(path: Path, key: str) -> str:
    """A configuration with one key, whose gateway has run before."""
    kept_in(path.parent / "data")
    path.write_text(f'api_keys = ["{key}=sk-sim-1"]\ndata_dir = "{path.parent}/data"\n')
    return str(path)


@pytest.mark.parametrize(
    "line",
    ["--config F keys list", "keys --config F list", "keys list --config F", "keys list --config=F", "keys --config F"],
)
def test_config_stands_before_or_after_the_name(tmp_path, capsys, monkeypatch, line) -> None:
    """Given `--config` anywhere, then that file is read, whatever the environment names."""
    monkeypatch.setenv("GATEWAY_CONFIG", config(tmp_path / "other.toml", "other"))
    file = config(tmp_path / "gateway.toml", "asked-for")
    assert main(line.replace("F", file).split()) == 0
    printed = capsys.readouterr().out
    assert "asked-for" in printed
    assert "other" not in printed


def test_usual_file_is_read_if_nothing_else_is_said(tmp_path, capsys, monkeypatch) -> None:
    """Given the file in its usual place, then it is read, unless the environment names another."""
    config(tmp_path / "default.toml", "usual")
    assert main(["keys"]) == 0
    assert "usual" in capsys.readouterr().out
    monkeypatch.setenv("GATEWAY_CONFIG", config(tmp_path / "other.toml", "other"))
    assert main(["keys"]) == 0
    assert "usual" not in capsys.readouterr().out


def test_without_any_file_the_environment_is_enough(tmp_path, capsys, monkeypatch) -> None:
    """Given no file at all, then the environment is read as ever."""
    monkeypatch.setenv("GATEWAY_API_KEYS", "plain=sk-sim-1")
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "data"))
    kept_in(tmp_path / "data")
    assert main(["keys"]) == 0
    assert "plain" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["--config missing.toml check", "check --config missing.toml"])
def test_file_that_is_not_there_is_told(capsys, line) -> None:
    """Given a file that is not there, then the status is 2, and the last line names it."""
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("error: argument --config: there is no file 'missing.toml'\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("chekc", "COMMAND: 'chekc' is not known; did you mean 'check'?"),
        ("token list", "COMMAND: 'token' is not known; did you mean 'tokens'?"),
        ("keys enabel key-1", "ACTION: 'enabel' is not known; did you mean 'enable'?"),
        ("limits --format jsn", "--format: 'jsn' is not known; did you mean 'json'?"),
        ("serve --keysfile k", "unrecognized arguments: --keysfile k; did you mean --keys-file?"),
        ("keys list --jsn", "unrecognized arguments: --jsn; did you mean --json?"),
        ("check --upstrem=true", "unrecognized arguments: --upstrem=true; did you mean --upstream?"),
        ("limits --format xml", "--format: 'xml' is not known; there are table, json"),
    ],
)
def test_word_that_is_not_known_gets_a_hint(capsys, line, said) -> None:
    """Given a slip, then the status is 2, and the last line names the word that was meant, or those that there are."""
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: {said}")


@pytest.mark.parametrize("line", [*EXAMPLES.splitlines(), *DOCUMENTED])
def test_example_is_a_command_line_that_is_understood(line, monkeypatch, tmp_path) -> None:
    """Given an example of `--help` or of docs/commands.md, then the parser takes it."""
    monkeypatch.chdir(tmp_path)
    Path("gateway.toml").touch()
    program, *words = shlex.split(line, comments=True)
    assert program == "gateway"
    if ">" in words:
        words = words[: words.index(">")]
    assert callable(command_line().parse_args(words).run)


@pytest.mark.parametrize("command", sorted(cli.commands()))
def test_every_command_s_help_has_examples(command, capsys) -> None:
    """Given `--help`, then examples of that command stand below, and it takes `--config`."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert f"  gateway {command}" in printed.split("\nexamples:\n", 1)[1]
    assert "--config FILE" in printed


def test_help_of_an_action_has_its_own_examples(capsys) -> None:
    """Given `--help` behind an action, then the examples are of that action alone."""
    with pytest.raises(SystemExit):
        main(["tokens", "make", "--help"])
    examples = capsys.readouterr().out.split("\nexamples:\n", 1)[1].splitlines()
    assert examples
    assert all(line.startswith("  gateway tokens make ") for line in examples)


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What `--help` says of a command or of an action, without the examples."""
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    return capsys.readouterr().out.split("\nexamples:\n", 1)[0]


def options_in(text: str) -> set[str]:
    """The options that `--help` describes, but for those that every command has."""
    return set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, re.MULTILINE)) - {"--help", "--config"}


def test_page_has_every_command_in_the_order_of_the_help(capsys) -> None:
    """Given the commands, then docs/commands.md has a section for each, and no others."""
    assert re.findall(r"^## gateway (\w+)$", PAGE, re.MULTILINE) == list(cli.commands())
    assert options_in(help_of(capsys)) == {"--version"}


@pytest.mark.parametrize("command", cli.commands())
def test_page_has_every_action_and_option_of_a_command(command, capsys) -> None:
    """Given a command and its actions, then its section in docs/commands.md has their options, and no others."""
    section = PAGE.split(f"\n## gateway {command}\n", 1)[1].split("\n## ", 1)[0]
    described = help_of(capsys, command)
    actions = re.findall(r"^    (\w+) ", described, re.MULTILINE) if "  ACTION\n" in described else []
    options = options_in(described).union(*(options_in(help_of(capsys, command, action)) for action in actions))
    assert set(re.findall(r"^\| `(--[\w-]+)", section, re.MULTILINE)) == options
    assert re.findall(r"^\| `([a-z]+)[` ]", section, re.MULTILINE) == actions
    assert f"$ gateway {command}" in section


def loaded_by(*words: str) -> set[str]:
    """The modules that are loaded to understand this command line, in a process of its own."""
    script = "import sys; from gateway.cli import command_line; command_line(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_command_line_loads_its_own_command_alone() -> None:
    """Given a command line, then no other command is loaded, nor what only a running gateway needs."""
    loaded = loaded_by("keys", "list")
    assert {name for name in cli.commands() if f"gateway.cli.{name}" in loaded} == {"keys"}
    assert not loaded & {"flask", "requests", "redis", "sqlalchemy", "opentelemetry", "gateway.simulator"}
