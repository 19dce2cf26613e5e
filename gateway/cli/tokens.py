"""`gateway tokens`: make, list and revoke client tokens.

Owns: the token file's lines, not their meaning. Any number of these commands may run at once; a running
gateway notices a change within two seconds.
"""

from __future__ import annotations

import argparse
import os
import secrets
import tomllib
from dataclasses import replace

from gateway.access.authentication import TOKEN_PREFIX, ClientToken, TokenFileError, parse_tokens
from gateway.access.credential import Secret
from gateway.cli.output import complain, say
from gateway.cli.parser import near
from gateway.config.loader import CONFIG_NAME
from gateway.runtime.edited_file import edit
from gateway.runtime.whole_file import read_now

_SETTING = "GATEWAY_CLIENT_TOKENS_FILE"
_NAME_IN_TOML = "client_tokens_file"
_TOKEN_BYTES = 32


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    _add_file(parser, None)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = actions.add_parser("make", help="make a token, add it to the file and print it, only this once")
    make.add_argument("name", help="who it is for: letters, digits, `.`, `_`, `@` and `-`")
    make.add_argument("--operator", action="store_true", help="the token also opens the operators' pages")
    make.add_argument("--group", metavar="GROUP", help="the group whose limits the token shares; the same characters")
    listed = actions.add_parser("list", help="print each token's name, role and group")
    revoke = actions.add_parser("revoke", help="remove a token from the file")
    revoke.add_argument("name", help="whose token it is")
    for action in (make, listed, revoke):
        _add_file(action, argparse.SUPPRESS)  # the same behind the action


def _add_file(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument("--file", metavar="FILE", default=default, help="the token file (default: the configured one)")


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; 1, with a line on standard error, if that cannot be done."""
    try:
        path = arguments.file or _configured_file()
    except _CannotBeDone as error:
        return complain(str(error))
    try:
        if arguments.action == "list":
            return _list(path)
        if arguments.action == "make":
            return _make(path, arguments.name, arguments.operator, arguments.group)
        return _revoke(path, arguments.name)
    except _CannotBeDone as error:
        return complain(str(error))
    except TokenFileError as error:
        return complain(f"{path}: {error}")
    except UnicodeDecodeError:
        return complain(f"{path} is not UTF-8 text")
    except OSError as error:
        return complain(f"{path}: {error.strerror or error}")


def _configured_file() -> str:
    """The token file that the settings name.

    Only that name is looked for: neither the file itself nor the other settings have to be good yet.
    """
    if path := os.environ.get(_SETTING, "").strip():
        return path
    config = os.environ.get(CONFIG_NAME, "").strip()
    try:
        path = tomllib.loads(read_now(config).decode()).get(_NAME_IN_TOML, "") if config else ""
    except OSError as error:
        raise _CannotBeDone(f"{config}: {error.strerror or error}") from error
    except ValueError as error:  # neither UTF-8 nor TOML
        raise _CannotBeDone(f"{config}: not valid TOML: {error}") from error
    if not isinstance(path, str) or not path.strip():
        named = f"set {_NAME_IN_TOML} in {config}" if config else f"set {_SETTING}"
        raise _CannotBeDone(f"no token file is configured: give --file FILE, or {named}")
    return path.strip()


class _CannotBeDone(Exception):
    """What was asked does not go with what the file holds; the message says why."""


def _list(path: str) -> int:
    for token in parse_tokens(read_now(path).decode()):
        role = " operator" if token.is_operator else ""
        say(f"{token.name}{role}{f' group={token.group}' if token.group is not None else ''}")
    return 0


def new_token(name: str, is_operator: bool, group: str | None) -> tuple[str, ClientToken]:
    """A token that nobody else has, and what the token file holds of it."""
    token = f"{TOKEN_PREFIX}{secrets.token_urlsafe(_TOKEN_BYTES)}"
    return token, ClientToken(name, Secret(token).fingerprint, is_operator, group)


def _make(path: str, name: str, is_operator: bool, group: str | None) -> int:
    token, made = new_token(name, is_operator, group)

    def with_line(text: str) -> str:
        known = parse_tokens(text)
        separator = "" if not text or text.endswith("\n") else "\n"
        new = f"{text}{separator}{made.line}\n"
        if any(token.name == name for token in known):
            raise _CannotBeDone(f"the file has a token called {name} already")
        if not _is_good(made):
            is_group = _is_good(replace(made, group=None))
            what = f"the group {group!r} cannot be one" if is_group else f"{name!r} cannot be a name"
            raise _CannotBeDone(f"{what}: letters, digits, `.`, `_`, `@` and `-` were expected")
        return new

    edit(path, with_line, lambda text: made in parse_tokens(text), may_be_new=True)
    say(token)
    return 0


def _is_good(made: ClientToken) -> bool:
    """Whether a token's line says what was meant; `#ann` would make a comment of it."""
    try:
        return parse_tokens(made.line) == (made,)
    except TokenFileError:
        return False


def _revoke(path: str, name: str) -> int:
    def without_line(text: str) -> str:
        if not _holds(text, name):
            meant = near(name, (token.name for token in parse_tokens(text)))
            raise _CannotBeDone(f"there is no token called {name}{f'; did you mean {meant}?' if meant else ''}")
        return "".join(line for line in text.splitlines(keepends=True) if line.split(None, 1)[:1] != [name])

    edit(path, without_line, lambda text: not _holds(text, name))
    return 0


def _holds(text: str, name: str) -> bool:
    return any(token.name == name for token in parse_tokens(text))
