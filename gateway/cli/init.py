"""`gateway init`: from nothing to a configuration that serves.

Owns: the questions, and the three files that the answers become: settings, API keys and client tokens.
Nothing is written before all answers are known to be good, and no file that exists is ever touched.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from gateway.access.authentication import TokenFileError, parse_tokens
from gateway.cli.output import complain, say
from gateway.cli.tokens import new_token
from gateway.config.key_entries import keys_from
from gateway.config.loader import CONFIG_NAME, load_settings
from gateway.config.setting_faults import in_key
from gateway.config.settings import SettingsError, setting_specs
from gateway.config.values import BadValue
from gateway.runtime.whole_file import read_now

_UPSTREAM = "https://api.anthropic.com"
_BIND = "127.0.0.1:8080"
_TOKEN_NAME = "admin"

_SETTINGS = """\
# Settings of a messages gateway. docs/configuration.md has all of them; here their names are in lower case, without
# GATEWAY_.
# A variable of the environment, such as GATEWAY_BIND, wins over what is written here.
# To see whether this file is good:           gateway check --config FILE
# To have a running gateway read it again:    gateway reload --config FILE

# Where the requests go.
upstream_url = {upstream}

# The API keys, in the order in which they are tried: `secret` or `name=secret`, one a line.
api_keys_file = {keys}

# Who may use the gateway. `gateway tokens make NAME` adds a line. Without this setting, anybody on this machine may use
# it, and nobody else.
client_tokens_file = {tokens}

# The address to listen on. 127.0.0.1 is this machine alone. Before you open the gateway to others, put a proxy in front
# of it that does TLS.
bind = {bind}

# More that is often set, with the values that hold if nothing is said.
# allow_byok = true             # whether clients may bring an API key of their own
# drain_seconds = 300           # how long running streams may go on after SIGTERM
# record_retention_days = 90    # how long it is kept who used what
# log_level = "info"
# log_format = "text"           # or "json"
"""


class _Answers(NamedTuple):
    """What was asked for; `keys` are entries as the keys file has them."""

    upstream: str
    keys: list[str]
    bind: str
    token_name: str


class _Refused(Exception):
    """It cannot be done; the message says why."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", default=".", help="where the files are written (default: here)"
    )
    parser.add_argument(
        "--yes", action="store_true", help="ask no questions: use the options, and defaults for the rest"
    )
    parser.add_argument(
        "--keys-from", metavar="FILE", help="read the API keys from this file, one per line; `-` is standard input"
    )
    parser.add_argument("--upstream", metavar="URL", help=f"where the requests go (default: {_UPSTREAM})")
    parser.add_argument("--bind", metavar="HOST:PORT", help=f"the address to listen on (default: {_BIND})")
    parser.add_argument("--token-name", metavar="NAME", help=f"the name of the first token (default: {_TOKEN_NAME})")


def run(arguments: argparse.Namespace) -> int:
    """Ask, write, and say what to do next; 1, with a line on standard error, if that cannot be done."""
    folder = Path(os.path.abspath(arguments.folder))
    config, keys, tokens = folder / "gateway.toml", folder / "keys", folder / "tokens"
    try:
        _refuse_what_exists(config, keys, tokens)
        answers = _answers(arguments)
        token, line = new_token(answers.token_name, is_operator=True, group=None)
        texts = {
            keys: "".join(f"{entry}\n" for entry in answers.keys),
            tokens: f"{line.line}\n",
            config: _SETTINGS.format(
                upstream=_quoted(answers.upstream),
                keys=_quoted(keys),
                tokens=_quoted(tokens),
                bind=_quoted(answers.bind),
            ),
        }
        contents = {str(path): text.encode("utf-8", "surrogateescape") for path, text in texts.items()}
        load_settings({CONFIG_NAME: str(config)}, contents.__getitem__)
        _write(folder, contents)
    except (_Refused, SettingsError) as error:
        return complain(*str(error).split("\n"))
    except (KeyboardInterrupt, EOFError):
        say("")
        return complain("stopped: nothing was written")
    say(*_next_steps(config, keys, tokens, answers, token))
    return 0


def _refuse_what_exists(*paths: Path) -> None:
    there = [str(path) for path in paths if os.path.lexists(path)]
    if there:
        raise _Refused(f"{', '.join(there)} exists already, and is not overwritten: name another folder")


