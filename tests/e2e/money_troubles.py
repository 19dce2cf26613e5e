"""What goes wrong with money: a trouble as in troubles.py."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import ClassVar

from tests.e2e.clients import ask, message_body
from tests.e2e.fleet import SOON_SECONDS
from tests.e2e.talk import token_line
from tests.e2e.troubles import Trouble
from tests.harness import wait_until

_NEW_MODEL = "claude-unheard-of"


class SpentBudget(Trouble):
    """A group's money is spent, and somebody without limits asks for a model that has no price."""

    job = "money"
    alerts: ClassVar = {"GatewayBudgetNearlySpent", "GatewayBudgetSpent", "GatewayUnpricedModel"}

    def __init__(self, folder: Path) -> None:
        self._file = folder / "gateway.toml"
        self._tokens = folder / "tokens"
        self._tokens.write_text(token_line("carol", "gwt_carol", "group=research") + token_line("dave", "gwt_dave"))
        self._write(dollars_per_day=1000)
        self._model = "claude-simulated"
        super().__init__(folder)

    def settings(self) -> dict[str, object]:
        return {**super().settings(), "config": self._file, "client_tokens_file": self._tokens}

    def begin(self) -> None:
        self._limit_to(dollars_per_day=0.000001)
        self._model = _NEW_MODEL

    def tick(self) -> None:
        for token, model in (("gwt_carol", "claude-simulated"), ("gwt_dave", self._model)):
            ask(self.fleet.gateway.url, message_body(False, model=model), headers=[f"x-api-key: {token}"])

    def mend(self) -> None:
        self._limit_to(dollars_per_day=1000)
        self._model = "claude-simulated"

    def _write(self, dollars_per_day: float) -> None:
        self._file.write_text(f"[limits.groups.research]\nconcurrent = 100\ndollars_per_day = {dollars_per_day:f}\n")

    def _limit_to(self, dollars_per_day: float) -> None:
        self._write(dollars_per_day)
        done = "configuration reloaded"
        before = self.fleet.gateway.log.count(done)
        self.fleet.gateway.send_signal(signal.SIGHUP)
        assert wait_until(lambda: self.fleet.gateway.log.count(done) > before, SOON_SECONDS)
