"""The settings: every one of them good and bad, where they come from, and what is said when they are wrong."""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.authentication import ByokMode
from gateway.access.credential import Secret
from gateway.config.capacity import Capacity
from gateway.config.limit_rules import LimitRules, Limits
from gateway.config.loader import load_settings
from gateway.config.settings import Settings, SettingsError, setting_specs, settle
from gateway.config.upstream_proxy import Login, UpstreamProxy
from gateway.config.values import is_local_address
from gateway.pricing.money import PICODOLLARS

PLANTED = "sk-ant-planted-0123456789-abcdefghij"
ENOENT = FileNotFoundError(2, "No such file or directory")
TOKEN_LINE = f"ann sha256:{'0' * 64}\n"


def load(files: dict[str, bytes | str] | None = None, **environ: str) -> Settings:
    """Load from GATEWAY_* given by their lower-case names, with one key unless the test gives its own."""
    named = {f"GATEWAY_{name.upper()}": value for name, value in ({"api_keys": PLANTED} | environ).items()}
    return load_settings({"HOME": "/home/ann"} | named, reader(files or {}))


def reader(files):
    def read(path: str) -> bytes:
        if path not in files:
            raise ENOENT
        content = files[path]
        return content if isinstance(content, bytes) else content.encode()

    return read


def complaints(files=None, **environ) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        load(files, **environ)
    assert str(raised.value) == "\n".join(raised.value.complaints)
    assert PLANTED not in str(raised.value)
    assert all("\n" not in line for line in raised.value.complaints)
    return raised.value.complaints


def proxy_with_login(scheme: str, user: str, password: str) -> UpstreamProxy:
    return UpstreamProxy(scheme, "proxy", 3128, Login(Secret(user), Secret(password)))


MODELS = '[[model]]\nid = "claude-x"\nclass = "x"\n'
PRICES = """[[price]]
model = "claude-x"
from = 2026-11-01
input = 1
cache_write_5m = 1.25
cache_write_1h = 2
cache_read = 0.1
output = 5
source = "ours"
"""
FILES = {
    "/models": MODELS,
    "/prices": PRICES,
    "/keys": "a=first-secret\n",
    "/tokens": TOKEN_LINE,
    "/ca.pem": "a certificate",
}

