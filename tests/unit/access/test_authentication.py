"""Who is let in and what pays: the whole decision table, and the narrow door of an open gateway."""

from __future__ import annotations

import base64
import hashlib
import hmac
from itertools import product

import pytest

from gateway.access import credential
from gateway.access.authentication import (
    ByokMode,
    ClientToken,
    TokenFileError,
    authenticate,
    authenticate_operator,
    is_loopback_host,
    parse_tokens,
    refuse_unless_local,
)
from gateway.access.credential import CredentialKind, Secret
from gateway.protocol.errors import PermissionDenied, Unauthenticated

ALICE, BOB, REVOKED = "alice-token", "bob-token", "revoked-token"
OWN = "sk-ant-own-credential-of-the-client"
FOREIGN = "some-other-credential"
GATEWAY, API_KEY, BEARER = "x-gateway-token", "x-api-key", "authorization"


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


TOKENS = (ClientToken("alice", digest_of(ALICE), False), ClientToken("bob", digest_of(BOB), True))

ALLOWED, FORBIDDEN, ONLY = ByokMode.ALLOWED, ByokMode.FORBIDDEN, ByokMode.ONLY

# What the design says, by case: headers, and per BYOK mode the expected (name, own headers) or error.
DENIED, UNKNOWN = PermissionDenied, Unauthenticated
POOLED_ALICE = ("alice", ())
POOLED_BOB = ("bob", ())


def row(case, headers, allowed, forbidden, only):
    return pytest.param(headers, {ALLOWED: allowed, FORBIDDEN: forbidden, ONLY: only}, id=case)


CLOSED = [
    row("nothing", {}, UNKNOWN, UNKNOWN, UNKNOWN),
    row("gateway-token", {GATEWAY: ALICE}, POOLED_ALICE, POOLED_ALICE, UNKNOWN),
    row("gateway-token-with-spaces", {GATEWAY: f" {ALICE} "}, POOLED_ALICE, POOLED_ALICE, UNKNOWN),
    row("api-key", {API_KEY: ALICE}, POOLED_ALICE, POOLED_ALICE, UNKNOWN),
    row("bearer", {BEARER: f"Bearer {ALICE}"}, POOLED_ALICE, POOLED_ALICE, UNKNOWN),
    row("bearer-in-lower-case", {BEARER: f"bearer {ALICE}"}, POOLED_ALICE, POOLED_ALICE, UNKNOWN),
    row("bearer-with-spaces", {BEARER: f"Bearer   {ALICE} "}, POOLED_ALICE, POOLED_ALICE, UNKNOWN),
    row("basic", {BEARER: f"Basic {ALICE}"}, UNKNOWN, UNKNOWN, UNKNOWN),
    row("bare-authorization", {BEARER: ALICE}, UNKNOWN, UNKNOWN, UNKNOWN),
    row("revoked", {API_KEY: REVOKED}, UNKNOWN, UNKNOWN, UNKNOWN),
    row("empty-values", {GATEWAY: "", API_KEY: "", BEARER: ""}, UNKNOWN, UNKNOWN, UNKNOWN),
    row("digest-is-no-token", {API_KEY: digest_of(ALICE)}, UNKNOWN, UNKNOWN, UNKNOWN),
    row("own-without-token", {API_KEY: OWN}, UNKNOWN, UNKNOWN, UNKNOWN),
    row("own-bearer-without-token", {BEARER: f"Bearer {OWN}"}, UNKNOWN, UNKNOWN, UNKNOWN),
    row("two-tokens", {API_KEY: ALICE, BEARER: f"Bearer {BOB}"}, POOLED_ALICE, POOLED_ALICE, UNKNOWN),
    row("own-key-and-token-bearer", {API_KEY: OWN, BEARER: f"Bearer {BOB}"}, POOLED_BOB, POOLED_BOB, UNKNOWN),
    row("token-key-and-own-bearer", {API_KEY: ALICE, BEARER: f"Bearer {OWN}"}, POOLED_ALICE, POOLED_ALICE, UNKNOWN),
    row(
        "own-key-beside-token",
        {GATEWAY: ALICE, API_KEY: OWN},
        ("alice", ((API_KEY, "", OWN),)),
        DENIED,
        ("alice", ((API_KEY, "", OWN),)),
    ),
    row(
        "own-bearer-beside-token",
        {GATEWAY: ALICE, BEARER: f"bearer {OWN}"},
        ("alice", ((BEARER, "Bearer ", OWN),)),
        DENIED,
        ("alice", ((BEARER, "Bearer ", OWN),)),
    ),
    row(
        "own-need-not-look-like-anthropic's-beside-token",
        {GATEWAY: ALICE, BEARER: f"Bearer {FOREIGN}"},
        ("alice", ((BEARER, "Bearer ", FOREIGN),)),
        DENIED,
        ("alice", ((BEARER, "Bearer ", FOREIGN),)),
    ),
    row(
        "both-own-beside-token",
        {GATEWAY: BOB, API_KEY: OWN, BEARER: f"Bearer {FOREIGN}"},
        ("bob", ((API_KEY, "", OWN), (BEARER, "Bearer ", FOREIGN))),
        DENIED,
        ("bob", ((API_KEY, "", OWN), (BEARER, "Bearer ", FOREIGN))),
    ),
    row("same-token-twice", {GATEWAY: ALICE, API_KEY: ALICE}, POOLED_ALICE, POOLED_ALICE, UNKNOWN),
    row("another-token-beside", {GATEWAY: ALICE, BEARER: f"Bearer {BOB}"}, POOLED_ALICE, POOLED_ALICE, UNKNOWN),
    row(
        "token-and-own-beside",
        {GATEWAY: ALICE, API_KEY: BOB, BEARER: f"Bearer {OWN}"},
        ("alice", ((BEARER, "Bearer ", OWN),)),
        DENIED,
        ("alice", ((BEARER, "Bearer ", OWN),)),
    ),
    row("revoked-beside-good", {GATEWAY: REVOKED, API_KEY: ALICE}, UNKNOWN, UNKNOWN, UNKNOWN),
    row("own-beside-revoked", {GATEWAY: REVOKED, API_KEY: OWN}, UNKNOWN, UNKNOWN, UNKNOWN),
]

