"""`gateway completion`: what a shell needs to complete this command line.

Owns: nothing; shtab writes the script, from the parser alone. The script runs no command when it completes.
"""

from __future__ import annotations

import argparse

import shtab

from gateway.cli import command_line
from gateway.cli.output import say

_SHELLS = ("bash", "zsh", "fish")


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("shell", choices=_SHELLS, help="the shell that is to read the script")


def run(arguments: argparse.Namespace) -> int:
    """Print the script; it cannot fail."""
    say(*shtab.complete(command_line(), arguments.shell).split("\n"))
    return 0