# name, default, texts that are good with the value they give, texts that are bad
SECONDS_BAD = ["0", "-1", "soon", "nan", "inf", "1e400", "5s", "1e9"]
SECONDS_GOOD = {"5": 5.0, "0.25": 0.25, " 7 ": 7.0}
TABLE = [
    (
        "upstream_url",
        "https://api.anthropic.com",
        {
            "http://127.0.0.1:9999": "http://127.0.0.1:9999",
            "https://example.org/anthropic/": "https://example.org/anthropic",
            "http://[::1]:8000": "http://[::1]:8000",
        },
        ["api.anthropic.com", "ftp://x", "https://", "https://u:p@x", "https://x?a=b", "https://x#f", "http://x:port"],
    ),
    ("api_keys", None, {"a=b": None}, []),  # the text is not kept: it is made into keys
    ("api_keys_file", None, {"/keys": "/keys"}, ["/nowhere"]),
    ("client_tokens_file", None, {"/tokens": "/tokens"}, ["/nowhere"]),
    (
        "allow_byok",
        ByokMode.ALLOWED,
        {"true": ByokMode.ALLOWED, "False": ByokMode.FORBIDDEN},
        ["yes", "1", "never"],
    ),
    (
        "cors_origins",
        (),
        {
            "https://app.example.com": ("https://app.example.com",),
            "HTTPS://App.example.com/ , http://localhost:3000": ("https://app.example.com", "http://localhost:3000"),
            "https://a.example:443,http://b.example:80": ("https://a.example", "http://b.example"),
            "chrome-extension://abcdef": ("chrome-extension://abcdef",),
            "http://[::1]:3000": ("http://[::1]:3000",),
            "none": (),
        },
        [
            "app.example.com",
            "https://",
            "https://a/b",
            "https://*.example",
            "null",
            "*, https://a",
            "https://u@a",
            "a,",
        ],
    ),
    (
        "drop_request_headers",
        (),
        {"x-team": ("x-team",), "X-Team, X-Corp-*": ("x-team", "x-corp-*")},
        ["*", "x team", "x-*-y", "x-team,", "x-team:"],
    ),
    (
        "bind",
        "127.0.0.1:8080",
        {"localhost:0": "localhost:0", "[::1]:80": "[::1]:80", "unix:/run/g.sock": "unix:/run/g.sock"},
        ["8080", ":8080", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1"],
    ),
    ("name", None, {"gateway-1": "gateway-1"}, []),
    ("workers", 1, {"1": 1, "4": 4}, ["0", "-1", "1.5", "many"]),
    ("max_requests", 10_000, {"1": 1, "240": 240}, ["0", "-1", "many"]),
    ("threads", 32, {"8": 8}, ["1", "0", "-5", "many"]),
    ("pin_workers", True, {"false": False, "TRUE": True}, ["no", "0"]),
    ("reserved_threads", None, {"1": 1}, ["0", "-1", "256", "few"]),
    ("head_timeout_seconds", 15.0, SECONDS_GOOD, SECONDS_BAD),
    ("body_timeout_seconds", 60.0, SECONDS_GOOD, SECONDS_BAD),
    ("write_timeout_seconds", 60.0, SECONDS_GOOD, SECONDS_BAD),
    (
        "trusted_proxies",
        (ip_network("127.0.0.0/8"), ip_network("::1")),
        {
            "10.0.0.7": (ip_network("10.0.0.7"),),
            "10.1.0.0/16, fd00::/8": (ip_network("10.1.0.0/16"), ip_network("fd00::/8")),
            "none": (),
        },
        ["nginx", "10.0.0.7/8", "10.0.0.0/33", "10.0.0.7,", "all"],
    ),
    (
        "upstream_proxy",
        None,
        {
            "http://proxy:3128": UpstreamProxy("http", "proxy", 3128),
            "HTTP://Proxy:3128/": UpstreamProxy("http", "proxy", 3128),
            "https://proxy:443": UpstreamProxy("https", "proxy", 443),
            "socks5://10.0.0.7:1080": UpstreamProxy("socks5", "10.0.0.7", 1080),
            "socks5h://[fd00::7]:1080": UpstreamProxy("socks5h", "fd00::7", 1080),
            "http://u:p@proxy:3128": proxy_with_login("http", "u", "p"),
            "http://u@proxy:3128": proxy_with_login("http", "u", ""),
            "https://me%40corp:p%3A%2F%23%25@proxy:3128": proxy_with_login("https", "me@corp", "p:/#%"),
            "socks5://u:p:q@proxy:3128": proxy_with_login("socks5", "u", "p:q"),
            "socks5h://u:caf%C3%A9@proxy:3128": proxy_with_login("socks5h", "u", "caf\u00e9"),
            "http://u:" + 300 * "p" + "@proxy:3128": proxy_with_login("http", "u", 300 * "p"),
        },
        [
            "proxy:3128",
            "ftp://proxy:3128",
            "socks4://proxy:1080",
            "socks://proxy:1080",
            "http://proxy",
            "socks5://proxy",
            "http://proxy:0",
            "http://proxy:65536",
            "http://proxy:3128/x",
            "http://proxy:3128?x",
            "http://proxy:3128#x",
            "http://:p@proxy:3128",
            "http://@proxy:3128",
            "http://u:p@:3128",
            "http://u:p/q@proxy:3128",
            "http://u:p q@proxy:3128",
            "http://u%3Av:p@proxy:3128",
            "http://u:%ff@proxy:3128",
            "socks5://u:" + 256 * "p" + "@proxy:3128",
            "socks5://" + 128 * "%C3%A9" + ":p@proxy:3128",
        ],
    ),
    ("upstream_ca_file", None, {"/ca.pem": "/ca.pem"}, ["/nowhere"]),
    ("default_cooldown_seconds", 60.0, SECONDS_GOOD, SECONDS_BAD),
    ("money_rest_seconds", 3600.0, SECONDS_GOOD, SECONDS_BAD),
    ("session_pin_seconds", 300.0, {**SECONDS_GOOD, "0": 0.0}, [text for text in SECONDS_BAD if text != "0"]),
    ("session_pin_lasting_seconds", 3600.0, SECONDS_GOOD, SECONDS_BAD),
    ("models_file", None, {"/models": "/models"}, ["/nowhere", "/keys"]),
    ("prices_file", None, {"/prices": "/prices"}, ["/nowhere", "/keys"]),
    ("limits", LimitRules(), {}, ["research=50", "{}", "[limits.default]", "50"]),
    ("limits_fail", "open", {"CLOSED": "closed", "open": "open"}, ["true", "half", "0"]),
    ("ping_seconds", 10.0, SECONDS_GOOD, SECONDS_BAD),
    ("connect_timeout_seconds", 5.0, SECONDS_GOOD, SECONDS_BAD),
    ("read_idle_timeout_seconds", 600.0, SECONDS_GOOD, SECONDS_BAD),
    ("stream_idle_timeout_seconds", 180.0, SECONDS_GOOD, SECONDS_BAD),
    ("idle_connection_seconds", 30.0, SECONDS_GOOD, SECONDS_BAD),
    ("max_body_bytes", 33554432, {"1024": 1024}, ["1023", "0", "-1", "32MB", "1e6"]),
    ("max_turns", 20, {"2": 2}, ["1", "0", "-1", "many"]),
    ("parallel_tool_use", False, {"true": True, "FALSE": False}, ["yes", "1", "0"]),
    (
        "tools_excluded_models",
        re.compile("haiku"),
        {"^$": re.compile("^$"), "haiku|-mini": re.compile("haiku|-mini")},
        ["(", "*", "[a"],
    ),
    ("mcp_servers", (), {}, ["http://127.0.0.1:9/mcp", "files=http://127.0.0.1:9/mcp"]),
    ("mcp_start_seconds", 5.0, {**SECONDS_GOOD, "45": 45.0}, [*SECONDS_BAD, "46"]),
    ("mcp_refresh_seconds", 300.0, SECONDS_GOOD, SECONDS_BAD),
    ("tool_description_max_bytes", 32768, {"1": 1}, ["0", "-1", "1MB"]),
    ("tool_definition_max_bytes", 131072, {"1": 1}, ["0", "-1", "1MB"]),
    ("tools_max_bytes", 1048576, {"1": 1}, ["0", "-1", "1MB"]),
    ("tool_result_max_bytes", 262144, {"1024": 1024}, ["1023", "0", "-1", "1MB"]),
    ("drain_seconds", 300.0, SECONDS_GOOD, SECONDS_BAD),
    ("data_dir", "/home/ann/.local/state/messages-gateway", {"/var/lib/gateway": "/var/lib/gateway"}, []),
    ("probe_seconds", 300.0, {**SECONDS_GOOD, "0": 0.0}, [text for text in SECONDS_BAD if text != "0"]),
    ("probe_at_start", True, {"true": True, "FALSE": False}, ["yes", "1", "0"]),
    (
        "state_url",
        None,
        {
            "redis://redis.internal:6379/0": "redis://redis.internal:6379/0",
            "rediss://:secret@redis.internal": "rediss://:secret@redis.internal",
            "unix:///run/redis.sock": "unix:///run/redis.sock",
        },
        ["redis.internal:6379", "http://redis.internal", "redis://redis internal", "sqlite:///state.db", "embedded"],
    ),
    (
        "record_url",
        None,
        {
            "sqlite:////var/lib/gateway/records.db": "sqlite:////var/lib/gateway/records.db",
            "postgresql://gateway:secret@db.internal/gateway": "postgresql://gateway:secret@db.internal/gateway",
            "None": "none",
        },
        ["records.db", "mysql://db.internal/x", "postgresql://db internal/x", "redis://db.internal", "off"],
    ),
    ("record_retention_days", 90, {"1": 1, "3650": 3650}, ["0", "-1", "1.5", "forever"]),
    ("log_level", "info", {"DEBUG": "debug", "warning": "warning"}, ["verbose", "20"]),
    ("log_format", "text", {"JSON": "json", "text": "text"}, ["xml", "logfmt", "true"]),
    ("access_log", None, {"true": True, "False": False}, ["on", "1", "/var/log/access"]),
    ("tracing", "off", {"OTLP": "otlp", "off": "off"}, ["jaeger", "on", "http://localhost:4318"]),
]
GOOD = [
    pytest.param(name, text, value, id=f"{name}={text}") for name, _, good, _ in TABLE for text, value in good.items()
]
BAD = [pytest.param(name, text, id=f"{name}={text}") for name, _, _, bad in TABLE for text in bad]


def test_table_has_every_setting():
    """Given the settings, then this module's table misses none."""
    assert [name for name, *_ in TABLE] == [name for name, _ in setting_specs()]


@pytest.mark.parametrize(("name", "default"), [row[:2] for row in TABLE])
def test_setting_has_its_default(name, default):
    """Given nothing but a key, then the setting has the design's default."""
    assert getattr(load(), name) == default


@pytest.mark.parametrize(
    ("environ", "data_dir"),
    [
        pytest.param({"HOME": "/home/ann"}, "/home/ann/.local/state/messages-gateway", id="home"),
        pytest.param({"HOME": "/home/ann", "XDG_STATE_HOME": "/state"}, "/state/messages-gateway", id="xdg"),
        pytest.param(
            {"HOME": "/home/ann", "XDG_STATE_HOME": ""}, "/home/ann/.local/state/messages-gateway", id="blank"
        ),
        pytest.param({"XDG_STATE_HOME": "/state", "GATEWAY_DATA_DIR": "/data"}, "/data", id="given"),
        pytest.param(
            {"XDG_STATE_HOME": "/state", "GATEWAY_DATA_DIR": " "}, "/state/messages-gateway", id="given-blank"
        ),
    ],
)
def test_data_folder_is_where_programs_keep_their_state(environ, data_dir):
    """Given the environment's word on state, then the data folder is there, unless the setting names another."""
    assert load_settings({"GATEWAY_API_KEYS": PLANTED} | environ, reader({})).data_dir == data_dir


@pytest.mark.parametrize("blank", ["", "  "])
def test_empty_variable_counts_as_unset(blank):
    """Given a variable that is set to nothing, then the default stands."""
    assert load(ping_seconds=blank, upstream_proxy=blank, client_tokens_file=blank) == replace(
        load(), digest=load(ping_seconds=blank, upstream_proxy=blank).digest
    )


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_good_value_is_taken(name, text, value):
    """Given a good value in the environment, then the setting has it."""
    assert getattr(load(FILES, **{name: text}), name) == value


@pytest.mark.parametrize(("name", "text"), BAD)
def test_bad_value_is_one_complaint_that_names_it(name, text):
    """Given a bad value, then the start fails with one line that names the setting."""
    (line,) = complaints(FILES, **{name: text})
    assert f"GATEWAY_{name.upper()}" in line


@pytest.mark.parametrize(
    ("name", "text"), [param for param in BAD if param.values[0] not in ("workers", "reserved_threads")]
)
def test_bad_value_in_the_file_is_one_complaint_that_names_it(name, text):
    """Given a bad value in the TOML file, then the start fails with one line that names it."""
    (line,) = complaints(FILES | {"/g.toml": f"{name} = {text!r}"}, config="/g.toml")
    assert name in line.lower()


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("ping_seconds = true", id="boolean-for-seconds"),
        pytest.param("ping_seconds = [1]", id="list-for-seconds"),
        pytest.param("ping_seconds = nan", id="nan"),
        pytest.param("ping_seconds = 1" + "0" * 400, id="seconds-past-any-float"),
        pytest.param("threads = 1.5", id="fraction-for-count"),
        pytest.param("threads = false", id="boolean-for-count"),
        pytest.param("bind = 8080", id="number-for-text"),
        pytest.param("upstream_url = {}", id="table-for-text"),
        pytest.param("api_keys = 5", id="number-for-keys"),
        pytest.param("allow_byok = 1", id="number-for-byok"),
        pytest.param("log_level = 1979-05-27", id="date-for-text"),
        pytest.param("ping_second = 1", id="unknown-name"),
        pytest.param("[ping_seconds]\nx = 1", id="table-for-seconds"),
        pytest.param("ping_seconds =", id="broken-toml"),
        pytest.param("ping_seconds = 1\nping_seconds = 2", id="twice"),
        pytest.param("GATEWAY_PING_SECONDS = 1", id="environment's-name"),
    ],
)
def test_file_of_the_wrong_types_is_complained_of(line):
    """Given a TOML file with a value of another type or a fault, then one complaint."""
    given_keys = {"api_keys": ""} if line.startswith("api_keys") else {}
    assert complaints({"/g.toml": line}, config="/g.toml", **given_keys)[0].count("/g.toml") == 1