NOBODY = (None, ())
OPEN = [
    row("nothing", {}, NOBODY, NOBODY, UNKNOWN),
    row("any-key", {API_KEY: "dummy"}, NOBODY, NOBODY, UNKNOWN),
    row("any-bearer", {BEARER: "Bearer dummy"}, NOBODY, NOBODY, UNKNOWN),
    row("any-gateway-token", {GATEWAY: "dummy"}, NOBODY, NOBODY, UNKNOWN),
    row("own-key", {API_KEY: OWN}, (None, ((API_KEY, "", OWN),)), DENIED, (None, ((API_KEY, "", OWN),))),
    row(
        "own-bearer",
        {BEARER: f"Bearer {OWN}"},
        (None, ((BEARER, "Bearer ", OWN),)),
        DENIED,
        (None, ((BEARER, "Bearer ", OWN),)),
    ),
    row(
        "own-key-and-any-bearer",
        {API_KEY: OWN, BEARER: "Bearer dummy"},
        (None, ((API_KEY, "", OWN),)),
        DENIED,
        (None, ((API_KEY, "", OWN),)),
    ),
    row("own-in-another-scheme", {BEARER: f"Basic {OWN}"}, NOBODY, NOBODY, UNKNOWN),
    row("own-form-in-the-middle", {API_KEY: f"x{OWN}"}, NOBODY, NOBODY, UNKNOWN),
]


def check(headers, tokens, mode, expected):
    if isinstance(expected, type):
        with pytest.raises(expected) as raised:
            authenticate(headers, tokens, mode)
        assert not any(secret in raised.value.message for secret in (ALICE, BOB, REVOKED, OWN, FOREIGN))
        return
    caller = authenticate(headers, tokens, mode)
    own = tuple((header.name, header.scheme, header.secret.reveal()) for header in caller.own)
    assert (caller.token_name, own) == expected
    assert caller.credential is (CredentialKind.BYOK if own else CredentialKind.POOLED)
    assert caller.is_operator == (caller.token_name == "bob")


