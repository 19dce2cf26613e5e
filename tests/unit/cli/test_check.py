"""`gateway check`: what it reports of a configuration, and what its answer is to a bad one."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.access.credential import Secret
from gateway.cli import main
from gateway.keys.places import NOWHERE, Place
from tests.unit.tiny_server import TinyServer

SECRETS = {"primary": "sk-ant-api03-PLANTED-0123456789-abcdprim", "second": "sk-ant-api03-PLANTED-0123456789-abcdseco"}
DIGEST = "0" * 64


class Check:
    """The command under an environment of its own, and what it printed last."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.out = self.err = ""

    def given(self, **settings: str) -> None:
        for name, value in settings.items():
            self._monkeypatch.setenv(f"GATEWAY_{name.upper()}", value)

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def run(self, *arguments: str) -> int:
        code = main(["check", *arguments])
        self.out, self.err = self._capsys.readouterr()
        assert "PLANTED" not in self.out + self.err
        return code

    def said(self, word: str) -> str:
        """What stands beside a word in the report."""
        (line,) = [line for line in self.out.splitlines() if line.startswith(word)]
        return line.removeprefix(word).strip()


@pytest.fixture
def check(tmp_path, monkeypatch, capsys) -> Check:
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)
    made = Check(tmp_path, monkeypatch, capsys)
    made.given(
        api_keys=",".join(f"{name}={secret}" for name, secret in SECRETS.items()),
        data_dir=str(tmp_path / "data"),
        bind="127.0.0.1:0",  # any port: the machine may have others' gateways
    )
    return made


def test_good_configuration_is_reported(check):
    """Given a good configuration, then upstream, address, clients, requests and keys in order are told; status 0."""
    check.given(upstream_url="http://127.0.0.1:9", threads="32", max_requests="24")
    assert check.run() == 0
    assert check.err == ""
    assert check.said("upstream") == "http://127.0.0.1:9"
    assert check.said("address") == "127.0.0.1:0"
    assert check.said("data") == str(check.folder / "data")
    assert check.said("result") == "good"
    assert check.said("clients") == "no token file: this machine only"
    assert check.said("own keys") == "true"
    assert check.said("requests") == "24 at once a worker (32 threads)"
    for place, (name, secret) in enumerate(SECRETS.items(), start=1):
        assert check.said(f"key {place}") == f"{name} ({Secret(secret).hint})"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("https://proxy.internal:3128", "https://proxy.internal:3128"),
        ("socks5h://PLANTED:PLANTED@[::1]:1080", "socks5h://[::1]:1080 with a login"),
    ],
)
def test_proxy_is_told_without_its_login(check, given, said):
    """Given a proxy, then its address is told, and that it has a login; not the login, here or where it is refused."""
    check.given(upstream_proxy=given)
    assert check.run() == 0
    assert check.said("proxy") == said
    check.given(upstream_proxy=given.rpartition(":")[0])
    assert check.run() == 1


def test_tokens_and_operators_are_counted(check):
    """Given a token file, then how many may use the gateway and how many are operators."""
    check.given(client_tokens_file=check.file("tokens", f"ann sha256:{DIGEST} operator\nbob sha256:{DIGEST[1:]}1\n"))
    assert check.run() == 0
    assert check.said("clients") == "2 tokens, 1 of them for operators"


LIMITS = """
[limits.groups.research]
dollars_per_day = 50.5
[limits.groups.research.each]
concurrent = 4
[limits.tokens.ann]
requests_per_minute = 60
[limits.default]
dollars_per_month = 100
"""


def given_limits(check: Check, limits: str, *lines: str) -> None:
    """A configuration with these limits, and tokens with these lines' ends."""
    tokens = "".join(f"{line.replace(' ', f' sha256:{number:064} ', 1)}\n" for number, line in enumerate(lines))
    check.given(config=check.file("gateway.toml", limits), client_tokens_file=check.file("tokens", tokens))


def test_limits_are_told_in_words(check):
    """Given limits for tokens and groups that there are, then each table is a line, and nothing is warned of."""
    given_limits(check, LIMITS, "ann ", "bob group=research", "cid group=research")
    assert check.run("--strict") == 0
    assert check.said("clients") == "3 tokens, 0 of them for operators; groups: research"
    assert [line.partition("  ")[2].strip() for line in check.out.splitlines() if line.startswith("limits")] == [
        "group research: 50.50 dollars a day",
        "each token of group research: 4 requests at once",
        "token ann: 60 requests a minute",
        "each token without limits of its own: 100.00 dollars a month",
    ]
    assert "warning" not in check.out


