"""What the status page shows: the headline, the keys, the last minutes' traffic, the last events, and what was counted.

Owns: gathering it. Knows no Flask. Any thread; one reading of the store and of what all workers of this gateway share,
whichever of them answers. Names and hints only; nothing here can tell a secret.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.core import Metric

from gateway import __version__
from gateway.config.limit_rules import LimitUse
from gateway.keys.overview import KeyView, overview
from gateway.keys.standing import KeyState, KeyStatus
from gateway.protocol.outcomes import Ending, Exhaustion, Outcome
from gateway.telemetry.metrics import RATE_LIMITS
from gateway.telemetry.recent import Event, Traffic
from gateway.web.headline import Health, Sentence, Tone, headline
from gateway.web.service import Gateway

_NO_KEY = {
    Exhaustion.RATE_LIMITED: "all were cooling down or retired",
    Exhaustion.AUTH_FAILED: "all were refused by the upstream",
    Exhaustion.OUT_OF_MONEY: "all were out of money or retired",
    Exhaustion.FORBIDDEN: "each was forbidden the request",
}
_NEAR_PERCENT = 75
_MOST_LIMITS = 100  # that are shown
_STREAM_ENDS = {
    Ending.COMPLETED: "completed",
    Ending.UPSTREAM_ERROR: "ended by an upstream error",
    Ending.TRUNCATED: "cut off by the upstream",
    Ending.CLIENT_DISCONNECTED: "left by the client",
    Ending.IDLE_TIMEOUT: "silent for too long",
    Ending.DRAINED: "ended as the gateway stopped",
}


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
    """One key. `place` counts from 1 in the order in which keys are tried; `failovers` are reasons with counts."""

    view: KeyView
    place: int
    tone: Tone
    answered: int
    failovers: tuple[tuple[str, int], ...]
    limits: tuple[Limit, ...]

    @property
    def status(self) -> KeyStatus:
        """How the key stands as a whole."""
        return self.view.status

    @property
    def cooldown_seconds(self) -> float:
        """How long the present cooldown takes in all."""
        return max(self.status.record.cooling_until_at - self.status.record.marked_at, 1.0)

    @property
    def scarcest(self) -> Limit | None:
        """The limit of which the smallest share is left."""
        return min(self.limits, key=lambda limit: limit.percent_left, default=None)

    @property
    def failover_count(self) -> int:
        """How often another key was tried after this one."""
        return sum(count for _, count in self.failovers)


@dataclass(frozen=True, slots=True)
class NoKey:
    """Turns that found no usable key: why, how many since the start, and when the last was (0 for never)."""

    why: str
    count: int
    last_at: float


@dataclass(frozen=True, slots=True)
class Identity:
    """Which gateway it is: its name, the address that it was asked at, its version, and how long it runs."""

    name: str
    address: str
    version: str
    uptime_seconds: float

    @property
    def id(self) -> str:
        """What tells it from others behind the same proxy."""
        return f"{self.name} {self.address}".strip()


@dataclass(frozen=True, slots=True)
class Records:
    """How the records of requests fare; `lost` since the start."""

    is_kept: bool
    is_database_up: bool
    waiting: int
    lost: int


@dataclass(frozen=True, slots=True)
class Status:
    """Everything on the page, at one moment (epoch seconds).

    `keys` are those that need attention first. `limits` are those nearest to their end, and `more_limits` how many
    others there are.
    """

    at: float
    gateway: Identity
    tone: Tone
    sentences: tuple[Sentence, ...]
    keys: tuple[KeyRow, ...]
    traffic: Traffic
    events: tuple[Event, ...]
    inflight: int
    inflight_limit: int
    streams: tuple[tuple[str, int], ...]
    no_key: tuple[NoKey, ...]
    mcp_servers: tuple[tuple[str, bool], ...]
    records: Records
    store: str
    is_store_up: bool
    is_reload_ok: bool
    limits: tuple[tuple[LimitUse, Tone], ...] = ()
    more_limits: int = 0

    @property
    def headline(self) -> str:
        """The headline's text."""
        return " ".join(sentence.text for sentence in self.sentences)

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
        return sum(row.failover_count for row in self.keys)

    @property
    def no_key_count(self) -> int:
        """Turns that found no usable key since the start."""
        return sum(each.count for each in self.no_key)

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