def test_file_gives_settings_with_toml_types():
    """Given a TOML file with numbers, booleans and a list of keys, then they are taken."""
    text = 'ping_seconds = 3\ndrain_seconds = 2.5\nthreads = 64\nallow_byok = false\napi_keys = ["a=x1", "y2"]\n'
    settings = load({"/g.toml": text}, config="/g.toml", api_keys="")
    assert (settings.ping_seconds, settings.drain_seconds, settings.threads) == (3.0, 2.5, 64)
    assert settings.allow_byok is ByokMode.FORBIDDEN
    assert [(key.name, key.secret.reveal()) for key in settings.keys] == [("a", "x1"), ("key-2", "y2")]


def test_environment_wins_over_the_file():
    """Given a setting in both, then the environment's value counts, even if the file's is bad."""
    text = 'ping_seconds = 3\nthreads = "bad"\napi_keys = "file-secret"\n'
    settings = load({"/g.toml": text}, config="/g.toml", ping_seconds="4", threads="8", reserved_threads="2")
    assert (settings.ping_seconds, settings.threads) == (4.0, 8)
    assert [key.secret.reveal() for key in settings.keys] == [PLANTED]


@pytest.mark.parametrize(
    ("files", "what"),
    [
        pytest.param({}, "cannot read /g.toml: No such file", id="missing"),
        pytest.param({"/g.toml": b"\xff"}, "not UTF-8", id="not-utf-8"),
        pytest.param({"/g.toml": "a b"}, "not valid TOML", id="not-toml"),
    ],
)
def test_unreadable_file_is_complained_of(files, what):
    """Given a configuration file that cannot be read, then one line says so."""
    (line,) = complaints(files, config="/g.toml")
    assert what in line


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GATEWAY_PINGSECONDS", "GATEWAY_PING_SECONDS"),
        ("GATEWAY_Ping_Seconds", "GATEWAY_PING_SECONDS"),
        ("GATEWAY_KEYS", "GATEWAY_API_KEYS"),
        ("GATEWAY_UPSTREAM", "GATEWAY_UPSTREAM_URL"),
        ("GATEWAY_DATADIR", "GATEWAY_DATA_DIR"),
        ("GATEWAY_", None),
        ("GATEWAY_ZZZZZZ", None),
    ],
)
def test_unknown_name_is_refused(name, meant):
    """Given a GATEWAY_ name that is no setting, or one in another case, then one line names it, and one it is like."""
    with pytest.raises(SettingsError) as raised:
        load_settings({"GATEWAY_API_KEYS": PLANTED, name: "5"}, reader({}))
    told = f"; did you mean {meant}?" if meant else ""
    assert raised.value.complaints == [f"{name}: this setting does not exist{told}"]


