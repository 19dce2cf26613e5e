"""The kinds of metrics there are here: prometheus-client's, which remember their children, and labels kept to a bound.

Owns: the registry, and how a counter, a gauge and a histogram of the gateway's are made. Thread-safe:
prometheus-client's metrics lock themselves.
"""

from __future__ import annotations

import threading
from typing import Any, Literal, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

# Their `_created` series would double what Prometheus stores, and nothing here reads them.
disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations

OTHER = "other"

# What becomes of several workers' values: their sum, maximum or minimum over live ones, their maximum over all, or
# whichever was set last.
GaugeMode = Literal["livesum", "livemax", "livemin", "max", "mostrecent"]

_DURATION_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class BoundedLabels:
    """Keeps a label's values to the first `limit` ones seen; later ones are `other`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()  # guards _seen
        self._seen: set[str] = set()

    def fold(self, value: str) -> str:
        """The value itself, or `other` past the limit."""
        if value in self._seen:
            return value
        with self._lock:
            if len(self._seen) < self._limit:
                self._seen.add(value)
                return value
        return OTHER


class _Bound(MetricWrapperBase):
    """Remembers a metric's children by their labels: prometheus-client itself looks them up under a lock, as texts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._bound: dict[tuple[object, ...], Self] = {}
        super().__init__(*args, **kwargs)

    def labels(self, *labelvalues: object, **labelkwargs: object) -> Self:
        """The child of these labels; always the same one for the same labels, so races do no harm."""
        if labelkwargs:
            return super().labels(*labelvalues, **labelkwargs)
        child = self._bound.get(labelvalues)
        if child is None:
            child = self._bound[labelvalues] = super().labels(*labelvalues)
        return child


class _Counter(_Bound, Counter):
    """A Counter that remembers."""

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """Count. A message counts 13 times: what prometheus-client asks first would take 18,000 instructions of it."""
        self._value.inc(amount)


class _Gauge(_Bound, Gauge):
    """A Gauge that remembers."""


class _Histogram(_Bound, Histogram):
    """A Histogram that remembers."""


class Instruments:
    """Makes metrics, each in one registry, with the gateway's prefix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def counter(self, name: str, meaning: str, *labels: str) -> Counter:
        """A counter; `_total` is added to its name."""
        return _Counter(f"gateway_{name}", meaning, labels, registry=self.registry)

    def gauge(self, name: str, meaning: str, mode: GaugeMode, *labels: str) -> Gauge:
        """A gauge, and what becomes of several workers' values of it."""
        return _Gauge(f"gateway_{name}", meaning, labels, registry=self.registry, multiprocess_mode=mode)

    def histogram(
        self, name: str, meaning: str, *labels: str, buckets: tuple[float, ...] = _DURATION_BUCKETS
    ) -> Histogram:
        """A histogram, of durations in seconds if nothing else is said."""
        return _Histogram(f"gateway_{name}", meaning, labels, buckets=buckets, registry=self.registry)


def begin_at_zero(counter: Counter, *values: str) -> None:
    """Show these label values before their first count: from nothing to 1 is no increase to Prometheus."""
    for value in values:
        counter.labels(value)
