"""The gateway's settings: one table of names, types and defaults.

Owns: the table, what goes together, and what a running gateway may change. Pure; immutable. How settings are read is
`loader`'s. Only the wiring reads Settings; everyone else is given the values they need.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

from gateway.access.authentication import ByokMode, ClientToken
from gateway.access.client_address import Network
from gateway.access.cors import ANY_ORIGIN
from gateway.access.credential import Key
from gateway.config import values
from gateway.config.limit_rules import LimitRules, limit_rules
from gateway.config.mcp_servers import McpServer, mcp_servers
from gateway.config.upstream_proxy import UpstreamProxy, proxy_url
from gateway.models.scopes import ModelClasses, known_classes
from gateway.pricing.prices import PriceList, known_prices
from gateway.protocol.safe_text import safe_text

PREFIX = "GATEWAY_"
_LONGEST_COMPLAINT = 1000

_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


class SettingsError(ValueError):
    """The configuration is unusable; `complaints` has one clear line for each fault."""

    def __init__(self, complaints: list[str]) -> None:
        self.complaints = [safe_text(line, _LONGEST_COMPLAINT) for line in complaints]  # they quote what files hold
        super().__init__("\n".join(self.complaints))


@dataclass(frozen=True, slots=True)
class Spec:
    """One row of the settings table. `needs_restart` tells what a reload cannot change."""

    parse: Callable[[object], Any]
    meaning: str
    needs_restart: bool = False


def _setting(default: Any, parse: Callable[[object], Any], meaning: str, *, restart: bool = False) -> Any:
    return field(default=default, metadata={"spec": Spec(parse, meaning, restart)})


@dataclass(frozen=True, slots=True)
class Settings:
    """A checked configuration. Durations are in seconds, sizes in bytes.

    `keys` are in failover order; `tokens` is None when there is no token file, which leaves the gateway open on
    loopback; `upstream_ca_pem` holds the contents of `upstream_ca_file`, `model_classes` and `prices` those of
    `models_file` and `prices_file` over the gateway's own; `faults` has a line for each value that cannot be meant (see
    setting_faults); `digest` identifies all that was read.
    """

    upstream_url: str = _setting("https://api.anthropic.com", values.base_url, "the Anthropic-compatible upstream")
    api_keys: str | None = _setting(
        None,
        values.text,
        "the keys of the pool in failover order, comma-separated: `secret` or `name=secret [workspace=wrkspc_...]`",
    )
    api_keys_file: str | None = _setting(None, values.text, "a file with more keys, one a line; `#` begins a comment")
    client_tokens_file: str | None = _setting(
        None, values.text, "who may use the gateway: a file of lines `name sha256:<hex> [operator] [group=NAME]`"
    )
    allow_byok: ByokMode = _setting(
        ByokMode.ALLOWED, values.byok_mode, "whether clients may bring their own credential: `true`, `false`, `only`"
    )
    cors_origins: tuple[str, ...] = _setting(
        (), values.origins, "origins of web pages that may use the gateway, `*` for any; each page still needs a token"
    )
    drop_request_headers: tuple[str, ...] = _setting(
        (),
        values.header_names,
        "more client headers that do not go upstream; `x-corp-*` means all that begin with `x-corp-`",
    )
    bind: str = _setting("127.0.0.1:8080", values.bind_address, "the address to listen on", restart=True)
    name: str | None = _setting(None, values.text, "what the status page calls this gateway; unset: the host's name")
    workers: int = _setting(1, values.count(1), "worker processes; unset: one for each processor", restart=True)
    max_requests: int = _setting(
        10_000,
        values.count(1),
        "how many requests a worker serves at once; unset: as many as its memory and open files allow",
        restart=True,
    )
    threads: int = _setting(
        32, values.count(2), "threads of each worker; a request that waits needs none", restart=True
    )
    pin_workers: bool = _setting(True, values.flag, "whether each worker stays on one processor", restart=True)
    reserved_threads: int | None = _setting(
        None, values.count(1), "old: a worker serves `threads` minus these at once; use `max_requests`", restart=True
    )
    head_timeout_seconds: float = _setting(15.0, values.seconds, "how long a client may take to send a request's head")
    body_timeout_seconds: float = _setting(60.0, values.seconds, "how long a client may take to send its body")
    write_timeout_seconds: float = _setting(
        60.0, values.seconds, "how long a client may read nothing before it counts as gone"
    )
    trusted_proxies: tuple[Network, ...] = _setting(
        _LOOPBACK, values.networks, "the proxies in front whose `X-Forwarded-For` is used in the log"
    )
    upstream_proxy: UpstreamProxy | None = _setting(
        None, proxy_url, "an HTTP or SOCKS proxy on the way to the upstream"
    )
    upstream_ca_file: str | None = _setting(None, values.text, "a PEM file of the authorities to trust upstream")
    default_cooldown_seconds: float = _setting(
        60.0, values.seconds, "cooldown of a limited key if the upstream names none"
    )
    money_rest_seconds: float = _setting(
        3600.0, values.seconds, "longest cooldown of a key that is out of credit or budget"
    )
    session_pin_seconds: float = _setting(
        300.0,
        values.seconds_or_never,
        "how long a conversation stays in a workspace that it had to change to; `0`: not at all",
    )
    session_pin_lasting_seconds: float = _setting(
        3600.0, values.seconds, "the same for a conversation with thinking blocks or a one-hour cache"
    )
    models_file: str | None = _setting(
        None,
        values.text,
        "a TOML file of classes of models that share a rate limit; its rows replace or add to the built-in table",
    )
    prices_file: str | None = _setting(
        None, values.text, "a TOML file of model prices; its rows replace or add to the built-in table"
    )
    limits: LimitRules = _setting(LimitRules(), limit_rules, "who may spend how much: `[limits]` in the TOML file")
    limits_fail: str = _setting(
        "open",
        values.choice("open", "closed"),
        "while Redis is out of reach, go on with what this machine knows (`open`), or refuse (`closed`)",
        restart=True,
    )
    ping_seconds: float = _setting(10.0, values.seconds, "after how much silence a stream gets a ping")
    connect_timeout_seconds: float = _setting(5.0, values.seconds, "how long connecting to the upstream may take")
    read_idle_timeout_seconds: float = _setting(
        600.0, values.seconds, "how long the upstream may be silent until the request ends"
    )
    stream_idle_timeout_seconds: float = _setting(180.0, values.seconds, "the same after the first event of a stream")
    idle_connection_seconds: float = _setting(30.0, values.seconds, "how long an unused upstream connection is kept")
    max_body_bytes: int = _setting(33554432, values.count(1024), "the largest request body")
    max_turns: int = _setting(20, values.count(2), "how many upstream answers one request with injected tools may take")
    parallel_tool_use: bool = _setting(
        False, values.flag, "whether a model may call several tools at once where tools are injected"
    )
    tools_excluded_models: re.Pattern[str] = _setting(
        re.compile("haiku"), values.pattern, "models that get no injected tools: a regular expression, found anywhere"
    )
    mcp_servers: tuple[McpServer, ...] = _setting(
        (), mcp_servers, "MCP servers whose tools are offered to models: `[[mcp_servers]]` in the TOML file"
    )
    mcp_start_seconds: float = _setting(
        5.0, values.seconds_up_to(45), "how long a starting worker waits for MCP servers to answer", restart=True
    )
    mcp_refresh_seconds: float = _setting(300.0, values.seconds, "how often a server's tools are listed again")
    tool_description_max_bytes: int = _setting(32768, values.count(1), "the largest description of an injected tool")
    tool_definition_max_bytes: int = _setting(131072, values.count(1), "the largest injected tool, its schema included")
    tools_max_bytes: int = _setting(1048576, values.count(1), "the largest size of all injected tools together")
    tool_result_max_bytes: int = _setting(262144, values.count(1024), "the most text of one tool's result")
    drain_seconds: float = _setting(300.0, values.seconds, "how long streams may continue after SIGTERM", restart=True)
    data_dir: str = _setting("", values.text, "the gateway's own folder; two gateways cannot share one", restart=True)
    probe_seconds: float = _setting(
        300.0,
        values.seconds_or_never,
        "when a retired key is first tested with `GET /v1/models`, later less often; `0`: never",
        restart=True,
    )
    probe_at_start: bool = _setting(
        True, values.flag, "whether keys whose workspace is not known are tested at a start", restart=True
    )
    state_url: str | None = _setting(
        None, values.state_url, "a Redis or Valkey through which several machines share the keys' state", restart=True
    )
    record_url: str | None = _setting(
        None, values.record_url, "the database of records; unset: SQLite in the data folder", restart=True
    )
    record_retention_days: int = _setting(90, values.count(1), "how long records are kept", restart=True)
    log_level: str = _setting(
        "info", values.choice("debug", "info", "warning", "error"), "how much is logged", restart=True
    )
    log_format: str = _setting("text", values.choice("text", "json"), "the form of the log's lines", restart=True)
    access_log: bool | None = _setting(
        None,
        values.flag,
        "whether each request has a line in the log; unset: only with the format `json`",
        restart=True,
    )
    tracing: str = _setting(
        "off", values.choice("off", "otlp"), "where traces go: `otlp`, as `OTEL_*` variables say", restart=True
    )

    keys: tuple[Key, ...] = ()
    tokens: tuple[ClientToken, ...] | None = None
    upstream_ca_pem: str | None = None
    model_classes: ModelClasses = field(default_factory=known_classes)
    prices: PriceList = field(default_factory=known_prices)
    faults: tuple[str, ...] = ()
    digest: str = ""

    def __repr__(self) -> str:
        return f"<Settings {self.upstream_url} keys={[key.name for key in self.keys]} digest={self.digest[:12]}>"

    @property
    def has_access_log(self) -> bool:
        """Whether every request gets a line of its own."""
        return self.log_format == "json" if self.access_log is None else self.access_log

    @property
    def is_open(self) -> bool:
        """Whether the gateway asks for no token, and so serves this machine alone."""
        return self.tokens is None

    @property
    def needs_store(self) -> bool:
        """Whether requests that have limits are refused while the shared store is out of reach."""
        return self.state_url is not None and self.limits_fail == "closed" and self.limits.are_any

    def changed_needing_restart(self, other: Settings) -> list[str]:
        """The names of settings that differ from `other` and are fixed while the gateway runs."""
        return [
            PREFIX + name.upper()
            for name, spec in setting_specs()
            if spec.needs_restart and getattr(self, name) != getattr(other, name)
        ]

    def doubts(self) -> list[str]:
        """A line for each setting that does not do what one might think."""
        lines = self.limits.doubts(self.tokens)
        if self.reserved_threads is not None:
            lines.append(
                "GATEWAY_RESERVED_THREADS is an old setting: threads need not be reserved any more; "
                f"GATEWAY_MAX_REQUESTS={self.max_requests} in its place says how many requests a worker serves at once"
            )
        return lines

    def conflicts(self) -> list[str]:
        """A line for each way in which the settings, each good alone, do not go together."""
        lines = []
        if not self.keys and self.allow_byok is not ByokMode.ONLY:
            where = (
                f"GATEWAY_API_KEYS_FILE: {self.api_keys_file} has no keys: write one a line, as SECRET or NAME=SECRET"
                if self.api_keys_file
                else "there are no keys: set GATEWAY_API_KEYS or GATEWAY_API_KEYS_FILE"
            )
            lines.append(f"{where} (or set GATEWAY_ALLOW_BYOK=only: then every client brings its own)")
        if self.keys and self.allow_byok is ByokMode.ONLY:
            lines.append("GATEWAY_ALLOW_BYOK=only means that the pool is never used: give no keys, or set it to true")
        if self.reserved_threads is not None and self.reserved_threads >= self.threads:
            lines.append("GATEWAY_RESERVED_THREADS: must be less than GATEWAY_THREADS")
        if self.is_open and not values.is_local_address(self.bind):
            lines.append(f"GATEWAY_BIND: {values.exposure(self.bind)}")
        if self.is_open and ANY_ORIGIN in self.cors_origins:
            lines.append(
                "GATEWAY_CORS_ORIGINS: without GATEWAY_CLIENT_TOKENS_FILE, `*` would let any web page in a browser "
                "on this machine use your keys; name the origins"
            )
        return lines


def setting_specs() -> Iterator[tuple[str, Spec]]:
    """Every setting's field name (lower case, as in the TOML file) and its row of the table."""
    for item in fields(Settings):
        if "spec" in item.metadata:
            yield item.name, item.metadata["spec"]


def settle(running: Settings, new: Settings) -> Settings:
    """The new settings as they can be put in force on a running gateway: what is fixed keeps its value.

    Raises SettingsError if the two do not go together, as when a gateway on a public address lost its tokens.
    """
    fixed = {name: getattr(running, name) for name, spec in setting_specs() if spec.needs_restart}
    settled = replace(new, **fixed)
    if conflicts := settled.conflicts():
        raise SettingsError(conflicts)
    return settled