@pytest.mark.parametrize("name", ["ping_second", "PING_SECONDS", "ping-seconds", "gateway_ping_seconds"])
def test_unknown_name_in_the_file_is_told_with_the_one_that_was_meant(name):
    """Given a name in the TOML file that is no setting but is like one, then the line asks whether that was meant."""
    with pytest.raises(SettingsError) as raised:
        load_settings({"GATEWAY_API_KEYS": PLANTED, "GATEWAY_CONFIG": "/g"}, reader({"/g": f"{name} = 5"}))
    assert raised.value.complaints == [f"/g: {name}: this setting does not exist; did you mean ping_seconds?"]


@pytest.mark.parametrize(
    "name",
    [
        "GATEWAY_PORT",
        "GATEWAY_PORT_8080_TCP",
        "GATEWAY_PORT_8080_TCP_ADDR",
        "GATEWAY_SERVICE_HOST",
        "GATEWAY_SERVICE_PORT",
        "GATEWAY_SERVICE_PORT_HTTP",
        "GATEWAY_REDIS_SERVICE_HOST",
        "GATEWAY_REDIS_SERVICE_PORT",
        "GATEWAY_REDIS_SERVICE_PORT_REDIS",
        "GATEWAY_REDIS_PORT",
        "GATEWAY_REDIS_PORT_6379_TCP",
        "GATEWAY_REDIS_PORT_6379_TCP_PROTO",
        "GATEWAY_REDIS_PORT_6379_TCP_PORT",
        "GATEWAY_REDIS_PORT_6379_TCP_ADDR",
        "GATEWAY_THREADS_PORT_53_UDP_ADDR",
        "GATEWAY_MCP_FILES_SERVICE_HOST",
        "OTHER_THING",
        "MY_GATEWAY_THREADS",
    ],
)
def test_name_that_kubernetes_injects_is_ignored(name):
    """Given a name that is injected for a Service called gateway or gateway-anything, or is none of ours, then nothing
    is said."""
    assert load_settings({"GATEWAY_API_KEYS": PLANTED, name: "tcp://10.0.0.1:80"}, reader({})).keys


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_BIND_PORT", "8080"),
        ("GATEWAY_UPSTREAM_PORT", "443"),
        ("GATEWAY_UPSTREAM_HOST", "10.0.0.1"),
        ("GATEWAY_REDIS_PORT_TCP", "tcp://10.0.0.1:6379"),
        ("GATEWAY_REDIS_URL", "redis://10.0.0.1"),
        ("GATEWAY_REDIS_SERVICE", "10.0.0.1"),
        ("GATEWAY_redis_PORT", "tcp://10.0.0.1:6379"),
    ],
)
def test_name_that_only_looks_injected_is_refused(name, value):
    """Given a name that somebody may have written for a setting, then it is complained of all the same."""
    with pytest.raises(SettingsError, match=f"{name}: this setting does not exist"):
        load_settings({"GATEWAY_API_KEYS": PLANTED, name: value}, reader({}))