def status_of(gateway: Gateway, address: str = "") -> Status:
    """The present status; `address` is the one that the gateway was asked at."""
    settings = gateway.configuration.settings
    views = overview(gateway.configuration.pool.statuses)
    counts = Counts(gateway.metrics.of_all_workers().collect())
    uses = gateway.limit_uses()
    servers = tuple(
        (server.name, bool(counts.total("gateway_mcp_server_up", server=server.name)))
        for server in settings.mcp_servers
    )
    records = Records(
        is_kept=settings.record_url != "none",
        is_database_up=bool(counts.total("gateway_recorder_up")),
        waiting=int(counts.total("gateway_recorder_queue_length")),
        lost=int(counts.total("gateway_recorder_dropped_total")),
    )
    health = Health(
        store=gateway.store_name,
        is_store_up=bool(counts.total("gateway_store_up")),
        needs_store=settings.needs_store,
        records_waiting=records.waiting,
        is_database_up=records.is_database_up,
        is_reload_ok=bool(counts.total("gateway_config_reload_success")),
        mcp_down=tuple(name for name, is_up in servers if not is_up),
        inflight=int(counts.total("gateway_requests_inflight")),
        inflight_limit=int(counts.total("gateway_admission_limit")),
        traffic=gateway.recent.traffic(),
    )
    tone, sentences = headline(views, health)
    rows = [_row(view, place, counts) for place, view in enumerate(views, start=1)]
    return Status(
        at=gateway.wall_clock(),
        gateway=Identity(settings.name or socket.gethostname(), address, __version__, gateway.recent.uptime_seconds),
        tone=tone,
        sentences=sentences,
        keys=tuple(sorted(rows, key=lambda row: -list(Tone).index(row.tone))),
        traffic=health.traffic,
        events=tuple(gateway.recent.events()),
        inflight=health.inflight,
        inflight_limit=health.inflight_limit,
        streams=tuple(
            (words, int(counts.total("gateway_streams_ended_total", outcome=ending.value)))
            for ending, words in _STREAM_ENDS.items()
        ),
        no_key=tuple(_no_key(outcome.value, why, counts) for outcome, why in _NO_KEY.items()),
        mcp_servers=servers,
        records=records,
        store=health.store,
        is_store_up=health.is_store_up,
        is_reload_ok=health.is_reload_ok,
        limits=tuple((use, _tone_of(use)) for use in uses[:_MOST_LIMITS]),
        more_limits=max(0, len(uses) - _MOST_LIMITS),
    )


def _tone_of(use: LimitUse) -> Tone:
    if use.is_reached:
        return Tone.BAD
    return Tone.WARNING if use.percent >= _NEAR_PERCENT else Tone.GOOD


def _row(view: KeyView, place: int, counts: Counts) -> KeyRow:
    status, name = view.status, view.status.key.name
    tones = {KeyState.VALID: Tone.GOOD, KeyState.TEMPORARY: Tone.WARNING, KeyState.PERMANENT: Tone.BAD}
    return KeyRow(
        view,
        place,
        Tone.WARNING if status.state is KeyState.VALID and view.cause else tones[status.state],
        answered=int(counts.total("gateway_key_attempts_total", key=name, outcome=Outcome.OK.value)),
        failovers=tuple(
            (reason.replace("_", " "), count)
            for reason, count in counts.by("reason", "gateway_key_failovers_total", key=name)
        ),
        limits=tuple(limit for name_of_limit in RATE_LIMITS for limit in _scarcest(name, name_of_limit, counts)),
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


def _no_key(outcome: str, why: str, counts: Counts) -> NoKey:
    return NoKey(
        why,
        int(counts.total("gateway_pool_exhaustions_total", outcome=outcome)),
        counts.total("gateway_pool_last_exhaustion_timestamp_seconds", outcome=outcome),
    )
