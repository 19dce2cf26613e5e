"""The gateway's settings: one table of names, types and defaults, read from the environment and a TOML file.

Owns: parsing and checking. Pure: the environment and the files' contents come in, an immutable Settings or a
list of complaints comes out, so that the master can check a configuration before anything acts on it. The
environment wins over the file. Only the wiring reads Settings; everyone else is given the values they need.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from gateway import setting_values as values
from gateway.access import ByokMode, ClientToken, TokenFileError, parse_tokens
from gateway.cors import ANY_ORIGIN
from gateway.credential import Key
from gateway.key_entries import keys_from
from gateway.mcp_servers import McpServer, mcp_servers, with_environment
from gateway.origin import Network
from gateway.safe_text import safe_text
from gateway.scopes import ModelClasses, known_classes
from gateway.upstream_proxy import UpstreamProxy, proxy_url

PREFIX = "GATEWAY_"
CONFIG_NAME = "GATEWAY_CONFIG"
# Kubernetes injects these for a Service that is called `gateway`, or `gateway-redis` and the like: there every `*_PORT`
# is an address, as in `tcp://10.0.0.7:6379`, which no setting of the gateway's is
# (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
_FOREIGN = re.compile(
    r"GATEWAY_PORT(_.*)?|GATEWAY_SERVICE_.*|"
    r"GATEWAY_[A-Z0-9_]+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_FOREIGN_ADDRESS = re.compile(r"GATEWAY_[A-Z0-9_]+_PORT=(tcp|udp|sctp)://.+")

_LONGEST_COMPLAINT = 1000

_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

ReadFile = Callable[[str], bytes]


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
    loopback; `upstream_ca_pem` holds the contents of `upstream_ca_file`, `model_classes` those of
    `models_file` and the gateway's own; `digest` identifies all that was read.
    """

    upstream_url: str = _setting("https://api.anthropic.com", values.base_url, "the Anthropic-compatible upstream")
    api_keys: str | None = _setting(
        None,
        values.text,
        "the pool: comma-separated `secret` or `name=secret [workspace=wrkspc_...]`, in failover order",
    )
    api_keys_file: str | None = _setting(None, values.text, "the same in a file, one a line, `#` comments")
    client_tokens_file: str | None = _setting(
        None, values.text, "who may use the gateway: `name sha256:<hex> [operator]` a line"
    )
    allow_byok: ByokMode = _setting(
        ByokMode.ALLOWED, values.byok_mode, "whether clients may bring their own credential: `true`, `false`, `only`"
    )
    cors_origins: tuple[str, ...] = _setting(
        (), values.origins, "origins of web pages that may use the gateway, `*` for any; each page still needs a token"
    )
    drop_request_headers: tuple[str, ...] = _setting(
        (), values.header_names, "more names of clients' headers that do not go upstream; `*` ends a family"
    )
    bind: str = _setting("127.0.0.1:8080", values.bind_address, "the address to listen on", restart=True)
    workers: int = _setting(1, values.count(1), "worker processes; unset: one a processor", restart=True)
    threads: int = _setting(256, values.count(2), "threads of a worker; a stream holds one", restart=True)
    pin_workers: bool = _setting(True, values.flag, "whether each worker keeps to one processor", restart=True)
    reserved_threads: int = _setting(16, values.count(1), "threads kept free for health and refusals", restart=True)
    head_timeout_seconds: float = _setting(15.0, values.seconds, "how long a client may take to send a request's head")
    body_timeout_seconds: float = _setting(60.0, values.seconds, "how long a client may take to send its body")
    write_timeout_seconds: float = _setting(
        60.0, values.seconds, "how long a client may take none of the bytes sent to it"
    )
    trusted_proxies: tuple[Network, ...] = _setting(
        _LOOPBACK, values.networks, "the proxies in front whose word on a client's address is logged"
    )
    upstream_proxy: UpstreamProxy | None = _setting(
        None, proxy_url, "an HTTP or SOCKS proxy on the way to the upstream"
    )
    upstream_ca_file: str | None = _setting(None, values.text, "a PEM file of the authorities to trust upstream")
    default_cooldown_seconds: float = _setting(60.0, values.seconds, "rest of a limited key if the upstream names none")
    money_rest_seconds: float = _setting(
        3600.0, values.seconds, "longest rest of a key that is out of credit or budget"
    )
    session_pin_seconds: float = _setting(
        300.0, values.seconds_or_never, "how long a displaced session stays with its workspace; `0`: not at all"
    )
    session_pin_lasting_seconds: float = _setting(
        3600.0, values.seconds, "the same for one with thoughts or an hour's cache"
    )
    models_file: str | None = _setting(
        None, values.text, "a TOML file with the classes of models whose limits are one, over the gateway's own table"
    )
    ping_seconds: float = _setting(10.0, values.seconds, "silence after which a stream gets a ping")
    connect_timeout_seconds: float = _setting(5.0, values.seconds, "how long connecting to the upstream may take")
    read_idle_timeout_seconds: float = _setting(600.0, values.seconds, "upstream silence that ends a request")
    stream_idle_timeout_seconds: float = _setting(180.0, values.seconds, "upstream silence that ends a begun stream")
    idle_connection_seconds: float = _setting(30.0, values.seconds, "age at which an idle connection is dropped")
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
    mcp_refresh_seconds: float = _setting(300.0, values.seconds, "age at which a server's tools are listed again")
    tool_description_max_bytes: int = _setting(32768, values.count(1), "the largest description of an injected tool")
    tool_definition_max_bytes: int = _setting(131072, values.count(1), "the largest injected tool, its schema included")
    tools_max_bytes: int = _setting(1048576, values.count(1), "how large all injected tools together may be")
    tool_result_max_bytes: int = _setting(262144, values.count(1024), "the most text of one tool's result")
    drain_seconds: float = _setting(300.0, values.seconds, "how long streams may run on after SIGTERM", restart=True)
    data_dir: str = _setting(
        "", values.text, "the folder of the gateway's own files, private to it; one gateway a folder", restart=True
    )
    probe_seconds: float = _setting(
        300.0,
        values.seconds_or_never,
        "how soon a retired key is looked at, with `GET /v1/models`, and less and less often then; `0`: never",
        restart=True,
    )
    probe_at_start: bool = _setting(
        True, values.flag, "whether keys are looked at whose workspace is not known", restart=True
    )
    state_url: str | None = _setting(
        None, values.state_url, "a Redis that several machines share the keys' state through", restart=True
    )
    record_url: str | None = _setting(
        None, values.record_url, "the database of who used what; unset: SQLite in the data folder", restart=True
    )
    record_retention_days: int = _setting(90, values.count(1), "how long records are kept", restart=True)
    log_level: str = _setting(
        "info", values.choice("debug", "info", "warning", "error"), "how much is logged", restart=True
    )
    log_format: str = _setting("text", values.choice("text", "json"), "the form of the log's lines", restart=True)
    access_log: bool | None = _setting(
        None, values.flag, "one line a request; unset: with the log format `json`", restart=True
    )
    tracing: str = _setting(
        "off", values.choice("off", "otlp"), "where traces go: `otlp`, as `OTEL_*` variables say", restart=True
    )

    keys: tuple[Key, ...] = ()
    tokens: tuple[ClientToken, ...] | None = None
    upstream_ca_pem: str | None = None
    model_classes: ModelClasses = field(default_factory=known_classes)
    digest: str = ""

    def __repr__(self) -> str:
        return f"<Settings {self.upstream_url} keys={[key.name for key in self.keys]} digest={self.digest[:12]}>"

    @property
    def admission_limit(self) -> int:
        """How many interceptions one worker serves at once."""
        return self.threads - self.reserved_threads

    @property
    def has_access_log(self) -> bool:
        """Whether every request gets a line of its own."""
        return self.log_format == "json" if self.access_log is None else self.access_log

    @property
    def is_open(self) -> bool:
        """Whether the gateway asks for no token, and so serves this machine alone."""
        return self.tokens is None

    def changed_needing_restart(self, other: Settings) -> list[str]:
        """The names of settings that differ from `other` and are fixed while the gateway runs."""
        return [
            PREFIX + name.upper()
            for name, spec in setting_specs()
            if spec.needs_restart and getattr(self, name) != getattr(other, name)
        ]

    def conflicts(self) -> list[str]:
        """A line for each way in which the settings, each good alone, do not go together."""
        lines = []
        if not self.keys and self.allow_byok is not ByokMode.ONLY:
            lines.append(
                "there are no keys: set GATEWAY_API_KEYS or GATEWAY_API_KEYS_FILE "
                "(or GATEWAY_ALLOW_BYOK=only, to have every client bring its own)"
            )
        if self.keys and self.allow_byok is ByokMode.ONLY:
            lines.append("GATEWAY_ALLOW_BYOK=only leaves the pool without use: give no keys, or allow_byok=true")
        if self.reserved_threads >= self.threads:
            lines.append("GATEWAY_RESERVED_THREADS: must be less than GATEWAY_THREADS")
        if self.is_open and not values.is_local_address(self.bind):
            lines.append(
                f"GATEWAY_BIND: {self.bind} is not a loopback address, and without "
                "GATEWAY_CLIENT_TOKENS_FILE anybody who reaches it would spend your keys"
            )
        if self.is_open and ANY_ORIGIN in self.cors_origins:
            lines.append(
                "GATEWAY_CORS_ORIGINS: without GATEWAY_CLIENT_TOKENS_FILE, `*` would let any web page in a browser "
                "on this machine spend your keys; name the origins"
            )
        return lines