@pytest.mark.parametrize("mode", ByokMode)
@pytest.mark.parametrize(("headers", "by_mode"), CLOSED)
def test_closed_gateway_decides(headers, by_mode, mode):
    """Given a token file, when these headers come in this BYOK mode, then the table's caller or refusal."""
    check(headers, TOKENS, mode, by_mode[mode])


@pytest.mark.parametrize("mode", ByokMode)
@pytest.mark.parametrize(("headers", "by_mode"), OPEN)
def test_open_gateway_decides(headers, by_mode, mode):
    """Given no token file, when these headers come in this BYOK mode, then the table's caller or refusal."""
    check(headers, None, mode, by_mode[mode])


@pytest.mark.parametrize("mode", ByokMode)
@pytest.mark.parametrize("headers", [{}, {GATEWAY: ALICE}, {API_KEY: OWN}, {GATEWAY: ALICE, API_KEY: OWN}])
def test_an_empty_token_file_lets_nobody_in(headers, mode):
    """Given a token file without tokens, then it is not an open gateway: nobody is known."""
    check(headers, (), mode, UNKNOWN)


def offers():
    """Every choice of values for the three headers."""
    values = [None, ALICE, BOB, REVOKED, OWN, FOREIGN]
    for given, key, bearer in product(values, repeat=3):
        named = {GATEWAY: given, API_KEY: key, BEARER: bearer and f"Bearer {bearer}"}
        yield {name: value for name, value in named.items() if value is not None}


@pytest.mark.parametrize("mode", ByokMode)
def test_a_gateway_token_never_becomes_a_credential(mode):
    """Given every mixture of tokens and credentials in the three headers, then no known token is sent upstream."""
    for headers in offers():
        try:
            caller = authenticate(headers, TOKENS, mode)
        except (PermissionDenied, Unauthenticated):
            continue
        assert not {header.secret.reveal() for header in caller.own} & {ALICE, BOB}
        assert caller.own or mode is not ONLY
        assert not caller.own or mode is not FORBIDDEN


def test_every_token_is_compared_in_constant_time(monkeypatch):
    """Given three tokens of which the first fits, when a request comes, then all are compared, by compare_digest."""
    compared = []

    def spy(left, right):
        compared.append((left, right))
        return hmac.compare_digest(left, right)

    monkeypatch.setattr(credential, "hmac", type("Spy", (), {"compare_digest": staticmethod(spy)}))
    tokens = (*TOKENS, ClientToken("carol", digest_of("carol-token"), False))
    assert authenticate({API_KEY: ALICE}, tokens, ALLOWED).token_name == "alice"
    assert compared == [(digest_of(ALICE), token.digest) for token in tokens]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", [], id="empty"),
        pytest.param("# nobody yet\n\n", [], id="comments"),
        pytest.param(f"ann sha256:{'0' * 64}\n", [("ann", False)], id="user"),
        pytest.param(f"ann sha256:{'0' * 64} operator\n", [("ann", True)], id="operator"),
        pytest.param(f"  ann\tsha256:{'0' * 64}   # since May\r\n", [("ann", False)], id="spaces-comment-crlf"),
        pytest.param(f"a@b.c sha256:{'a' * 64}\nci_1-x sha256:{'b' * 64}", [("a@b.c", False), ("ci_1-x", False)]),
    ],
)
def test_token_file_is_read(text, expected):
    """Given a good token file, then its names and roles are these."""
    assert [(token.name, token.is_operator) for token in parse_tokens(text)] == expected


@pytest.mark.parametrize(
    ("more", "is_operator", "group"),
    [
        ("", False, None),
        (" group=research", False, "research"),
        (" operator group=research", True, "research"),
        ("\tgroup=research   operator ", True, "research"),
        (" group=operator", False, "operator"),
        (" group=a.b_c@d-1 # since May", False, "a.b_c@d-1"),
    ],
)
def test_role_and_group_stand_in_any_order(more, is_operator, group):
    """Given a token's role and group, then each is read, whichever stands first, and the line can be written again."""
    (token,) = parse_tokens(f"ann sha256:{'0' * 64}{more}")
    assert (token.is_operator, token.group) == (is_operator, group)
    assert parse_tokens(token.line) == (token,)


