"""docs/keys.md is the code's: every code, wording and cause stands in its table."""

from __future__ import annotations

import re

import pytest

from gateway.keys.classification import CAUSES, Cause
from gateway.keys.verdict import Verdict
from gateway.protocol.outcomes import Outcome
from tests.harness import ROOT

PAGE = (ROOT / "docs" / "keys.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.split("\n## Causes\n", 1)[1].split("\n## ", 1)[0].splitlines()
    if line.startswith("| ") and "`" in line
]


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.wording or sorted(cause.codes)[0])
def test_every_cause_stands_in_its_row(cause: Cause) -> None:
    """Given a row of the code's table; then the page has its codes, or its wording, with its statuses and its cause."""
    for sign in cause.codes or {f'"{cause.wording}"'}:
        (row,) = [row for row in ROWS if sign in row[0] and f"`{cause.outcome.value}`" in row[1]]
        assert all(str(status) in row[0] for status in cause.statuses)


def test_every_outcome_but_success_has_a_row() -> None:
    """Given the outcomes of an attempt; then the page has each but `ok`, and no others."""
    assert {name for row in ROWS for name in re.findall(r"`(\w+)`", row[1])} == {
        outcome.value for outcome in Outcome
    } - {"ok"}


def test_what_moves_on_to_another_key_is_the_code_s() -> None:
    """Given a row; then it says whether another key is tried as the outcome does."""
    for row in ROWS:
        for name in re.findall(r"`(\w+)`", row[1]):
            assert row[3].startswith("no") == (Verdict(Outcome(name)).next.value == "none"), row