def test_any_origin_needs_tokens():
    """Given `*` for the origins, then it is taken with a token file, and refused without one."""
    assert load(FILES, cors_origins="*", client_tokens_file="/tokens").cors_origins == ("*",)
    (line,) = complaints(cors_origins="*")
    assert "GATEWAY_CORS_ORIGINS" in line


def pairs(settings):
    return [(key.name, key.secret.reveal()) for key in settings.keys]


@pytest.mark.parametrize(
    ("environ", "keys_file", "expected"),
    [
        pytest.param("s1", "", [("key-1", "s1")], id="one-unnamed"),
        pytest.param("s1,s2", "", [("key-1", "s1"), ("key-2", "s2")], id="unnamed"),
        pytest.param(" a = s1 , b=s2,", "", [("a", "s1"), ("b", "s2")], id="named-with-spaces"),
        pytest.param("a=s1,s2", "", [("a", "s1"), ("key-2", "s2")], id="mixed"),
        pytest.param("a=s1=x==", "", [("a", "s1=x==")], id="equals-signs-in-a-named-secret"),
        pytest.param("", "# ours\na=s1\n\n  s2  \r\n", [("a", "s1"), ("key-2", "s2")], id="file"),
        pytest.param("a=s1", "b=s2\n", [("a", "s1"), ("b", "s2")], id="both-environment-first"),
        pytest.param("", "b,c=s2\n".replace(",", ""), [("bc", "s2")], id="no-commas-in-files"),
    ],
)
def test_keys_are_read_in_failover_order(environ, keys_file, expected):
    """Given lists of keys, then names, secrets and order are these."""
    more = {"api_keys_file": "/keys"} if keys_file else {}
    assert pairs(load({"/keys": keys_file}, api_keys=environ, **more)) == expected


