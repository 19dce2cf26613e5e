"""Whether the gateway is starting, serving or stopping, and the signal that ends what still runs.

Owns: the phase of one worker process. Pure of HTTP. Thread-safe: request threads read, the worker's main thread
moves the phase on. The end of the drain time is a file descriptor that becomes readable once and stays so, for
threads that wait on sockets: none of them has to wake up to look at a clock.
"""

from __future__ import annotations

import os
import threading
from enum import Enum


class Phase(Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Lifecycle:
    """One worker's phase. `is_over`: the drain time has ended, with it every request's; `fileno()` is readable then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _phase and _timer
        self._phase = Phase.STARTING
        self._timer: threading.Timer | None = None
        self._read_end, self._write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.is_over = False

    @property
    def phase(self) -> Phase:
        """The present phase."""
        return self._phase

    def fileno(self) -> int:
        """The descriptor to poll for reading; never read from it."""
        return self._read_end

    def serve(self) -> None:
        """Ready for requests."""
        with self._lock:
            if self._phase is Phase.STARTING:
                self._phase = Phase.SERVING

    def drain(self, seconds: float) -> bool:
        """Begin to stop: what runs may run on for so many seconds. True the first time."""
        with self._lock:
            if self._phase is Phase.DRAINING:
                return False
            self._phase = Phase.DRAINING
            self._timer = threading.Timer(seconds, self.end)
            self._timer.daemon = True
            self._timer.start()
            return True

    def end(self) -> None:
        """End everything that still runs, now."""
        self.is_over = True
        os.write(self._write_end, b"!")

    def close(self) -> None:
        """Free the descriptors; for tests and for a worker that ends."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
        os.close(self._read_end)
        os.close(self._write_end)

    def __repr__(self) -> str:
        return f"<Lifecycle {self._phase.value}{' over' if self.is_over else ''}>"
