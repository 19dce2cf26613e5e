"""The kinds of values that settings have: each a function from what was written to what it means.

Owns: parsing single values. Pure. A raw value is text from the environment, or whatever TOML made of it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from gateway.access.authentication import ByokMode, is_loopback_host
from gateway.access.client_address import Network


class BadValue(ValueError):
    """One value is unusable; each of the `lines` completes `NAME: ...`."""

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


def text(raw: object) -> str:
    """Any text but an empty one."""
    if not isinstance(raw, str) or not raw.strip():
        raise BadValue("the value is empty")
    return raw.strip()


def seconds(raw: object) -> float:
    """A duration: a positive number, whole or fractional."""
    try:
        value = float(raw) if isinstance(raw, str | int | float) and not isinstance(raw, bool) else None
    except (ValueError, OverflowError):
        value = None
    if value is None or not 0 < value < 1e9:
        raise BadValue(f"a positive number of seconds was expected, not {raw!r}")
    return value


def seconds_or_never(raw: object) -> float:
    """A duration; 0 stands for what never happens."""
    is_zero = isinstance(raw, str | int | float) and not isinstance(raw, bool) and str(raw).strip() in ("0", "0.0")
    return 0.0 if is_zero else seconds(raw)


def seconds_up_to(most: float) -> Callable[[object], float]:
    """A duration that is bounded above."""

    def parse(raw: object) -> float:
        value = seconds(raw)
        if value > most:
            raise BadValue(f"at most {most:g} seconds were expected, not {raw!r}")
        return value

    return parse


def count(least: int) -> Callable[[object], int]:
    """A whole number of at least `least`."""

    def parse(raw: object) -> int:
        try:
            value = int(raw) if isinstance(raw, str | int) and not isinstance(raw, bool) else None
        except ValueError:
            value = None
        if value is None or value < least:
            raise BadValue(f"a whole number of at least {least} was expected, not {raw!r}")
        return value

    return parse


def flag(raw: object) -> bool:
    """Yes or no; TOML's booleans serve as well as words."""
    return choice("true", "false")(raw) == "true"


def pattern(raw: object) -> re.Pattern[str]:
    """A regular expression."""
    value = text(raw)
    try:
        return re.compile(value)
    except re.error as error:
        raise BadValue(f"a regular expression was expected, not {value!r}: {error}") from error


def choice(*names: str) -> Callable[[object], str]:
    """One of some words, in any case."""

    def parse(raw: object) -> str:
        value = str(raw).strip().lower()
        if value not in names:
            raise BadValue(f"{', '.join(names[:-1])} or {names[-1]} was expected, not {raw!r}")
        return value

    return parse


def byok_mode(raw: object) -> ByokMode:
    """Whether clients may bring their own credential; TOML's booleans serve as well as words."""
    return ByokMode(choice(*(mode.value for mode in ByokMode))(raw))


_HEADER_PATTERN = re.compile(r"[a-z0-9!#$%&'+.^_`|~-]+\*?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_DEFAULT_PORTS = (("http://", ":80"), ("https://", ":443"))


def header_names(raw: object) -> tuple[str, ...]:
    """Names of headers, comma-separated or in a list; a trailing `*` stands for any ending."""
    names = tuple(entry.lower() for entry in _entries(raw))
    if not names or not all(_HEADER_PATTERN.fullmatch(name) for name in names):
        raise BadValue("names of headers such as x-team, x-corp-* were expected")
    return names


def origins(raw: object) -> tuple[str, ...]:
    """Origins of web pages as browsers write them, comma-separated or in a list; `*` for any, `none` for none."""
    entries = [entry.lower().removesuffix("/") for entry in _entries(raw)]
    if entries == ["none"]:
        return ()
    if entries != ["*"] and not (entries and all(_ORIGIN.fullmatch(entry) for entry in entries)):
        raise BadValue("origins such as https://app.example.com were expected, without a path, or `*`, or `none`")
    return tuple(_without_default_port(entry) for entry in entries)


def _without_default_port(origin: str) -> str:
    for scheme, port in _DEFAULT_PORTS:
        if origin.startswith(scheme):
            return origin.removesuffix(port)
    return origin


def _entries(raw: object) -> list[str]:
    entries = [str(entry) for entry in raw] if isinstance(raw, list) else text(raw).split(",")
    return [entry.strip() for entry in entries]


def networks(raw: object) -> tuple[Network, ...]:
    """Addresses and networks, comma-separated or in a list; `none` for none at all."""
    entries = _entries(raw)
    if entries == ["none"]:
        return ()
    try:
        return tuple(ipaddress.ip_network(entry) for entry in entries)
    except ValueError as error:
        raise BadValue("addresses and networks such as 10.0.0.7, 10.1.0.0/16 were expected, or `none`") from error


def base_url(raw: object) -> str:
    """The URL of an upstream, perhaps with a path that goes before every route."""
    value = text(raw).rstrip("/")
    parts = url_parts(value)
    if parts is None or parts.scheme not in ("http", "https") or parts.username or parts.password:
        raise BadValue("a URL such as https://api.anthropic.com was expected, without user, query or fragment")
    return value


def state_url(raw: object) -> str:
    """The URL of a Redis server; it may hold a password and so is never quoted."""
    value = text(raw)
    if not value.startswith(("redis://", "rediss://", "unix://")) or any(character.isspace() for character in value):
        raise BadValue("a URL such as redis://redis.internal:6379/0 was expected")
    return value


def record_url(raw: object) -> str:
    """The URL of a database, or `none`; it may hold a password and so is never quoted."""
    value = text(raw)
    if value.lower() == "none":
        return "none"
    if not value.startswith(("sqlite:///", "postgresql://")) or any(character.isspace() for character in value):
        raise BadValue("none, sqlite:///PATH or a URL such as postgresql://gateway@db.internal/gateway was expected")
    return value


def bind_address(raw: object) -> str:
    """An address to listen on, as gunicorn writes them."""
    value = text(raw)
    if value.startswith("unix:") and len(value) > len("unix:"):
        return value
    host, _, port = value.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise BadValue(f"HOST:PORT or unix:PATH was expected, not {value!r}")
    return value


def is_local_address(bind: str) -> bool:
    """Whether an address to listen on can be reached from this machine alone."""
    return bind.startswith("unix:") or is_loopback_host(bind.rpartition(":")[0].strip("[]"))


def exposure(address: str) -> str:
    """What is to be said of an open gateway at an address that others reach."""
    return (
        f"{address} is not a loopback address, and without GATEWAY_CLIENT_TOKENS_FILE everybody who reaches it could "
        "use your keys"
    )


def url_parts(url: str) -> SplitResult | None:
    """The parts of a URL that has a host, and neither query nor fragment nor an odd port."""
    try:
        parts = urlsplit(url)
        is_usable = bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
    except ValueError:
        return None
    return parts if is_usable and not any(character.isspace() for character in url) else None
