"""What a running gateway is made of: what lives as long as its process, and what one configuration makes.

Owns: the wiring of settings to everything that acts on them, and their exchange at a reload. Thread-safe: requests
take the present Configuration once and keep it to their end, so a reload changes nothing under them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from gateway import __version__
from gateway.access.authentication import Caller, ClientToken
from gateway.access.token_file import TokenFile
from gateway.config.limit_rules import Limited, LimitUse
from gateway.config.settings import Settings, settle
from gateway.keys.affinity import Affinity, Pins, PinSeconds
from gateway.keys.key_news import KeyNews
from gateway.keys.looks import Looks
from gateway.keys.pool import Pool
from gateway.keys.standing import KeyStatus
from gateway.keys.store import MemoryStore, Store
from gateway.limits.limiter import Limiter
from gateway.limits.no_limits import NO_LIMITS
from gateway.limits.uses import limit_uses
from gateway.records.recorder import NoRecorder, Sink
from gateway.relay.tool_loop import ToolPolicy
from gateway.runtime.background import Troubles
from gateway.runtime.data_folder import sessions_folder
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.machine_clock import machine_time
from gateway.runtime.shared_counts import SharedCounts
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.outage import outage_of_store
from gateway.telemetry.recent import Recent
from gateway.telemetry.tracing import Tracing
from gateway.tools.mcp.budget import ToolLimits
from gateway.tools.mcp.toolbox import McpToolbox, ToolSettings
from gateway.tools.tool_sessions import ToolSessions
from gateway.tools.toolbox import Toolbox
from gateway.upstream import Upstream
from gateway.upstream.dialer import Route
from gateway.web.admission import Admission

log = logging.getLogger("gateway.service")

_END_SESSIONS_SECONDS = 3.0
_TICK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Configuration:
    """One configuration in force, and what was made from it."""

    settings: Settings
    pool: Pool
    upstream: Upstream
    token_file: TokenFile | None = field(repr=False)
    tool_policy: ToolPolicy
    _limited: dict[tuple[str | None, str | None], tuple[Limited, ...]] = field(default_factory=dict, repr=False)

    def limited(self, caller: Caller) -> tuple[Limited, ...]:
        """Whose limits hold for a caller's requests. They are remembered: no more than there are tokens."""
        who = (caller.token_name, caller.token_group)
        found = self._limited.get(who)
        if found is None:
            found = self._limited[who] = self.settings.limits.of(*who)
        return found

    def pins(self, affinity: Affinity, client: str | None, session: str | None, body: bytes) -> Pins | None:
        """Where a message's session stays, if it may stay anywhere."""
        seconds = PinSeconds(self.settings.session_pin_seconds, self.settings.session_pin_lasting_seconds)
        return affinity.of(self.pool, client, session, body, seconds)

    def tokens(self) -> tuple[ClientToken, ...] | None:
        """The client tokens now; None on an open gateway."""
        return self.token_file.tokens() if self.token_file is not None else None


