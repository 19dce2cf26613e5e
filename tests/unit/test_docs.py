"""The documents match the code, README is short, and the site loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.access.authentication import ByokMode
from gateway.access.credential import Key, Secret
from gateway.config.limit_rules import LimitRules
from gateway.config.settings import Settings, setting_specs
from gateway.protocol.outcomes import Ending, Exhaustion
from gateway.records.interception_record import InterceptionRecord, TurnUsage
from gateway.telemetry.access_log import fields_of
from gateway.telemetry.metrics import Metrics
from gateway.web.app import create_app
from gateway.web.service import Gateway
from gateway.web.status import status_of
from gateway.web.status_data import as_data
from tests.harness import ROOT
from tests.unit.telemetry.test_metrics import exercised, families, uses_of_ann

DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
PROGRAMS = Path(sys.executable).parent
# Paths of the project, as a document names them.
_PATH = re.compile(r"`((?:tests|docs|bench|deploy|scripts|gateway|\.ci)/[\w/.-]+)`")


def section(page: str, title: str) -> str:
    """The text under one second-level heading of a page."""
    return (DOCS / page).read_text().split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of the table rows in a text, without backquotes."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def access_log() -> list[list[str]]:
    """The rows of the access log's fields."""
    return rows(section("observability.md", "The access log"))


def documented(name: str, value: object) -> str:
    """A default as the settings' tables write it."""
    if name == "workers":
        return "one a processor"
    if name == "max_requests":
        return "as many as fit"
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


def test_every_setting_is_documented_with_its_default_and_reload() -> None:
    """Given the settings of the code; then the page's tables have each once, with its default and need of a restart."""
    settings = Settings()
    expected = {
        f"GATEWAY_{name.upper()}": (documented(name, getattr(settings, name)), spec.needs_restart)
        for name, spec in setting_specs()
    }
    lines = [cells for cells in rows((DOCS / "configuration.md").read_text()) if cells[0].startswith("GATEWAY_")]
    assert len(lines) == len(expected)
    assert {cells[0]: (cells[1], cells[3] == "restart") for cells in lines} == expected


def test_every_metric_is_documented_with_its_labels() -> None:
    """Given a gateway's registry; then the table names every metric and label, and no others."""
    gateway = Gateway(Settings(keys=(Key("a", Secret("sk-a")),)))
    expected = {}
    for family in gateway.metrics.registry.collect():
        suffix = "_total" if family.type == "counter" else ""
        expected[family.name + suffix] = family.type
    written = {cells[0]: set(re.findall(r"\w+", cells[1])) for cells in rows(section("observability.md", "Metrics"))}
    assert set(written) == set(expected)
    labels = families(exercised(Metrics()).render())
    assert {name.removesuffix("_total"): names for name, names in written.items()} == labels


def test_every_field_of_the_status_as_data_is_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the data of a gateway with some of everything; then the table has each field, in order, and those in it."""
    gateway = Gateway(Settings(keys=(Key("a", Secret("sk-a")),)))
    gateway.metrics.count_exhaustion(Exhaustion.RATE_LIMITED)
    monkeypatch.setattr(gateway, "limit_uses", uses_of_ann)
    data = as_data(status_of(gateway))
    table = rows(section("observability.md", "The status page").split("### The same as data", 1)[1])
    assert [name for name, _ in table] == list(data)
    for name, words in table:
        inside = data[name][0] if isinstance(data[name], list) else data[name]
        if isinstance(inside, dict):
            assert set(inside) - set(re.findall(r"\w+", words)) == set(), name


def test_every_field_of_the_access_log_is_documented() -> None:
    """Given the lines of an admitted request and of one turned away; then the table has their fields, in order."""
    turn = TurnUsage(0, "k", "m", None, "exact", 1, 1, 1, 1, 1, 1, 0, 0, "{}")
    record = InterceptionRecord("i", "messages", 0.0, "1970-01-01", 1.0, "completed", 200, "i", "pooled", usage=(turn,))
    written = [name for cells in access_log() for name in re.findall(r"\w+", cells[0])]
    assert written == list(fields_of(record, "127.0.0.1"))


def test_every_outcome_of_a_request_is_described() -> None:
    """Given the ends that an interception can have; then the access log's table and docs/records.md have each."""
    [described] = [cells[1] for cells in access_log() if cells[0] == "outcome"]
    known = {ending.value for ending in Ending}
    table = (DOCS / "records.md").read_text().split("| outcome |", 1)[1].split("\n\n", 1)[0]
    assert set(re.findall(r"(\w+)`", described)) == known == set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))


def test_every_route_is_documented() -> None:
    """Given the application's routes; then the table has each path."""
    app = create_app(gateway=Gateway(Settings(keys=(Key("a", Secret("sk-a")),))))
    paths = {rule.rule.replace("<model_id>", "{id}") for rule in app.url_map.iter_rules()}
    assert {path for path in paths if f" {path}`" not in section("routes.md", "Routes")} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    """Given the paths of the project that a page names; then each is there."""
    assert [path for path in _PATH.findall(page.read_text()) if not (ROOT / path).exists()] == []


def test_readme_is_short_and_leads_to_every_page() -> None:
    """Given README; then it is under 150 lines and links every page but the site's own first one."""
    text = README.read_text()
    assert len(text.splitlines()) < 150
    assert {page.name for page in DOCS.glob("*.md")} - set(re.findall(r"\(docs/([\w-]+\.md)", text)) == {"index.md"}


def test_every_command_that_readme_names_is_there() -> None:
    """Given the targets and programs of README's commands; then the Makefile and the gateway know them."""
    text = README.read_text()
    known = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets = set(re.findall(r"\bmake ([a-z-]+)(?=[\s`])", re.sub(r"gateway tokens .*", "", text)))
    assert {"demo", "test", "run", "docs"} <= targets <= known
    commands = set(re.findall(r"\.venv/bin/gateway (\w+)", text))
    assert {"check", "tokens"} <= commands
    for command in commands:
        subprocess.run([PROGRAMS / "gateway", command, "--help"], capture_output=True, check=True)


def test_site_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Given the site as it is built; then no page loads a font, a style, a script or a picture from another site."""
    built = subprocess.run(
        [PROGRAMS / "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(list(DOCS.glob("*.md")))
    loaded = re.compile(
        r"""<(?:script|img|iframe)\b[^>]*\bsrc=["']?((?:https?:)?//[^"'\s>]+)|<link\b[^>]*\bhref=["']?((?:https?:)?//[^"'\s>]+)"""
    )
    assert [(page.name, match.group()) for page in pages for match in loaded.finditer(page.read_text())] == []
    assert [page.name for page in pages if 'class="mermaid"' in page.read_text()] == []


def test_every_place_names_the_same_version() -> None:
    """Given the package's version, then the changelog's newest release, the image's tags and the docs have it, too."""
    version = re.search(r"^version = (.+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert version is not None
    newest = re.search(r"^## (\d\S+) \(\d{4}-\d\d-\d\d\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version[1]
    named = re.findall(r"(?:newTag: |/messages-gateway:)(\d\S*)", "".join(path.read_text() for path in versioned()))
    assert set(named) == {version[1]}


def versioned() -> list[Path]:
    """The files that may name a version of the image."""
    return [*DOCS.glob("*.md"), *(ROOT / "deploy").rglob("*.yaml"), *(ROOT / "deploy").rglob("*.yml")]