@pytest.mark.parametrize(
    ("environ", "keys_file", "what"),
    [
        pytest.param(f"a={PLANTED},b={PLANTED}", "", "entry 2: b has the same secret as a", id="secret-twice"),
        pytest.param(f"{PLANTED},{PLANTED}", "", "entry 2: key-2 has the same secret as key-1", id="unnamed-twice"),
        pytest.param(f"a={PLANTED}", f"b={PLANTED}", "line 1: b has the same secret as a", id="twice-across-lists"),
        pytest.param(f"a=x,a={PLANTED}", "", "entry 2: the name a is used twice", id="name-twice"),
        pytest.param(f"key-2={PLANTED},other", "", "entry 2: the name key-2 is used twice", id="name-of-an-unnamed"),
        pytest.param("a=", "", "entry 1: the secret", id="empty-secret"),
        pytest.param(f"a={PLANTED} {PLANTED}", "", "entry 1: the secret", id="space-in-secret"),
        pytest.param(f"a={PLANTED}é", "", "entry 1: the secret", id="secret-not-ascii"),
        pytest.param(f"=={PLANTED}", "", "entry 1: a key's name", id="empty-name"),
        pytest.param(f"a b={PLANTED}", "", "entry 1: a key's name", id="space-in-name"),
        pytest.param(f"{'n' * 64}={PLANTED}", "", "entry 1: a key's name", id="long-name"),
        pytest.param(f"{PLANTED}=", "", "entry 1", id="secret-that-ends-in-an-equals-sign"),
        pytest.param(f"{PLANTED}=primary", "", "entry 1", id="name-and-secret-swapped"),
        pytest.param("", f"# one\n{PLANTED}=primary\n", "line 2", id="swapped-in-the-file"),
    ],
)
def test_bad_key_is_one_complaint_without_its_secret(environ, keys_file, what):
    """Given a key that cannot be used, then one line says which and why, and does not quote the secret."""
    more = {"api_keys_file": "/keys"} if keys_file else {}
    lines = complaints({"/keys": keys_file}, api_keys=environ, **more)
    assert len(lines) == 1
    assert what in lines[0]


def test_no_keys_are_refused_with_advice():
    """Given no keys, then the start fails and the line names the ways to give some."""
    (line,) = complaints(api_keys="")
    assert all(name in line for name in ("GATEWAY_API_KEYS", "GATEWAY_API_KEYS_FILE", "GATEWAY_ALLOW_BYOK=only"))


def test_byok_only_needs_no_keys():
    """Given `only`, then no keys are needed, and keys beside it are refused as they would never be used."""
    settings = load(api_keys="", allow_byok="only")
    assert (settings.keys, settings.allow_byok) == ((), ByokMode.ONLY)
    (line,) = complaints(allow_byok="only")
    assert "GATEWAY_ALLOW_BYOK=only" in line


@pytest.mark.parametrize(
    "bind", ["0.0.0.0:8080", "[::]:8080", "10.0.0.5:80", "gateway.internal:80", "localhost.evil.example:1"]
)
def test_open_gateway_binds_loopback_only(bind):
    """Given no token file, when bound elsewhere than to loopback, then refused; with a token file, taken."""
    (line,) = complaints(bind=bind)
    assert "GATEWAY_CLIENT_TOKENS_FILE" in line
    assert load(FILES, bind=bind, client_tokens_file="/tokens").bind == bind


@pytest.mark.parametrize(
    ("bind", "is_local"),
    [
        ("127.0.0.1:80", True),
        ("127.8.8.8:80", True),
        ("localhost:80", True),
        ("[::1]:80", True),
        ("unix:/run/gateway.sock", True),
        ("0.0.0.0:80", False),
        ("[::]:80", False),
        ("192.168.0.1:80", False),
    ],
)
def test_local_addresses_are_known(bind, is_local):
    """Given an address to listen on, then it is reachable from elsewhere or it is not."""
    assert is_local_address(bind) is is_local


def test_tokens_are_read():
    """Given a token file, then its tokens are in the settings and the gateway is not open."""
    settings = load(FILES, client_tokens_file="/tokens")
    assert not settings.is_open
    assert [token.name for token in settings.tokens] == ["ann"]
    assert load({"/tokens": ""}, client_tokens_file="/tokens").tokens == ()
    assert load().is_open


def test_bad_token_file_is_complained_of():
    """Given a token file with a bad line, then one complaint names the file and the line."""
    (line,) = complaints({"/tokens": f"{TOKEN_LINE}bob {PLANTED}"}, client_tokens_file="/tokens")
    assert line.startswith("/tokens: line 2")


def test_all_faults_are_reported_at_once():
    """Given faults in the environment, the file, the keys and the tokens, then each has its line."""
    files = {"/g.toml": "nonsense = 1\nthreads = 0\n", "/tokens": "bad"}
    lines = complaints(
        files,
        config="/g.toml",
        ping_seconds="0",
        typo="x",
        api_keys="a=,b= ",
        api_keys_file="/nowhere",
        client_tokens_file="/tokens",
        bind="nowhere",
    )
    assert len(lines) == 9
    for name in ("nonsense", "threads", "PING_SECONDS", "TYPO", "entry 1", "entry 2", "/nowhere", "/tokens", "BIND"):
        assert any(name in line for line in lines), name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param(f"http://user:{PLANTED}@proxy:3128/path", "upstream_proxy", id="proxy-password"),
        pytest.param(f"http://user:{PLANTED}@proxy:port", "upstream_proxy", id="proxy-password-and-no-port"),
        pytest.param(f"http://user:{PLANTED}@[proxy:3128", "upstream_proxy", id="proxy-password-and-bad-host"),
        pytest.param(f"http://user:{PLANTED}%ff@proxy:3128", "upstream_proxy", id="proxy-password-of-bytes"),
        pytest.param(f"http://user:{PLANTED}\udcff@proxy:3128", "upstream_proxy", id="proxy-password-of-odd-bytes"),
        pytest.param(f"http://{PLANTED}:@proxy", "upstream_proxy", id="proxy-user"),
        pytest.param(f"https://user:{PLANTED}@upstream", "upstream_url", id="upstream-password"),
        pytest.param(f"https://upstream?key={PLANTED}", "upstream_url", id="upstream-query"),
        pytest.param(f"http://:{PLANTED}@redis", "state_url", id="redis-password"),
        pytest.param(f"redis://:{PLANTED}@re dis", "state_url", id="redis-password-and-space"),
    ],
)
def test_complaint_about_a_url_does_not_quote_it(text, name):
    """Given a URL that holds a password and is bad, then the complaint does not show it."""
    assert len(complaints(**{name: text})) == 1


