"""A real Prometheus watches real gateways on which things go wrong on purpose: what fires, what the dashboard shows.

Each trouble has a gateway of its own, scraped as a job of its own, so that exactly its alerts must fire for its job, no
other alert for any, and none after it was mended.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import yaml

from tests.e2e.money_troubles import SpentBudget
from tests.e2e.prometheus_server import HASTE, SHIPPED, PrometheusServer, in_haste
from tests.e2e.recorder_troubles import DamagedSpool, SlowDatabase
from tests.e2e.tool_troubles import BrokenTools
from tests.e2e.troubles import COMMON_TROUBLES, Trouble
from tests.harness import ROOT, wait_until

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "gateway.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RUNBOOK = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())["global"]["external_labels"]["runbook"]
TICK_SECONDS = 0.3
# The longest window and the longest `for` one after the other, and thrice as long for a busy machine.
PATIENCE_SECONDS = 3 * (300 + 300) / HASTE
TROUBLES: tuple[type[Trouble], ...] = (SlowDatabase, DamagedSpool, BrokenTools, SpentBudget, *COMMON_TROUBLES)
EXPECTED = {(trouble.job, alert) for trouble in TROUBLES for alert in trouble.alerts}


class Clients:
    """A thread in which the clients of all gateways do what they do, over and over. `with` ends it."""

    def __init__(self, troubles: list[Trouble]) -> None:
        self._troubles = troubles
        self._done = threading.Event()
        self._lock = threading.Lock()  # held while clients ask
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(60)
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Within this no client asks anything."""
        with self._lock:
            yield

    def _run(self) -> None:
        try:
            while not self._done.wait(TICK_SECONDS):
                with self._lock:
                    for trouble in self._troubles:
                        trouble.tick()
        except Exception as failure:  # noqa: BLE001  # raised again in the test's thread
            self._failure = failure


@pytest.fixture(scope="module")
def troubles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Trouble]]:
    """The gateways, all well."""
    folders = [tmp_path_factory.mktemp(kind.job) for kind in TROUBLES]  # pytest makes them in one thread alone
    with ThreadPoolExecutor() as pool:
        started = list(pool.map(lambda kind, folder: kind(folder), TROUBLES, folders))
        yield started
        list(pool.map(lambda trouble: trouble.stop(), started))


@pytest.fixture(scope="module")
def prometheus(troubles: list[Trouble]) -> Iterator[PrometheusServer]:
    """Prometheus, with the shipped rules in haste."""
    with PrometheusServer({trouble.job: trouble.address for trouble in troubles}) as server:
        yield server


def queries() -> dict[str, str]:
    """Every query of the dashboard, as it is asked over all jobs."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace('job="$job"', 'job=~".+"')
        .replace("$instance", ".*")
        .replace("$__rate_interval", f"{300 / HASTE:.0f}s")
        .replace("$__range", "1h")
        for panel in PANELS
        for target in panel["targets"]
    }


@pytest.mark.timeout(300)
def test_every_alert_fires_when_it_should_and_resolves_after(
    prometheus: PrometheusServer, troubles: list[Trouble]
) -> None:
    """Given gateways that are well, when each gets its trouble, then exactly its alerts fire; mended, none does.

    Meanwhile every query of the dashboard and every recorded series has data.
    """
    with Clients(troubles) as clients:
        jobs = {trouble.job for trouble in troubles}
        # A few seconds pass until it knows its targets, which in haste is long enough to miss the gateways.
        assert wait_until(lambda: jobs_up(prometheus) == jobs and not prometheus.firing(), PATIENCE_SECONDS)

        with clients.silent():
            for trouble in troubles:
                trouble.begin()
        assert wait_until(lambda: prometheus.firing() == EXPECTED, PATIENCE_SECONDS), EXPECTED ^ prometheus.firing()
        assert prometheus.runbook_urls() == {f"{RUNBOOK}#{alert.lower()}" for _, alert in EXPECTED}
        assert [name for name, query in queries().items() if not prometheus.query(query)] == []
        recorded = {series["metric"]["__name__"] for series in prometheus.query('{__name__=~"job:.+"}')}
        assert recorded == recorded_names()
        assert set(prometheus.label_values("job", "gateway_build_info")) == jobs

        with clients.silent():
            for trouble in troubles:
                trouble.mend()
        assert wait_until(lambda: prometheus.firing() == set(), PATIENCE_SECONDS), prometheus.firing()
    assert prometheus.has_fired() == EXPECTED


def jobs_up(prometheus: PrometheusServer) -> set[str]:
    """The jobs whose gateway answers."""
    return {series["metric"]["job"] for series in prometheus.query("up == 1")}


def recorded_names() -> set[str]:
    """The names of the shipped recording rules."""
    text = (SHIPPED / "rules" / "recording.yml").read_text()
    return {line.partition("record: ")[2] for line in text.splitlines() if "record: " in line}


def test_haste_shortens_durations_and_nothing_else() -> None:
    """Given rules, when put in haste, then windows, `for` and intervals shrink; thresholds and names stay."""
    text = "record: job:x:rate5m\nexpr: rate(x[5m] offset 5m) > 10\nfor: 2m\nscrape_interval: 15s\n# five, 5m\n"
    assert in_haste(text) == (
        "record: job:x:rate5m\nexpr: rate(x[10000ms] offset 10000ms) > 10\n"
        "for: 4000ms\nscrape_interval: 500ms\n# five, 5m\n"
    )
