"""`gateway reload`: make the running gateway read its configuration again, and show the result.

Owns: finding the gateway by its data folder, and waiting for its answer. It does what SIGHUP does, and
shows the result, which a signal leaves in the log.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path

from gateway.cli.output import complain, say
from gateway.config.settings import SettingsError
from gateway.runtime.data_folder import master_of
from gateway.runtime.machine_clock import machine_time
from gateway.server import reload_answer
from gateway.server.reload_answer import ReloadAnswer
from gateway.web import configured

_ANSWER_SECONDS = 30.0
_PAUSE_SECONDS = 0.05


def configure(parser: argparse.ArgumentParser) -> None:
    """The command has no arguments of its own."""


def run(arguments: argparse.Namespace) -> int:
    """Reload; 1, with the reasons on standard error, if the new configuration is not in force."""
    try:
        folder = Path(configured.read_settings().data_dir)
    except SettingsError as error:
        complain(*error.complaints)
        return complain("not reloaded: the running gateway keeps its configuration")
    try:
        master = master_of(folder)
        if master is None:
            return complain(
                f"no gateway runs with the data folder {folder}: does the gateway use the same configuration?"
            )
        sent_at = machine_time()
        os.kill(master, signal.SIGHUP)
        answer = _answer(folder, master, sent_at)
    except PermissionError:
        return complain(f"the gateway of the data folder {folder} runs as another user: reload it as that user")
    except OSError as error:
        return complain(f"the gateway of the data folder {folder} cannot be told: {error.strerror or error}")
    if answer is None:
        return complain(f"the gateway (pid {master}) was told to reload, but has not answered: see its log")
    if answer.complaints:
        complain(*answer.complaints)
        return complain("reload refused: the running gateway keeps its configuration")
    say("reloaded: the new configuration is in force")
    say(*(f"{name} has changed; that needs a restart" for name in answer.needing_restart))
    return 0


def _answer(folder: Path, master: int, sent_at: float) -> ReloadAnswer | None:
    """What the master answers to a signal of that time; None if it ends, or says nothing for long."""
    gives_up_at = time.monotonic() + _ANSWER_SECONDS
    while time.monotonic() < gives_up_at:
        answer = reload_answer.last(folder)
        if answer is not None and answer.began_at >= sent_at:
            return answer
        if master_of(folder) != master:
            return None
        time.sleep(_PAUSE_SECONDS)
    return None
