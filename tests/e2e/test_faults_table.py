"""docs/faults.md: every behaviour of the simulator has a row, and every row a test that uses it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from gateway.simulator.catalogue import BEHAVIOURS
from gateway.simulator.playbook import parse_script

HERE = Path(__file__).parent
TABLE = HERE.parent.parent / "docs" / "faults.md"
NO_SWITCH = "–"


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    name: str
    switch: str
    streamed: str
    whole: str
    test: str


def _faults() -> list[Fault]:
    rows = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and not line.startswith("|-") and cells[1] != "simulator switch":
            rows.append(Fault(cells[0], cells[1].strip("`"), cells[2], cells[3], cells[4].strip("`")))
    return rows


FAULTS = _faults()
every_fault = pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])


@cache
def _tests_of(path: Path) -> tuple[frozenset[str], tuple[str, ...]]:
    """The names of a file's tests, and every text in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef))
    texts = tuple(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return names, texts


def _behaviours_of(switch: str) -> set[str]:
    return {behaviour.name for behaviour, _ in parse_script(switch).steps}


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_every_behaviour_of_the_simulator_has_a_row(behaviour: str) -> None:
    """Given a behaviour that can be rehearsed, then the table says what a client gets."""
    assert any(behaviour in _behaviours_of(fault.switch) for fault in FAULTS if fault.switch != NO_SWITCH)


@every_fault
def test_every_row_has_a_test_that_uses_its_behaviour(fault: Fault) -> None:
    """Given a row, then its test exists, and its file plays that behaviour."""
    file, _, name = fault.test.partition("::")
    names, texts = _tests_of(HERE / file)
    assert name.startswith("test_")
    assert name in names
    if fault.switch != NO_SWITCH:
        for behaviour in _behaviours_of(fault.switch):
            assert any(text == behaviour or text.startswith((f"{behaviour}:", f"{behaviour} ")) for text in texts)


@every_fault
def test_every_row_is_complete(fault: Fault) -> None:
    """Given a row, then it says what a client gets, streamed and whole."""
    assert fault.name
    assert fault.streamed
    assert fault.whole
    assert (fault.streamed, fault.whole) != (NO_SWITCH, NO_SWITCH)
