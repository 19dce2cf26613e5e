"""Routes, methods, credentials, the open gateway's door, bad requests, refusals to start: over real HTTP."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backports import zstd

from gateway.simulator import Simulator
from tests.e2e.talk import Talk, error_of, message, token_line
from tests.harness import Answer, GatewayProcess, wait_until

KEY = "sk-ant-api03-the-only-key-of-the-pool"
OWN = "sk-ant-api03-a-credential-of-the-client"
TOKEN = "gateway-token-of-alice-0123456789abcdef"
OPERATOR_TOKEN = "gateway-token-of-olga-0123456789abcdef"
SMALL_BODY_LIMIT = 65536


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """One upstream for the module; any credential is good."""
    with Simulator(keys={KEY: "ok"}, any_key=True) as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def _forget_requests(simulator: Simulator) -> None:
    simulator.clear_requests()


@pytest.fixture(scope="module")
def gateway(simulator: Simulator) -> Iterator[GatewayProcess]:
    """An open gateway with a small body limit."""
    process = GatewayProcess(simulator.url, [KEY], max_body_bytes=str(SMALL_BODY_LIMIT))
    yield process
    process.stop()


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The token file of `guarded`."""
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(token_line("alice", TOKEN) + token_line("olga", OPERATOR_TOKEN, "operator"))
    return path


@pytest.fixture(scope="module")
def guarded(simulator: Simulator, tokens_file: Path) -> Iterator[GatewayProcess]:
    """A gateway that wants tokens."""
    process = GatewayProcess(simulator.url, [KEY], client_tokens_file=str(tokens_file))
    yield process
    process.stop()


@pytest.mark.parametrize(
    ("method", "path", "status", "upstream_calls"),
    [
        pytest.param("POST", "/v1/messages", 200, 1, id="messages"),
        pytest.param("POST", "/v1/messages?beta=true", 200, 1, id="messages-with-query"),
        pytest.param("POST", "/v1/messages/count_tokens", 200, 1, id="count-tokens"),
        pytest.param("GET", "/v1/models", 200, 1, id="models"),
        pytest.param("GET", "/v1/models?limit=2&after_id=a%20b", 200, 1, id="models-with-query"),
        pytest.param("GET", "/v1/models/claude-simulated", 200, 1, id="model"),
        pytest.param("GET", "/", 200, 0, id="root"),
        pytest.param("HEAD", "/", 200, 0, id="root-head"),
        pytest.param("GET", "/healthz", 200, 0, id="healthz"),
        pytest.param("HEAD", "/healthz", 200, 0, id="healthz-head"),
        pytest.param("GET", "/readyz", 200, 0, id="readyz"),
        pytest.param("HEAD", "/readyz", 200, 0, id="readyz-head"),
        pytest.param("GET", "/metrics", 200, 0, id="metrics"),
    ],
)
def test_known_routes_answer(
    gateway: GatewayProcess, simulator: Simulator, method: str, path: str, status: int, upstream_calls: int
) -> None:
    """Given an open gateway, when a known route is asked for, then it answers, with its query string sent on."""
    body = message() if method == "POST" else None
    answer = gateway.request(method, path, body)
    assert answer.status == status
    assert (answer.body == b"") == (method == "HEAD")
    seen = [f"{request.path}?{request.query}" if request.query else request.path for request in simulator.requests]
    assert seen == [path] * upstream_calls


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        pytest.param("GET", "/v1/messages", {"POST"}, id="get-messages"),
        pytest.param("HEAD", "/v1/messages", {"POST"}, id="head-messages"),
        pytest.param("OPTIONS", "/v1/messages", {"POST"}, id="options-messages"),
        pytest.param("DELETE", "/v1/messages/count_tokens", {"POST"}, id="delete-count-tokens"),
        pytest.param("POST", "/v1/models", {"GET"}, id="post-models"),
        pytest.param("HEAD", "/v1/models", {"GET"}, id="head-models"),
        pytest.param("OPTIONS", "/v1/models", {"GET"}, id="options-models"),
        pytest.param("HEAD", "/v1/models/claude-simulated", {"GET"}, id="head-model"),
        pytest.param("PUT", "/v1/models/claude-simulated", {"GET"}, id="put-model"),
        pytest.param("HEAD", "/metrics", {"GET"}, id="head-metrics"),
        pytest.param("POST", "/", {"GET", "HEAD"}, id="post-root"),
        pytest.param("OPTIONS", "/", {"GET", "HEAD"}, id="options-root"),
        pytest.param("POST", "/healthz", {"GET", "HEAD"}, id="post-healthz"),
        pytest.param("PATCH", "/readyz", {"GET", "HEAD"}, id="patch-readyz"),
        pytest.param("OPTIONS", "/metrics", {"GET"}, id="options-metrics"),
    ],
)
def test_wrong_methods_are_405_with_allow(
    gateway: GatewayProcess, simulator: Simulator, method: str, path: str, allow: set[str]
) -> None:
    """Given a known path, when the method is not its own, then 405 names those that are; no upstream call."""
    answer = gateway.request(method, path, message() if method in ("POST", "PUT") else None)
    assert answer.status == 405
    assert {name.strip() for name in answer.headers["allow"].split(",")} == allow
    if method != "HEAD":
        assert error_of(answer)[1] == "invalid_request_error"
    assert simulator.requests == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v1/",
        "/v1/complete",
        "/v1/messages/batches",
        "/v1/models/a/b",
        "/v1/models/..%2Ffiles",
        "/v1/models/a%0D%0Ab",
        "/v1/files",
        "/v1/organizations/api_keys",
        "/static/x",
        "/favicon.ico",
        "/../etc/passwd",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_unknown_paths_are_404_and_never_go_upstream(
    gateway: GatewayProcess, simulator: Simulator, method: str, path: str
) -> None:
    """Given a path that is not its own, when it is asked for, then 404 `not_found_error`; nothing goes upstream."""
    with Talk(gateway) as talk:
        answer = talk.exchange(method, path, message() if method == "POST" else b"")
    status, kind, _ = error_of(answer)
    if "%" in path and method == "POST":  # in the form of a model's path, which takes GET
        assert status in (404, 405)
    else:
        assert (status, kind) == (404, "not_found_error")
    assert simulator.requests == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "//metrics"),
        ("GET", "///metrics"),
        ("GET", "/./metrics"),
        ("GET", "/x/../metrics"),
        ("GET", "/%6detrics"),
        ("GET", "/metrics/"),
        ("GET", "/metrics%2f"),
        ("GET", "/metrics;a=b"),
        ("GET", "/metrics#a"),
        ("GET", "//status"),
        ("GET", "/%73tatus"),
        ("GET", "/status/"),
        ("GET", "//healthz"),
        ("GET", "/healthz/"),
        ("GET", "/readyz%20"),
        ("POST", "/v1%2fmessages"),
        ("POST", "/v1%2Fmessages"),
        ("POST", "/v1/./messages"),
        ("POST", "/v1/x/../messages"),
        ("POST", "/%76%31/messages"),
        ("POST", "/V1/messages"),
        ("GET", "/v1/%6dodels/claude-simulated"),
        ("GET", "/v1%2fmodels/claude-simulated"),
        ("GET", "/v1/models/claude%2fsimulated"),
        ("GET", "http://127.0.0.1//metrics"),
    ],
)
def test_path_is_served_in_its_own_spelling_alone(
    gateway: GatewayProcess, simulator: Simulator, method: str, path: str
) -> None:
    """Given another spelling of a path, when it is asked for, then 404: a proxy in front closes one spelling alone."""
    with Talk(gateway) as talk:
        answer = talk.exchange(method, path, message() if method == "POST" else b"")
    assert error_of(answer)[:2] == (404, "not_found_error")
    assert simulator.requests == []


