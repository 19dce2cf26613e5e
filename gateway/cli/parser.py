"""The commands' parser of arguments: what every command has.

Owns: `--config`, the examples in `--help`, what shells complete with names of files, and what is said of a word that is
not known. argparse makes the
parsers of commands and their actions from the class of the parser above, so each of them is one of these.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import shtab

# Each `--help` shows the lines that begin with its command; the first ones are what a newcomer needs.
EXAMPLES = """\
gateway init                                      # ask a few questions, and write files here
gateway check --config gateway.toml --upstream    # does the API accept the keys, too?
gateway serve --config gateway.toml
gateway serve --keys-file keys --bind 127.0.0.1:9999
gateway init /etc/messages-gateway --yes --keys-from keys.txt
gateway check
gateway reload --config gateway.toml               # after `gateway check`
gateway keys
gateway keys disable key-2                        # until it is enabled again
gateway keys enable key-2
gateway keys cool key-2 600
gateway keys list --json
gateway report --since 7d --by token,model
gateway report --since 2026-11-01 --until 2026-12-01 --format csv
gateway explain req_011CSHoEeqs5C35K2UUqR7Fy
gateway limits
gateway limits --format json
gateway prices
gateway prices --model claude-sonnet-4-5
gateway tokens make alice                         # prints the token, only this once
gateway tokens make bob --group research --file /etc/messages-gateway/tokens
gateway tokens list
gateway tokens revoke alice
gateway simulate
gateway simulate --bind 127.0.0.1:9000 --any-key
gateway completion bash > ~/.local/share/bash-completion/completions/gateway
gateway completion zsh > ~/.zfunc/_gateway
gateway completion fish > ~/.config/fish/completions/gateway.fish
"""
_FIRST_STEPS = 3
_OPTION = re.compile(r"--[\w-]+")
_NAMES_OF_FILES = {"FILE": shtab.FILE, "FOLDER": shtab.DIRECTORY}
_UNKNOWN = re.compile(r"argument (?P<what>.+?): invalid choice: '(?P<given>.*)' \(choose from (?P<choices>.+)\)")


class Parser(argparse.ArgumentParser):
    """A parser of one command line, or of the part that belongs to a command or an action."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.add_argument(
            "--config",
            metavar="FILE",
            type=_existing,
            default=argparse.SUPPRESS,  # where it is not given, it must not undo what was given before the command
            help="the TOML file of settings (default: the file that GATEWAY_CONFIG names, "
            "else /etc/messages-gateway/gateway.toml if it exists)",
        )

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """As argparse's; shells complete what is a file or a folder with the names of those that are there."""
        action = super().add_argument(*names, **options)
        names_of_files = _NAMES_OF_FILES.get(str(action.metavar))
        if names_of_files is not None:
            action.complete = names_of_files  # type: ignore[attr-defined]  # where shtab looks for it
        return action

    def format_help(self) -> str:
        """The help, with examples below."""
        lines = EXAMPLES.splitlines()
        is_whole = " " not in self.prog
        shown = lines[:_FIRST_STEPS] if is_whole else [line for line in lines if f"{line} ".startswith(f"{self.prog} ")]
        more = "\n`gateway COMMAND --help` shows more about a command.\n" if is_whole else ""
        return super().format_help() + "".join(["\nexamples:\n", *(f"  {line}\n" for line in shown), more])

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; but a command refuses by itself what it does not know, with its own usage."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown and " " in self.prog:
            hints = (near(word.partition("=")[0], _OPTION.findall(self.format_usage())) for word in unknown)
            hint = next((f"; did you mean {meant}?" for meant in hints if meant), "")
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """End with status 2; a word that is nearly right gets the right one named."""
        unknown = _UNKNOWN.fullmatch(message)
        if unknown is not None:
            choices = re.findall(r"[\w-]+", unknown["choices"])
            meant = near(unknown["given"], choices)
            hint = f"did you mean {meant!r}?" if meant else f"there are {', '.join(choices)}"
            message = f"{unknown['what']}: {unknown['given']!r} is not known; {hint}"
        super().error(message)


def near(given: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    return next(iter(difflib.get_close_matches(given, list(known), n=1)), None)


def _existing(path: str) -> str:
    if not os.path.exists(path):
        raise argparse.ArgumentTypeError(f"there is no file {path!r}")
    return path
