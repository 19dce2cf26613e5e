"""The proxy on the way to the upstream, as the settings name it.

Owns: reading its URL. Pure. User and password are Secrets, for some proxies take a token for either: they show in no
text, and a URL that cannot be used is not quoted.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, unquote

from gateway.access.credential import Secret
from gateway.config.values import BadValue, text, url_parts

_SCHEMES = ("http", "https", "socks5", "socks5h")
_LONGEST_SOCKS_BYTES = 255  # of a user and of a password, RFC 1929


@dataclass(frozen=True, slots=True, repr=False)
class Login:
    """What a proxy is told of who asks."""

    user: Secret
    password: Secret


@dataclass(frozen=True, slots=True, repr=False)
class UpstreamProxy:
    """A proxy. `scheme` is how it is spoken to: `http`, `https`, `socks5` or `socks5h`."""

    scheme: str
    host: str
    port: int
    login: Login | None = None

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS, and so is no part of what is said to the upstream."""
        return self.scheme.startswith("socks")

    @property
    def resolves_names(self) -> bool:
        """Whether it is told the upstream's name, and not an address that was looked up here."""
        return self.scheme != "socks5"

    @property
    def address(self) -> str:
        """Its URL as it may be shown: without a login."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def __repr__(self) -> str:
        return f"<UpstreamProxy {self.address}{' with a login' if self.login else ''}>"


def proxy_url(raw: object) -> UpstreamProxy:
    """The URL of a proxy, perhaps with user and password. Raises BadValue."""
    proxy = _proxy(url_parts(text(raw).rstrip("/")))
    if proxy is None:
        raise BadValue(
            "a proxy URL such as http://proxy.internal:3128 was expected: http, https, socks5 or socks5h, perhaps with "
            "USER:PASSWORD@, in which everything except letters and digits is percent-encoded"
        )
    return proxy


def _proxy(parts: SplitResult | None) -> UpstreamProxy | None:
    if parts is None or parts.scheme not in _SCHEMES or parts.port is None or parts.path:
        return None
    if "@" not in parts.netloc:
        return UpstreamProxy(parts.scheme, parts.hostname or "", parts.port)
    try:
        user, password = (unquote(part or "", errors="strict") for part in (parts.username, parts.password))
        longest_bytes = max(len(user.encode()), len(password.encode()))
    except UnicodeError:
        return None
    if not user or ":" in user:  # RFC 7617 has no form for such a user
        return None
    if parts.scheme.startswith("socks") and longest_bytes > _LONGEST_SOCKS_BYTES:
        return None
    return UpstreamProxy(parts.scheme, parts.hostname or "", parts.port, Login(Secret(user), Secret(password)))
