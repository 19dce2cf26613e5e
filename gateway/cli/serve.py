"""`gateway serve`: run the gateway.

Owns: handing over to gunicorn with the packaged configuration. gunicorn takes this process's place, so
signals do what they do to a gunicorn that was started by hand: SIGHUP reloads, SIGTERM lets streams end.
"""

from __future__ import annotations

import argparse
import os
import sys

from gateway.cli.output import complain
from gateway.config.loader import CONFIG_NAME
from gateway.config.settings import SettingsError
from gateway.web import configured

_CONFIGURATION = "python:gateway.server.gunicorn_conf"
_BIND = "GATEWAY_BIND"
_KEYS_FILE = "GATEWAY_API_KEYS_FILE"


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--bind", metavar="HOST:PORT", help=f"the address to listen on (sets {_BIND})")
    parser.add_argument("--keys-file", metavar="FILE", help=f"the file of API keys, one per line (sets {_KEYS_FILE})")


def run(arguments: argparse.Namespace) -> int:
    """Become gunicorn; 1, with the faults on standard error, if the configuration is bad."""
    for name, value in ((_BIND, arguments.bind), (_KEYS_FILE, arguments.keys_file)):
        if value is not None:
            os.environ[name] = value
    try:
        configured.read_settings()
    except SettingsError as error:
        complain(*error.complaints)
        if not os.environ.get(CONFIG_NAME, "").strip():
            complain("there is no configuration file; `gateway init` asks a few questions and writes one")
        return 1
    sys.stdout.flush()
    # -P: a file of the current folder must not be taken for a module.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "gunicorn", "-c", _CONFIGURATION])
