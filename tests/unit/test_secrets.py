"""Planted secrets show in no rendering of anything that holds them: text, format, pickle, traceback, log line."""

from __future__ import annotations

import io
import logging
import pickle
import pprint
import socket
import traceback
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from gateway.access.authentication import ByokMode, authenticate
from gateway.access.credential import AuthHeader, Key, Secret, key_headers
from gateway.config.loader import load_settings
from gateway.config.settings import SettingsError
from gateway.config.upstream_proxy import proxy_url
from gateway.keys.classification import Cooldowns
from gateway.keys.failover import Course, walk
from gateway.keys.pool import Pool
from gateway.keys.standing import KeyState
from gateway.keys.store import MemoryStore
from gateway.keys.verdict import Verdict
from gateway.protocol.errors import GatewayError, UpstreamError
from gateway.protocol.messages import Tally, read_request
from gateway.protocol.outcomes import Outcome
from gateway.relay.pace import Pace
from gateway.relay.turn import TurnMaker
from gateway.runtime.lifecycle import Lifecycle
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import Observer
from gateway.upstream import Call, Upstream
from gateway.upstream.connections import Connections
from gateway.upstream.dialer import Dialer, Route
from gateway.upstream.watch import Watch
from gateway.web.app import create_app
from gateway.web.service import Gateway, route_of
from tests.unit.fakes import FakeClock, builder_of

PLANTED = "sk-ant-api03-PLANTED-0123456789-abcdefghijklmnopqrstuvwxyz"
LOGIN = "PLANTED-0123456789-uvwxyz"
OWN = "sk-ant-oat01-OWNPLANTED-0123456789-abcdefghijklmnopqrstuvw"
PROMPT = "PLANTED prompt of the client"
# Any longer run of a secret would narrow it down; the hint's last four characters may show.
TRACES = ("PLANTED", "0123456789", "uvwxyz")

KEY = Key("primary", Secret(PLANTED))
ENVIRON = {
    "GATEWAY_API_KEYS": f"primary={PLANTED}",
    "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9",
    "GATEWAY_UPSTREAM_PROXY": f"socks5://{LOGIN}:{LOGIN}@127.0.0.1:9",
}


def no_files(path: str) -> bytes:
    raise FileNotFoundError(2, "No such file or directory")


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway(load_settings(ENVIRON, no_files))
    yield made
    made.lifecycle.close()
    made.configuration.upstream.close()


def holders(gateway: Gateway, lifecycle: Lifecycle) -> dict[str, object]:
    """One of everything that holds a secret, or holds something that does."""
    caller = authenticate({"x-api-key": OWN}, None, ByokMode.ALLOWED)
    call = Call("POST", "/v1/messages", [("x-odd", PLANTED)], f'{{"model":"m","x":"{PROMPT}"}}'.encode())
    pool = Pool([KEY], MemoryStore(), FakeClock())
    upstream = gateway.configuration.upstream
    route = route_of(gateway.configuration.settings)
    proxy = route.proxy
    assert proxy is not None
    observer = Observer(gateway.metrics, builder_of())
    return {
        "secret": KEY.secret,
        "key": KEY,
        "keys": [KEY, {KEY: KEY}],
        "auth-header": key_headers(KEY)[0],
        "bearer": AuthHeader("authorization", "Bearer ", Secret(OWN)),
        "caller": caller,
        "settings": gateway.configuration.settings,
        "configuration": gateway.configuration,
        "gateway": gateway,
        "pool": pool,
        "status": pool.statuses(),
        "call": call,
        "summary": read_request(call.body),
        "upstream": upstream,
        "turn-maker": TurnMaker(
            upstream, pool, caller, Watch(None, lifecycle), observer, Course(), Cooldowns(60.0, 3600.0), 180.0
        ),
        "observer": observer,
        "route": route,
        "proxy": proxy,
        "proxy-login": proxy.login,
        "dialer": Dialer(route),
        "connections": Connections(route),
        "pace": Pace("req_1", 10.0, FakeClock()),
        "namespace": SimpleNamespace(key=KEY, call=call),
    }