def test_script_name_of_a_client_moves_no_path(gateway: GatewayProcess) -> None:
    """Given the headers by which a server in front may say where the application begins, then no other path opens."""
    with Talk(gateway) as talk:
        assert talk.exchange("GET", "/x/metrics", headers={"SCRIPT_NAME": "/x"}).status == 404
        assert talk.exchange("GET", "/x", headers={"PATH_INFO": "/metrics"}).status == 404


def test_whole_target_and_encoded_model_are_served(gateway: GatewayProcess, simulator: Simulator) -> None:
    """Given a target that names the server, or a model's id with encoded characters, then it is what it says."""
    with Talk(gateway) as talk:
        assert talk.exchange("GET", "http://127.0.0.1/healthz").status == 200
        assert talk.exchange("GET", "/v1/models/claude%40simulated%3a1").status == 200
    assert [request.path for request in simulator.requests] == ["/v1/models/claude@simulated:1"]


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("/v1/v1/messages", "drop /v1 "),
        ("/v1/v1/messages?beta=true", "drop /v1 "),
        ("/v1/v1/messages/count_tokens", "drop /v1 "),
        ("/v1/messages/v1/messages", "drop /v1/messages "),
        ("/anthropic/v1/messages", "drop /anthropic "),
        ("//v1/messages", "slash"),
        ("/v1//messages", "slash"),
        ("/v1/messages/", "slash"),
        ("/messages", "add /v1 "),
    ],
)
def test_wrong_base_url_is_400_and_told_what_to_change(
    gateway: GatewayProcess, simulator: Simulator, path: str, change: str
) -> None:
    """Given a client whose base URL has too much, when it asks, then 400 says what to change, and not to try again."""
    with Talk(gateway) as talk:
        answer = talk.exchange("POST", path, message())
        status, kind, why = error_of(answer)
        assert (status, kind) == (400, "invalid_request_error")
        assert change in why
        assert answer.headers["x-should-retry"] == "false"
        assert talk.exchange("GET", "/healthz").status == 200
    assert simulator.requests == []