def _answers(arguments: argparse.Namespace) -> _Answers:
    """The options, and answers for what they leave open."""
    asks = not arguments.yes
    if asks and not sys.stdin.isatty():
        raise _Refused("this is not a terminal, so nothing can be asked: give --yes and --keys-from FILE")
    if not asks and arguments.keys_from is None:
        raise _Refused("--yes needs --keys-from FILE (`-` is standard input)")
    specs = dict(setting_specs())
    upstream = _settled("upstream", arguments.upstream, _UPSTREAM, specs["upstream_url"].parse, asks)
    keys = _keys_in(arguments.keys_from) if arguments.keys_from is not None else _asked_keys()
    bind = _settled("bind", arguments.bind, _BIND, specs["bind"].parse, asks)
    name = _settled("token-name", arguments.token_name, _TOKEN_NAME, _token_name, asks)
    return _Answers(upstream, keys, bind, name)


_QUESTIONS = {
    "upstream": "Where should requests go?",
    "bind": "Which address should the gateway listen on?",
    "token-name": "What should the first token be called? It also opens the status page.",
}


def _settled(option: str, given: str | None, default: str, parse: Callable[[object], object], asks: bool) -> str:
    """What the option says, or the answer to its question, or the default: the first that there is."""
    while True:
        text = given
        if text is None:
            text = (input(f"{_QUESTIONS[option]} [{default}] ").strip() if asks else "") or default
        try:
            parse(text)
        except BadValue as error:
            if given is not None:
                raise _Refused(f"--{option}: {error}") from error
            say(f"  {error}")
        else:
            return text


def _token_name(raw: object) -> object:
    name = str(raw)
    try:
        (token,) = parse_tokens(new_token(name, is_operator=True, group=None)[1].line)
    except (TokenFileError, ValueError) as error:
        raise BadValue("letters, digits, `.`, `_`, `@` and `-` were expected") from error
    return token


def _keys_in(path: str) -> list[str]:
    """The entries of a file of keys, each of which must be good."""
    try:
        text = sys.stdin.read() if path == "-" else read_now(path).decode()
    except OSError as error:
        raise _Refused(f"--keys-from: {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise _Refused(f"--keys-from: {path} is not UTF-8 text") from error
    stripped = [line.strip() for line in text.splitlines()]
    entries = {number: line for number, line in enumerate(stripped, start=1) if line and not line.startswith("#")}
    _, complaints = keys_from((f"--keys-from, line {number}", entry) for number, entry in entries.items())
    faults = {number: in_key(entry) for number, entry in entries.items()}
    complaints += [f"--keys-from, line {number}: {fault}" for number, fault in faults.items() if fault]
    if complaints:
        raise _Refused("\n".join(complaints))
    if not entries:
        raise _Refused(f"--keys-from: there is no key in {path}")
    return list(entries.values())


def _asked_keys() -> list[str]:
    """At least one entry; what is typed is not shown."""
    say("Type the API keys in the order in which they should be tried; they are not shown. `name=key` names a key.")
    entries: list[str] = []
    while True:
        more = "; an empty line to finish" if entries else ""
        entry = getpass.getpass(f"API key {len(entries) + 1}{more}: ").strip()
        if not entry and entries:
            return entries
        keys, complaints = keys_from(("that is not a key", each) for each in (*entries, entry))
        if (fault := in_key(entry)) is not None:
            complaints.append(fault)
        if not entry:
            say("  at least one key is needed")
        elif complaints:
            say(*(f"  {line}" for line in complaints))
        else:
            say(f"  {keys[-1].name} ({keys[-1].hint})")
            entries.append(entry)


def _quoted(text: object) -> str:
    """As TOML has it, which is as JSON has it."""
    return json.dumps(str(text), ensure_ascii=False)


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write all of these files, or none."""
    written: list[str] = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, content in contents.items():
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                written.append(path)
                file.write(content)
    except OSError as error:
        for path in written:
            os.unlink(path)
        raise _Refused(f"{error.filename or folder}: {error.strerror or error}; nothing was written") from error


def _next_steps(config: Path, keys: Path, tokens: Path, answers: _Answers, token: str) -> list[str]:
    option = f"--config {shlex.quote(str(config))}"
    steps = [
        "",
        "Written; only you can read these files:",
        f"  {config}: the settings, with comments",
        f"  {keys}: the API keys ({len(answers.keys)})",
        f"  {tokens}: who may use the gateway ({answers.token_name})",
        "",
        f"The token of {answers.token_name}, shown only this once (the file holds only its hash):",
        f"  {token}",
        "",
        "Next, check that the API accepts the keys, and start the gateway:",
        f"  gateway check {option} --upstream",
        f"  gateway serve {option}",
        "To make a token for somebody else:",
        f"  gateway tokens make NAME {option}",
    ]
    if not answers.bind.startswith("unix:"):
        address = answers.bind.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")
        steps += [
            "Clients use the gateway's address instead of the API's, and a token instead of an API key:",
            f"  export ANTHROPIC_BASE_URL=http://{address} ANTHROPIC_API_KEY=TOKEN",
        ]
    return steps
