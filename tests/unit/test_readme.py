"""README's tables are the code's: settings, metrics, routes, tests."""

from __future__ import annotations

import re

import pytest

from gateway.access import ByokMode
from gateway.access_log import fields_of
from gateway.app import create_app
from gateway.credential import Key, Secret
from gateway.interception_record import InterceptionRecord, TurnUsage
from gateway.limit_rules import LimitRules
from gateway.metrics import Metrics
from gateway.service import Gateway
from gateway.settings import Settings, setting_specs
from gateway.story import ENDINGS
from tests.harness import ROOT
from tests.unit.test_metrics import exercised, families

README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    """The text under one second-level heading."""
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(title: str) -> list[list[str]]:
    """The cells of the table rows in a section, without backquotes."""
    lines = [line for line in section(title).splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def documented(name: str, value: object) -> str:
    """A default as README writes it."""
    if name == "workers":
        return "one a processor"
    if value is None or value in ((), LimitRules()):
        return "–"
    if value == "":
        return "$XDG_STATE_HOME/messages-gateway"
    if isinstance(value, ByokMode):
        return value.value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, re.Pattern):
        return value.pattern
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_every_setting_stands_in_readme_with_its_default_and_reload() -> None:
    """Given the settings table of the code; then README has the same names, defaults and needs of a restart."""
    settings = Settings()
    expected = {
        f"GATEWAY_{name.upper()}": (documented(name, getattr(settings, name)), spec.needs_restart)
        for name, spec in setting_specs()
    }
    written = {cells[0]: (cells[1], cells[3] == "restart") for cells in rows("Settings")}
    assert written == expected


def test_every_metric_stands_in_readme_with_its_labels() -> None:
    """Given a gateway's registry; then README names every metric and label, and no others."""
    gateway = Gateway(Settings(keys=(Key("a", Secret("sk-a")),)))
    expected = {}
    for family in gateway.metrics.registry.collect():
        suffix = "_total" if family.type == "counter" else ""
        expected[family.name + suffix] = family.type
    written = {cells[0]: set(re.findall(r"\w+", cells[1])) for cells in rows("Metrics")}
    assert set(written) == set(expected)
    labels = families(exercised(Metrics()).render())
    assert {name.removesuffix("_total"): names for name, names in written.items()} == labels


def test_every_field_of_the_access_log_stands_in_readme() -> None:
    """Given the lines of an admitted request and of one turned away; then README has their fields, in order."""
    turn = TurnUsage(0, "k", "m", None, "exact", 1, 1, 1, 1, 1, 1, 0, 0, "{}")
    record = InterceptionRecord("i", "messages", 0.0, "1970-01-01", 1.0, "completed", 200, "i", "pooled", usage=(turn,))
    written = [name for cells in rows("Logs") for name in re.findall(r"\w+", cells[0])]
    assert written == list(fields_of(record, "127.0.0.1"))


def test_every_outcome_of_a_request_is_described() -> None:
    """Given the ends that a story can have; then README's access log and docs/records.md have each."""
    [described] = [cells[1] for cells in rows("Logs") if cells[0] == "outcome"]
    table = (ROOT / "docs" / "records.md").read_text().split("| outcome |", 1)[1].split("\n\n", 1)[0]
    assert set(re.findall(r"(\w+)`", described)) == set(ENDINGS) == set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))


def test_every_route_stands_in_readme() -> None:
    """Given the application's routes; then README's table has each path."""
    app = create_app(gateway=Gateway(Settings(keys=(Key("a", Secret("sk-a")),))))
    paths = {rule.rule.replace("<model_id>", "{id}") for rule in app.url_map.iter_rules()}
    assert {path for path in paths if f" {path}`" not in section("Routes")} == set()


@pytest.mark.parametrize("name", re.findall(r"`((?:tests|docs|\.ci)/[\w/.-]+)`|\((docs/[\w.-]+)\)", README))
def test_every_file_that_readme_names_exists(name: tuple[str, str]) -> None:
    """Given a path in README; then it is there."""
    assert (ROOT / (name[0] or name[1])).exists()
