"""`gateway simulate`: the simulator as a process.

Exit codes: 0 stopped by a signal, 1 cannot listen, 2 bad script."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from gateway.simulator import catalogue
from gateway.simulator.grammar import ScriptError
from gateway.simulator.script_file import KeyScript, ScriptFile, read_script_file
from gateway.simulator.simulator import Simulator
from gateway.simulator.tls import TlsUnavailableError

DESCRIPTION = "An Anthropic-compatible upstream to rehearse outages with."

# Without any key given, the keys of a first drill.
_DRILL_KEYS = (
    KeyScript("sk-sim-limited", "rate_limited:retry-after=30", "limited"),
    KeyScript("sk-sim-revoked", "unauthorized", "revoked"),
    KeyScript("sk-sim-good", "ok:events=20,delay=0.05", "good"),
)
_EPILOG = (
    "A SCRIPT is behaviours joined by ' then ', each name:option=value,option=value, repeated by "
    "*N; the last one goes on for ever. "
    "Example: --key 'sk-sim-a=rate_limited:retry-after=5*3 then ok'."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("--bind", metavar="HOST:PORT", default="127.0.0.1:9000", help="default: %(default)s")
    add(
        "--key",
        metavar="SECRET=SCRIPT",
        action="append",
        default=[],
        help="a key and its script; may be given several times",
    )
    add("--order", metavar="SCRIPT", help="a script played in order of arrival, for all keys together")
    add(
        "--any-key",
        metavar="SCRIPT",
        nargs="?",
        const="ok",
        help="accept unknown keys, and let them play this script (default: ok)",
    )
    add("--script", metavar="FILE", type=Path, help="a script file (TOML), see docs/simulator.md")
    add("--tls", action="store_true", help="serve https with a certificate made at the start")
    add("--tls-dir", metavar="FOLDER", type=Path, help="where ca.pem is written (implies --tls)")
    add(
        "--journal",
        metavar="N",
        type=int,
        default=10_000,
        help="how many requests to remember (default: %(default)s)",
    )
    add(
        "--list",
        nargs="?",
        const="text",
        choices=("text", "markdown"),
        help="show every behaviour with its options, and exit",
    )


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    if args.list:
        print(catalogue.as_markdown() if args.list == "markdown" else catalogue.as_text())
        return 0
    try:
        simulator = _simulator(args)
    except ScriptError as error:
        return _complain(2, str(error))
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        simulator.start()
    except (OSError, TlsUnavailableError) as error:
        simulator.stop()
        return _complain(1, f"cannot listen on {args.bind}: {_reason(error)}")
    authority = f", certificate authority: {simulator.ca_file}" if simulator.ca_file else ""
    print(f"simulating the Messages API on {simulator.url}{authority}", flush=True)
    stopping.wait()
    simulator.stop()
    return 0


def _simulator(args: argparse.Namespace) -> Simulator:
    """The simulator that the options describe. Raises: ScriptError."""
    host, port = _address(args.bind)
    if args.journal < 0:
        raise ScriptError("--journal wants 0 or more")
    file = read_script_file(args.script) if args.script else ScriptFile()
    any_key = args.any_key if args.any_key is not None else file.any_key
    keys = [*file.keys, *map(_key, args.key)]
    if not keys and any_key is False:
        keys = list(_DRILL_KEYS)
    if len({key.secret for key in keys}) != len(keys):
        raise ScriptError("two keys have the same secret")
    simulator = Simulator(
        any_key=any_key,
        world=file.world,
        host=host,
        port=port,
        tls=args.tls or args.tls_dir is not None,
        tls_dir=args.tls_dir,
        journal_limit=args.journal,
        keep_bodies=False,
    )
    for key in keys:
        simulator.script(key.secret, key.script, key.name)
    order = args.order if args.order is not None else file.order
    if order is not None:
        simulator.order(*_as_list(order))
    return simulator


def _key(text: str) -> KeyScript:
    secret, equals, script = text.partition("=")
    if not secret or not equals:
        raise ScriptError("--key wants SECRET=SCRIPT, such as --key 'sk-sim-a=ok'")
    return KeyScript(secret, script)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ScriptError(f"--bind wants HOST:PORT, not {text!r}")
    return host, int(port)


def _as_list(script: str | Sequence[str]) -> Sequence[str]:
    return [script] if isinstance(script, str) else script


def _reason(error: Exception) -> str:
    """The system's own words: `create_server` repeats the address in its own."""
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return str(error)


def _complain(code: int, message: str) -> int:
    print(f"gateway simulate: {message}", file=sys.stderr)
    return code
