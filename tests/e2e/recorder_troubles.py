"""What goes wrong with the recorder's database and its spool: troubles as in troubles.py."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import ClassVar

from gateway.runtime.data_folder import spool_folder
from tests.e2e.fleet import SOON_SECONDS
from tests.e2e.troubles import Trouble
from tests.harness import wait_until


class SlowDatabase(Trouble):
    """Somebody holds the database of records, while a thousand requests want to be recorded."""

    job = "backlog"
    alerts: ClassVar = {"GatewayRecorderBacklog"}

    def begin(self) -> None:
        path = self.fleet.data_dir / "records.db"
        assert wait_until(path.exists, SOON_SECONDS)
        self._holder = sqlite3.connect(path, isolation_level=None)
        self._holder.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: super(SlowDatabase, self).tick(), range(550)))

    def mend(self) -> None:
        self._holder.close()


class DamagedSpool(Trouble):
    """Again and again a dead worker's spool is found, in which nothing can be read."""

    job = "drops"
    alerts: ClassVar = {"GatewayRecorderDrops"}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._numbers = count()
        self._is_damaging = False

    def begin(self) -> None:
        self._is_damaging = True

    def tick(self) -> None:
        super().tick()
        if self._is_damaging:
            path = spool_folder(str(self.fleet.data_dir)) / f"dead-{next(self._numbers)}"
            path.write_text("no record\n")
            path.rename(path.with_suffix(".jsonl"))

    def mend(self) -> None:
        self._is_damaging = False
