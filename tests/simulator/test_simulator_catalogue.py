"""The catalogue, its documentation, and the wall between the simulator and the gateway."""

import ast
from pathlib import Path

import pytest

from gateway.simulator import catalogue
from gateway.simulator.catalogue import BEHAVIOURS
from gateway.simulator.playbook import parse_script

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gateway" / "simulator"


def test_documentation_shows_the_catalogue() -> None:
    """Given a changed behaviour, `gateway simulate --list markdown` prints what belongs there."""
    documentation = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
    _, marker, tables = documentation.partition("<!-- behaviours -->\n")
    assert marker
    assert tables == catalogue.as_markdown() + "\n"


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_behaviour_explains_itself(name: str) -> None:
    behaviour = BEHAVIOURS[name]
    assert behaviour.summary().endswith(".")
    assert "|" not in behaviour.summary()
    assert name in catalogue.as_text()


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_behaviour_takes_its_documented_defaults(name: str) -> None:
    """Given each default as a script would write it, then the behaviour is the plain one."""
    [(plain, _)] = parse_script(name).steps
    for option in BEHAVIOURS[name].options():
        if option.default:
            [(spelled, _)] = parse_script(f"{name}:{option.name}={option.default}").steps
            assert spelled == plain


def test_simulator_imports_nothing_of_the_gateway() -> None:
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
                assert node.level == 0, f"{path.name} imports relatively"
            elif isinstance(node, ast.Import):
                modules = [name.name for name in node.names]
            else:
                continue
            for module in modules:
                is_foreign = module.split(".")[0] == "gateway"
                assert not is_foreign or module.startswith("gateway.simulator"), path.name
