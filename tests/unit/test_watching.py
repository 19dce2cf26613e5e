"""What Prometheus and Grafana are given is whole: rules, runbook, dashboard and metrics fit each other.

That the rules mean what they should is shown by promtool (`make check`), and in a real Prometheus by
tests/e2e/test_watching.py.
"""

from __future__ import annotations

import json
import re
from itertools import combinations, pairwise
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from gateway.access.credential import Key, Secret
from gateway.config.settings import Settings
from gateway.web.service import Gateway
from tests.harness import ROOT

PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
RUNBOOK = ROOT / "docs" / "runbook.md"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
PROMETHEUS_OWN = {"up", "ALERTS"}


def rules_of(kind: str) -> list[dict[str, Any]]:
    """Every rule of a kind, `alert` or `record`, of all files."""
    return [
        rule
        for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if kind in rule
    ]


ALERTS = rules_of("alert")
ALERT_NAMES = [rule["alert"] for rule in ALERTS]
RECORDED = {rule["record"] for rule in rules_of("record")}
DASHBOARD = json.loads((GRAFANA / "dashboards" / "gateway.json").read_text())
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TITLES = [panel["title"] for panel in PANELS]


@pytest.fixture(scope="module")
def known_metrics() -> set[str]:
    """The name of every series that a gateway exposes."""
    gateway = Gateway(Settings(keys=(Key("a", Secret("sk-a")),)))
    names = set()
    for family in gateway.metrics.registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


def metrics_in(query: str) -> set[str]:
    """The metrics that a query names: what stands before braces or a range, less labels and functions."""
    bare = re.sub(r'"[^"]*"', '""', query)
    return set(re.findall(r"\b(?:job:)?(?:gateway_[a-z_]+|up|ALERTS)(?::[a-z0-9_]+)?", bare))


# Alerts


@pytest.mark.parametrize("rule", ALERTS, ids=ALERT_NAMES)
def test_alert_says_how_bad_it_is_what_it_means_and_where_to_read_on(rule: dict[str, Any]) -> None:
    """Given an alert, then it has a severity, words, and the address of its section in the runbook."""
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{{{{ $externalLabels.runbook }}}}#{rule['alert'].lower()}"
    assert rule.get("for", "0m") in ("0m", "1m", "2m", "5m")


def test_address_of_the_runbook_is_one_setting_of_prometheus_and_one_of_grafana() -> None:
    """Given what the alerts' and the dashboard's links begin with, then it is the address of a page, and the same."""
    labels = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]["external_labels"]
    assert re.fullmatch(r"https://[\w.-]+/\S*runbook\.html", labels["runbook"])
    assert labels == {"runbook": VARIABLES["runbook"]["query"]}


def test_runbook_has_a_section_for_every_alert_and_no_other() -> None:
    """Given the runbook, then its sections are the alerts, each with the severity that the rule has."""
    sections = re.findall(r"^### (\w+)\n\n\*(\w+)\.\* ", RUNBOOK.read_text(), re.MULTILINE)
    assert sorted(sections) == sorted((rule["alert"], rule["labels"]["severity"]) for rule in ALERTS)


def test_runbook_links_lead_somewhere() -> None:
    """Given the runbook's links, then files are there and sections exist."""
    text = RUNBOOK.read_text()
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        assert (RUNBOOK.parent / path).exists()
        assert path or anchor in anchors, target


def test_every_panel_that_the_runbook_names_is_on_the_dashboard() -> None:
    """Given words in the runbook that stand in italics like a panel's title, then there is such a panel."""
    named = set(named_panels(RUNBOOK.read_text()))
    assert named - {DASHBOARD["title"]} <= set(TITLES)
    assert len(named) > 10


def test_every_panel_that_the_runbook_names_links_to_the_sections_that_name_it() -> None:
    """Given a panel, then it has a link to each section of the runbook that names it, and to no other."""
    sections = re.split(r"^#+ (.*)\n", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]
    wanted: dict[str, set[str]] = {"Alerts": {"${runbook}"}}
    for heading, text in zip(sections[::2], sections[1::2], strict=True):
        for title in set(named_panels(text)) - {DASHBOARD["title"]}:
            wanted.setdefault(title, set()).add(f"${{runbook}}#{heading.lower().replace(' ', '-')}")
    linked = {panel["title"]: {link["url"] for link in panel["links"]} for panel in PANELS if "links" in panel}
    assert linked == wanted
    assert [link["url"] for link in DASHBOARD["links"]] == ["${runbook}"]


def named_panels(text: str) -> list[str]:
    """What stands in italics like a panel's title."""
    return re.findall(r"(?<![*\w])\*([A-Z][^*\n]+)\*(?!\*)", text)


@pytest.mark.parametrize("name", ALERT_NAMES)
def test_every_alert_has_a_rule_test_in_which_it_fires_and_one_in_which_it_does_not(name: str) -> None:
    """Given promtool's tests, then each alert is seen firing and silent."""
    expected = [
        bool(case["exp_alerts"])
        for path in sorted((PROMETHEUS / "tests").glob("*.yml"))
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == name
    ]
    assert set(expected) == {True, False}


def test_alerts_know_the_gateways_by_the_job_that_is_scraped() -> None:
    """Given the job's name in the rules, then prometheus.yml scrapes a job of that name, and loads the rules."""
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    named = {job for rule in ALERTS for job in re.findall(r'job="([^"]+)"', rule["expr"])}
    assert named == {scrape["job_name"] for scrape in configuration["scrape_configs"]}
    for pattern in (*configuration["rule_files"], *configuration["scrape_configs"][0]["file_sd_configs"][0]["files"]):
        assert list(PROMETHEUS.glob(pattern))