def test_repr_shows_no_password():
    """Given a Redis that wants a password, then the settings' repr does not show it."""
    assert PLANTED not in repr(load(api_keys="a=other", state_url=f"redis://:{PLANTED}@redis"))


def test_no_rendering_of_a_proxy_shows_its_login():
    """Given a proxy that wants a password, then neither it nor the settings that hold it show user or password."""
    settings = load(api_keys="a=other", upstream_proxy=f"socks5://{PLANTED}:{PLANTED}@proxy:1080")
    for shown in (settings, settings.upstream_proxy, settings.upstream_proxy.login, [settings.upstream_proxy]):
        assert PLANTED not in f"{shown} {shown!r}"
    assert repr(settings.upstream_proxy) == "<UpstreamProxy socks5://proxy:1080 with a login>"
    assert settings.upstream_proxy.address == "socks5://proxy:1080"


def base_files():
    return {"/g.toml": "ping_seconds = 5\n", "/keys": "b=s2\n", "/tokens": TOKEN_LINE}


def digest(files=None, **environ):
    given = {"config": "/g.toml", "api_keys_file": "/keys", "client_tokens_file": "/tokens"} | environ
    return load(files or base_files(), **given).digest


@pytest.mark.parametrize("name", ["/g.toml", "/keys", "/tokens"])
def test_digest_changes_with_every_file(name):
    """Given a file with other contents, then another digest; with the same contents, the same."""
    changed = base_files()
    changed[name] += "# one more line\n"
    assert digest() == digest(base_files())
    assert digest(changed) != digest()


@pytest.mark.parametrize(("name", "text"), [("ping_seconds", "6"), ("api_keys", "other"), ("threads", "99")])
def test_digest_changes_with_the_environment(name, text):
    """Given another value in the environment, then another digest."""
    assert digest(**{name: text}) != digest()


def test_digest_ignores_what_is_not_read():
    """Given variables that are no settings, in any order, then the digest is the same and shows no secret."""
    environ = {"GATEWAY_API_KEYS": PLANTED, "GATEWAY_THREADS": "32"}
    one = load_settings(environ, reader({})).digest
    other = load_settings({"PATH": "/bin", **dict(reversed(environ.items())), "GATEWAY_PORT": "x"}, reader({})).digest
    assert one == other
    assert len(bytes.fromhex(one)) == hashlib.sha256().digest_size


