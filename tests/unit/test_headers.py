"""Which headers pass, in either direction."""

from __future__ import annotations

import pytest

from gateway.headers import for_client, for_client_stream, for_upstream, from_environ

HOP_BY_HOP = [
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"),
    *("transfer-encoding", "upgrade"),
]


@pytest.mark.parametrize(
    "name",
    [
        *HOP_BY_HOP,
        *("host", "content-length", "accept-encoding", "authorization", "x-api-key", "x-gateway-token"),
        "x-gateway-request-id",
        *("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "expect"),
    ],
)
def test_stops_on_the_way_up(name):
    """Given a header that is the hop's, the gateway's or a credential, then it does not go upstream."""
    assert for_upstream([("accept", "*/*"), (name, "planted")]) == [("accept", "*/*")]


@pytest.mark.parametrize(
    "header",
    [
        ("anthropic-version", "2026-10-21"),
        ("anthropic-beta", "a,b, c"),
        ("anthropic-dangerous-direct-browser-access", "true"),
        ("content-type", "application/json; charset=utf-8"),
        ("user-agent", "claude-cli/2"),
        ("x-stainless-retry-count", "0"),
        ("x-app", "cli"),
        ("cookie", "a=b"),
        ("accept", "text/event-stream"),
    ],
    ids=lambda header: header[0],
)
def test_passes_on_the_way_up_unchanged(header):
    """Given any other header, then it goes upstream as it came."""
    assert for_upstream([header]) == [header]


@pytest.mark.parametrize("name", [*HOP_BY_HOP, "content-length", "content-encoding", "set-cookie"])
def test_stops_on_the_way_down(name):
    """Given a header that is the hop's, of the body's coding, or a cookie, then the client does not get it."""
    assert for_client([(name, "planted"), ("request-id", "req_1")]) == [("request-id", "req_1")]


@pytest.mark.parametrize(
    "header",
    [
        ("request-id", "req_1"),
        ("retry-after", "3"),
        ("x-should-retry", "true"),
        ("anthropic-ratelimit-requests-remaining", "7"),
        ("anthropic-organization-id", "org"),
        ("content-type", "text/html"),
        ("cf-ray", "1"),
    ],
    ids=lambda header: header[0],
)
def test_passes_on_the_way_down_unchanged(header):
    """Given any other header of an answer, then the client gets it, errors included."""
    assert for_client([header]) == [header]


@pytest.mark.parametrize("way", [for_upstream, for_client])
def test_what_connection_names_stops_too(way):
    """Given headers that Connection names, in any case and spacing, then they stop at this hop."""
    headers = [("connection", "close, X-Hop ,x-other"), ("x-hop", "1"), ("x-other", "2"), ("x-kept", "3")]
    assert way(headers) == [("x-kept", "3")]


@pytest.mark.parametrize("way", [for_upstream, for_client])
def test_two_connection_headers_both_count(way):
    """Given two Connection headers, then what either names stops."""
    assert way([("connection", "x-a"), ("connection", "x-b"), ("x-a", "1"), ("x-b", "2")]) == []


def test_stream_tells_proxies_not_to_buffer():
    """Given the upstream's own cache headers, when a stream is answered, then the gateway's stand once instead."""
    headers = for_client_stream(
        [("content-type", "text/event-stream"), ("cache-control", "max-age=5"), ("x-accel-buffering", "yes")]
    )
    assert sorted(headers) == [
        ("cache-control", "no-cache"),
        ("content-type", "text/event-stream"),
        ("x-accel-buffering", "no"),
    ]


def test_environ_becomes_lower_case_headers():
    """Given a WSGI environ, then its headers come out in lower case, and nothing else of it does."""
    environ = {
        "HTTP_ANTHROPIC_VERSION": "2023-06-01",
        "HTTP_X_API_KEY": "k",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": "5",
        "REQUEST_METHOD": "POST",
        "wsgi.input": object(),
    }
    assert from_environ(environ) == [
        ("anthropic-version", "2023-06-01"),
        ("x-api-key", "k"),
        ("content-type", "application/json"),
    ]


def test_an_empty_content_type_is_none():
    """Given an environ whose CONTENT_TYPE is empty, as some servers set it, then there is no such header."""
    assert from_environ({"CONTENT_TYPE": ""}) == []
