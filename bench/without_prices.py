"""A gateway that prices nothing, as gunicorn's configuration: what bench/limits.py compares prices with."""

from typing import Any

from gateway.records.record_builder import RecordBuilder
from gateway.server.gunicorn_conf import *  # noqa: F403

_begin = RecordBuilder.__init__


def _begin_without_prices(self: RecordBuilder, *arguments: Any, **named: Any) -> None:
    _begin(self, *arguments, **named)
    self._prices = None


RecordBuilder.__init__ = _begin_without_prices  # type: ignore[method-assign]