def test_limits_for_nobody_are_warned_of(check):
    """Given limits for a group and a token that there are not, then a warning each; with `--strict` they are faults."""
    given_limits(check, LIMITS, "bob ")
    assert check.run() == 0
    warnings = [line for line in check.out.splitlines() if line.startswith("warning")]
    assert warnings == [
        "warning   limits.groups.research: no token belongs to this group",
        "warning   limits.tokens.ann: no token has this name",
    ]
    assert check.run("--strict") == 1


def test_more_requests_than_descriptors_are_a_warning(check, monkeypatch):
    """Given more requests at once than the hard limit of open files is enough for, then a warning says so."""
    monkeypatch.setattr("resource.getrlimit", lambda which: (1000, 20_000))
    monkeypatch.setenv("GATEWAY_MAX_REQUESTS", "9400")
    assert check.run() == 0
    assert "warning" not in check.out
    monkeypatch.setenv("GATEWAY_MAX_REQUESTS", "9401")
    assert check.run("--strict") == 1
    said = "warning   GATEWAY_MAX_REQUESTS: 9401 requests at once may need 20002 open files, and 20000 are allowed here"
    assert said in check.out


@pytest.mark.parametrize(
    ("fail", "what"), [("open", "are limited by what this machine knows"), ("closed", "are refused")]
)
def test_limits_without_their_store_are_told(check, fail, what):
    """Given limits, and a shared store that does not answer, then a fault says what that means for them."""
    given_limits(check, "[limits.default]\nconcurrent = 4", "ann ")
    check.given(state_url="redis://127.0.0.1:9", limits_fail=fail)
    assert check.run() == 1
    (fault,) = check.err.splitlines()
    assert "127.0.0.1:9" in fault
    assert fault.endswith(f"requests that have limits {what}")


def test_faults_of_limits_are_all_told(check):
    """Given tables with faults, then each is a line with its place, and the gateway would not start."""
    given_limits(check, '[limits.groups."a b"]\n[limits.default]\nconcurrent = 0\ndollars_per_day = -1', "ann ")
    assert check.run() == 1
    assert check.out == ""
    lines = check.err.splitlines()
    assert len(lines) == 3
    assert all("gateway.toml: limits: " in line for line in lines)


def test_checking_makes_and_asks_nothing(check):
    """Given no option, then no file is made and the upstream hears nothing: it may be run beside a live gateway."""
    with TinyServer(refuse(500)) as server:
        check.given(upstream_url=server.url)
        assert check.run() == 0
        assert server.connections == 0
    assert os.listdir(check.folder) == []


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        pytest.param({"api_keys": ""}, ["there are no keys"], id="no-keys"),
        pytest.param({"threads": "many", "typo": "x"}, ["GATEWAY_THREADS", "GATEWAY_TYPO"], id="two-faults"),
        pytest.param({"upstream_ca_file": "/nowhere"}, ["GATEWAY_UPSTREAM_CA_FILE"], id="no-ca-file"),
        pytest.param({"upstream_ca_file": __file__}, ["holds no certificate"], id="ca-file-without-certificates"),
        pytest.param({"config": "/nowhere"}, ["GATEWAY_CONFIG"], id="no-configuration-file"),
        pytest.param({"bind": "0.0.0.0:8080"}, ["GATEWAY_CLIENT_TOKENS_FILE"], id="open-to-the-world"),
        pytest.param(
            {"limits": "research=50"}, ["GATEWAY_LIMITS: limits belong in the TOML file"], id="limits-as-text"
        ),
        pytest.param({"limits_fail": "maybe"}, ["GATEWAY_LIMITS_FAIL"], id="limits-fail"),
        pytest.param({"state_url": "memcached://x"}, ["GATEWAY_STATE_URL"], id="no-such-store"),
    ],
)
def test_bad_configuration_is_complained_of_line_by_line(check, settings, what):
    """Given a configuration that a gateway would not start with, then a line for each fault, and status 1."""
    check.given(**settings)
    assert check.run() == 1
    assert check.out == ""
    lines = check.err.splitlines()
    assert len(lines) == len(what)
    for fault in what:
        assert any(line.startswith("gateway: ") and fault in line for line in lines), fault