def _bearer(value: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {value}"}


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"X-Gateway-Token": TOKEN}, id="own-header"),
        pytest.param({"x-api-key": TOKEN}, id="x-api-key"),
        pytest.param(_bearer(TOKEN), id="bearer"),
        pytest.param({"Authorization": f"bearer  {TOKEN}"}, id="bearer-lower-case"),
        pytest.param({"X-Gateway-Token": TOKEN, "x-api-key": TOKEN} | _bearer(TOKEN), id="in-all-three"),
        pytest.param({"X-Gateway-Token": TOKEN, "x-api-key": OPERATOR_TOKEN}, id="two-tokens"),
        pytest.param({"x-api-key": "dummy"} | _bearer(TOKEN), id="token-beside-a-dummy"),
    ],
)
def test_token_opens_the_pool_and_stays_here(
    guarded: GatewayProcess, simulator: Simulator, headers: dict[str, str]
) -> None:
    """Given a known token in any of the three headers, when it is sent, then a key pays and no token goes upstream."""
    assert guarded.request("POST", "/v1/messages", message(), headers).status == 200
    (seen,) = simulator.requests
    assert seen.key == KEY
    wire = "\n".join(f"{name}: {value}" for name, value in seen.headers)
    assert TOKEN not in wire
    assert OPERATOR_TOKEN not in wire
    assert "x-gateway-token" not in wire.lower()


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"X-Gateway-Token": "wrong"}, id="wrong-own-header"),
        pytest.param({"X-Gateway-Token": ""}, id="empty-own-header"),
        pytest.param({"x-api-key": "wrong"}, id="wrong-x-api-key"),
        pytest.param({"x-api-key": OWN}, id="own-credential-without-token"),
        pytest.param({"x-api-key": KEY}, id="key-of-the-pool"),
        pytest.param(_bearer("wrong"), id="wrong-bearer"),
        pytest.param({"Authorization": f"Basic {TOKEN}"}, id="token-under-basic"),
        pytest.param({"X-Gateway-Token": "wrong", "x-api-key": TOKEN}, id="wrong-own-header-beside-a-token"),
        pytest.param({"X-Gateway-Token": TOKEN.upper()}, id="wrong-case"),
        pytest.param({"X_Gateway_Token": TOKEN}, id="underscores"),
        pytest.param({"X-Gateway-Token": "t\u00f6ken"}, id="not-ascii"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/messages"), ("POST", "/v1/messages/count_tokens"), ("GET", "/v1/models"), ("GET", "/v1/models/m")],
)
def test_wrong_or_missing_token_is_401(
    guarded: GatewayProcess, simulator: Simulator, method: str, path: str, headers: dict[str, str]
) -> None:
    """Given no known token, when an API route is asked for, then 401 `authentication_error`, no upstream call."""
    with Talk(guarded) as talk:
        answer = talk.exchange(method, path, message() if method == "POST" else b"", headers)
    assert error_of(answer)[:2] == (401, "authentication_error")
    assert simulator.requests == []


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics"])
def test_health_wants_no_token(guarded: GatewayProcess, path: str) -> None:
    """Given a gateway with tokens, when health, metrics or the root are asked for without one, then they answer."""
    assert guarded.request("GET", path).status == 200


def test_revoked_token_fails_in_time_and_a_new_one_works(
    guarded: GatewayProcess, simulator: Simulator, tokens_file: Path
) -> None:
    """Given a token in use, when its line is deleted, then it fails within 2 s (threefold); put back, it works."""
    before = tokens_file.read_text()
    revoked, added = "token-to-be-revoked-0123456789", "token-that-comes-later-0123456789"
    kept = Talk(guarded)

    def status(token: str) -> int:
        return kept.exchange("GET", "/v1/models", headers={"X-Gateway-Token": token}).status

    with kept:
        tokens_file.write_text(before + token_line("bob", revoked))
        assert wait_until(lambda: status(revoked) == 200, 30)
        tokens_file.write_text(before + token_line("bob", added))
        assert wait_until(lambda: status(revoked) == 401, 30)
        assert wait_until(lambda: status(added) == 200, 30)
        tokens_file.write_text(before + "this is no token line\n")
        complaint = "the tokens read before stay in force"
        assert wait_until(lambda: status(TOKEN) == 200 and complaint in guarded.log, 30)
        assert status(added) == 200
        tokens_file.write_text(before)
        assert wait_until(lambda: status(added) == 401, 30)


def test_token_file_that_is_rewritten_in_place_locks_nobody_out(
    gateway_process: Callable[..., GatewayProcess], simulator: Simulator, tmp_path: Path
) -> None:
    """Given a writer that empties the token file and fills it again, over and over, when clients ask meanwhile, then
    none is refused; nor when a pipe takes its place."""
    path = tmp_path / "tokens"
    whole = token_line("alice", TOKEN) + token_line("bob", "another-token")
    path.write_text(whole)
    process = gateway_process(simulator.url, keys=[KEY], client_tokens_file=str(path))
    with Talk(process) as talk:

        def asks_in_vain() -> bool:
            return talk.exchange("GET", "/v1/models", headers={"X-Gateway-Token": TOKEN}).status != 200

        for _ in range(30):
            with path.open("w") as file:
                assert not wait_until(asks_in_vain, 0.05)
                file.write(whole)
        path.unlink()
        os.mkfifo(path)
        process_says = "it is not a regular file; the tokens read before stay in force"
        assert wait_until(lambda: asks_in_vain() or process_says in process.log, 30)
        assert not asks_in_vain()