def test_caller_has_the_group_of_its_token():
    """Given a token of a group, then who calls with it is of that group, and whoever pays; others are of none."""
    known = (ClientToken("alice", digest_of(ALICE), False, "research"), TOKENS[1])
    assert authenticate({API_KEY: ALICE}, known, ALLOWED).token_group == "research"
    assert authenticate({GATEWAY: ALICE, API_KEY: OWN}, known, ALLOWED).token_group == "research"
    assert authenticate({API_KEY: BOB}, known, ALLOWED).token_group is None
    assert authenticate({}, None, ALLOWED).token_group is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("ann", "line 1", id="name-alone"),
        pytest.param("\nann plaintext-token", "line 2", id="token-in-clear"),
        pytest.param(f"ann sha256:{'0' * 63}", "line 1", id="short-digest"),
        pytest.param(f"ann sha256:{'0' * 65}", "line 1", id="long-digest"),
        pytest.param(f"ann sha256:{'G' * 64}", "line 1", id="not-hex"),
        pytest.param(f"ann md5:{'0' * 64}", "line 1", id="other-hash"),
        pytest.param(f"ann sha256:{'0' * 64} admin", "line 1", id="unknown-role"),
        pytest.param(f"ann sha256:{'0' * 64} operator operator", "line 1", id="role-twice"),
        pytest.param(f"ann sha256:{'0' * 64} group=a group=b", "line 1", id="two-groups"),
        pytest.param(f"ann sha256:{'0' * 64} group=a operator group=a", "line 1", id="group-twice"),
        pytest.param(f"ann sha256:{'0' * 64} group=", "line 1", id="empty-group"),
        pytest.param(f"ann sha256:{'0' * 64} group= a", "line 1", id="group-apart"),
        pytest.param(f"ann sha256:{'0' * 64} group=a,b", "line 1", id="odd-group"),
        pytest.param(f"ann sha256:{'0' * 64} Group=a", "line 1", id="upper-case"),
        pytest.param(f"ann sha256:{'0' * 64}operator", "line 1", id="no-space"),
        pytest.param(f"ann sha256:{'0' * 64}\nann sha256:{'1' * 64}", "line 2", id="name-twice"),
        pytest.param(f"an,n sha256:{'0' * 64}", "line 1", id="odd-name"),
    ],
)
def test_token_file_with_a_bad_line_is_refused(text, complaint):
    """Given a line that cannot be read, then it is named, and what stands in it is not quoted."""
    with pytest.raises(TokenFileError, match=complaint) as raised:
        parse_tokens(text)
    assert "plaintext-token" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("localhost", True),
        ("LocalHost", True),
        ("localhost.", True),
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("128.0.0.1", False),
        ("10.0.0.1", False),
        ("192.168.1.1", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.nip.io", False),
        ("evil.example", False),
        ("2130706433", False),
        ("0x7f.1", False),
        ("127.1", False),
        ("", False),
    ],
)
def test_loopback_hosts_are_known(host, is_loopback):
    """Given a host, then it stands for this machine alone or it does not."""
    assert is_loopback_host(host) is is_loopback


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost"},
        {"host": "localhost:8080"},
        {"host": "LOCALHOST:8080"},
        {"host": "localhost.:8080"},
        {"host": "127.0.0.1:8080"},
        {"host": "127.0.0.2:8080"},
        {"host": "[::1]:8080"},
        {"host": "[::1]"},
        {"host": "localhost:8080", "origin": "http://localhost:8080"},
        {"host": "127.0.0.1:8080", "origin": "http://127.0.0.1:8080"},
        {"host": "localhost:8080", "origin": "http://[::1]:8080"},
        {"host": "localhost:8080", "sec-fetch-site": "same-origin"},
        {"host": "localhost:8080", "sec-fetch-site": "none", "sec-fetch-mode": "navigate"},
        {"host": "localhost:8080", "sec-fetch-mode": "cors"},
        {"host": "localhost:8080", "origin": "http://localhost:3000", "sec-fetch-site": "same-site"},
        {"host": "localhost:8080", "x-request-id": "7", "traceparent": "00-a-b-01"},
    ],
    ids=str,
)
def test_open_gateway_serves_local_programs(headers):
    """Given a loopback Host, no foreign page and no proxy's headers, then the request is served."""
    refuse_unless_local(headers)


