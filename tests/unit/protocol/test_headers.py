"""Which headers pass, in either direction."""

from __future__ import annotations

import pytest

from gateway.protocol.headers import for_client, for_client_stream, for_upstream, from_environ, of_a_proxy

HOP_BY_HOP = [
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"),
    *("transfer-encoding", "upgrade"),
]


# What proxies, CDNs and load balancers add; an open gateway refuses requests that have any.
PROXIES = [
    *("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port"),
    *("x-forwarded-prefix", "x-forwarded-server", "x-forwarded-user", "x-forwarded-access-token", "x-forwarded-anew"),
    *("x-real-ip", "x-original-forwarded-for", "x-client-ip", "x-cluster-client-ip", "true-client-ip"),
    *("cf-connecting-ip", "cf-ray", "cf-access-jwt-assertion", "cf-ipcountry", "cdn-loop", "fastly-client-ip"),
    *("akamai-origin-hop", "x-akamai-edgescape", "cloudfront-viewer-address", "x-amz-cf-id", "x-azure-clientip"),
    *("x-azure-fdid", "x-arr-clientcert", "x-appengine-user-ip", "x-cloud-trace-context", "fly-client-ip"),
    *("x-envoy-external-address", "x-envoy-attempt-count", "x-vercel-forwarded-for", "tailscale-user-login"),
    *("forwarded-for", "x-originating-ip", "x-iinfo", "x-netlify-original-pathname", "l5d-client-id", "dapr-app-id"),
]
# What a single sign-on adds, and clients' credentials for others.
IDENTITIES = [
    *("x-auth-request-user", "x-auth-request-access-token", "x-authentik-jwt", "remote-user", "remote-groups"),
    *("x-remote-user", "x-webauth-user", "x-pomerium-jwt-assertion", "x-amzn-oidc-data", "x-amzn-trace-id"),
    *("x-amz-security-token", "x-ms-client-principal", "x-ms-token-aad-access-token", "x-goog-iap-jwt-assertion"),
    *("x-goog-authenticated-user-email", "x-goog-api-key", "x-userinfo", "x-id-token", "x-user", "x-email"),
    *("x-consumer-username", "x-credential-identifier", "client-cert", "x-client-cert-dn", "ssl-client-verify"),
    *("x-ssl-client-cert", "oidc-claim-sub", "iv-user", "sm-user", "teleport-jwt-assertion"),
    *("authorization", "x-api-key", "api-key", "apikey", "ocp-apim-subscription-key", "x-functions-key"),
    *("gap-auth", "gap-signature", "mellon-name-id", "x-saml-nameid", "x-sso-user", "x-rh-identity", "x-session-token"),
    *("x-tls-client-cert", "tls-client-cert", "x-mtls-client-dn", "x-client-ssl-cert", "x-spiffe-id", "x-oauth-token"),
    *("openai-api-key", "x-api-token"),
]
BROWSERS = [
    *("cookie", "origin", "referer", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "sec-ch-ua", "sec-gpc"),
    *("anthropic-dangerous-direct-browser-access", "access-control-request-method", "x-csrf-token"),
]
OWN = [
    *("host", "content-length", "content-encoding", "accept-encoding", "expect", "content-digest"),
    *("x-gateway-token", "x-gateway-request-id", "x-gateway-anything"),
]


@pytest.mark.parametrize("name", [*HOP_BY_HOP, *PROXIES, *IDENTITIES, *BROWSERS, *OWN])
def test_stops_on_the_way_up(name):
    """Given a header that is the hop's, a proxy's, a sign-on's, a browser's or the gateway's, then it stops here."""
    assert for_upstream([("accept", "*/*"), (name, "planted")]) == [("accept", "*/*")]


@pytest.mark.parametrize("name", PROXIES)
def test_proxy_s_trace_is_known(name):
    """Given a header that a proxy adds, then its name tells so."""
    assert of_a_proxy(["accept", name]) == name


PASSING = [
    ("anthropic-version", "2026-10-21"),
    ("anthropic-beta", "a,b, c"),
    ("anthropic-unheard-of", "x; y=z"),
    ("content-type", "application/json; charset=utf-8"),
    ("user-agent", "claude-cli/2"),
    ("x-stainless-retry-count", "0"),
    ("x-stainless-helper-method", "stream"),
    ("x-app", "cli"),
    ("x-claude-code-session-id", "57a121ec"),
    ("x-claude-remote-session-id", "1"),
    ("x-client-request-id", "2"),
    ("x-session-id", "3"),
    ("idempotency-key", "4"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("tracestate", "a=b"),
    ("accept", "text/event-stream"),
    ("accept-language", "*"),
    ("x-nobody-knows", "5"),
    ("cfg-x", "only begins like a family"),
    ("x-forwardedness", "the same"),
]


@pytest.mark.parametrize("header", PASSING, ids=lambda header: header[0])
def test_passes_on_the_way_up_unchanged(header):
    """Given what Claude Code and the SDKs send, and what nobody knows, then it goes upstream as it came."""
    assert for_upstream([header]) == [header]
    assert of_a_proxy([header[0]]) is None


def test_operator_s_own_names_stop_besides():
    """Given names and a family that the operator has named, then they stop on the way up, and nothing else does."""
    headers = [("x-team", "1"), ("x-corp-user", "2"), ("x-corp", "3"), ("x-teams", "4"), ("cookie", "5")]
    assert for_upstream(headers, ("x-team", "x-corp-*")) == [("x-corp", "3"), ("x-teams", "4")]


ORIGIN_WIDE = [
    *("set-cookie", "set-cookie2", "clear-site-data", "strict-transport-security", "alt-svc", "refresh"),
    *("public-key-pins", "public-key-pins-report-only", "expect-ct", "nel", "report-to", "reporting-endpoints"),
    *("access-control-allow-origin", "access-control-allow-credentials", "access-control-expose-headers"),
    *("timing-allow-origin", "content-security-policy", "content-security-policy-report-only", "permissions-policy"),
    *("cross-origin-opener-policy", "cross-origin-resource-policy", "service-worker-allowed", "origin-agent-cluster"),
    *("origin-trial", "accept-ch", "critical-ch", "link", "www-authenticate", "sourcemap", "speculation-rules"),
    *("x-accel-redirect", "x-accel-expires", "x-sendfile", "surrogate-control", "integrity-policy"),
]
DIGESTS = ["content-md5", "digest", "content-digest", "repr-digest"]


@pytest.mark.parametrize(
    "name", [*HOP_BY_HOP, *ORIGIN_WIDE, *DIGESTS, "content-length", "content-encoding", "date", "server"]
)
def test_stops_on_the_way_down(name):
    """Given a header that is the hop's, of the body's coding, or speaks for a site, then the client does not get it."""
    headers = [(name, "planted"), ("request-id", "req_1")]
    assert for_client(headers) == [("request-id", "req_1")]
    assert (name, "planted") not in for_client_stream(headers)


@pytest.mark.parametrize(
    "header",
    [
        ("request-id", "req_1"),
        ("retry-after", "3"),
        ("x-should-retry", "true"),
        ("anthropic-ratelimit-requests-remaining", "7"),
        ("anthropic-organization-id", "org"),
        ("content-type", "text/html"),
        ("location", "/elsewhere"),
        ("vary", "accept"),
        ("server-timing", "total;dur=5"),
        ("x-content-type-options", "nosniff"),
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