@pytest.mark.parametrize(
    ("headers", "paid_by", "header"),
    [
        pytest.param({"X-Gateway-Token": TOKEN, "x-api-key": OWN}, OWN, "x-api-key", id="x-api-key"),
        pytest.param({"X-Gateway-Token": TOKEN} | _bearer(OWN), f"Bearer {OWN}", "authorization", id="bearer"),
        pytest.param({"X-Gateway-Token": TOKEN} | _bearer("oauth-x"), "Bearer oauth-x", "authorization", id="any-form"),
        pytest.param({"X-Gateway-Token": TOKEN}, KEY, "x-api-key", id="none-so-pool"),
        pytest.param(
            {"X-Gateway-Token": TOKEN, "x-api-key": TOKEN} | _bearer(OWN),
            f"Bearer {OWN}",
            "authorization",
            id="token-twice",
        ),
    ],
)
def test_own_credential_pays_beside_a_token(
    guarded: GatewayProcess, simulator: Simulator, headers: dict[str, str], paid_by: str, header: str
) -> None:
    """Given X-Gateway-Token beside a credential, when a message is sent, then that goes upstream under its header."""
    assert guarded.request("POST", "/v1/messages", message(), headers).status == 200
    (seen,) = simulator.requests
    assert seen.header(header) == paid_by
    other = {"x-api-key": "authorization", "authorization": "x-api-key"}[header]
    assert seen.header(other) == ""


@pytest.mark.parametrize(
    ("headers", "paid_by"),
    [
        pytest.param({"x-api-key": OWN}, OWN, id="own-key"),
        pytest.param(_bearer(OWN), OWN, id="own-bearer"),
        pytest.param({"x-api-key": "dummy"}, KEY, id="placeholder"),
        pytest.param(_bearer("dummy"), KEY, id="placeholder-bearer"),
        pytest.param({}, KEY, id="nothing"),
    ],
)
def test_open_gateway_takes_own_credentials_by_their_form(
    gateway: GatewayProcess, simulator: Simulator, headers: dict[str, str], paid_by: str
) -> None:
    """Given an open gateway, when a credential has Anthropic's form, then it pays, else the pool does."""
    assert gateway.request("POST", "/v1/messages", message(), headers).status == 200
    assert simulator.keys_seen == [paid_by]


def test_own_credential_never_touches_the_pool(guarded: GatewayProcess, simulator: Simulator) -> None:
    """Given a client's own credential that is limited or revoked, when it is used, then one attempt, pool untouched."""
    for secret, script, status in (
        ("own-limited", "rate_limited:retry-after=5", 429),
        ("own-revoked", "unauthorized", 401),
        ("own-forbidden", "forbidden", 403),
    ):
        simulator.clear_requests()
        simulator.script(secret, script)
        headers = {"X-Gateway-Token": TOKEN, "x-api-key": secret}
        assert guarded.request("POST", "/v1/messages", message(), headers).status == status
        assert simulator.keys_seen == [secret]
    assert guarded.metric("key_state", key="key-1", state="valid") == 1


def test_byok_can_be_switched_off(
    gateway_process: Callable[..., GatewayProcess], simulator: Simulator, tokens_file: Path
) -> None:
    """Given GATEWAY_ALLOW_BYOK=false, when an own credential is sent, then 403; without one the pool pays."""
    process = gateway_process(simulator.url, keys=[KEY], client_tokens_file=str(tokens_file), allow_byok="false")
    refused = process.request("POST", "/v1/messages", message(), {"X-Gateway-Token": TOKEN, "x-api-key": OWN})
    assert error_of(refused)[:2] == (403, "permission_error")
    assert simulator.requests == []
    assert process.request("POST", "/v1/messages", message(), {"X-Gateway-Token": TOKEN}).status == 200
    assert process.request("POST", "/v1/messages", message(), {"x-api-key": TOKEN}).status == 200
    assert simulator.keys_seen == [KEY, KEY]


def test_byok_only_needs_no_keys(
    gateway_process: Callable[..., GatewayProcess], simulator: Simulator, tokens_file: Path
) -> None:
    """Given GATEWAY_ALLOW_BYOK=only, when no key is configured, then it starts, and clients must bring their own."""
    process = gateway_process(simulator.url, keys=[], client_tokens_file=str(tokens_file), allow_byok="only")
    assert process.request("GET", "/readyz").status == 200
    without = process.request("POST", "/v1/messages", message(), {"X-Gateway-Token": TOKEN})
    assert error_of(without)[:2] == (401, "authentication_error")
    headers = {"X-Gateway-Token": TOKEN, "x-api-key": OWN}
    assert process.request("POST", "/v1/messages", message(), headers).status == 200
    assert simulator.keys_seen == [OWN]


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Host": "gateway.example.com"}, id="foreign-host"),
        pytest.param({"Host": "10.1.2.3:8080"}, id="lan-host"),
        pytest.param({"Host": "localhost.evil.example"}, id="host-that-begins-well"),
        pytest.param({"Host": "127.0.0.1:80@evil.example"}, id="host-with-user"),
        pytest.param({"Host": ""}, id="empty-host"),
        pytest.param({"Origin": "https://evil.example"}, id="foreign-origin"),
        pytest.param({"Origin": "null"}, id="null-origin"),
        pytest.param({"Forwarded": "for=10.1.2.3"}, id="forwarded"),
        pytest.param({"X-Forwarded-For": "10.1.2.3"}, id="x-forwarded-for"),
        pytest.param({"X-Real-IP": "10.1.2.3"}, id="x-real-ip"),
        pytest.param({"X-Forwarded-For": "127.0.0.1"}, id="forwarded-for-loopback"),
        pytest.param({"X-Forwarded-Port": "443"}, id="x-forwarded-port"),
        pytest.param({"X-Forwarded-Prefix": "/a"}, id="x-forwarded-prefix"),
        pytest.param({"X-Forwarded-Server": "front"}, id="x-forwarded-server"),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, id="page-of-another-site"),
        pytest.param({"Sec-Fetch-Site": "same-site"}, id="another-page-of-the-site"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/", "/nothing-here"])
def test_open_gateway_serves_this_machine_alone(
    gateway: GatewayProcess, simulator: Simulator, path: str, headers: dict[str, str]
) -> None:
    """Given no token file, when a request may come from elsewhere, then 403 `permission_error` says why."""
    with Talk(gateway) as talk:
        answer = talk.exchange("GET", path, headers=headers)
    status, kind, why = error_of(answer)
    assert (status, kind) == (403, "permission_error")
    assert "token file" in why
    assert simulator.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Host": "localhost:8080"}, id="localhost"),
        pytest.param({"Host": "LOCALHOST."}, id="localhost-spelt-oddly"),
        pytest.param({"Host": "127.0.0.7"}, id="another-loopback-address"),
        pytest.param({"Host": "[::1]:8080"}, id="ipv6"),
        pytest.param({"Origin": "http://localhost:3000"}, id="local-page"),
    ],
)
def test_open_gateway_serves_local_callers(gateway: GatewayProcess, headers: dict[str, str]) -> None:
    """Given no token file, when a local program calls by any loopback name, then it is served."""
    with Talk(gateway) as talk:
        assert talk.exchange("GET", "/v1/models", headers=headers).status == 200


