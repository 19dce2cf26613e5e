"""Where a request comes from: the proxy's word counts, a client's own does not."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from gateway.access.client_address import Origin, origin_of

TRUSTED = (ip_network("127.0.0.0/8"), ip_network("::1"), ip_network("10.0.0.7"))
ID = "4f2a9c0d8e7b6a5f4f2a9c0d8e7b6a5f"
TOLD = {"x-forwarded-for": "203.0.113.7", "x-gateway-request-id": ID}


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "10.0.0.7", "::ffff:10.0.0.7", ""])
def test_trusted_proxy_is_believed(peer):
    """Given a request from a trusted proxy or a Unix socket, then what it says is taken over."""
    assert origin_of(peer, TOLD, TRUSTED) == Origin("203.0.113.7", ID)


@pytest.mark.parametrize("peer", ["10.0.0.8", "203.0.113.9", "::ffff:10.0.0.8", "2001:db8::1"])
def test_nobody_else_is_believed(peer):
    """Given a request from any other address, then that address is the client's, whatever the headers say."""
    assert origin_of(peer, TOLD, TRUSTED) == Origin(peer, None)
    assert origin_of(peer, TOLD, ()) == Origin(peer, None)


@pytest.mark.parametrize(
    ("told", "address"),
    [
        pytest.param("6.6.6.6, 203.0.113.7", "203.0.113.7", id="client-lied-before"),
        pytest.param("2001:db8::5", "2001:db8::5", id="ipv6"),
        pytest.param("", "10.0.0.7", id="nothing"),
        pytest.param("unknown", "10.0.0.7", id="no-address"),
        pytest.param("203.0.113.7\r\nforged: line", "10.0.0.7", id="another-line"),
        pytest.param("fe80::1%eth0", "fe80::1%eth0", id="scope"),
        pytest.param("fe80::1%\x1b[2J", "10.0.0.7", id="escape-in-scope"),
        pytest.param("fe80::1%a\nforged: line", "10.0.0.7", id="another-line-in-scope"),
        pytest.param("fe80::1%" + "a" * 16, "10.0.0.7", id="endless-scope"),
    ],
)
def test_only_an_address_is_taken_over(told, address):
    """Given whatever a proxy forwards, then the last address counts, and nothing else reaches the log."""
    assert origin_of("10.0.0.7", {"x-forwarded-for": told}, TRUSTED).address == address


@pytest.mark.parametrize("given", ["", "short", "x" * 65, "with space", "line\nbreak-12", "a;b=c,d123"])
def test_id_of_another_form_is_not_taken_over(given):
    """Given an id that no proxy of ours makes, then the gateway makes its own."""
    assert origin_of("127.0.0.1", {"x-gateway-request-id": given}, TRUSTED).request_id is None


def test_socket_without_a_word_is_called_so():
    """Given a request over a Unix socket without headers, then the log has a name for its sender."""
    assert origin_of("", {}, TRUSTED) == Origin("a socket", None)