NAMES = [
    *("secret", "key", "keys", "auth-header", "bearer", "caller", "settings", "configuration", "gateway", "pool"),
    *("status", "call", "summary", "upstream", "turn-maker", "observer", "route", "proxy", "proxy-login", "dialer"),
    *("connections", "pace", "namespace"),
]


def assert_clean(text: str) -> None:
    assert not [trace for trace in (*TRACES, PROMPT) if trace in text], text


def test_every_holder_is_named(gateway, lifecycle):
    """Given the table of holders, then the tests below miss none."""
    assert list(holders(gateway, lifecycle)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_no_rendering_shows_a_secret(gateway, lifecycle, name):
    """Given anything that holds a secret, then str, repr, formats and pretty printing show a hint at most."""
    holder = holders(gateway, lifecycle)[name]
    for rendered in (str(holder), repr(holder), f"{holder}", f"{holder!r:>10}", "%s %r" % (holder, holder)):  # noqa: UP031
        assert_clean(rendered)
    assert_clean(pprint.pformat(holder, width=10))
    assert_clean(ascii([holder]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_holds_a_secret(gateway, lifecycle, name, protocol):
    """Given anything that holds a credential, when pickled, then it is refused, or nothing of a secret is in it."""
    holder = holders(gateway, lifecycle)[name]
    buffer = io.BytesIO()
    try:
        pickle.dump(holder, buffer, protocol)
    except (TypeError, pickle.PicklingError, AttributeError) as error:
        assert_clean(str(error))
        return
    if name not in ("call", "namespace"):  # a call's own headers are the client's, without its credentials
        assert_clean(buffer.getvalue().decode("latin-1"))


@pytest.mark.parametrize("name", NAMES)
def test_no_log_line_shows_a_secret(gateway, lifecycle, name, caplog):
    """Given anything that holds a secret, when it is logged or raised with at any level, then a hint at most shows."""
    holder = holders(gateway, lifecycle)[name]
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("gateway.test").error("%s and %r", holder, holder, exc_info=ValueError(holder))
    assert_clean(caplog.text)


@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
def test_no_traceback_shows_a_secret(gateway, lifecycle, scheme):
    """Given a call that fails with a key and a proxy's login in hand, then its traceback, chain included, is clean."""
    pool = Pool([KEY], MemoryStore(), FakeClock())
    with socket.create_server(("127.0.0.1", 0)) as unused:
        proxy = proxy_url(f"{scheme}://{LOGIN}:{LOGIN}@127.0.0.1:{unused.getsockname()[1]}")
    upper = Upstream(Route("http://127.0.0.1:9", 5.0, 30.0, proxy=proxy), 30.0)
    observer = Observer(Metrics(), builder_of())

    def attempt(key):
        yield
        upper.send(Call("POST", "/v1/messages", [], b"{}"), key_headers(key), Watch(None, lifecycle))

    with pytest.raises(UpstreamError) as raised:
        list(walk(pool, attempt, observer))
    assert_clean("".join(traceback.format_exception(raised.value)))
    error = raised.value
    while error is not None:
        assert_clean(repr(error) + repr(error.args))
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "environ",
    [
        {"GATEWAY_API_KEYS": f"a={PLANTED},b={PLANTED}"},
        {"GATEWAY_API_KEYS": f"a={PLANTED}\t{PLANTED}"},
        {"GATEWAY_API_KEYS": f"{PLANTED}=a"},
        {"GATEWAY_API_KEYS": PLANTED, "GATEWAY_ALLOW_BYOK": "only"},
        {"GATEWAY_API_KEYS": PLANTED, "GATEWAY_PING_SECONDS": "0"},
        {"GATEWAY_API_KEYS": PLANTED, "GATEWAY_UPSTREAM_PROXY": f"http://{PLANTED}:{PLANTED}@proxy"},
        {"GATEWAY_API_KEYS": PLANTED, "GATEWAY_UPSTREAM_PROXY": f"socks5://u:{PLANTED}%ff@proxy:1"},
        {"GATEWAY_API_KEYS": PLANTED, "GATEWAY_UPSTREAM_PROXY": f"https://u:{PLANTED}@[proxy:1"},
    ],
    ids=["twice", "space", "swapped", "unused", "other-fault", "proxy", "proxy-bytes", "proxy-host"],
)
def test_no_complaint_shows_a_secret(environ):
    """Given a configuration with a fault, then the error, its traceback and its complaints show no secret."""
    with pytest.raises(SettingsError) as raised:
        load_settings(environ, no_files)
    assert_clean("".join(traceback.format_exception(raised.value)))
    assert_clean(repr(raised.value.complaints))


def test_observer_tells_names_and_hints(caplog):
    """Given marks and attempts, when told at the lowest level, then the lines name key and hint and no secret."""
    metrics = Metrics()
    observer = Observer(metrics, builder_of())
    with caplog.at_level(logging.DEBUG, logger="gateway"):
        for outcome in Outcome:
            observer.attempt_ended(KEY, Verdict(outcome, 5.0), Tally(), is_stream=False)
            observer.failed_over(KEY, Verdict(outcome, 5.0))
        observer.transitioned(KEY, KeyState.TEMPORARY, Verdict(Outcome.RATE_LIMITED, 5.0))
        observer.transitioned(KEY, KeyState.PERMANENT, Verdict(Outcome.FORBIDDEN))
    assert "primary (sk-ant-...wxyz)" in caplog.text
    assert_clean(caplog.text)
    assert_clean(metrics.render().decode())


@pytest.mark.parametrize(
    ("method", "path", "headers", "body"),
    [
        ("POST", "/v1/messages", {}, b"{}"),
        ("POST", "/v1/messages", {"x-api-key": OWN}, b'{"model":"m"}'),
        ("POST", "/v1/messages", {}, b'{"model":"m"}'),
        ("POST", "/v1/messages", {"x-api-key": OWN}, PROMPT.encode()),
        ("GET", "/v1/models", {"authorization": f"Bearer {OWN}"}, b""),
        ("GET", f"/{OWN}", {}, b""),
        ("GET", "/metrics", {"x-api-key": OWN}, b""),
        ("GET", "/", {"x-api-key": OWN}, b""),
        ("DELETE", "/v1/messages", {"x-api-key": OWN}, b""),
        ("GET", "/v1/models", {"x-forwarded-for": OWN}, b""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_answer_log_or_metric_shows_a_credential(gateway, caplog, method, path, headers, body):
    """Given requests that fail in many ways, then answer, log and metrics show no key, credential or prompt."""
    caplog.set_level(logging.DEBUG)
    client = create_app(gateway=gateway).test_client()
    answer = client.open(path, method=method, headers={"host": "localhost"} | headers, data=body)
    told = f"{answer.status}\n{answer.headers}\n{answer.get_data(as_text=True)}"
    assert_clean(told.replace(OWN, "") if path == f"/{OWN}" else told)  # what the client asked for is told it again
    assert_clean(caplog.text)
    assert_clean(client.get("/metrics", headers={"host": "localhost"}).get_data(as_text=True))


def test_a_bug_in_the_gateway_shows_no_secret(gateway, caplog, monkeypatch):
    """Given a bug that surfaces with a credential in hand, then answer and logged traceback are clean."""

    def broken(self, call, credentials, watch):
        raise RuntimeError(f"a bug with {credentials} and {call}")

    monkeypatch.setattr(Upstream, "exchange", broken)
    client = create_app(gateway=gateway).test_client()
    answer = client.post("/v1/messages", headers={"host": "localhost"}, json={"model": "m", "messages": PROMPT})
    assert answer.status_code == 500
    assert answer.get_json()["error"]["type"] == "api_error"
    assert "a bug with" in caplog.text
    assert_clean(caplog.text + answer.get_data(as_text=True))


def test_metrics_name_keys_and_not_secrets(gateway):
    """Given a key that was never named, then its label is its place, and a named one's is its name."""
    assert b'key="primary"' in gateway.metrics.render()
    unnamed = load_settings(ENVIRON | {"GATEWAY_API_KEYS": PLANTED}, no_files)
    assert [key.name for key in unnamed.keys] == ["key-1"]


def test_errors_of_the_gateway_carry_no_credential():
    """Given an error, then all that it carries is a message, a number, an id and a name."""
    error = GatewayError("message", retry_after_seconds=3)
    carried = {"message": "message", "retry_after_seconds": 3, "request_id": None, "token_name": None}
    assert vars(error) == carried
