"""The status page as it goes out: who gets it, under which policy, and that no secret is on it."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gateway import __version__
from gateway.access.authentication import ByokMode, parse_tokens
from gateway.access.credential import Key, Secret
from gateway.config.limit_rules import Limited, LimitRules, Limits
from gateway.config.settings import Settings
from gateway.keys.places import Place
from gateway.keys.verdict import Concern
from gateway.limits.limiter import Used
from gateway.limits.no_limits import NoLimits
from gateway.web.app import create_app
from gateway.web.service import Gateway
from gateway.web.status_data import moment
from gateway.web.status_pages import clock, grouped, rate, share
from tests.unit.fakes import NOW, cool, retire

OPERATOR, USER = "gwt_operator-PLANTED", "gwt_user-PLANTED"
SECRET = "sk-ant-api03-PLANTED-0123456789-abcdefghijklmnopqrstuvwxyz"
LOCAL = {"host": "localhost"}
PAGES = ("/status", "/status/live")
ASSETS = ("/status/page.css", "/status/page.js", "/status/icon.svg")
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def password(token: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(f'ops:{token}'.encode()).decode()}"}


@pytest.fixture
def open_client():
    return create_app(gateway=Gateway(Settings(keys=(Key("primary", Secret(SECRET)),)))).test_client()


@pytest.mark.parametrize("number", [0, 50])
def test_the_page_has_a_row_for_each_key_however_many(number: int) -> None:
    """Given a pool of fifty keys, or none since clients bring their own; then as many rows, and a verdict that fits."""
    keys = tuple(Key(f"key-{at}", Secret(f"sk-ant-{at:08}")) for at in range(number))
    mode = ByokMode.ALLOWED if keys else ByokMode.ONLY
    page = create_app(gateway=Gateway(Settings(keys=keys, allow_byok=mode))).test_client().get("/status", headers=LOCAL)
    assert page.status_code == 200
    assert page.text.count("data-key=") == number
    assert page.text.count("<table") == bool(number)
    assert ("All 50 keys are valid." if keys else "No keys here: clients bring their own credentials.") in page.text


@pytest.fixture
def client(tmp_path: Path):
    lines = (f"{name} sha256:{hashlib.sha256(t.encode()).hexdigest()}" for name, t in (("u", USER), ("o", OPERATOR)))
    text = "{}\n{} operator\n".format(*lines)
    (tmp_path / "tokens").write_text(text)
    settings = Settings(
        keys=(Key("primary", Secret(SECRET)), Key("<b>&\"'", Secret(SECRET[::-1]))),
        client_tokens_file=str(tmp_path / "tokens"),
        tokens=parse_tokens(text),
    )
    return create_app(gateway=Gateway(settings)).test_client()


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"x-gateway-token": "gwt_unknown"}, 401),
        ({"x-gateway-token": USER}, 403),
        (password(USER), 403),
        (password(OPERATOR), 200),
        ({"x-gateway-token": OPERATOR}, 200),
        ({"authorization": f"Bearer {OPERATOR}"}, 200),
    ],
    ids=["nothing", "unknown", "user", "user-password", "password", "token", "bearer"],
)
def test_only_an_operator_sees_the_page(client, path, headers, status):
    """Given a gateway with tokens, then the page wants an operator's, and says so in the protocol's shape."""
    answer = client.get(path, headers=headers)
    assert answer.status_code == status
    if status != 200:
        kind = {401: "authentication_error", 403: "permission_error"}[status]
        assert answer.get_json()["error"]["type"] == kind
        assert answer.headers["request-id"] == answer.get_json()["request_id"]


def test_the_page_asks_a_browser_for_a_password_and_its_script_does_not(client):
    """Given no token, then only the page itself has a challenge: a poll must not open a dialog over and over."""
    assert client.get("/status").headers["www-authenticate"].startswith('Basic realm="')
    assert "www-authenticate" not in client.get("/status/live").headers
    assert "www-authenticate" not in client.get("/status", headers=password(USER)).headers
    assert "www-authenticate" not in client.post("/v1/messages", json={"model": "m"}).headers


@pytest.mark.parametrize(("token", "status"), [("", 401), (USER, 403)])
def test_a_browser_is_refused_with_a_page(client, token, status):
    """Given a browser without an operator's token, then it gets the same refusal to read."""
    answer = client.get("/status", headers=BROWSER | (password(token) if token else {}))
    assert answer.status_code == status
    assert answer.content_type.startswith("text/html")
    assert "operator" in answer.get_data(as_text=True)
    assert token == "" or token not in answer.get_data(as_text=True)


def test_an_open_gateway_shows_the_page_to_this_machine_alone(open_client):
    """Given a gateway without tokens, then the page needs none, and a proxied or foreign request is refused."""
    assert open_client.get("/status", headers=LOCAL).status_code == 200
    assert open_client.get("/status", headers=LOCAL | {"x-forwarded-for": "1.2.3.4"}).status_code == 403
    assert open_client.get("/status", headers={"host": "evil.example"}).status_code == 403
    assert open_client.get("/status", headers=LOCAL | {"origin": "http://evil.example"}).status_code == 403


