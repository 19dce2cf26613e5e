"""`gateway prices`: what it prints of the prices in force."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from freezegun import freeze_time

from gateway.cli import main
from gateway.pricing.prices import known_prices

OWN = """
[[price]]
model = "claude-own-1"
from = 2026-11-01
input = 0.000001
cache_write_5m = 1000
cache_write_1h = 0
cache_read = 0.10
output = 5
fast_factor = 1.5
source = "contract 7\\u001b[2J"

[[price]]
model = "claude-opus-5"
from = 2026-11-01
input = 4.5
cache_write_5m = 5.6
cache_write_1h = 9
cache_read = 0.45
output = 22.5

[tools]
web_search = 0.008
"""
Run = Callable[..., int]


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command, with this text as the operator's own file."""
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GATEWAY_API_KEYS", "a=sk-a")
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "data"))

    def run(*arguments: str, own: str | None = None) -> int:
        if own is not None:
            (tmp_path / "own.toml").write_text(own)
            monkeypatch.setenv("GATEWAY_PRICES_FILE", str(tmp_path / "own.toml"))
        return main(["prices", *arguments])

    return run


def test_the_table_has_every_row_the_default_and_the_tools(prices: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Given no file of the operator's, then the package's rows stand there in dollars, with their sources."""
    assert prices() == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["model", "from", "above_prompt_tokens", "input"]
    assert len(lines) == len(known_prices().rows) + 1 + 3
    (opus,) = [line.split() for line in lines if line.startswith("claude-opus-5 ")]
    assert opus[:10] == ["claude-opus-5", "2026-08-22", "-", "5", "6.25", "10", "0.5", "25", "2", "1.1"]
    assert [line.split()[2:5] for line in lines if line.startswith("claude-haiku-5-5")] == [
        ["100000", "0.5", "0.625"],
        ["-", "0.1", "0.125"],
    ]
    (default,) = [line for line in lines if line.startswith("default ")]
    assert default.endswith("the dearest of the known models")
    assert lines[-1].startswith("web search: 0.01 a call; https://docs.claude.com/")


def test_own_prices_stand_in_their_places_and_name_the_file(
    prices: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Given an own file, then its rows replace the package's of that model, and say from where they are, made safe."""
    assert prices("--format", "csv", own=OWN) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    rows = list(csv.DictReader(io.StringIO(out)))
    (own,) = [row for row in rows if row["model"] == "claude-own-1"]
    assert (own["input"], own["cache_write_5m"], own["cache_write_1h"]) == ("0.000001", "1000", "0")
    assert (own["cache_read"], own["fast_factor"], own["us_factor"]) == ("0.1", "1.5", "1")
    assert own["source"] == f"{tmp_path / 'own.toml'}: contract 7\\x1b[2J"
    (opus,) = [row for row in rows if row["model"] == "claude-opus-5"]
    assert (opus["input"], opus["source"]) == ("4.5", str(tmp_path / "own.toml"))
    (other,) = [row for row in rows if row["model"] == "claude-opus-5-5"]
    assert "own.toml" not in other["source"]


def test_json_has_numbers(prices: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Given `--format json`, then amounts are numbers, what there is none of is null, and the tools stand there."""
    assert prices("--format", "json", own=OWN) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["unit"] == "dollars per million tokens"
    (own,) = [row for row in document["prices"] if row["model"] == "claude-own-1"]
    assert (own["from"], own["input"], own["above_prompt_tokens"]) == ("2026-11-01", 0.000001, None)
    assert document["prices"][-1]["model"] == "default"
    assert document["tools"] == {"web_search": 0.008, "source": str(tmp_path / "own.toml")}


@pytest.mark.parametrize(
    ("today", "model", "expected"),
    [
        ("2026-11-29", "claude-haiku-4-5-20251001", [("claude-haiku-4-5", "2026-08-22", "")]),
        ("2026-11-29", "us.anthropic.claude-opus-5-v1:0", [("claude-opus-5", "2026-08-22", "")]),
        ("2026-10-06", "claude-sonnet-5-5", [("claude-sonnet-5-5", "2026-08-22", "")]),
        ("2026-10-07", "claude-sonnet-5-5", [("claude-sonnet-5-5", "2026-10-07", "")]),
        ("2026-11-30", "claude-opus-4-8[1m]", [("claude-opus-4-8", "2026-08-22", "")]),
        ("2026-12-01", "claude-opus-4-8[1m]", [("claude-opus-4-8", "2026-12-01", "")]),
        (
            "2026-11-29",
            "claude-haiku-5-5",
            [("claude-haiku-5-5", "2026-10-24", "100000"), ("claude-haiku-5-5", "2026-10-24", "")],
        ),
        ("2026-11-29", "gpt-9", [("default", "", "")]),
    ],
)
def test_a_model_s_row_is_that_of_today(
    prices: Run,
    capsys: pytest.CaptureFixture[str],
    today: str,
    model: str,
    expected: list[tuple[str, str, str]],
) -> None:
    """Given a model under any name, then what holds for it today is shown, or that it costs the default."""
    with freeze_time(f"{today}T12:00:00+00:00"):
        assert prices("--model", model, "--format", "csv") == 0
    printed = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert [(row["model"], row["from"], row["above_prompt_tokens"]) for row in rows] == expected
    assert ("has no price" in printed.err) is (expected[0][0] == "default")


def test_bad_prices_are_told_and_nothing_is_printed(prices: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Given an own file with a fault, then the line that `gateway check` has for it, and status 1."""
    assert prices(own=OWN.replace("4.5", "-4.5")) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith("own.toml: [[price]] 2 (claude-opus-5): input: a price cannot be negative\n")