@pytest.mark.parametrize("content", ["", "# none yet\n"], ids=["empty", "comment"])
def test_keys_file_without_keys_is_not_called_unset(check, content, tmp_path):
    """Given a keys file in which no key stands, then the complaint names the file, and what to write into it."""
    path = tmp_path / "keys"
    path.write_text(content)
    check.given(api_keys="", api_keys_file=str(path))
    assert check.run() == 1
    assert check.err.startswith(f"gateway: GATEWAY_API_KEYS_FILE: {path} has no keys: write one a line")


def refuse(status: int, seen: list[bytes] | None = None, place: Place = NOWHERE) -> Callable[[socket.socket], None]:
    """Answers one request with this status and an empty body; its head says where the key belongs, if that is known."""
    told = f"anthropic-organization-id: {place.organisation}\r\n" if place.organisation else ""
    told += f"anthropic-workspace-id: {place.workspace}\r\n" if place.workspace else ""

    def script(connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(65536)
        if seen is not None:
            seen.append(request)
        head = f"HTTP/1.1 {status} Whatever\r\n{told}content-length: 0\r\nconnection: close\r\n\r\n"
        connection.sendall(head.encode())

    return script


@pytest.mark.parametrize(
    ("statuses", "code", "findings"),
    [
        pytest.param([200, 200], 0, ["ok (status 200)", "ok (status 200)"], id="both-good"),
        pytest.param([401, 200], 1, ["unauthorized (status 401)", "ok (status 200)"], id="one-revoked"),
        pytest.param([200, 403], 1, ["ok (status 200)", "forbidden (status 403)"], id="one-forbidden"),
        pytest.param([429, 200], 1, ["rate_limited (status 429)", "ok (status 200)"], id="one-limited"),
        pytest.param([500, 529], 1, ["server_error (status 500)", "overloaded (status 529)"], id="upstream-ill"),
    ],
)
def test_each_key_is_shown_to_the_upstream_once(check, statuses, code, findings):
    """Given `--upstream`, then each key asks for the list of models, once, in order, and what came back is told."""
    seen: list[bytes] = []
    with TinyServer(*(refuse(status, seen) for status in statuses)) as server:
        check.given(upstream_url=server.url)
        assert check.run("--upstream") == code
        assert server.connections == 2
    for place, (name, finding) in enumerate(zip(SECRETS, findings, strict=True), start=1):
        assert check.said(f"key {place}") == f"{name} ({Secret(SECRETS[name]).hint}): {finding}"
    for head, secret in zip(seen, SECRETS.values(), strict=True):
        assert head.startswith(b"GET /v1/models?limit=1 HTTP/1.1\r\n")
        assert f"x-api-key: {secret}\r\n".encode().lower() in head.lower()


ONE_ORGANISATION = (
    "warning   all keys belong to one organisation: failover helps only against revoked keys, not against"
)


@pytest.mark.parametrize(
    ("places", "is_one", "unknown"),
    [
        ((Place("org-a", "ws-1"), Place("org-b", "ws-2")), False, None),
        ((Place("org-a", "ws-1"), Place("org-a", "ws-2")), True, None),
        ((Place("org-a", "ws-1"), Place("org-a")), True, "second"),
        ((NOWHERE, NOWHERE), False, "primary, second"),
    ],
    ids=["two", "one", "one-unknown", "nothing-told"],
)
def test_where_keys_belong_is_told_and_warned_of(check, places, is_one, unknown):
    """Given what the answers say of organisations and workspaces, then a pool of one is warned of, and unknown ones."""
    with TinyServer(*(refuse(200, place=place) for place in places)) as server:
        check.given(upstream_url=server.url)
        assert check.run("--upstream") == 0
    assert (ONE_ORGANISATION in check.out) == is_one
    assert (f"the workspace of {unknown} is unknown" in check.out) == (unknown is not None)
    if places[0] != NOWHERE:
        assert check.said("key 1").endswith(": ok (status 200), org-a, ws-1")


def test_upstream_out_of_reach_is_told_for_each_key(check):
    """Given an upstream that nobody listens at, then each key's line says so, and the status is 1."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        check.given(upstream_url=f"http://127.0.0.1:{unheard.getsockname()[1]}")
        assert check.run("--upstream") == 1
    for place in (1, 2):
        assert "upstream" in check.said(f"key {place}")
