"""Retired keys tried now and then, in case they were mended upstream.

Owns: one thread in one worker of a machine, if the operator asks for it. Flow layer. It asks the upstream for its
list of models with each key that was refused (not with those that the operator disabled), which costs nothing, and
enables the key when it is accepted. Which worker does it is settled by a file lock: when the one that holds it
ends, however, another takes over.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path

from gateway.background import BackgroundThread
from gateway.credential import key_header
from gateway.errors import ClientGone, GatewayError
from gateway.lifecycle import Lifecycle
from gateway.pool import KeyState, Pool
from gateway.upstream import Call, Upstream
from gateway.watch import Watch

log = logging.getLogger(__name__)

PROBE = Call("GET", "/v1/models?limit=1", [("anthropic-version", "2023-06-01")])


class Prober:
    """Probes the retired keys of the pool in force, every `interval_seconds`.

    `in_force` gives the present pool and upstream; `lock_path` is a file in the data folder.
    """

    def __init__(
        self,
        in_force: Callable[[], tuple[Pool, Upstream]],
        lifecycle: Lifecycle,
        interval_seconds: float,
        lock_path: Path,
    ) -> None:
        self._in_force = in_force
        self._lifecycle = lifecycle
        self._interval_seconds = interval_seconds
        self._lock_path = lock_path
        self._lock: int | None = None
        self._thread = BackgroundThread("prober", self._step)

    def start(self) -> None:
        """Begin; the first probe comes after one interval."""
        self._thread.start()

    def stop(self) -> None:
        """Probe no more; one that is under way ends by itself."""
        self._thread.stop()

    def probe(self) -> list[str]:
        """Try every refused key once; the names of those that are valid again."""
        pool, upstream = self._in_force()
        mended = []
        for status in pool.statuses():
            if status.state is not KeyState.PERMANENT or status.record.is_disabled:
                continue
            try:
                reply = upstream.send(PROBE, (key_header(status.key),), Watch(None, self._lifecycle))
                reply.discard()
            except (GatewayError, ClientGone) as error:
                log.debug("key %s (%s): probe: %r", status.key.name, status.key.hint, error)
                continue
            if reply.status == 200 and pool.revive(status):
                log.info("key %s (%s) is valid again: the upstream accepts it", status.key.name, status.key.hint)
                mended.append(status.key.name)
        return mended

    def _step(self) -> float:
        if not self._thread.wait(self._interval_seconds) and self._is_chosen():
            self.probe()
        return 0.0

    def _is_chosen(self) -> bool:
        """Whether this process probes for the machine."""
        if self._lock is None:
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            self._lock = lock
        return True
