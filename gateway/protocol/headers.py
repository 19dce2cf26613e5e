"""Which headers pass through the gateway, in either direction.

Owns: the tables of what stops here, and why. Pure; any thread. Names are lower case throughout: that is how they
go out, and header names have no case (RFC 9110 section 5.1). In the tables a trailing `*` stands for any ending.
What is not in them passes: what Claude Code and the SDKs send (`anthropic-*`, `x-stainless-*`, `x-app`,
`x-claude-code-*`, `user-agent`), a trace (`traceparent`, `tracestate`), and headers that nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

Headers = list[tuple[str, str]]
Patterns = tuple[str, ...]


class NameTable:
    """Header names, of which some are only beginnings; `has` says whether a name is among them, and remembers it."""

    def __init__(self, *rows: Patterns) -> None:
        patterns = [pattern for row in rows for pattern in row]
        self._names = frozenset(pattern for pattern in patterns if not pattern.endswith("*"))
        self._beginnings = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
        self.has = lru_cache(maxsize=1024)(self._has)  # the same names come again and again

    def _has(self, name: str) -> bool:
        return name in self._names or name.startswith(self._beginnings)


# RFC 9110 section 7.6.1, and RFC 2616 section 13.5.1 for those that older programs still send.
HOP_BY_HOP: Patterns = (
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"),
    *("transfer-encoding", "upgrade"),
)

TOKEN_HEADER = "x-gateway-token"
REQUEST_ID_HEADER = "x-gateway-request-id"

# Who stands between the client and the gateway, and whom they have seen: an open gateway refuses what they have passed
# on. Each row is one kind of program.
_PROXIES: Patterns = (
    *("forwarded", "via", "x-forwarded", "x-forwarded-*", "x-real-*", "x-original-*", "x-client-ip", "client-ip"),
    *("x-cluster-client-ip", "true-client-ip", "x-proxyuser-ip", "x-proxied-*", "x-scheme", "x-url-scheme"),
    *("front-end-https", "proxy-client-ip", "wl-proxy-*", "x-rewrite-url", "x-replaced-path", "x-bluecoat-via"),
    *("x-envoy-*", "x-istio-*", "x-varnish", "x-nginx-*", "ngrok-*", "tailscale-*"),  # proxies and tunnels
    *("cf-*", "cdn-*", "fastly-*", "x-fastly-*", "akamai-*", "x-akamai-*", "incap-*", "x-sucuri-*"),  # CDNs
    *("cloudfront-*", "x-amz-cf-*", "ali-*", "eagleeye-*", "eo-*", "x-nf-*", "x-vercel-*", "fly-*", "early-data"),
    *("x-azure-*", "x-fd-*", "x-arr-*", "x-waws-*", "x-appservice-*", "disguised-host", "was-default-hostname"),
    *("x-appengine-*", "x-cloud-trace-context", "do-connecting-ip", "x-railway-*", "x-zscaler-*"),
    *("forwarded-for", "x-originating-*", "x-iinfo", "x-netlify-*", "x-ngrok-*", "x-tailscale-*", "l5d-*", "dapr-*"),
)

# Whom a single sign-on has let in, and what it vouches with: the rest of these is a client's affair with others.
_IDENTITIES: Patterns = (
    *("x-auth-*", "x-authentik-*", "x-authelia-*", "x-authenticated-*", "x-oidc-*", "oidc-*", "x-okta-*"),
    *("remote-*", "x-remote-*", "x-webauth-*", "x-pomerium-*", "x-vouch-*", "teleport-*", "x-keycloak-*", "x-shib-*"),
    *("shib-*", "cas-*", "sm-*", "iv-*", "oam-*", "x-jwt-*", "x-id-token", "x-access-token", "x-userinfo"),
    *("x-user", "x-user-id", "x-user-name", "x-user-email", "x-user-groups", "x-username", "x-email", "x-groups"),
    *("x-consumer-*", "x-credential-*", "x-anonymous-consumer"),  # Kong
    *("x-amzn-*", "x-amz-*", "x-ms-*", "x-goog-*", "x-gcp-*"),  # the clouds' load balancers and their sign-ons
    *("client-cert", "client-cert-*", "x-client-cert", "x-client-cert-*", "x-client-dn", "x-client-verify"),
    *("ssl-client-*", "x-ssl-*", "tls-client-*", "x-tls-*", "x-mtls-*", "x-client-ssl-*", "x-spiffe-*"),
    *("gap-*", "mellon-*", "x-saml-*", "x-sso-*", "x-oauth-*", "x-oauth2-*", "x-session-token", "x-rh-identity"),
    *("x-user-info", "x-user-roles"),
)

# What a browser says of the page that asks, of its user, and of its own devices. Organisations may answer these 401.
_BROWSERS: Patterns = (
    *("cookie", "cookie2", "origin", "referer", "sec-*", "dnt", "upgrade-insecure-requests"),
    *("access-control-*", "anthropic-dangerous-direct-browser-access", "x-csrf-*", "x-xsrf-*"),
)

# Credentials are chosen, not passed on. Those of other APIs' gateways are nobody's business upstream either.
_CREDENTIALS: Patterns = (
    *("authorization", "x-api-key", "x-gateway-*", "api-key", "apikey", "x-apikey", "ocp-apim-*", "x-functions-key"),
    *("x-rapidapi-*", "x-ibm-client-*", "x-api-token", "openai-api-key", "x-openai-api-key", "x-google-api-key"),
)

# What vouches for a body as it came need not fit what goes on.
_DIGESTS: Patterns = ("content-md5", "digest", "content-digest", "repr-digest")

# Length and coding are the gateway's own on its side of the exchange; `expect` was answered here.
_OF_THE_EXCHANGE: Patterns = ("host", "content-length", "content-encoding", "accept-encoding", "expect", *_DIGESTS)

_NOT_UPSTREAM = (HOP_BY_HOP, _PROXIES, _IDENTITIES, _BROWSERS, _CREDENTIALS, _OF_THE_EXCHANGE)
_PROXY_TRACES = NameTable(_PROXIES)

# What a site tells browsers: it would hold for the gateway's own name, or open it to other pages. And what tells a
# proxy in front, or a CDN, what to do (`x-accel-redirect` has nginx send any file).
_OF_THE_ORIGIN: Patterns = (
    *("set-cookie", "set-cookie2", "clear-site-data", "strict-transport-security", "alt-svc", "alt-used", "refresh"),
    *("public-key-pins", "public-key-pins-*", "expect-ct", "expect-staple", "nel", "report-to", "reporting-endpoints"),
    *("access-control-*", "timing-allow-origin", "x-permitted-cross-domain-policies", "cross-origin-*"),
    *("content-security-policy", "content-security-policy-*", "x-content-security-policy", "x-webkit-csp"),
    *("permissions-policy", "permissions-policy-*", "feature-policy", "document-policy", "document-policy-*"),
    *("require-document-policy", "integrity-policy", "integrity-policy-*"),
    *("referrer-policy", "x-frame-options", "x-xss-protection", "x-dns-prefetch-control", "p3p", "tk"),
    *("service-worker-*", "origin-agent-cluster", "origin-trial", "origin-isolation", "origin-policy"),
    *("accept-ch", "accept-ch-*", "critical-ch", "link", "content-location", "sourcemap", "x-sourcemap"),
    *("speculation-rules", "supports-loading-mode", "no-vary-search", "use-as-dictionary", "available-dictionary"),
    *("www-authenticate", "optional-www-authenticate", "authentication-*", "set-login", "sec-*"),
    *("activate-storage-access", "observe-browsing-topics", "attribution-reporting-*", "ad-auction-*"),
    *("x-accel-*", "x-sendfile", "x-sendfile-*", "x-lighttpd-*", "x-reproxy-*", "surrogate-*", "edge-control"),
    *("cdn-cache-control", "cloudflare-cdn-cache-control"),
)

# The server in front writes its own date and name, once.
_NOT_TO_CLIENT = NameTable(
    HOP_BY_HOP, _OF_THE_ORIGIN, _DIGESTS, ("content-length", "content-encoding", "date", "server")
)

SSE_HEADERS: Headers = [("cache-control", "no-cache"), ("x-accel-buffering", "no")]


def from_environ(environ: Mapping[str, object]) -> Headers:
    """The client's headers out of a WSGI environ (PEP 3333), as lower-case names and latin-1 values."""
    headers: Headers = []
    for name, value in environ.items():
        if name.startswith("HTTP_") and isinstance(value, str):
            headers.append((_header_name(name), value))
    content_type = environ.get("CONTENT_TYPE")
    if isinstance(content_type, str) and content_type:
        headers.append(("content-type", content_type))
    return headers


