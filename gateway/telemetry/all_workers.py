"""What all workers have counted, as one.

Owns: reading their files of counts while they write to them. Any thread.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable

from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from gateway.runtime.shared_counts import SharedCounts
from gateway.telemetry.moment import Moment

_READINGS = 5  # of the files of counts, for one that tells something


class AllWorkers(Collector):
    """What all workers have counted, and the present moment."""

    def __init__(self, counts: SharedCounts, mcp_servers: Collection[str], moment: Moment | None) -> None:
        self._counts = counts
        self._mcp_servers = mcp_servers
        self._moment = moment

    def collect(self) -> Iterable[Metric]:
        merged = self._merged()
        for metric in merged:
            if metric.name == "gateway_mcp_server_up":  # a file keeps what a reload has taken out
                metric.samples = [sample for sample in metric.samples if sample.labels["server"] in self._mcp_servers]
        return [*merged, *self._moment.families(merged)] if self._moment is not None else merged

    def _merged(self) -> list[Metric]:
        for left in reversed(range(_READINGS)):
            try:
                return list(MultiProcessCollector.merge(self._counts.paths()))  # type: ignore[no-untyped-call]
            except (OSError, ValueError, LookupError, struct.error):
                # A file was removed, or begun anew by the next worker in its row, while it was read: so it is by now.
                if not left:
                    raise
        return []
