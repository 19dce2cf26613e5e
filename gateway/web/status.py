"""What the status page shows: the keys, the limits, what has been counted, and a verdict in one line.

Owns: choosing and wording it. Knows no Flask. Any thread; one reading of the store and of the counts that
all workers of this machine share, whichever of them answers. Names and hints only; nothing here can tell a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from prometheus_client.core import Metric

from gateway import __version__
from gateway.config.limit_rules import LimitUse
from gateway.keys.overview import KeyView, overview
from gateway.keys.standing import KeyState, KeyStatus
from gateway.keys.verdict import Concern
from gateway.web.service import Gateway

_LIMITS = ("requests", "tokens", "input_tokens", "output_tokens")
_EXHAUSTIONS = {
    "rate_limited": "all configured keys are rate-limited",
    "auth_failed": "all configured keys failed authentication",
    "out_of_money": "all configured keys are out of money",
    "forbidden": "every key was forbidden the request",
}
_NEAR_PERCENT = 75
_MOST_LIMITS = 100  # that are shown
_STREAM_ENDS = {
    "completed": "completed",
    "upstream_error": "ended by an upstream error",
    "truncated": "cut by the upstream",
    "client_disconnected": "left by the client",
    "idle_timeout": "upstream fell silent",
    "drained": "ended by a stop",
}


class Tone(Enum):
    """How something looks: the page has a colour and a sign for each."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Limit:
    """What is left of one of a key's limits, as its last answer gave it; `scope` if limits of several are known."""

    name: str
    remaining: int
    limit: int
    scope: str = ""

    @property
    def percent_left(self) -> int:
        """From 0 to 100."""
        return min(100, 100 * self.remaining // self.limit) if self.limit else 0


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key. `since_at` is when the mark that still holds was made, in epoch seconds; 0 if the key is not marked.

    `failovers` are reasons with their counts.
    """

    view: KeyView
    tone: Tone
    answered: int
    failovers: tuple[tuple[str, int], ...]
    limits: tuple[Limit, ...]
    since_at: float

    @property
    def status(self) -> KeyStatus:
        """How the key stands as a whole."""
        return self.view.status

    @property
    def rest_seconds(self) -> float:
        """How long the present rest takes in all."""
        return max(self.status.record.cooling_until_at - self.status.record.marked_at, 1.0)


@dataclass(frozen=True, slots=True)
class Exhaustion:
    """Turns that found no usable key: why, how many since the start, and when the last was (0 for never)."""

    what: str
    count: int
    last_at: float


@dataclass(frozen=True, slots=True)
class Status:
    """Everything on the page, at one moment (epoch seconds).

    `limits` are those nearest to their end, and `more_limits` how many others there are.
    """

    at: float
    version: str
    verdict: str
    tone: Tone
    keys: tuple[KeyRow, ...]
    inflight: int
    inflight_limit: int
    streams: tuple[tuple[str, int], ...]
    exhaustions: tuple[Exhaustion, ...]
    is_store_up: bool
    is_reload_ok: bool
    limits: tuple[tuple[LimitUse, Tone], ...] = ()
    more_limits: int = 0

    @property
    def reached(self) -> list[str]:
        """Whose requests are refused now, each named once."""
        return list(dict.fromkeys(str(use.limited) for use, tone in self.limits if tone is Tone.BAD))

    @property
    def valid_count(self) -> int:
        """How many keys are valid."""
        return sum(row.status.state is KeyState.VALID for row in self.keys)

    @property
    def failover_count(self) -> int:
        """Failovers of all keys since the start."""
        return sum(count for row in self.keys for _, count in row.failovers)

    @property
    def exhaustion_count(self) -> int:
        """Exhaustions since the start."""
        return sum(exhaustion.count for exhaustion in self.exhaustions)

    @property
    def inflight_percent(self) -> int:
        """How full the gateway is, from 0 to 100."""
        return min(100, 100 * self.inflight // self.inflight_limit) if self.inflight_limit else 0


class Counts:
    """Samples of all metrics by name, to be looked up by labels."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in families:
            for sample in family.samples:
                self._samples.setdefault(sample.name, []).append((sample.labels, sample.value))

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels, over all others; 0 if there are none."""
        return sum(value for having, value in self._samples.get(name, []) if labels.items() <= having.items())

    def by(self, label: str, name: str, **labels: str) -> list[tuple[str, int]]:
        """The values of one label with their sums, largest first; those at 0 are left out."""
        values = {having[label] for having, _ in self._samples.get(name, []) if labels.items() <= having.items()}
        counts = [(value, int(self.total(name, **labels, **{label: value}))) for value in values]
        return sorted((pair for pair in counts if pair[1]), key=lambda pair: (-pair[1], pair[0]))


def status_of(gateway: Gateway) -> Status:
    """The present status."""
    views = overview(gateway.configuration.pool.statuses)
    counts = Counts(gateway.metrics.of_all_workers().collect())
    uses = gateway.limit_uses()
    verdict, tone = verdict_on([view.status for view in views], _dead_scopes(views))
    now = gateway.wall_clock()
    return Status(
        at=now,
        version=__version__,
        verdict=verdict,
        tone=tone,
        keys=tuple(_row(view, counts, now) for view in views),
        inflight=int(counts.total("gateway_requests_inflight")),
        inflight_limit=int(counts.total("gateway_admission_limit")),
        streams=tuple(
            (words, int(counts.total("gateway_streams_ended_total", outcome=outcome)))
            for outcome, words in _STREAM_ENDS.items()
        ),
        exhaustions=tuple(_exhaustion(outcome, counts) for outcome in _EXHAUSTIONS),
        is_store_up=bool(counts.total("gateway_store_up")),
        is_reload_ok=bool(counts.total("gateway_config_reload_success")),
        limits=tuple((use, _tone_of(use)) for use in uses[:_MOST_LIMITS]),
        more_limits=max(0, len(uses) - _MOST_LIMITS),
    )


def _tone_of(use: LimitUse) -> Tone:
    if use.is_reached:
        return Tone.BAD
    return Tone.WARNING if use.percent >= _NEAR_PERCENT else Tone.GOOD


def verdict_on(statuses: Sequence[KeyStatus], dead_scopes: Sequence[str] = ()) -> tuple[str, Tone]:
    """The state of the pool in one line, and how bad it is. `dead_scopes` are those that no key is usable for."""
    valid = sum(status.state is KeyState.VALID for status in statuses)
    if not statuses:
        return "No pool: clients bring their own credentials", Tone.GOOD
    if valid == len(statuses):
        return ("The key is valid" if valid == 1 else f"All {valid} keys are valid"), Tone.GOOD
    if valid > 1:
        return f"{valid} of {len(statuses)} keys are valid", Tone.WARNING
    if valid:
        return f"One valid key left of {len(statuses)}", Tone.WARNING
    if any(status.state is KeyState.TEMPORARY and status.concern is Concern.SCOPE for status in statuses):
        if dead_scopes:
            return (
                f"No valid key for {', '.join(dead_scopes)}: such requests are refused until a key has rested",
                Tone.BAD,
            )
        return "No key is valid for everything: each is limited for some requests", Tone.WARNING
    if any(status.state is KeyState.TEMPORARY for status in statuses):
        return "No valid key: clients are refused until a key has rested", Tone.BAD
    return "No valid key: all are out of use", Tone.BAD


def _dead_scopes(views: Sequence[KeyView]) -> list[str]:
    """The scopes that no key is usable for, of those that some key rests for."""
    resting = [{scope.scope for scope in view.scopes if scope.remaining_seconds} for view in views]
    return [
        name
        for name in sorted(set().union(*resting))
        if all(name in names or _is_out(view.status) for names, view in zip(resting, views, strict=True))
    ]


def _is_out(status: KeyStatus) -> bool:
    """Whether the key is usable for no scope."""
    is_resting = status.state is KeyState.TEMPORARY and status.concern is not Concern.SCOPE
    return is_resting or status.state is KeyState.PERMANENT


def _row(view: KeyView, counts: Counts, now: float) -> KeyRow:
    status, name = view.status, view.status.key.name
    tones = {KeyState.VALID: Tone.GOOD, KeyState.TEMPORARY: Tone.WARNING, KeyState.PERMANENT: Tone.BAD}
    return KeyRow(
        view,
        Tone.WARNING if status.state is KeyState.VALID and view.cause else tones[status.state],
        answered=int(counts.total("gateway_key_attempts_total", key=name, outcome="ok")),
        failovers=tuple(
            (reason.replace("_", " "), count)
            for reason, count in counts.by("reason", "gateway_key_failovers_total", key=name)
        ),
        limits=tuple(limit for name_of_limit in _LIMITS for limit in _scarcest(name, name_of_limit, counts)),
        since_at=now - status.marked_ago_seconds if status.is_marked else 0.0,
    )


def _scarcest(key: str, limit: str, counts: Counts) -> list[Limit]:
    """Of all scopes' limits of this kind, that of which the smallest share is left; none if none is known."""
    scopes = counts.by("scope", "gateway_key_ratelimit_limit", key=key, limit=limit)
    found = (
        Limit(
            limit.replace("_", " "),
            int(counts.total("gateway_key_ratelimit_remaining", key=key, limit=limit, scope=scope)),
            total,
            scope if len(scopes) > 1 else "",
        )
        for scope, total in scopes
    )
    return sorted(found, key=lambda each: each.percent_left)[:1]


def _exhaustion(outcome: str, counts: Counts) -> Exhaustion:
    return Exhaustion(
        _EXHAUSTIONS[outcome],
        int(counts.total("gateway_pool_exhaustions_total", outcome=outcome)),
        counts.total("gateway_pool_last_exhaustion_timestamp_seconds", outcome=outcome),
    )