ALLOWED_PAGE = {"host": "localhost", "origin": "https://app.example", "sec-fetch-site": "cross-site"}


def test_open_gateway_serves_the_pages_of_allowed_origins():
    """Given an origin that the operator allows, then its pages are served, and no other's, and no proxy's either."""
    refuse_unless_local(ALLOWED_PAGE, ("https://app.example",))
    for more in ({"origin": "https://app.example.evil"}, {"host": "evil.example"}, {"x-forwarded-port": "443"}):
        with pytest.raises(PermissionDenied):
            refuse_unless_local(ALLOWED_PAGE | more, ("https://app.example",))


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        pytest.param({}, "Host", id="no-host"),
        pytest.param({"host": ""}, "Host", id="empty-host"),
        pytest.param({"host": "evil.example"}, "Host", id="evil-host"),
        pytest.param({"host": "evil.example:8080"}, "Host", id="dns-rebinding"),
        pytest.param({"host": "localhost.evil.example"}, "Host", id="localhost-as-a-label"),
        pytest.param({"host": "127.0.0.1.nip.io:8080"}, "Host", id="address-as-a-label"),
        pytest.param({"host": "localhost@evil.example"}, "Host", id="localhost-as-a-user"),
        pytest.param({"host": "evil.example#.localhost"}, "Host", id="localhost-in-a-fragment"),
        pytest.param({"host": "192.168.1.5:8080"}, "Host", id="lan-address"),
        pytest.param({"host": "0.0.0.0:8080"}, "Host", id="any-address"),
        pytest.param({"host": "[fe80::1]:8080"}, "Host", id="link-local"),
        pytest.param({"host": "[::"}, "Host", id="malformed"),
        pytest.param({"host": "localhost, evil.example"}, "Host", id="two-hosts"),
        pytest.param({"host": "localhost", "origin": "https://evil.example"}, "origin", id="evil-origin"),
        pytest.param({"host": "localhost", "origin": "null"}, "origin", id="null-origin"),
        pytest.param({"host": "localhost", "origin": ""}, "origin", id="empty-origin"),
        pytest.param({"host": "localhost", "origin": "file://"}, "origin", id="file-origin"),
        pytest.param({"host": "localhost", "origin": "http://localhost.evil.example"}, "origin", id="origin-label"),
        pytest.param({"host": "localhost", "origin": "http://127.0.0.1.nip.io"}, "origin", id="origin-nip"),
        pytest.param({"host": "localhost", "origin": "http://[bad"}, "origin", id="malformed-origin"),
        pytest.param({"host": "localhost", "forwarded": "for=1.2.3.4"}, "forwarded is set", id="forwarded"),
        pytest.param({"host": "localhost", "x-forwarded-for": "127.0.0.1"}, "x-forwarded-for", id="x-forwarded-for"),
        pytest.param({"host": "localhost", "x-real-ip": "127.0.0.1"}, "x-real-ip", id="x-real-ip"),
        pytest.param({"host": "localhost", "x-forwarded-for": ""}, "x-forwarded-for", id="empty-x-forwarded-for"),
        pytest.param({"host": "localhost", "x-forwarded-port": "443"}, "x-forwarded-port", id="x-forwarded-port"),
        pytest.param({"host": "localhost", "x-forwarded-prefix": "/a"}, "x-forwarded-prefix", id="x-forwarded-prefix"),
        pytest.param({"host": "localhost", "x-forwarded-server": "a"}, "x-forwarded-server", id="x-forwarded-server"),
        pytest.param({"host": "localhost", "x-forwarded-new": "a"}, "x-forwarded-new", id="any-x-forwarded"),
        pytest.param({"host": "localhost", "via": "1.1 a"}, "via is set", id="via"),
        pytest.param({"host": "localhost", "cf-connecting-ip": "1.2.3.4"}, "cf-connecting-ip", id="cloudflare"),
        pytest.param({"host": "localhost", "true-client-ip": "1.2.3.4"}, "true-client-ip", id="true-client-ip"),
        pytest.param({"host": "localhost", "sec-fetch-site": "cross-site"}, "origin", id="another-site-s-page"),
        pytest.param({"host": "localhost", "sec-fetch-site": "same-site"}, "origin", id="another-page-of-the-site"),
        pytest.param({"host": "localhost", "sec-fetch-site": "x, none"}, "origin", id="sec-fetch-site-twice"),
    ],
)
def test_open_gateway_refuses_the_world(headers, why):
    """Given a proxy's trace, a foreign Host or a foreign Origin, then 403 permission_error, saying why."""
    with pytest.raises(PermissionDenied, match=why) as raised:
        refuse_unless_local(headers)
    assert (raised.value.status, raised.value.kind) == (403, "permission_error")