def test_limits_come_from_the_toml_file():
    """Given tables of limits in the file, then they are in force, and a change of one is seen by the digest."""
    text = "[limits.groups.research]\ndollars_per_day = 0.1\n[limits.default]\nconcurrent = {}\n"
    four, five = (load({"/c": text.format(number)}, config="/c") for number in (4, 5))
    assert four.limits.groups == {"research": Limits(picodollars_per_day=PICODOLLARS // 10)}
    assert four.limits.default == Limits(concurrent=4)
    assert (five.limits.default, five.digest != four.digest) == (Limits(concurrent=5), True)
    assert settle(four, five).limits == five.limits


def test_faults_of_limits_are_told_with_the_others():
    """Given limits with faults beside another one, then each is a line that says where it is."""
    text = 'threads = "many"\n[limits.tokens.ann]\nconcurrent = 0\nrequests = 1\n'
    assert [line.partition(": expected")[0] for line in complaints({"/c": text}, config="/c")] == [
        "/c: threads: a whole number of at least 2 was expected, not 'many'",
        "/c: limits: tokens.ann.concurrent",
        "/c: limits: tokens.ann.requests",
    ]


def test_settle_keeps_what_needs_a_restart():
    """Given a new configuration with other fixed and other free settings, then only the free ones are put in force."""
    running = load(threads="32", bind="127.0.0.1:1", drain_seconds="5")
    found = load(
        threads="64",
        bind="127.0.0.1:2",
        drain_seconds="6",
        ping_seconds="7",
        api_keys="a=other",
        workers="3",
        data_dir="/elsewhere",
        state_url="redis://redis",
    )
    settled = settle(running, found)
    assert (settled.threads, settled.bind, settled.drain_seconds) == (32, "127.0.0.1:1", 5.0)
    assert (settled.workers, settled.data_dir, settled.state_url) == (running.workers, running.data_dir, None)
    assert (settled.ping_seconds, pairs(settled)) == (7.0, [("a", "other")])
    assert settled.digest == found.digest
    assert found.changed_needing_restart(running) == [
        *("GATEWAY_BIND", "GATEWAY_WORKERS", "GATEWAY_THREADS", "GATEWAY_DRAIN_SECONDS"),
        *("GATEWAY_DATA_DIR", "GATEWAY_STATE_URL"),
    ]
    assert found.changed_needing_restart(found) == []


def test_settings_of_the_design_need_a_restart():
    """Given the table, then bind, workers, threads, store and what else is fixed at the start are marked so."""
    fixed = {name for name, spec in setting_specs() if spec.needs_restart}
    assert {"bind", "workers", "threads", "reserved_threads", "data_dir", "state_url"} <= fixed
    assert not fixed & {"api_keys", "api_keys_file", "client_tokens_file", "upstream_url", "ping_seconds"}


def test_settle_refuses_to_open_a_public_gateway():
    """Given a gateway on a public address, when the new configuration has no tokens, then it is refused."""
    running = load(FILES, bind="0.0.0.0:80", client_tokens_file="/tokens")
    with pytest.raises(SettingsError, match="GATEWAY_CLIENT_TOKENS_FILE"):
        settle(running, load(bind="127.0.0.1:80"))


def test_an_old_reserve_of_threads_is_taken_and_told():
    """Given threads and a reserve, as before threads were for what runs alone, then so many requests are served."""
    settings = load(threads="32", reserved_threads="8")
    assert (settings.threads, settings.max_requests) == (32, 24)
    (line,) = settings.doubts()
    assert "GATEWAY_RESERVED_THREADS is an old setting" in line
    assert "GATEWAY_MAX_REQUESTS=24" in line
    alone = load(reserved_threads="16")
    assert (alone.threads, alone.max_requests) == (256, 240)
    assert load(threads="32", reserved_threads="8", max_requests="99").max_requests == 99
    assert [load(threads=threads, reserved_threads="8").max_requests for threads in ("9", "10")] == [1, 2]
    (line,) = complaints(threads="8", reserved_threads="8")
    assert "GATEWAY_RESERVED_THREADS" in line


@pytest.mark.parametrize(
    ("descriptors", "memory_mib", "workers", "requests"),
    [
        pytest.param(20_000, 24_000, 2, 9400, id="descriptors"),
        pytest.param(1 << 20, 512, 1, 2048, id="memory"),
        pytest.param(1 << 20, 512, 4, 512, id="memory-of-several-workers"),
        pytest.param(1 << 20, 1 << 20, 1, 10_000, id="enough-of-both"),
        pytest.param(100, 1, 8, 64, id="hardly-anything"),
    ],
)
def test_requests_at_once_follow_from_the_machine(descriptors, memory_mib, workers, requests):
    """Given no setting, then as many requests are served as descriptors and memory allow."""
    capacity = Capacity(descriptors, memory_mib * 1024 * 1024)
    environ = {"GATEWAY_API_KEYS": PLANTED, "HOME": "/home/ann"}
    assert load_settings(environ, reader({}), workers, capacity).max_requests == requests
    assert load_settings(environ | {"GATEWAY_MAX_REQUESTS": "7"}, reader({}), workers, capacity).max_requests == 7


@given(st.dictionaries(st.sampled_from([name for name, _ in setting_specs()]), st.text(max_size=12), max_size=5))
def test_no_environment_breaks_the_loader(environ):
    """Given any texts for any settings, then settings or complaints, and nothing else."""
    with contextlib.suppress(SettingsError):
        assert load(**environ).digest


@pytest.mark.parametrize(
    ("environ", "has_access_log"),
    [
        ({}, False),
        ({"log_format": "json"}, True),
        ({"log_format": "json", "access_log": "false"}, False),
        ({"access_log": "true"}, True),
    ],
)
def test_access_log_comes_with_json_unless_it_is_set(environ, has_access_log):
    """Given the form of the log and the switch, then the switch decides, and without it the form."""
    assert load(**environ).has_access_log is has_access_log


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("sqlite:///records.db", "sqlite:////data/records.db"),
        ("sqlite:///sub/records.db?timeout=5", "sqlite:////data/sub/records.db?timeout=5"),
        ("sqlite:////elsewhere/records.db", "sqlite:////elsewhere/records.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("postgresql://gateway@db.internal/gateway", "postgresql://gateway@db.internal/gateway"),
        ("none", "none"),
    ],
)
def test_relative_database_lies_in_the_data_folder(given, meant):
    """Given a database's URL, then a relative path is one in the data folder, and everything else stays."""
    environ = {"GATEWAY_API_KEYS": PLANTED, "GATEWAY_DATA_DIR": "/data", "GATEWAY_RECORD_URL": given}
    assert load_settings(environ, reader({})).record_url == meant
