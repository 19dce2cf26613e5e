"""A proxy as it is spoken to and shown."""

from __future__ import annotations

import pytest

from gateway.access.credential import Secret
from gateway.config.upstream_proxy import Login, UpstreamProxy


@pytest.mark.parametrize(
    ("scheme", "is_socks", "resolves_names"),
    [("http", False, True), ("https", False, True), ("socks5", True, False), ("socks5h", True, True)],
)
def test_the_scheme_says_how_a_proxy_is_spoken_to(scheme: str, is_socks: bool, resolves_names: bool) -> None:
    """Given a scheme, then it is SOCKS or HTTP, and the proxy is told a name or an address."""
    proxy = UpstreamProxy(scheme, "proxy", 3128)
    assert (proxy.is_socks, proxy.resolves_names) == (is_socks, resolves_names)


@pytest.mark.parametrize(
    ("host", "shown"), [("proxy", "http://proxy:3128"), ("::1", "http://[::1]:3128")], ids=["name", "address"]
)
def test_a_proxy_is_shown_without_its_login(host: str, shown: str) -> None:
    """Given a proxy with or without a login, then its address shows none of it."""
    proxy = UpstreamProxy("http", host, 3128)
    secret = UpstreamProxy("http", host, 3128, Login(Secret("user-planted"), Secret("password-planted")))
    assert (proxy.address, repr(proxy)) == (shown, f"<UpstreamProxy {shown}>")
    assert (secret.address, repr(secret)) == (shown, f"<UpstreamProxy {shown} with a login>")