def setting_specs() -> Iterator[tuple[str, Spec]]:
    """Every setting's field name (lower case, as in the TOML file) and its row of the table."""
    for item in fields(Settings):
        if "spec" in item.metadata:
            yield item.name, item.metadata["spec"]


def load_settings(environ: Mapping[str, str], read_file: ReadFile, processors: int = 1) -> Settings:
    """Read and check the whole configuration.

    `read_file` returns a file's bytes or raises OSError; `processors` is how many workers there are unless a setting
    says otherwise. Raises SettingsError with every fault found.
    """
    return _Loader(environ, read_file, processors).load()


def settle(running: Settings, new: Settings) -> Settings:
    """The new settings as they can be put in force on a running gateway: what is fixed keeps its value.

    Raises SettingsError if the two do not go together, as when a gateway on a public address lost its tokens.
    """
    fixed = {name: getattr(running, name) for name, spec in setting_specs() if spec.needs_restart}
    settled = replace(new, **fixed)
    if conflicts := settled.conflicts():
        raise SettingsError(conflicts)
    return settled


class _Loader:
    """One reading of the configuration: collects complaints, and digests what it read."""

    def __init__(self, environ: Mapping[str, str], read_file: ReadFile, processors: int) -> None:
        self._processors = processors
        self._environ = environ
        self._read_file = read_file
        self._complaints: list[str] = []
        self._digest = hashlib.sha256()

    def load(self) -> Settings:
        raw = self._file_values() | self._environment_values()
        parsed: dict[str, Any] = {}
        for name, spec in setting_specs():
            if name in raw:
                label, value = raw[name]
                self._digest.update(f"{name}={value!r}\n".encode("utf-8", "surrogateescape"))
                try:
                    parsed[name] = spec.parse(value)
                except values.BadValue as error:
                    self._complaints += [f"{label}: {line}" for line in error.lines]
        parsed.setdefault("workers", self._processors)
        keys = self._keys(parsed)
        parsed.pop("api_keys", None)  # from here on the secrets are Secrets
        tokens = self._tokens(parsed.get("client_tokens_file"))
        ca_file = parsed.get("upstream_ca_file")
        ca_pem = self._read_text("GATEWAY_UPSTREAM_CA_FILE", ca_file) if ca_file else None
        model_classes = self._model_classes(parsed.get("models_file"))
        if self._complaints:
            raise SettingsError(self._complaints)
        settings = Settings(
            **parsed,
            keys=keys,
            tokens=tokens,
            upstream_ca_pem=ca_pem,
            model_classes=model_classes,
            digest=self._digest.hexdigest(),
        )
        if not settings.data_dir:
            settings = replace(settings, data_dir=_default_data_dir(self._environ))
        if conflicts := settings.conflicts():
            raise SettingsError(conflicts)
        return settings

    def _model_classes(self, path: str | None) -> ModelClasses:
        text = self._read_text("GATEWAY_MODELS_FILE", path) if path else None
        if text is None:
            return known_classes()
        try:
            return known_classes().with_overrides(ModelClasses.read(text))
        except (ValueError, RecursionError) as error:
            self._complaints.append(f"GATEWAY_MODELS_FILE: {path}: {error}")
            return known_classes()

    def _environment_values(self) -> dict[str, tuple[str, object]]:
        known = {name for name, _ in setting_specs()}
        found: dict[str, tuple[str, object]] = {}
        for label, value in self._environ.items():
            if not label.startswith(PREFIX) or label == CONFIG_NAME:
                continue
            name = label[len(PREFIX) :].lower()
            if name not in known or label != label.upper():
                if not _is_foreign(label, value):
                    self._complaints.append(f"{label}: there is no such setting")
            elif value.strip():
                found[name] = (label, value)
        return found

    def _file_values(self) -> dict[str, tuple[str, object]]:
        path = self._environ.get(CONFIG_NAME, "").strip()
        if not path:
            return {}
        text = self._read_text(CONFIG_NAME, path)
        try:
            document = tomllib.loads(text or "")
        except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
            self._complaints.append(f"{path}: not valid TOML: {error}")
            return {}
        known = {name for name, _ in setting_specs()}
        found: dict[str, tuple[str, object]] = {}
        for name, value in document.items():
            if name not in known:
                self._complaints.append(f"{path}: {name}: there is no such setting")
            elif name == "api_keys" and isinstance(value, list):
                found[name] = (f"{path}: {name}", ",".join(str(entry) for entry in value))
            elif name == "mcp_servers":
                found[name] = (f"{path}: {name}", with_environment(value, self._environ))
            else:
                found[name] = (f"{path}: {name}", value)
        return found

    def _read_text(self, label: str, path: str) -> str | None:
        try:
            content = self._read_file(path)
            self._digest.update(content)
            return content.decode()
        except OSError as error:
            self._complaints.append(f"{label}: cannot read {path}: {error.strerror or error}")
        except UnicodeDecodeError:
            self._complaints.append(f"{label}: {path} is not UTF-8 text")
        except ValueError:
            self._complaints.append(f"{label}: {path!r} is no file name")
        return None

    def _keys(self, parsed: Mapping[str, Any]) -> tuple[Key, ...]:
        entries: list[tuple[str, str]] = []
        for entry in (parsed.get("api_keys") or "").split(","):
            if entry.strip():
                entries.append((f"GATEWAY_API_KEYS, entry {len(entries) + 1}", entry.strip()))
        path = parsed.get("api_keys_file")
        if path:
            text = self._read_text("GATEWAY_API_KEYS_FILE", path) or ""
            for number, line in enumerate(text.splitlines(), start=1):
                stripped = line.strip()
                if stripped and not stripped.startswith("#"):
                    entries.append((f"GATEWAY_API_KEYS_FILE, line {number}", stripped))
        keys, complaints = keys_from(entries)
        self._complaints += complaints
        return keys

    def _tokens(self, path: str | None) -> tuple[ClientToken, ...] | None:
        if not path:
            return None
        text = self._read_text("GATEWAY_CLIENT_TOKENS_FILE", path)
        try:
            return parse_tokens(text or "")
        except TokenFileError as error:
            self._complaints.append(f"{path}: {error}")
            return None


def _is_foreign(label: str, value: str) -> bool:
    """Whether Kubernetes has put this variable into the environment."""
    return bool(_FOREIGN.fullmatch(label) or _FOREIGN_ADDRESS.fullmatch(f"{label}={value}"))


def _default_data_dir(environ: Mapping[str, str]) -> str:
    """Where a program keeps its state, https://specifications.freedesktop.org/basedir-spec/latest/."""
    home = environ.get("XDG_STATE_HOME", "").strip() or f"{environ.get('HOME', '').strip()}/.local/state"
    return f"{home}/messages-gateway"