@pytest.mark.parametrize(
    "headers", [{"Host": "gateway.example.com", "X-Forwarded-For": "10.1.2.3", "Origin": "https://elsewhere.example"}]
)
def test_guarded_gateway_serves_proxied_requests(
    guarded: GatewayProcess, simulator: Simulator, headers: dict[str, str]
) -> None:
    """Given a token file, when a proxy passes on a request with a token, then it is served; its headers stay here."""
    with Talk(guarded) as talk:
        assert talk.exchange("GET", "/v1/models", headers=headers | {"X-Gateway-Token": TOKEN}).status == 200
    (seen,) = simulator.requests
    assert seen.header("x-forwarded-for") == ""


def test_no_retry_is_asked_for_where_none_can_help(
    gateway: GatewayProcess, guarded: GatewayProcess, simulator: Simulator
) -> None:
    """Given errors for what the request itself is, malformed heads among them, then clients are told not to retry."""
    refused = [
        guarded.request("POST", "/v1/messages", message()),
        gateway.request("GET", "/v1/models", headers={"Origin": "https://evil.example"}),
        gateway.request("POST", "/v1/messages", b"{}"),
        gateway.request("GET", "/nowhere"),
        gateway.request("PUT", "/v1/messages"),
        gateway.request("POST", "/v1/messages", b"x" * (SMALL_BODY_LIMIT + 1)),
        gateway.request("POST", "/v1/messages", b"x", {"Content-Encoding": "br"}),
        gateway.request("GET", "/" + "a" * 9000),
        gateway.request("GET", "/", headers={"Expect": "200-ok"}),
    ]
    assert [answer.status for answer in refused] == [401, 403, 400, 404, 405, 413, 415, 414, 417]
    assert [answer.headers.get("x-should-retry") for answer in refused] == ["false"] * len(refused)
    assert simulator.requests == []


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    ("coding", "encode"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", zstd.compress)],
    ids=["gzip", "deflate", "zstd"],
)
def test_coded_bodies_go_upstream_decoded(
    gateway: GatewayProcess, simulator: Simulator, path: str, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    """Given a body in a content coding, when it is sent, then the upstream gets it decoded, and no word of a coding."""
    body = message(text="grüß Gott " * 100)
    with Talk(gateway) as talk:
        assert talk.exchange("POST", path, encode(body), {"Content-Encoding": coding}).status == 200
    (seen,) = simulator.requests
    assert seen.body == body
    assert seen.header("content-encoding") == ""
    assert seen.header("content-length") == str(len(body))


@pytest.mark.parametrize(
    ("coding", "body", "status", "kind"),
    [
        pytest.param("br", b"{}", 415, "invalid_request_error", id="another-coding"),
        pytest.param("gzip", message(), 400, "invalid_request_error", id="not-coded"),
        pytest.param("gzip", gzip.compress(message())[:-3], 400, "invalid_request_error", id="cut-off"),
        pytest.param("gzip", gzip.compress(b"x" * (SMALL_BODY_LIMIT + 1)), 413, "request_too_large", id="bomb"),
        pytest.param("gzip", b"", 400, "invalid_request_error", id="empty"),
    ],
)
def test_coded_bodies_that_cannot_be_read_are_refused(
    gateway: GatewayProcess, simulator: Simulator, coding: str, body: bytes, status: int, kind: str
) -> None:
    """Given a body whose coding is not read, or broken, or hides too much, then it is refused; the connection stays."""
    with Talk(gateway) as talk:
        answer = talk.exchange("POST", "/v1/messages", body, {"Content-Encoding": coding})
        assert error_of(answer)[:2] == (status, kind)
        assert answer.headers.get("accept-encoding") == ("gzip, deflate, zstd" if status == 415 else None)
        assert talk.exchange("GET", "/healthz").status == 200
    assert simulator.requests == []


PAGE = "https://app.example"


def test_allowed_page_may_read_every_answer(
    gateway_process: Callable[..., GatewayProcess], simulator: Simulator, tokens_file: Path
) -> None:
    """Given an allowed origin, then its preflight needs no token, and answers, streams and errors are open to its page;
    what only concerns the browser stays here."""
    process = gateway_process(
        simulator.url, keys=[KEY], client_tokens_file=str(tokens_file), cors_origins=PAGE, bind="127.0.0.1:0"
    )
    preflight = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    asked = preflight | {"Access-Control-Request-Headers": "authorization,anthropic-version,content-type"}
    page = {"Origin": PAGE, "Referer": f"{PAGE}/a", "Sec-Fetch-Site": "cross-site"}
    known = page | {"X-Gateway-Token": TOKEN, "anthropic-dangerous-direct-browser-access": "true"}
    with Talk(process) as talk:
        answers = [
            talk.exchange("OPTIONS", "/v1/messages", headers=asked),
            talk.exchange("POST", "/v1/messages", message(), known),
            talk.exchange("POST", "/v1/messages", message(streamed=True), known),
            talk.exchange("POST", "/v1/messages", message(), page),
            talk.exchange("POST", "/v1/messages", b"{", known),
            talk.exchange("GET", "/nowhere", headers=page),
            talk.exchange("GET", "/" + "a" * 9000, headers=page),
        ]
    assert [answer.status for answer in answers] == [204, 200, 200, 401, 400, 404, 414]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "request-id" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"]
    assert answers[0].headers["access-control-allow-headers"] == asked["Access-Control-Request-Headers"]
    assert "access-control-allow-origin" not in process.request("GET", "/metrics", headers=page).headers
    assert process.request("OPTIONS", "/v1/messages", headers=preflight | {"Origin": "https://b.example"}).status == 405
    assert len(simulator.requests) == 2
    for seen in simulator.requests:
        told = {name.lower() for name, _ in seen.headers}
        assert not told & {"origin", "referer", "sec-fetch-site", "anthropic-dangerous-direct-browser-access"}


_DEEP = b'{"model":"m","messages":' + b"[" * 20000 + b"]" * 20000 + b"}"


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b" \r\n\t", "empty", id="blank"),
        pytest.param(b"hello", "not valid JSON", id="not-json"),
        pytest.param(b'{"model":"m"', "not valid JSON", id="cut-short"),
        pytest.param(b'{"model":"m"}{}', "not valid JSON", id="two-documents"),
        pytest.param(b'{"model":"m","x":NaN}', "NaN", id="nan"),
        pytest.param(b'{"model":"m","x":-Infinity}', "Infinity", id="infinity"),
        pytest.param(b"[]", "not a JSON object", id="array"),
        pytest.param(b'"model"', "not a JSON object", id="string"),
        pytest.param(b"null", "not a JSON object", id="null"),
        pytest.param(b"7", "not a JSON object", id="number"),
        pytest.param(b"{}", "model", id="no-model"),
        pytest.param(b'{"model":null}', "model", id="null-model"),
        pytest.param(b'{"model":7}', "model", id="model-no-string"),
        pytest.param(b'{"model":""}', "model", id="empty-model"),
        pytest.param(b'{"model":"\xff"}', "UTF-8", id="not-utf8"),
        pytest.param('{"model":"m"}'.encode("utf-16"), "UTF-8", id="utf-16"),
        pytest.param(_DEEP, "deep", id="nested-too-deeply"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_bad_bodies_are_400_and_name_what_is_wrong(
    gateway: GatewayProcess, simulator: Simulator, path: str, body: bytes, wrong: str
) -> None:
    """Given a body that is no Messages request, when it is sent, then 400 names the fault; kept, no upstream call."""
    with Talk(gateway) as talk:
        status, kind, why = error_of(talk.exchange("POST", path, body))
        assert (status, kind) == (400, "invalid_request_error")
        assert wrong in why
        assert simulator.requests == []
        assert talk.exchange("GET", "/healthz").status == 200


def test_malformed_chunks_are_400(gateway: GatewayProcess, simulator: Simulator) -> None:
    """Given a chunked body, when a chunk's size is no number, then 400 in the protocol's shape, no upstream call."""
    with Talk(gateway) as talk:
        talk.send_head("POST", "/v1/messages", {"Transfer-Encoding": "chunked"})
        talk.send(b"zz\r\nhello\r\n0\r\n\r\n")
        assert error_of(talk.answer())[:2] == (400, "invalid_request_error")
    assert simulator.requests == []


@pytest.mark.parametrize("is_chunked", [False, True], ids=["content-length", "chunked"])
@pytest.mark.parametrize("size", [SMALL_BODY_LIMIT + 1, 2 * SMALL_BODY_LIMIT])
def test_too_large_bodies_are_413_for_clients_that_send_everything_first(
    gateway: GatewayProcess, simulator: Simulator, size: int, is_chunked: bool
) -> None:
    """Given a body over the limit, when a client sends all of it before it reads, then it still gets its 413."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    body = iter([b"x" * 65536] * (size // 65536) + [b"x" * (size % 65536 or 1)]) if is_chunked else b"x" * size
    try:
        connection.request("POST", "/v1/messages", body, encode_chunked=is_chunked)
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        answer = Answer(response.status, named, response.read())
    finally:
        connection.close()
    assert error_of(answer)[:2] == (413, "request_too_large")
    assert simulator.requests == []


@pytest.mark.parametrize("is_chunked", [False, True], ids=["content-length", "chunked"])
def test_connection_goes_on_after_a_413(gateway: GatewayProcess, is_chunked: bool) -> None:
    """Given a body somewhat over the limit, when it was refused, then the same connection serves the next request."""
    body = b"x" * (SMALL_BODY_LIMIT + 10_000)
    with Talk(gateway) as talk:
        if is_chunked:
            talk.send_head("POST", "/v1/messages", {"Transfer-Encoding": "chunked"})
            talk.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        else:
            talk.ask(body=body)
        assert error_of(talk.answer())[0] == 413
        assert talk.exchange(body=message()).status == 200


def test_body_of_exactly_the_limit_is_relayed(gateway: GatewayProcess, simulator: Simulator) -> None:
    """Given a body of exactly the limit, whole or chunked, when it is sent, then it goes upstream byte for byte."""
    body = message(pad_bytes=SMALL_BODY_LIMIT - len(message()))
    assert len(body) == SMALL_BODY_LIMIT
    with Talk(gateway) as talk:
        assert talk.exchange(body=body).status == 200
        talk.send_head("POST", "/v1/messages", {"Transfer-Encoding": "chunked"})
        talk.send(b"1\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (body[:1], len(body) - 1, body[1:]))
        assert talk.answer().status == 200
    assert [request.body for request in simulator.requests] == [body, body]


SECRET_IN_HEAD = "sk-ant-planted-in-a-malformed-head"


@pytest.mark.parametrize(
    ("head", "statuses"),
    [
        pytest.param(f"{SECRET_IN_HEAD}\r\n\r\n", {400}, id="no-request-line"),
        pytest.param(f"GET /{SECRET_IN_HEAD}\r\n\r\n", {400}, id="no-version"),
        pytest.param(f"GET / HTTP/9.9\r\nx-api-key: {SECRET_IN_HEAD}\r\n\r\n", {400}, id="unknown-version"),
        pytest.param(f"GET / HTTP/1.1\r\nHost: x\r\nx api key: {SECRET_IN_HEAD}\r\n\r\n", {400}, id="space-in-name"),
        pytest.param(f"GET / HTTP/1.1\r\nHost: x\r\n{SECRET_IN_HEAD}\r\n\r\n", {400}, id="no-colon"),
        pytest.param(f"GET / HTTP/1.1\r\nHost: x\r\nx-api-key: {SECRET_IN_HEAD}\x00\r\n\r\n", {400}, id="nul-in-value"),
        pytest.param(f"POST / HTTP/1.1\r\nContent-Length: {SECRET_IN_HEAD}\r\n\r\n", {400}, id="length-no-number"),
        pytest.param(
            f"POST / HTTP/1.1\r\nx-api-key: {SECRET_IN_HEAD}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            {400},
            id="two-lengths",
        ),
        pytest.param(
            f"POST / HTTP/1.1\r\nx-api-key: {SECRET_IN_HEAD}\r\nTransfer-Encoding: x\r\n\r\n",
            {400, 501},
            id="unknown-coding",
        ),
        pytest.param(
            f"GET / HTTP/1.1\r\nx-api-key: {SECRET_IN_HEAD}\r\nExpect: 200-ok\r\n\r\n", {417}, id="expectation"
        ),
        pytest.param(f"GET /{'a' * 9000}{SECRET_IN_HEAD} HTTP/1.1\r\n\r\n", {414, 400}, id="long-line"),
        pytest.param(
            f"GET / HTTP/1.1\r\nx-api-key: {SECRET_IN_HEAD}{'a' * 9000}\r\n\r\n", {431, 400}, id="long-header"
        ),
        pytest.param(
            f"GET / HTTP/1.1\r\n{''.join(f'x-{n}: {SECRET_IN_HEAD}' + chr(13) + chr(10) for n in range(150))}\r\n",
            {431, 400},
            id="many-headers",
        ),
        pytest.param(
            f"POST / HTTP/1.1\r\nx-api-key: {SECRET_IN_HEAD}\r\n"
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            {400},
            id="length-and-chunked",
        ),
        pytest.param(f"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{SECRET_IN_HEAD}", {400, 505}, id="http2-preface"),
        pytest.param(f"\x16\x03\x01\x02\x00\x01\x00{SECRET_IN_HEAD}\r\n\r\n", {400}, id="tls-to-a-plain-port"),
    ],
)
def test_malformed_heads_get_a_json_error_that_echoes_nothing(
    gateway: GatewayProcess, head: str, statuses: set[int]
) -> None:
    """Given what is not HTTP/1.1, when it arrives, then a JSON error, closed, and nothing of it shown or logged."""
    with Talk(gateway) as talk:
        talk.send(head.encode("latin-1"))
        answer = talk.answer()
        assert answer.status in statuses
        assert error_of(answer)[1] == "invalid_request_error"
        assert SECRET_IN_HEAD.encode() not in answer.body
        assert SECRET_IN_HEAD not in str(answer.headers)
        assert talk.is_closed_by_gateway(6)
    assert SECRET_IN_HEAD not in gateway.log
    assert gateway.request("GET", "/healthz").status == 200


def test_malformed_request_is_answered_though_more_of_it_comes(gateway: GatewayProcess) -> None:
    """Given a malformed head with a body behind it, when the client has sent all, then the answer is not lost."""
    with Talk(gateway) as talk:
        talk.send(b"POST /v1/messages HTTP/1.1\r\nContent-Length: x\r\n\r\n" + b"x" * 50_000)
        assert error_of(talk.answer())[0] == 400
        assert talk.socket.recv(1) == b""


def _refused_start(
    arguments: tuple[str, ...] = (),
    keys: tuple[str, ...] = (KEY,),
    upstream_url: str = "http://127.0.0.1:9",
    **settings: str,
) -> tuple[int, list[str]]:
    """Exit status and log lines of a gateway that is expected not to start."""
    process = GatewayProcess(upstream_url, list(keys), arguments, must_start=False, **settings)
    try:
        status = process.wait(20)
    finally:
        log = process.stop()
    assert "Traceback" not in log
    return status, [line for line in log.splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("arguments", "settings", "told"),
    [
        pytest.param((), {"bind": "0.0.0.0:0"}, ["GATEWAY_CLIENT_TOKENS_FILE"], id="public-address-without-tokens"),
        pytest.param(("-b", "0.0.0.0:0"), {}, ["GATEWAY_CLIENT_TOKENS_FILE"], id="public-address-by-gunicorns-b"),
        pytest.param(("-b", "[::]:0"), {}, ["GATEWAY_CLIENT_TOKENS_FILE"], id="public-ipv6-by-gunicorns-b"),
        pytest.param(("--threads", "99"), {}, ["--threads", "GATEWAY_THREADS"], id="threads-on-the-command-line"),
        pytest.param(("--workers", "3"), {}, ["--workers", "GATEWAY_WORKERS"], id="workers-on-the-command-line"),
        pytest.param(("-k", "sync"), {}, ["worker-class"], id="another-worker-class"),
        pytest.param((), {"reserved_threads": "32"}, ["GATEWAY_RESERVED_THREADS"], id="no-thread-left"),
        pytest.param((), {"client_tokens_file": "/nowhere/tokens"}, ["GATEWAY_CLIENT_TOKENS_FILE"], id="no-token-file"),
    ],
)
def test_refuses_to_start_in_one_clear_line(
    arguments: tuple[str, ...], settings: dict[str, str], told: list[str]
) -> None:
    """Given what must not be, when the gateway is started, then it exits non-zero and one line says why."""
    status, lines = _refused_start(arguments, **settings)
    assert status != 0
    assert sum(all(word in line for word in told) for line in lines) == 1, lines


def test_every_bad_setting_has_one_line(tmp_path: Path) -> None:
    """Given several faults at once, when the gateway is started, then each has one line and no secret is quoted."""
    twin = "sk-ant-api03-a-secret-that-stands-twice"
    status, lines = _refused_start(
        keys=(f"a={twin}", f"b={twin}"),
        ping_seconds="often",
        max_body_bytes="-1",
        allow_byok="perhaps",
        upstream_url="api.anthropic.com",
        ping_secnods="3",
        config=str(tmp_path / "missing.toml"),
    )
    assert status != 0
    for name in ("PING_SECONDS", "MAX_BODY_BYTES", "ALLOW_BYOK", "UPSTREAM_URL", "PING_SECNODS", "CONFIG"):
        assert sum(f"GATEWAY_{name}:" in line for line in lines) == 1, (name, lines)
    assert sum("same secret" in line for line in lines) == 1
    assert twin not in "\n".join(lines)


def test_no_keys_refuse_the_start_and_say_how_to_give_some() -> None:
    """Given no keys, when the gateway is started, then it exits non-zero and the line names the settings."""
    status, lines = _refused_start(keys=())
    assert status != 0
    assert sum("GATEWAY_API_KEYS" in line and "GATEWAY_API_KEYS_FILE" in line for line in lines) == 1, lines


def test_names_that_kubernetes_injects_are_ignored(
    gateway_process: Callable[..., GatewayProcess], simulator: Simulator
) -> None:
    """Given the variables of Kubernetes Services called `gateway` and `gateway-redis`, then the gateway starts."""
    injected = {"port": "tcp://10.0.0.1:80", "port_80_tcp": "tcp://10.0.0.1:80", "service_host": "10.0.0.1"}
    injected |= {
        "redis_service_host": "10.0.0.2",
        "redis_service_port": "6379",
        "redis_port": "tcp://10.0.0.2:6379",
        "redis_port_6379_tcp_addr": "10.0.0.2",
    }
    assert gateway_process(simulator.url, keys=[KEY], **injected).request("GET", "/readyz").status == 200


def test_error_bodies_are_json_with_an_id_of_their_own(gateway: GatewayProcess) -> None:
    """Given two errors of the gateway's own, when they are compared, then each has its own `request-id`."""
    ids = {json.loads(gateway.request("GET", "/nowhere").body)["request_id"] for _ in range(2)}
    assert len(ids) == 2
