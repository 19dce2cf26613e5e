"""The configuration read: from the environment and a TOML file, and the files that these name.

Owns: finding and checking all of it. Pure: the environment and the files' contents come in, an immutable Settings or a
list of complaints comes out, so that the master can check a configuration before anything acts on it. The
environment wins over the file.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gateway.access.authentication import ClientToken, TokenFileError, parse_tokens
from gateway.access.credential import Key
from gateway.config import setting_faults, values
from gateway.config.capacity import UNLIMITED, Capacity
from gateway.config.key_entries import keys_from
from gateway.config.mcp_servers import with_environment
from gateway.config.settings import PREFIX, Settings, SettingsError, setting_specs
from gateway.models.scopes import ModelClasses, known_classes
from gateway.pricing.prices import PriceError, PriceList, known_prices, read_prices

CONFIG_NAME = "GATEWAY_CONFIG"
_SQLITE = "sqlite:///"
_FORMER_THREADS = 256  # the default, when a request held a thread to its end
# Kubernetes injects these for a Service that is called `gateway`, or `gateway-redis` and the like: there every `*_PORT`
# is an address, as in `tcp://10.0.0.7:6379`, which no setting of the gateway's is
# (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
_FOREIGN = re.compile(
    r"GATEWAY_PORT(_.*)?|GATEWAY_SERVICE_.*|"
    r"GATEWAY_[A-Z0-9_]+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_FOREIGN_ADDRESS = re.compile(r"GATEWAY_[A-Z0-9_]+_PORT=(tcp|udp|sctp)://.+")

ReadFile = Callable[[str], bytes]


def load_settings(
    environ: Mapping[str, str], read_file: ReadFile, processors: int = 1, capacity: Capacity = UNLIMITED
) -> Settings:
    """Read and check the whole configuration.

    `read_file` returns a file's bytes or raises OSError. Unless settings say otherwise, `processors` is how many
    workers there are, and `capacity` says how many requests each of them serves at once. Raises SettingsError with
    every fault found.
    """
    return _Loader(environ, read_file, processors, capacity).load()


class _Loader:
    """One reading of the configuration: collects complaints, and digests what it read."""

    def __init__(self, environ: Mapping[str, str], read_file: ReadFile, processors: int, capacity: Capacity) -> None:
        self._processors = processors
        self._capacity = capacity
        self._environ = environ
        self._read_file = read_file
        self._complaints: list[str] = []
        self._faults: list[str] = []
        self._digest = hashlib.sha256()

    def load(self) -> Settings:
        raw = self._file_values() | self._environment_values()
        parsed: dict[str, Any] = {}
        for name, spec in setting_specs():
            if name in raw:
                label, value = raw[name]
                fault = setting_faults.in_value(name, value)
                if fault is not None:
                    self._faults.append(f"{label}: {fault}")
                self._digest.update(f"{name}={value!r}\n".encode("utf-8", "surrogateescape"))
                try:
                    parsed[name] = spec.parse(value)
                except values.BadValue as error:
                    self._complaints += [f"{label}: {line}" for line in error.lines]
        parsed.setdefault("workers", self._processors)
        if "reserved_threads" in parsed:
            threads = parsed.get("threads", _FORMER_THREADS)
            parsed["threads"] = threads
            parsed.setdefault("max_requests", max(1, threads - parsed["reserved_threads"]))
        parsed.setdefault("max_requests", self._capacity.requests(parsed["workers"]))
        keys = self._keys(parsed)
        parsed.pop("api_keys", None)  # from here on the secrets are Secrets
        tokens = self._tokens(parsed.get("client_tokens_file"))
        ca_file = parsed.get("upstream_ca_file")
        ca_pem = self._read_text("GATEWAY_UPSTREAM_CA_FILE", ca_file) if ca_file else None
        model_classes = self._model_classes(parsed.get("models_file"))
        prices = self._prices(parsed.get("prices_file"))
        if self._complaints:
            raise SettingsError(self._complaints + self._faults)
        settings = Settings(
            **parsed,
            keys=keys,
            tokens=tokens,
            upstream_ca_pem=ca_pem,
            model_classes=model_classes,
            prices=prices,
            faults=tuple(self._faults),
            digest=self._digest.hexdigest(),
        )
        if not settings.data_dir:
            settings = replace(settings, data_dir=_default_data_dir(self._environ))
        settings = replace(settings, record_url=_in_folder(settings.record_url, settings.data_dir))
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

    def _prices(self, path: str | None) -> PriceList:
        text = self._read_text("GATEWAY_PRICES_FILE", path) if path else None
        if text is None:
            return known_prices()
        try:
            return read_prices(text, known_prices())
        except PriceError as error:
            self._complaints.append(f"GATEWAY_PRICES_FILE: {path}: {error}")
            return known_prices()

    def _environment_values(self) -> dict[str, tuple[str, object]]:
        known = {name for name, _ in setting_specs()}
        found: dict[str, tuple[str, object]] = {}
        for label, value in self._environ.items():
            if not label.startswith(PREFIX) or label == CONFIG_NAME:
                continue
            name = label[len(PREFIX) :].lower()
            if name not in known or label != label.upper():
                if not _is_foreign(label, value):
                    meant = setting_faults.did_you_mean(name, known)
                    self._complaints.append(_unknown(label, f"{PREFIX}{meant.upper()}" if meant else None))
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
                self._complaints.append(_unknown(f"{path}: {name}", setting_faults.did_you_mean(name, known)))
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
            self._complaints.append(f"{label}: {path!r} is not a file name")
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
        self._faults += [f"{label}: {fault}" for label, entry in entries if (fault := setting_faults.in_key(entry))]
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


def _unknown(label: str, meant: str | None) -> str:
    return f"{label}: this setting does not exist{f'; did you mean {meant}?' if meant else ''}"


def _is_foreign(label: str, value: str) -> bool:
    """Whether Kubernetes has put this variable into the environment."""
    return bool(_FOREIGN.fullmatch(label) or _FOREIGN_ADDRESS.fullmatch(f"{label}={value}"))


def _in_folder(record_url: str | None, data_dir: str) -> str | None:
    """The URL of a database; a relative path of a file is one in the data folder, wherever a program was started."""
    if record_url is None or not record_url.startswith(_SQLITE):
        return record_url
    path = record_url.removeprefix(_SQLITE)
    is_relative = bool(path) and not path.startswith(("/", ":memory:"))
    return f"{_SQLITE}{data_dir}/{path}" if is_relative else record_url


def _default_data_dir(environ: Mapping[str, str]) -> str:
    """Where a program keeps its state, https://specifications.freedesktop.org/basedir-spec/latest/."""
    home = environ.get("XDG_STATE_HOME", "").strip() or f"{environ.get('HOME', '').strip()}/.local/state"
    return f"{home}/messages-gateway"
