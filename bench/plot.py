"""The race as a picture: for each measure, every contender on a logarithmic scale, the gateway at 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from math import log10
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.report import Race

_COLOURS = {
    "straight": "#9e9e9e",
    "nginx": "#009639",
    "litellm": "#d1495b",
    "portkey": "#7b4fb5",
    "gateway": "#1463b8",
    "gateway-all": "#6fb1e8",
}
_LEFT, _WIDTH, _ROW, _TOP = 310, 640, 34, 78
_LOWEST, _HIGHEST = -2, 2  # powers of ten


def _rate(line: dict[str, Any]) -> float:
    return float(line["requests"] / line["seconds"])


def _events(line: dict[str, Any]) -> float:
    return float(line["events"] / line["seconds"])


def _events_for_cpu(line: dict[str, Any]) -> float:
    return float(line["events"] / line["cpu_seconds"])


def _quickness(group: str) -> Callable[[dict[str, Any]], float]:
    return lambda line: 1 / float(line[group]["p50_ms"])


# All of them so that more is better.
_MEASURES: tuple[tuple[str, str, Callable[[dict[str, Any]], float]], ...] = (
    ("whole answers, 32 clients: requests/s", "whole-32", _rate),
    ("whole answer, 1 client: 1 / p50", "whole-1", _quickness("latency")),
    ("requests of 100 KB, 8 clients: requests/s", "body", _rate),
    ("bursts of 200 events: events/s", "burst-200", _events),
    ("bursts of 2000 events: events/s", "burst-2000", _events),
    ("first event: 1 / p50", "first", _quickness("first_event")),
    ("500 streams: events for a second of CPU", "paced-500", _events_for_cpu),
    ("1000 streams: events for a second of CPU", "paced-1000", _events_for_cpu),
)


def _at(ratio: float) -> float:
    power = min(max(log10(ratio), _LOWEST), _HIGHEST)
    return _LEFT + _WIDTH * (power - _LOWEST) / (_HIGHEST - _LOWEST)


def _rows(race: Race, contenders: Sequence[str]) -> Iterator[tuple[str, dict[str, float]]]:
    for title, scenario, figure in _MEASURES:
        ours = race.median(scenario, "gateway", figure)
        if ours:
            found = {who: race.median(scenario, who, figure) for who in contenders}
            yield title, {who: value / ours for who, value in found.items() if value}


def plotted(race: Race, contenders: Sequence[str]) -> str:
    """An SVG document."""
    rows = list(_rows(race, contenders))
    height = _TOP + _ROW * len(rows) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 40}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="16" y="24" font-size="15" font-weight="bold">How many times as good as the gateway with one worker '
        "(right is better)</text>",
    ]
    for number, who in enumerate(contenders):
        x = 24.0 + 150 * number
        parts.append(f'<circle cx="{x}" cy="44" r="5" fill="{_COLOURS[who]}"/><text x="{x + 10}" y="48">{who}</text>')
    for power in range(_LOWEST, _HIGHEST + 1):
        x = _at(10**power)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{_TOP - 4}" y2="{height - 14}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="{_TOP - 8}" text-anchor="middle" fill="#666">{10.0**power:g}</text>')
    for number, (title, ratios) in enumerate(rows):
        y = _TOP + _ROW * number + _ROW / 2
        parts.append(f'<text x="{_LEFT - 16}" y="{y + 4}" text-anchor="end">{escape(title)}</text>')
        parts.append(f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y}" y2="{y}" stroke="#eee"/>')
        parts += [
            f'<circle cx="{_at(ratio):.1f}" cy="{y}" r="6" fill="{_COLOURS[who]}" fill-opacity="0.85">'
            f"<title>{who}: {ratio:.3g}</title></circle>"
            for who, ratio in ratios.items()
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
