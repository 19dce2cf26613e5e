"""What Prometheus reads of the present moment: how the keys stand, the last reload, the store's reach, the limits.

Owns: these metrics' names and labels. They are read when Prometheus asks, from the shared store, and never
stored: whichever worker answers says the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.config.limit_rules import LimitUse
from gateway.keys.overview import ALL_SCOPES, KeyView, Statuses, overview
from gateway.keys.standing import KeyState
from gateway.keys.verdict import Concern
from gateway.models.scopes import is_scope

ASKED = "gateway_scope_last_asked_timestamp_seconds"
_ASKED_SECONDS = 600.0
_MOST_SCOPES = 50


class Moment(Collector):
    """Reads the moment from these.

    `asked` gives the family ASKED, as far as this process knows; `fold` bounds the values of the label `scope`.
    """

    def __init__(
        self,
        statuses: Statuses,
        reload_ok: Callable[[], bool],
        store_up: Callable[[], bool],
        asked: Callable[[], Iterable[Metric]],
        fold: Callable[[str], str],
        limit_uses: Callable[[], Iterable[LimitUse]] = tuple,
    ) -> None:
        self._statuses = statuses
        self._reload_ok = reload_ok
        self._store_up = store_up
        self._asked = asked
        self._fold = fold
        self._limit_uses = limit_uses

    def collect(self) -> Iterable[Metric]:
        return self.families(self._asked())

    def families(self, asked: Iterable[Metric]) -> list[Metric]:
        """All of them. `asked` is the family ASKED, of all workers."""
        views = overview(self._statuses)
        reload_ok = GaugeMetricFamily(
            "gateway_config_reload_success",
            "Whether the last reload was applied; 1 before the first.",
            value=float(self._reload_ok()),
        )
        store_up = GaugeMetricFamily(
            "gateway_store_up", "Whether the shared state of the keys is in reach.", value=float(self._store_up())
        )
        limits = _limits(self._limit_uses())
        return [_states(views), self._cooldowns(views), self._usable(views, asked), limits, reload_ok, store_up]

    def _cooldowns(self, views: Iterable[KeyView]) -> Metric:
        gauge = GaugeMetricFamily(
            "gateway_key_cooldown_seconds",
            "Time until a cooling key is tried again for a scope; else 0.",
            labels=["key", "scope"],
        )
        for view in views:
            is_whole = view.status.concern is not Concern.SCOPE
            cooldowns = {ALL_SCOPES: view.status.remaining_seconds if is_whole else 0.0}
            for scope in view.scopes:
                name = self._fold(scope.scope)
                cooldowns[name] = max(cooldowns.get(name, 0.0), scope.remaining_seconds)
            for name, seconds in cooldowns.items():
                gauge.add_metric([view.status.key.name, name], seconds)
        return gauge

    def _usable(self, views: Iterable[KeyView], asked: Iterable[Metric]) -> Metric:
        usable = GaugeMetricFamily(
            "gateway_scope_usable_keys",
            "Keys that may be used for a scope, of those asked for in the last ten minutes.",
            labels=["scope"],
        )
        if any(views):
            for scope in _scopes(asked):
                valid = sum(status.state is KeyState.VALID for status in self._statuses(scope))
                usable.add_metric([scope], valid)
        return usable


def _states(views: Iterable[KeyView]) -> Metric:
    states = GaugeMetricFamily(
        "gateway_key_state", "1 for the state a key is in, 0 for the others.", labels=["key", "state"]
    )
    for view in views:
        for state in KeyState:
            states.add_metric([view.status.key.name, state.value], float(view.status.state is state))
    return states


def _limits(uses: Iterable[LimitUse]) -> Metric:
    ratios = GaugeMetricFamily(
        "gateway_limit_used_ratio",
        "How much of a limit of a group or a token is used; from 1 on requests are refused.",
        labels=["limit", "kind", "name"],
    )
    for use in uses:
        ratios.add_metric([use.limit, use.limited.kind, use.limited.name], use.ratio)
    return ratios


def _scopes(asked: Iterable[Metric]) -> list[str]:
    """Those asked for lately, the latest first; a scope past the bound of labels cannot be told."""
    now = time.time()
    at = {sample.labels["scope"]: sample.value for family in asked for sample in family.samples if family.name == ASKED}
    lately = sorted((scope for scope in at if now - at[scope] <= _ASKED_SECONDS), key=lambda scope: -at[scope])
    return [scope for scope in lately if is_scope(scope)][:_MOST_SCOPES]