@lru_cache(maxsize=512)
def _header_name(variable: str) -> str:
    """The header that a CGI variable stands for."""
    return variable[5:].replace("_", "-").lower()


def for_upstream(headers: Headers, dropped: Patterns = ()) -> Headers:
    """The client's headers that go upstream; the gateway adds host, length, coding and credential itself.

    `dropped` are more names that stop here, as the operator wishes.
    """
    return _without(headers, _not_upstream(dropped))


def for_client(headers: Headers) -> Headers:
    """The upstream's headers that go to the client; the body's length and coding are set anew."""
    return _without(headers, _NOT_TO_CLIENT)


def for_client_stream(headers: Headers) -> Headers:
    """The same for an SSE answer, with what keeps proxies from buffering it."""
    own = {name for name, _ in SSE_HEADERS}
    return [item for item in for_client(headers) if item[0] not in own] + SSE_HEADERS


def of_a_proxy(names: Iterable[str]) -> str | None:
    """The first of these names that only a proxy gives a request; None if there is none."""
    return next(filter(_PROXY_TRACES.has, names), None)


def _without(headers: Headers, stopped: NameTable) -> Headers:
    named = {token.strip().lower() for name, value in headers if name == "connection" for token in value.split(",")}
    has = stopped.has
    # The same tuples: a stream keeps both lists for as long as it lasts.
    return [header for header in headers if not has(header[0]) and header[0] not in named]


@lru_cache(maxsize=4)
def _not_upstream(dropped: Patterns) -> NameTable:
    return NameTable(*_NOT_UPSTREAM, dropped)
