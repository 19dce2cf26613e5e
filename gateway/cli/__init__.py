"""The console script `gateway`: commands for the operator.

Owns: the command line. Each command is a module with `configure` (its arguments) and `run` (its work,
returning the exit status); complaints go to standard error, one line each. Which file of settings they read is decided
here, before any of them runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from gateway import __version__
from gateway.cli import check, completion, explain, init, keys, limits, prices, reload, report, serve, tokens
from gateway.cli.output import complain
from gateway.cli.parser import Parser
from gateway.config.loader import CONFIG_NAME
from gateway.simulator import cli as simulate

_DEFAULT_CONFIG = "/etc/messages-gateway/gateway.toml"

_COMMANDS: tuple[tuple[str, str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]], ...]
_COMMANDS = (
    ("init", "ask a few questions, and write a configuration", init.configure, init.run),
    ("check", "check the configuration, without starting the gateway", check.configure, check.run),
    ("serve", "run the gateway", serve.configure, serve.run),
    ("reload", "make the running gateway read its configuration again", reload.configure, reload.run),
    ("keys", "show the keys' states, and change them", keys.configure, keys.run),
    ("report", "show who used how much of which model, with which key", report.configure, report.run),
    ("explain", "show what happened to one request", explain.configure, explain.run),
    ("limits", "show how much of each limit is used, and when it is free again", limits.configure, limits.run),
    ("prices", "show the prices of models, and their sources", prices.configure, prices.run),
    ("tokens", "make, list and revoke client tokens", tokens.configure, tokens.run),
    ("simulate", "run a simulated Anthropic API, to rehearse with", simulate.configure, simulate.run),
    ("completion", "print a script with which your shell completes commands", completion.configure, completion.run),
)


def commands() -> tuple[str, ...]:
    """The names of all commands."""
    return tuple(name for name, *_ in _COMMANDS)


def command_line() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(prog="gateway", description="A gateway for the Anthropic Messages API.")
    parser.add_argument("--version", action="version", version=f"messages-gateway {__version__}")
    chosen = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, meaning, configure, run in _COMMANDS:
        command = chosen.add_parser(name, help=meaning, description=f"{meaning[0].upper()}{meaning[1:]}.")
        configure(command)
        command.set_defaults(run=run, command_line=parser)
    return parser


def _choose_config(given: str | None) -> None:
    """Have the settings read from the given file, else the one that GATEWAY_CONFIG names, else the usual one."""
    if given is not None:
        os.environ[CONFIG_NAME] = given
    elif not os.environ.get(CONFIG_NAME, "").strip() and os.path.exists(_DEFAULT_CONFIG):
        os.environ[CONFIG_NAME] = _DEFAULT_CONFIG


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when all is well, 1 when something is wrong, 2 for a wrong command line."""
    chosen = command_line().parse_args(arguments)
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
