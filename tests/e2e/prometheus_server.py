"""A real Prometheus with the project's own rules, in a process of its own, in a hurry.

Owns: its folder, its port, its life. What it runs on is derived from deploy/prometheus and from nothing else: every
window, `for` and interval is shortened by one factor, so that what takes minutes there takes seconds here; thresholds
stay. A machine without `prometheus` fails the tests: what they show cannot be shown without one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
import yaml

from tests.harness import ROOT, wait_until
from tests.ports import free_port

SHIPPED = ROOT / "deploy" / "prometheus"
HASTE = 30  # five minutes take ten seconds
_START_SECONDS = 60.0
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"(?P<before>\[|\b(?:for:|offset) |_interval: )(?P<count>\d+)(?P<unit>[smh])\b")


def in_haste(text: str) -> str:
    """The text with the durations of ranges, offsets, `for` and intervals shortened."""

    def shortened(match: re.Match[str]) -> str:
        seconds = int(match["count"]) * _UNIT_SECONDS[match["unit"]]
        return f"{match['before']}{1000 * seconds // HASTE}ms"

    return _DURATION.sub(shortened, text)


class PrometheusServer:
    """One server that scrapes these gateways: `HOST:PORT` by the job that each is scraped as. `with` ends it."""

    def __init__(self, targets: Mapping[str, str]) -> None:
        binary = shutil.which("prometheus")
        if binary is None:
            raise AssertionError("these tests need prometheus: apt-get install prometheus")
        self._folder = tempfile.TemporaryDirectory(prefix="prometheus-")
        folder = Path(self._folder.name)
        self._write_configuration(folder, targets)
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        self._http = requests.Session()
        self._http.trust_env = False
        self._log = (folder / "log").open("w+")
        self._process = subprocess.Popen(
            [
                binary,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        if not wait_until(self._is_ready, _START_SECONDS):
            log = (folder / "log").read_text()
            self.stop()
            raise AssertionError(f"prometheus does not start:\n{log}")

    def __enter__(self) -> PrometheusServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives now: series with `metric` (labels) and `value`. AssertionError for a bad one."""
        return list(self._get("query", query=expression)["result"])

    def query_range(self, expression: str, start: float, end: float, step_seconds: float) -> list[dict[str, Any]]:
        """The same from one epoch second to another: series with `metric` and `values`."""
        times = {"start": f"{start}", "end": f"{end}", "step": f"{step_seconds}"}
        return list(self._get("query_range", query=expression, **times)["result"])

    def label_values(self, label: str, metric: str) -> list[str]:
        """The values of a label on a metric, as a dashboard's variable asks for them."""
        return list(self._get(f"label/{label}/values", **{"match[]": metric}))

    def firing(self) -> set[tuple[str, str]]:
        """Job and name of every alert that fires now."""
        return {
            (alert["labels"]["job"], alert["labels"]["alertname"])
            for alert in self._get("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def runbook_urls(self) -> set[str]:
        """Where the alerts that are there now lead to."""
        return {alert["annotations"]["runbook_url"] for alert in self._get("alerts")["alerts"]}

    def has_fired(self) -> set[tuple[str, str]]:
        """Job and name of every alert that has fired at any time."""
        ever = self.query('count by (job, alertname) (max_over_time(ALERTS{alertstate="firing"}[1h]))')
        return {(series["metric"]["job"], series["metric"]["alertname"]) for series in ever}

    def stop(self) -> None:
        """End it for good."""
        self._process.terminate()
        self._process.wait(20)
        self._log.close()
        self._http.close()
        self._folder.cleanup()

    def _write_configuration(self, folder: Path, targets: Mapping[str, str]) -> None:
        configuration = yaml.safe_load(in_haste((SHIPPED / "prometheus.yml").read_text()))
        # A scrape may take all of an interval, so that a busy machine is no gateway that is down.
        configuration["global"]["scrape_timeout"] = configuration["global"]["scrape_interval"]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        (folder / "rules").mkdir()
        for path in (SHIPPED / "rules").glob("*.yml"):
            (folder / "rules" / path.name).write_text(in_haste(path.read_text()))
        (folder / "targets").mkdir()
        groups = [{"targets": [address], "labels": {"job": job}} for job, address in targets.items()]
        (folder / "targets" / "gateways.yml").write_text(yaml.safe_dump(groups))

    def _get(self, path: str, **parameters: str) -> Any:
        answer = self._http.get(f"{self._url}/api/v1/{path}", params=parameters, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def _is_ready(self) -> bool:
        try:
            return self._http.get(f"{self._url}/-/ready", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False
