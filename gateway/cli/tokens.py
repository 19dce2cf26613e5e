"""`gateway tokens`: make, list and revoke client tokens.

Owns: the token file's lines, not their meaning. Web layer. The file is replaced in one step, so a gateway that reads it
meanwhile sees the old or the new one; a running gateway notices within two seconds.
"""

from __future__ import annotations

import argparse
import os
import secrets
import tempfile
from pathlib import Path

from gateway.access import TOKEN_PREFIX, TokenFileError, parse_tokens
from gateway.cli.output import complain, say
from gateway.credential import Secret

_SETTING = "GATEWAY_CLIENT_TOKENS_FILE"
_TOKEN_BYTES = 32


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--file", metavar="PATH", help=f"the token file; else {_SETTING} names it")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = actions.add_parser("make", help="make a token, add it to the file and print it, this once")
    make.add_argument("name", help="who it is for: letters, digits, `.`, `_`, `@` and `-`")
    make.add_argument("--operator", action="store_true", help="the token also opens operators' pages")
    actions.add_parser("list", help="print the tokens' names")
    revoke = actions.add_parser("revoke", help="remove a token from the file")
    revoke.add_argument("name")


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; 1, with a line on standard error, if that cannot be done."""
    path = arguments.file or os.environ.get(_SETTING, "")
    if not path:
        return complain(f"which file? Give --file PATH or set {_SETTING}")
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8") if file.exists() or arguments.action != "make" else ""
        if arguments.action == "list":
            return _list(text)
        if arguments.action == "make":
            return _make(file, text, arguments.name, arguments.operator)
        return _revoke(file, text, arguments.name)
    except TokenFileError as error:
        return complain(f"{path}: {error}")
    except UnicodeDecodeError:
        return complain(f"{path} is not UTF-8 text")
    except OSError as error:
        return complain(f"{path}: {error.strerror or error}")


def _list(text: str) -> int:
    for token in parse_tokens(text):
        say(f"{token.name}{' operator' if token.is_operator else ''}")
    return 0


def _make(file: Path, text: str, name: str, is_operator: bool) -> int:
    known = parse_tokens(text)
    token = f"{TOKEN_PREFIX}{secrets.token_urlsafe(_TOKEN_BYTES)}"
    line = f"{name} sha256:{Secret(token).fingerprint}{' operator' if is_operator else ''}\n"
    separator = "" if not text or text.endswith("\n") else "\n"
    new = text + separator + line
    try:
        names = [made.name for made in parse_tokens(new)]
    except TokenFileError:
        names = []
    if names != [*(old.name for old in known), name]:  # `#ann` would make a comment of the line
        return complain(f"{name!r} cannot be used: it stands in the file already, or has odd characters")
    _replace(file, new)
    say(token)
    return 0


def _revoke(file: Path, text: str, name: str) -> int:
    if all(token.name != name for token in parse_tokens(text)):
        return complain(f"there is no token called {name}")
    kept = [line for line in text.splitlines(keepends=True) if line.split(None, 1)[:1] != [name]]
    _replace(file, "".join(kept))
    return 0


def _replace(file: Path, text: str) -> None:
    """Write the file anew, readable as it was (by its owner alone if it is new), in one step."""
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
    target = file.resolve()
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as output:
            output.write(text)
            output.flush()
            os.fsync(output.fileno())
        os.chmod(temporary, mode)
        if file.exists():
            owner = target.stat()
            os.chown(temporary, owner.st_uid, owner.st_gid)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