def test_secret_of_a_token_matches_only_its_digest():
    """Given a token's digest, then only the token matches it, not a prefix, not another case."""
    assert Secret(ALICE).matches_digest(digest_of(ALICE))
    assert not any(Secret(other).matches_digest(digest_of(ALICE)) for other in (ALICE[:-1], ALICE.upper(), "", BOB))


def basic(clear: str) -> dict[str, str]:
    return {BEARER: f"Basic {base64.b64encode(clear.encode()).decode()}"}


# Who may see operators' pages: bob is an operator, alice is not.
@pytest.mark.parametrize(
    ("headers", "refusal"),
    [
        pytest.param({}, UNKNOWN, id="nothing"),
        pytest.param({GATEWAY: BOB}, None, id="gateway-token"),
        pytest.param({API_KEY: BOB}, None, id="api-key"),
        pytest.param({BEARER: f"Bearer {BOB}"}, None, id="bearer"),
        pytest.param(basic(f"whoever:{BOB}"), None, id="password"),
        pytest.param(basic(f":{BOB}"), None, id="password-without-a-name"),
        pytest.param(basic(f"{BOB}:"), UNKNOWN, id="token-as-the-name"),
        pytest.param(basic(BOB), UNKNOWN, id="no-colon"),
        pytest.param({BEARER: "Basic ***"}, UNKNOWN, id="not-base64"),
        pytest.param({BEARER: "Basic /w=="}, UNKNOWN, id="not-utf-8"),
        pytest.param(basic(f"x:{REVOKED}"), UNKNOWN, id="revoked"),
        pytest.param({GATEWAY: ALICE}, DENIED, id="not-an-operator"),
        pytest.param(basic(f"x:{ALICE}"), DENIED, id="not-an-operators-password"),
        pytest.param({API_KEY: ALICE} | basic(f"x:{BOB}"), None, id="one-of-two-is-an-operators"),
        pytest.param({GATEWAY: REVOKED, API_KEY: BOB}, UNKNOWN, id="gateway-token-counts-alone"),
        pytest.param({API_KEY: OWN}, UNKNOWN, id="own-credential"),
    ],
)
def test_operators_pages_want_an_operators_token(headers, refusal):
    """Given headers, then operators' pages take a known operator's token in any of its places."""
    if refusal is None:
        authenticate_operator(headers, TOKENS)
    else:
        with pytest.raises(refusal) as raised:
            authenticate_operator(headers, TOKENS)
        assert not [token for token in (ALICE, BOB, REVOKED, OWN) if token in raised.value.message]


def test_operators_pages_of_an_open_gateway_want_nothing():
    """Given a gateway without tokens, when an operator's page is asked for, then whoever came this far may see it."""
    authenticate_operator({}, None)