# Metrics


@pytest.mark.parametrize("rule", [*ALERTS, *rules_of("record")], ids=lambda rule: rule.get("alert") or rule["record"])
def test_rule_asks_for_metrics_that_there_are(rule: dict[str, Any], known_metrics: set[str]) -> None:
    """Given a rule, then all that it names is exposed by a gateway, recorded, or Prometheus' own."""
    asked = metrics_in(rule["expr"])
    assert asked
    assert asked <= known_metrics | RECORDED | PROMETHEUS_OWN


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_panel_asks_for_metrics_that_there_are(panel: dict[str, Any], known_metrics: set[str]) -> None:
    """Given a panel, then all that its queries name is exposed, recorded, or Prometheus' own; only that of the chosen
    job and gateways, and with alerts what is of no single gateway.
    """
    for target in panel["targets"]:
        asked = metrics_in(target["expr"])
        assert asked
        assert asked <= known_metrics | RECORDED | PROMETHEUS_OWN
        chosen = 'job="$job",instance=~"$instance|"' if "ALERTS" in asked else 'job="$job",instance=~"$instance"'
        assert re.sub(r'"[^"]*"', "", target["expr"]).count("{") == target["expr"].count(chosen)
        assert target["expr"].count(chosen) >= len(asked)


def test_every_metric_is_on_the_dashboard(known_metrics: set[str]) -> None:
    """Given what a gateway exposes, then the dashboard shows each family, by itself or through a recorded one."""
    recorded = {rule["record"]: rule["expr"] for rule in rules_of("record")}
    queries = [target["expr"] for panel in PANELS for target in panel["targets"]]
    shown = set().union(*(metrics_in(query) for query in queries))
    shown |= set().union(*(metrics_in(recorded[name]) for name in shown & RECORDED))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known_metrics}
    assert families <= {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}


# The dashboard


def test_dashboard_is_what_grafana_itself_would_write() -> None:
    """Given the dashboard, when read and written by the types that Grafana's schema generates, then nothing is lost.

    What they do not know, a misspelt option or one in the wrong place, does not come out again.
    """
    register_default_plugins()
    written = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(DASHBOARD)))
    assert missing(DASHBOARD, written) == []


def missing(before: Any, after: Any, path: str = "") -> list[str]:
    """Where `after` lacks or changes something of `before`; what it adds are defaults."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            fault
            for name, value in before.items()
            for fault in (missing(value, after[name], f"{path}/{name}") if name in after else [f"{path}/{name}"])
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            fault for n, pair in enumerate(zip(before, after, strict=True)) for fault in missing(*pair, f"{path}/{n}")
        ]
    return [] if before == after else [path]


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_panel_is_whole(panel: dict[str, Any]) -> None:
    """Given a panel, then it has words, a unit, queries of their own names, and the chosen data source throughout."""
    assert panel["title"]
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == DATASOURCE
    assert all(target["datasource"] == DATASOURCE for target in panel["targets"])
    names = [target["refId"] for target in panel["targets"]]
    assert names
    assert len(set(names)) == len(names)


def test_panels_are_told_apart() -> None:
    """Given the dashboard, then no two panels share an id or a title."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert len(set(TITLES)) == len(TITLES)


def test_panels_do_not_overlap_and_stay_in_the_grid() -> None:
    """Given the panels' places, then each lies within 24 columns, none on another, and rows follow each other."""
    places = [(p["x"], p["y"], p["w"], p["h"]) for p in (panel["gridPos"] for panel in DASHBOARD["panels"])]
    for x, y, width, height in places:
        assert x >= 0
        assert y >= 0
        assert width > 0
        assert height > 0
        assert x + width <= 24
    for (x, y, w, h), (x2, y2, w2, h2) in combinations(places, 2):
        assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
    assert all(above[1] <= below[1] for above, below in pairwise(places))


def test_variables_are_the_data_source_the_job_and_its_gateways() -> None:
    """Given the dashboard's variables, then a data source can be chosen, a job among those that run gateways, and any
    of its gateways: all of them at first. The runbook's address is none that a reader chooses.
    """
    assert list(VARIABLES) == ["datasource", "job", "instance", "runbook"]
    source, job, instance, runbook = VARIABLES.values()
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    assert (job["type"], job["datasource"]) == ("query", DATASOURCE)
    assert (instance["type"], instance["datasource"]) == ("query", DATASOURCE)
    assert instance["query"] == 'label_values(gateway_build_info{job="$job"}, instance)'
    assert (instance["multi"], instance["includeAll"], instance["allValue"]) == (True, True, ".*")
    assert instance["current"]["value"] == ["$__all"]
    assert (runbook["type"], runbook["hide"]) == ("constant", 2)


def test_provisioning_names_a_prometheus_and_the_dashboards_folder() -> None:
    """Given Grafana's provisioning, then there is a default data source, and dashboards come from files."""
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())
    dashboards = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "gateway.yml").read_text())
    scrape = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert sources["apiVersion"] == dashboards["apiVersion"] == 1
    [source], [provider] = sources["datasources"], dashboards["providers"]
    assert (source["type"], source["isDefault"], source["jsonData"]["timeInterval"]) == ("prometheus", True, scrape)
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)
    assert provider["options"]["path"]
