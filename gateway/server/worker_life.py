"""How a worker process begins and ends.

Owns: its start, its end if that fails, and the signals to stop. The main thread. gunicorn's own worker only
returns when its start fails, and is then kept by whatever threads there are; and a signal to stop waits until a start
that hangs is over. Here a worker that does not serve yet ends by the first such signal, and by any failure, at once.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import Any, NoReturn

from gunicorn.arbiter import Arbiter
from gunicorn.workers.gthread import ThreadWorker

from gateway.web import launch

log = logging.getLogger(__name__)

# What is said at the end may have to wait for a lock or a pipe; the kernel ends the process after this all the same.
_LAST_WORDS_SECONDS = 0.5


class PromptWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A gthread worker that ends at once if it cannot serve. Its master sets `row`: no other that lives has it."""

    row: int = 0

    def init_process(self) -> None:
        """Begin, and serve."""
        try:
            _die_of_signals_to_stop()
            if launch.stop_board.says_so():
                os._exit(0)  # the signal came before it could be heard
            launch.become_worker(self.row)
            self.prepare()
            super().init_process()
            if os.getppid() != self.ppid:
                _end(0)  # no master is left to kill what does not end by itself
        except SystemExit as error:
            _end(error.code)
        except BaseException:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, _LAST_WORDS_SECONDS)
            what = "the worker has failed" if self.booted else "the worker cannot start"
            log.critical("%s: it ends, and the master starts another", what, exc_info=True)
            _end(1 if self.booted else Arbiter.WORKER_BOOT_ERROR)

    def prepare(self) -> None:
        """What comes before gunicorn's own beginning."""

    def init_signals(self) -> None:
        super().init_signals()
        _die_of_signals_to_stop()

    def run(self) -> None:
        """Serve: from now on signals to stop are heard by the worker itself."""
        signal.signal(signal.SIGTERM, self.handle_exit)
        signal.siginterrupt(signal.SIGTERM, False)
        for number in (signal.SIGQUIT, signal.SIGINT):
            signal.signal(number, self.handle_quit)
        launch.start_board.note(self.row, self.age)
        super().run()

    def is_parent_alive(self) -> bool:
        """Whether there is a master; without one the worker stops as if it had been told to."""
        is_alive = bool(super().is_parent_alive())
        if not is_alive:
            self.alive = False
        return is_alive

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop, and let what runs run on; who does not serve yet has nothing to wait for."""
        if not self.booted:
            os._exit(0)
        super().handle_exit(sig, frame)


def _die_of_signals_to_stop() -> None:
    """The kernel needs none of our threads for that, whatever they wait for."""
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def _end(status: object) -> NoReturn:
    """End this process, whatever its threads do; `status` is what sys.exit takes."""
    os._exit(status if isinstance(status, int) else int(status is not None))
