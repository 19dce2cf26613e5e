"""Telling the operator which tools are left out: each once, as long as it is.

Owns: what has been told. Loop thread.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

log = logging.getLogger(__name__)

_MOST_TOLD = 20


class Teller:
    """`whose` names the tools in the line that stands for many."""

    def __init__(self, whose: str) -> None:
        self._whose = whose
        self._told: frozenset[str] = frozenset()

    def tell(self, refusals: Sequence[str]) -> None:
        """Log those that are new."""
        news = [refusal for refusal in refusals if refusal not in self._told]
        for refusal in news[:_MOST_TOLD]:
            log.warning("%s", refusal)
        if len(news) > _MOST_TOLD:
            log.warning("%s: %d more tools are not offered", self._whose, len(news) - _MOST_TOLD)
        self._told = frozenset(refusals)