def test_refusals_are_counted(client):
    """Given a refused look at the page, then it is counted as any other refusal is."""
    client.get("/status")
    page = client.get("/metrics").get_data(as_text=True)
    assert 'gateway_requests_total{credential="none",route="status",status="401"} 1.0' in page


@pytest.mark.parametrize("path", [*PAGES, *ASSETS, "/status?refused"])
def test_every_answer_goes_out_under_the_strict_policy(client, path):
    """Given the page, its parts, and a refusal, then nothing but the gateway's own style and script may act on it."""
    headers = {} if "refused" in path else password(OPERATOR)
    answer = client.get(path, headers=headers)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert {policy[name] for name in policy if name.endswith("-src")} == {"'none'", "'self'"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"


class Finder(HTMLParser):
    """Collects what a page would load, and what stands inline."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: set[str] = set()
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.loaded |= {given[name] or "" for name in ("src", "href") if name in given}
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]


@pytest.mark.parametrize("headers", [password(OPERATOR), password(USER)], ids=["page", "refusal"])
def test_the_page_loads_only_its_own_assets_and_has_nothing_inline(client, headers):
    """Given the page, then all that it loads is served here, and no style or script stands in it."""
    finder = Finder()
    finder.feed(client.get("/status", headers=BROWSER | headers).get_data(as_text=True))
    assert finder.loaded <= set(ASSETS)
    assert "/status/page.css" in finder.loaded
    assert finder.inline == []


def test_assets_fetch_nothing_from_elsewhere(client):
    """Given the style, the script and the icon, then none names another server; each has its type."""
    types = []
    for path in ASSETS:
        answer = client.get(path)
        assert answer.status_code == 200
        text = answer.get_data(as_text=True).replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?:|@import|url\(", text)
        types.append(answer.content_type)
    assert types == ["text/css; charset=utf-8", "text/javascript; charset=utf-8", "image/svg+xml"]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json", "application/json"),
        ("application/json, */*;q=0.1", "application/json"),
        ("*/*", "text/html; charset=utf-8"),
        (BROWSER["accept"], "text/html; charset=utf-8"),
        (None, "text/html; charset=utf-8"),
    ],
)
def test_who_asks_for_data_gets_data(client, accept, kind):
    """Given what a client accepts, then it gets the page as data if it wants JSON, and caches are told so."""
    headers = password(OPERATOR) | ({"accept": accept} if accept else {})
    answer = client.get("/status", headers=headers)
    assert answer.content_type == kind
    assert answer.headers["vary"] == "Accept"
    if kind == "application/json":
        assert answer.get_json()["headline"] == "All 2 keys are valid."
        assert "PLANTED" not in answer.text


def test_data_is_for_operators(client):
    """Given a token that is no operator's, then there is no data for it."""
    answer = client.get("/status", headers=password(USER) | {"accept": "application/json"})
    assert (answer.status_code, answer.get_json()["error"]["type"]) == (403, "permission_error")


def test_page_says_which_gateway_it_is_of(client):
    """Given the page, then it names its gateway, so that the script knows one of several behind a proxy."""
    page = client.get("/status/live", headers=password(OPERATOR)).get_data(as_text=True)
    name = socket.gethostname()
    assert f'data-gateway="{name} localhost:80" data-name="{name}"' in page
    assert f"<b>{name}</b>, localhost:80, version {__version__}, up" in page


@pytest.mark.parametrize("path", PAGES)
def test_no_secret_is_on_the_page(client, path):
    """Given planted keys and tokens, then names, escaped, and hints show, and no longer run of a secret."""
    page = client.get(path, headers=password(OPERATOR)).get_data(as_text=True)
    assert "sk-ant-...wxyz" in page
    assert "&lt;b&gt;" in page
    assert "<b>&" not in page
    assert not [trace for trace in ("PLANTED", "0123456789", "uvwxyz", "sha256", "gwt_") if trace in page]


def test_a_resting_key_shows_reason_and_countdown(client):
    """Given a key that cools down, then its row says why and since when, and has the seconds for the script to count;
    so has the headline."""
    gateway = client.application.extensions["gateway"]
    cool(gateway.configuration.pool, 0, 90)
    page = client.get("/status/live", headers=password(OPERATOR)).get_data(as_text=True)
    assert 'data-state="cooling down"' in page
    assert re.search(r"<span>Limited, <time [^>]*>0 s ago</time>.</span>", page)
    assert "primary is back in" in page
    assert len(re.findall(r'<span class="left" role="timer" data-left="(89|90)\.\d\d">1:30</span>', page)) == 2
    assert re.search(r'data-left="(89|90)\.\d\d" data-of="90\.00"', page)


def test_a_retired_key_says_what_to_type(client):
    """Given a key that was refused and one that is disabled, then both say what to do and what to type."""
    pool = client.application.extensions["gateway"].configuration.pool
    retire(pool, 0)
    pool.disable(pool.keys[1])
    page = client.get("/status/live", headers=password(OPERATOR)).get_data(as_text=True)
    assert "Replace it in the keys file, then <code>gateway reload</code>" in page
    assert "If it is good again: <code>gateway keys enable primary</code>" in page
    assert "To use it again: <code>gateway keys enable &lt;b&gt;" in page
    for unclear in ("temporary", "permanent", "not told", "when enabled", "xhaustion"):
        assert unclear not in page


def test_a_limited_scope_has_its_bar_and_the_place_is_shown(client):
    """Given keys of one organisation, one of them limited, then scope, countdown, place and doubt are on the page."""
    pool = client.application.extensions["gateway"].configuration.pool
    for key, workspace in zip(pool.keys, ("wrkspc_01JwQvzr7rXLA5AGx3HKfFUJ", "ws-2"), strict=True):
        pool.learn(key, Place("org-a", workspace))
    pool.cool(pool.statuses("messages/opus-4")[0], 90, "rate_limited", 429, Concern.SCOPE)
    page = client.get("/status/live", headers=password(OPERATOR)).get_data(as_text=True)
    assert "Limited for messages/opus-4" in page
    assert '<span class="scope">messages/opus-4</span>' in page
    assert re.search(r'data-left="(89|90)\.\d\d" data-of="90\.00"', page)
    assert "organisation <code>org-a</code>, workspace <code>...HKfFUJ</code>" in page
    assert "Tried late for messages/opus-4 (its organisation has a limited key)" in page


class UsedLimiter(NoLimits):
    """Says that everybody has used so much."""

    def __init__(self, requests: int, picodollars: int) -> None:
        self._requests = requests
        self._picodollars = picodollars

    def used(self, everybody: Sequence[Limited]) -> list[Used]:
        spent = self._picodollars
        return [Used(each, self._requests, 0, 0, spent, spent, 3600.0, 90_000.0) for each in everybody]


def limits_shown(limiter: UsedLimiter, rules: LimitRules) -> str:
    """The part of the page that changes, on an open gateway with these limits."""
    gateway = Gateway(Settings(keys=(Key("primary", Secret(SECRET)),), limits=rules))
    gateway.begin_limits(lambda: limiter)
    return create_app(gateway=gateway).test_client().get("/status/live", headers=LOCAL).get_data(as_text=True)


def test_limits_are_shown_with_what_is_used_of_them():
    """Given limits that are used up, nearly, and hardly, then each has its state, its share and when it is free, and
    who is refused now is named."""
    rules = LimitRules(
        groups={"research": Limits(requests_per_minute=40, concurrent=4, picodollars_per_day=10**12)},
        default=Limits(requests_per_minute=30, picodollars_per_month=10**14),
    )
    page = limits_shown(UsedLimiter(30, 2 * 10**12), rules)
    assert "Refused now: group research, the clients of this gateway." in page
    shown = re.findall(r'data-limit="([^"]*)".*?class="state (\w+)">\s*(\w+)<.*?<span>([^<]*)</span>', page, re.DOTALL)
    assert shown == [
        ("group/research dollars_per_day", "bad", "reached", "2.00 of 1.00 dollars a day"),
        ("token/ requests_per_minute", "bad", "reached", "30 of 30 requests a minute"),
        ("group/research requests_per_minute", "warning", "near", "30 of 40 requests a minute"),
        ("token/ dollars_per_month", "good", "free", "2.00 of 100.00 dollars a month"),
        ("group/research concurrent", "good", "free", "0 of 4 requests at once"),
    ]
    assert [page.count(words) for words in ("in 1 h 00 min", "in 1 d 1 h", "within a minute")] == [1, 1, 2]


def test_page_without_limits_has_no_word_of_them():
    """Given no limits, then there is no section of them; given unused ones, then nobody is refused."""
    assert "Refused now" not in (page := limits_shown(UsedLimiter(0, 0), LimitRules()))
    assert 'id="limits"' not in page
    page = limits_shown(UsedLimiter(0, 0), LimitRules(default=Limits(concurrent=1)))
    assert "Nobody is refused now." in page


def test_page_shows_the_nearest_hundred_limits_of_many():
    """Given more limits than anybody reads, then the nearest to their end are shown, and how many more there are."""
    rules = LimitRules(groups={f"g{number}": Limits(requests_per_minute=number) for number in range(1, 251)})
    page = limits_shown(UsedLimiter(5, 0), rules)
    assert page.count("data-limit=") == 100
    assert 'data-limit="group/g1 requests_per_minute"' in page
    assert "150 more, of which less is used" in page


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_the_page_can_only_be_looked_at(client, method):
    """Given any other method, then it is refused: the page acts on nothing."""
    answer = client.open("/status", method=method, headers=password(OPERATOR))
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"


def test_moments_and_numbers_are_told_unmistakably():
    """Given a point in time and a large number, then they read the same everywhere."""
    assert (moment(NOW), clock(NOW)) == ("2027-01-15T08:00:00Z", "08:00:00")
    assert [rate(number) for number in (0, 0.25, 9.96, 12.4, 1234)] == ["0", "0.2", "10.0", "12", "1\u2009234"]
    assert [share(percent) for percent in (0, 0.01, 3.14, 10, 100)] == ["0 %", "0.1 %", "3.1 %", "10 %", "100 %"]
    assert grouped(1234567) == "1\u2009234\u2009567"