class Gateway:
    """One worker's gateway. What lasts is measured by `clock`, which nobody sets; `wall_clock` gives epoch seconds."""

    def __init__(
        self,
        settings: Settings,
        store: Store | None = None,
        clock: Callable[[], float] = machine_time,
        wall_clock: Callable[[], float] = time.time,
        reload_ok: Callable[[], bool] = lambda: True,
        admission: Admission | None = None,
        toolbox: Toolbox | None = None,
        counts: SharedCounts | None = None,
        recent: Recent | None = None,
    ) -> None:
        self.clock = clock
        self.wall_clock = wall_clock
        self.lifecycle = Lifecycle()
        self.admission = admission if admission is not None else Admission(settings.max_requests)
        self.recent = recent if recent is not None else Recent(wall_clock=wall_clock, clock=clock)
        self.metrics = Metrics(counts, self.recent)
        self._mcp = McpToolbox(self.metrics, __version__)
        self.toolbox: Toolbox = toolbox if toolbox is not None else self._mcp
        self.tool_sessions = ToolSessions(sessions_folder(settings.data_dir) if settings.data_dir else None, wall_clock)
        self.recorder: Sink = NoRecorder()
        self.limiter: Limiter = NO_LIMITS
        self._open_limiter: Callable[[], Limiter] | None = None
        self.tracing = Tracing()
        self._store = store if store is not None else MemoryStore()
        self.store_name = "Redis" if settings.state_url is not None else "the data folder"
        self._store_outage = outage_of_store(self.recent, self.store_name)
        self.affinity = Affinity(self._store, clock)
        self.looks: Looks | None = None
        self.key_news: KeyNews | None = None
        self._housekeeping = Troubles("the worker's housekeeping")
        self._ticks_at = float("-inf")
        self._lock = threading.Lock()  # guards the exchange of configuration, not the reading of it
        self.configuration = self._configured(settings, None)
        self.metrics.watch(self._statuses, reload_ok, lambda: self._store.is_up, self.limit_uses)
        self.metrics.admission_limit.set(settings.max_requests)
        self.metrics.build_info.labels(__version__).set(1)

    def reload(self, settings: Settings) -> None:
        """Put new settings in force for requests that come from now on.

        What is fixed while the gateway runs keeps its value. Raises SettingsError, with nothing changed, if the new
        settings do not go with what is fixed.
        """
        with self._lock:
            before = self.configuration
            settled = settle(before.settings, settings)
            self._begin_limiter(settled)
            self.configuration = self._configured(settled, before)
        if self.configuration.upstream is not before.upstream:
            before.upstream.close()
        self._mcp.apply(tool_settings_of(self.configuration.settings))
        if self.looks is not None:
            self.looks.look_at_places()

    def tick(self) -> None:
        """Housekeeping, about once a second, however often it is called; what fails there ends nothing."""
        now = self.clock()
        if now < self._ticks_at:
            return
        self._ticks_at = now + _TICK_SECONDS
        try:
            self.configuration.upstream.drop_stale()
            self.metrics.settle()
            self._store.tick()
            self._store_outage.note(self._store.is_up)
        except Exception as error:  # noqa: BLE001  # the worker serves all the same
            self._ticks_at = now + max(_TICK_SECONDS, self._housekeeping.failed(error))
        else:
            self._housekeeping.worked()

    def begin_looks(self) -> None:
        """Look at keys that are out, were forbidden something, or belong nobody knows where."""
        settings = self.configuration.settings
        lock_path = Path(settings.data_dir) / "looks.lock"
        self.looks = Looks(self._in_force, self.lifecycle, self.metrics, settings.probe_seconds, lock_path)
        self.looks.start(looks_at_places=settings.probe_at_start)

    def begin_key_news(self) -> None:
        """Tell in the log what becomes of the keys without this worker's requests."""
        settings = self.configuration.settings
        others = None if settings.state_url is None else "another worker or gateway"
        lock_path = Path(settings.data_dir) / "key-news.lock"
        self.key_news = KeyNews(lambda: self.configuration.pool, lock_path, others, self.clock, self.recent.happened)
        self.key_news.start()

    def begin_limits(self, open_limiter: Callable[[], Limiter]) -> None:
        """Hold requests to their limits from now on. The limiter is made once there are limits, which a reload may
        bring.
        """
        with self._lock:
            self._open_limiter = open_limiter
            self._begin_limiter(self.configuration.settings)

    def limit_uses(self) -> list[LimitUse]:
        """How much of each limit is used, the nearest to its end first."""
        configuration = self.configuration
        rules = configuration.settings.limits
        return limit_uses(self.limiter.used(rules.everybody(configuration.tokens()))) if rules.are_any else []

    def begin_tools(self) -> None:
        """Get in touch with the MCP servers; returns when all have answered, or the time for that is over."""
        settings = self.configuration.settings
        self._mcp.apply(tool_settings_of(settings))
        self._mcp.wait(settings.mcp_start_seconds)

    def flush(self) -> None:
        """The worker ends: what it knows of the keys and of its requests is kept, and MCP servers forget it.

        Each of these may wait a few seconds for somebody who does not answer, and the worker's grace is short: so they
        wait side by side.
        """
        endings: tuple[Callable[[], object], ...] = (
            self._store.flush,
            self.recorder.close,
            self.limiter.close,
            self.tracing.close,
            partial(self._mcp.close, _END_SESSIONS_SECONDS),
            self.metrics.settle,
        )
        threads = [threading.Thread(target=_ended, args=(ending,), name="flush") for ending in endings]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def drain(self) -> None:
        """Begin to stop: what runs may run on for the drain time."""
        seconds = self.configuration.settings.drain_seconds
        for beside in (self.looks, self.key_news):
            if beside is not None:
                beside.stop()
        if self.lifecycle.drain(seconds):
            log.info("stopping: %d requests may run on for %g s", self.admission.taken, seconds)

    def _begin_limiter(self, settings: Settings) -> None:
        if settings.limits.are_any and self._open_limiter is not None:
            self.limiter = self._open_limiter()
            self._open_limiter = None

    def _configured(self, settings: Settings, before: Configuration | None) -> Configuration:
        token_file = None
        if settings.client_tokens_file is not None and settings.tokens is not None:
            token_file = TokenFile(settings.client_tokens_file, settings.tokens, self.clock)
        route = route_of(settings)
        read_idle_seconds = settings.read_idle_timeout_seconds
        if before is not None and (route, read_idle_seconds) == (
            route_of(before.settings),
            before.settings.read_idle_timeout_seconds,
        ):
            upstream = before.upstream  # its connections are worth keeping
        else:
            upstream = Upstream(route, read_idle_seconds)
        pool = Pool(settings.keys, self._store, self.clock)
        return Configuration(settings, pool, upstream, token_file, _tool_policy_of(settings))

    def _in_force(self) -> tuple[Pool, Upstream]:
        configuration = self.configuration
        return configuration.pool, configuration.upstream

    def _statuses(self, scope: str | None) -> list[KeyStatus]:
        return self.configuration.pool.statuses(scope)

    def __repr__(self) -> str:
        return f"<Gateway {self.lifecycle.phase.value} {self.configuration.pool!r} {self.admission!r}>"


def _ended(ending: Callable[[], object]) -> None:
    try:
        ending()
    except Exception:
        log.exception("a part of the worker did not end well; the others do")


def tool_settings_of(settings: Settings) -> ToolSettings:
    """What a configuration says of MCP servers and their tools."""
    return ToolSettings(
        settings.mcp_servers, settings.mcp_refresh_seconds, settings.tool_result_max_bytes, tool_limits_of(settings)
    )


def tool_limits_of(settings: Settings) -> ToolLimits:
    """How large a configuration lets tools be."""
    return ToolLimits(settings.tool_description_max_bytes, settings.tool_definition_max_bytes, settings.tools_max_bytes)


def route_of(settings: Settings) -> Route:
    """The way to the upstream that a configuration names."""
    return Route(
        url=settings.upstream_url,
        connect_timeout_seconds=settings.connect_timeout_seconds,
        idle_seconds=settings.idle_connection_seconds,
        ca_pem=settings.upstream_ca_pem,
        proxy=settings.upstream_proxy,
    )


def _tool_policy_of(settings: Settings) -> ToolPolicy:
    return ToolPolicy(settings.tools_excluded_models, settings.parallel_tool_use, settings.max_turns)
