"""The console script `gateway`: commands for the operator.

Owns: the command line. Each command is a module with `configure` (its arguments) and `run` (its work, returning the
exit status), which is loaded only for a command line that names it. Complaints go to standard error, one line each.
Which file of settings they read is decided here, before any of them runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Container, Sequence
from importlib import import_module
from typing import Protocol

from gateway import __version__
from gateway.cli.output import complain
from gateway.cli.parser import Parser
from gateway.config.loader import CONFIG_NAME

_DEFAULT_CONFIG = "/etc/messages-gateway/gateway.toml"

_COMMANDS = {
    "init": "ask a few questions, and write a configuration",
    "check": "check the configuration, without starting the gateway",
    "serve": "run the gateway",
    "reload": "make the running gateway read its configuration again",
    "keys": "show the keys' states, and change them",
    "report": "show who used how much of which model, with which key",
    "explain": "show what happened to one request",
    "limits": "show how much of each limit is used, and when it is free again",
    "prices": "show the prices of models, and their sources",
    "tokens": "make, list and revoke client tokens",
    "simulate": "run a simulated Anthropic API, to rehearse with",
    "completion": "print a script with which your shell completes commands",
}


class _Command(Protocol):
    """What the module of a command has."""

    def configure(self, parser: argparse.ArgumentParser, /) -> None: ...

    def run(self, arguments: argparse.Namespace, /) -> int: ...


def commands() -> tuple[str, ...]:
    """The names of all commands."""
    return tuple(_COMMANDS)


def command_line(words: Container[str] = _COMMANDS) -> Parser:
    """The parser of the command line that has these words. Commands that are not among them have no arguments in it:
    to load them all takes most of a second.
    """
    parser = Parser(prog="gateway", description="A gateway for the Anthropic Messages API.")
    parser.add_argument("--version", action="version", version=f"messages-gateway {__version__}")
    chosen = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, meaning in _COMMANDS.items():
        command = chosen.add_parser(name, help=meaning, description=f"{meaning[0].upper()}{meaning[1:]}.")
        if name in words:
            module = _load(name)
            module.configure(command)
            command.set_defaults(run=module.run)
    return parser


def _load(name: str) -> _Command:
    if name == "simulate":
        return import_module("gateway.simulator.cli")
    return import_module(f"gateway.cli.{name}")


def _choose_config(given: str | None) -> None:
    """Have the settings read from the given file, else the one that GATEWAY_CONFIG names, else the usual one."""
    if given is not None:
        os.environ[CONFIG_NAME] = given
    elif not os.environ.get(CONFIG_NAME, "").strip() and os.path.exists(_DEFAULT_CONFIG):
        os.environ[CONFIG_NAME] = _DEFAULT_CONFIG


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when all is well, 1 when something is wrong, 2 for a wrong command line."""
    words = sys.argv[1:] if arguments is None else arguments
    chosen = command_line(words).parse_args(words)
    _choose_config(getattr(chosen, "config", None))
    run_chosen: Callable[[argparse.Namespace], int] = chosen.run
    try:
        return run_chosen(chosen)
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        return 1
    except Exception:  # noqa: BLE001  # nobody foresaw it, and its text may quote anything
        return complain(*traceback.format_exc().rstrip().split("\n"))


if __name__ == "__main__":
    sys.exit(main())
