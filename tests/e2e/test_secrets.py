"""Planted secrets: keys, tokens, clients' credentials, prompts and answers are where they belong and nowhere else.

Each secret has a core that nothing else contains; the core is what is looked for, so that a part of a secret counts.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.e2e.otlp_receiver import OtlpReceiver
from tests.e2e.recorded import Records
from tests.e2e.talk import Talk, message, token_line
from tests.harness import GatewayProcess, wait_until
from tests.unit.tiny_proxies import SocksProxy
from tests.unit.tiny_server import TinyServer

KEY_CORES = ["KeyCoreOne7Q", "KeyCoreTwo8R", "KeyCoreThree9S"]
KEYS = [f"sk-ant-api03-{core}-0123456789" for core in KEY_CORES]
TOKEN_CORE, WRONG_CORE, OWN_CORE = "TokenCore1a", "WrongCore2b", "OwnCore3c"
TOKEN = f"gateway-token-{TOKEN_CORE}-0123456789"
OPERATOR_CORE = "OperatorCore6f"
OPERATOR = f"gateway-token-{OPERATOR_CORE}-0123456789"
WRONG = f"gateway-token-{WRONG_CORE}-0123456789"
OWN = f"sk-ant-api03-{OWN_CORE}-0123456789"
PROXY_USER_CORE, PROXY_CORE = "ProxyUser8h", "ProxyCore9i"
PROXY_LOGIN = (f"user-{PROXY_USER_CORE}", f"password-{PROXY_CORE}")
PROMPT_CORE, ANSWER_CORE, TELLING_CORE = "PromptCore4d", "AnswerCore5e", "TellingCore6f"
ASKING = {"X-Gateway-Token": TOKEN}
SOON_SECONDS = 30.0


@dataclass
class Stage:
    """A gateway at debug level before a simulator, and every byte that clients have received."""

    gateway: GatewayProcess
    simulator: Simulator
    keys_file: Path
    data_dir: Path
    receiver: OtlpReceiver
    proxy: SocksProxy
    debug_mark: bytes
    received: bytearray = field(default_factory=bytearray)

    def send(self, data: bytes, *, hang_up: bool = False) -> None:
        """Send bytes as they are; keep what comes back until the gateway closes, or hang up at once."""
        with Talk(self.gateway) as talk:
            talk.send(data)
            if hang_up:
                talk.socket.shutdown(socket.SHUT_WR)
            try:
                while piece := talk.socket.recv(65536):
                    self.received += piece
            except ConnectionResetError:
                pass

    def ask(
        self, body: bytes, headers: dict[str, str] = ASKING, path: str = "/v1/messages", method: str = "POST"
    ) -> None:
        """A request that ends its connection."""
        named = {"Host": "127.0.0.1", "Content-Length": str(len(body)), "Connection": "close"} | headers
        head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        self.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)

    def play(self, script: str, *, streamed: bool = True) -> None:
        """A message that meets this script, whichever key it goes to."""
        self.simulator.order(script)
        self.ask(message(streamed=streamed, text=PROMPT_CORE))
        self.simulator.order()


DEBUG_MARKS = {"text": b"[DEBUG]", "json": b'"level":"debug"'}


@pytest.fixture(params=["text", "json"])
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    """A stage on which everything is told that can be told, in each form of the log; the scan at the end sees what
    every scene has left behind.
    """
    folder = tmp_path_factory.mktemp("secrets")
    tokens, keys = folder / "tokens", folder / "keys"
    tokens.write_text(token_line("alice", TOKEN) + token_line("ops", OPERATOR, "operator"))
    keys.write_text("\n".join(KEYS))
    answering = f"ok:text={ANSWER_CORE}"
    proxy = SocksProxy(PROXY_LOGIN)
    with (
        OtlpReceiver() as receiver,
        Simulator(keys=dict.fromkeys(KEYS, answering), any_key=answering) as simulator,
        TinyServer(proxy) as proxy_server,
    ):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        process = GatewayProcess(
            simulator.url,
            [],
            api_keys_file=str(keys),
            client_tokens_file=str(tokens),
            upstream_proxy=f"socks5://{':'.join(PROXY_LOGIN)}@127.0.0.1:{proxy_server.port}",
            log_level="debug",
            log_format=request.param,
            access_log="true",
            tracing="otlp",
            head_timeout_seconds="1",
            body_timeout_seconds="1",
            read_idle_timeout_seconds="1",
            max_body_bytes="65536",
            data_dir=str(folder / "data"),
        )
        try:
            yield Stage(process, simulator, keys, folder / "data", receiver, proxy, DEBUG_MARKS[request.param])
        finally:
            process.stop()


def _good(stage: Stage) -> None:
    for streamed in (True, False):
        stage.ask(message(streamed=streamed, text=PROMPT_CORE))
    stage.ask(message(text=PROMPT_CORE), path="/v1/messages/count_tokens")
    stage.ask(b"", path="/v1/models", method="GET")
    assert ANSWER_CORE.encode() in stage.received


def _failing_upstream(stage: Stage) -> None:
    answer = f"text={ANSWER_CORE}"
    for script in (
        "rate_limited:retry-after-ms=1*2 then ok",
        "rate_limited:retry-after-ms=1*3",
        "server_error",
        "overloaded",
        "bad_request",
        "too_large:html",
        "html",
        "garbage",
        "close",
        "redirect",
        f"set_cookie:{answer}",
        f"error_event:after=2,{answer}",
        f"cut:{answer}",
        f"cut_half:{answer}",
        f"bad_chunk:{answer}",
        f"stall_half:{answer}",
        f"ok:gzip,{answer}",
        f"ok:unknown,comments,{answer}",
        f"short_length:{answer}",
        f"tool_use:{answer},name=lookup,input={json.dumps({'path': ANSWER_CORE}, separators=(',', ':'))}",
    ):
        stage.play(script)
        stage.play(script, streamed=False)


def _refused_clients(stage: Stage) -> None:
    body = message(text=PROMPT_CORE)
    for headers in (
        {},
        {"X-Gateway-Token": WRONG},
        {"x-api-key": WRONG},
        {"Authorization": f"Bearer {WRONG}"},
        {"Authorization": f"Basic {WRONG}"},
        {"x-api-key": KEYS[0]},
        {"X-Gateway-Token": WRONG, "x-api-key": OWN},
    ):
        stage.ask(body, headers)


def _own_credentials(stage: Stage) -> None:
    for headers in ({"x-api-key": OWN}, {"Authorization": f"Bearer {OWN}"}):
        stage.ask(message(streamed=True, text=PROMPT_CORE), ASKING | headers)
        for script in ("rate_limited:retry-after=1", "unauthorized", "cut"):
            stage.simulator.script(OWN, script)
            stage.ask(message(text=PROMPT_CORE), ASKING | headers)
        stage.simulator.script(OWN, f"ok:text={ANSWER_CORE}")


def _telling_clients(stage: Stage) -> None:
    """What a client says of itself may be anything, too."""
    prose = f"{TELLING_CORE} and so on"
    told = dict.fromkeys(("User-Agent", "x-app", "x-session-id", "x-claude-code-session-id", "traceparent"), prose)
    stage.ask(message(text=PROMPT_CORE, model=prose), ASKING | told)
    user_id = {"device_id": TELLING_CORE, "account_uuid": TELLING_CORE, "session_id": prose}
    for text in (prose, json.dumps(user_id), f"user_{TELLING_CORE}_account_{TELLING_CORE}_session_0123-4567"):
        stage.ask(message(text=PROMPT_CORE, metadata={"user_id": text}))


def _bad_bodies(stage: Stage) -> None:
    prompt = PROMPT_CORE.encode()
    for body in (
        b'{"model":"m","messages":' + prompt,
        b'["' + prompt + b'"]',
        b'{"prompt":"' + prompt + b'"}',
        b'{"model":7,"prompt":"' + prompt + b'"}',
        b'{"model":"m","prompt":"' + prompt + b'\xff"}',
        b'{"model":"m","prompt":"' + prompt + b'","x":NaN}',
        prompt * 20_000,
    ):
        stage.ask(body)
    head = f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nX-Gateway-Token: {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
    stage.send(head.encode() + prompt + b"\r\n")
    stage.send(head.encode() + b"5\r\n" + prompt, hang_up=True)
    stage.send(head.encode() + b"ff\r\n" + prompt)


def _broken_heads(stage: Stage) -> None:
    credentials = f"X-Gateway-Token: {TOKEN}\r\nx-api-key: {OWN}\r\nAuthorization: Bearer {WRONG}\r\n"
    for begin, end in (
        ("", "\r\n"),
        ("GET / HTTP/9.9\r\n", "\r\n"),
        ("GET /\r\n", "\r\n"),
        ("GET / HTTP/1.1\r\n", f"no colon {TOKEN}\r\n\r\n"),
        ("GET / HTTP/1.1\r\n", f"bad name : {TOKEN}\r\n\r\n"),
        ("GET / HTTP/1.1\r\n", f"folded: x\r\n {TOKEN}\r\n\r\n"),
        ("GET / HTTP/1.1\r\n", f"Content-Length: {TOKEN}\r\n\r\n"),
        ("GET / HTTP/1.1\r\n", f"Transfer-Encoding: {TOKEN}\r\n\r\n"),
        ("GET / HTTP/1.1\r\n", f"Expect: {TOKEN}\r\n\r\n"),
        ("GET / HTTP/1.1\r\n", f"Connection: close\r\nUpgrade: h2c\r\nHTTP2-Settings: {TOKEN}\r\n\r\n"),
        ("GET / HTTP/1.1\r\n", f"x: {'a' * 9000}\r\n\r\n"),
        ("GET / HTTP/1.1\r\n", "x: a\r\n" * 200 + "\r\n"),
        ("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HTTP/1.1\r\n", "\r\n"),
    ):
        stage.send((begin + credentials + end).encode())
    for cut in ("GET / HTTP/1.1\r\n", "POST /v1/messages HTTP/1.1\r\nContent-Length: 100\r\n"):
        stage.send((cut + credentials).encode(), hang_up=True)
        stage.send((cut + credentials).encode())
        stage.send((cut + credentials + "\r\n" + PROMPT_CORE).encode(), hang_up=True)
        stage.send((cut + credentials + "\r\n" + PROMPT_CORE).encode())


def _clients_that_leave(stage: Stage) -> None:
    for script in (f"stall:after=3,text={ANSWER_CORE}", "silent"):
        stage.simulator.order(script)
        seen = len(stage.simulator.requests)
        with Talk(stage.gateway) as talk:
            talk.ask(body=message(streamed=True, text=PROMPT_CORE), headers=ASKING)
            assert stage.simulator.wait_until(lambda seen=seen: len(stage.simulator.requests) > seen, SOON_SECONDS)  # type: ignore[misc]
    stage.simulator.order()
    assert wait_until(lambda: stage.gateway.metric("requests_inflight", route="messages") == 0, SOON_SECONDS)


def _reloads(stage: Stage) -> None:
    good = stage.keys_file.read_text()
    for number, broken in enumerate(
        (
            f"{KEYS[0]}\n{KEYS[0]}",
            f"a={KEYS[0]} {KEYS[1]}",
            f"a b={KEYS[0]}",
            f"{KEYS[0]}=",
            f"{KEYS[0]}=primary",
            f"a={KEYS[0]}\na={KEYS[1]}",
            f"a={KEYS[0]}\udcff",
        ),
        start=1,
    ):
        stage.keys_file.write_bytes(broken.encode("utf-8", "surrogateescape"))
        stage.gateway.send_signal(signal.SIGHUP)
        assert wait_until(lambda number=number: stage.gateway.log.count("reload refused") == number, SOON_SECONDS), (
            broken
        )  # type: ignore[misc]
    stage.keys_file.write_text(good)
    stage.gateway.send_signal(signal.SIGHUP)
    stage.gateway.wait_for_log("configuration reloaded", SOON_SECONDS)


def _refusing_proxy(stage: Stage) -> None:
    for said in (
        b"",
        b"\x05\xff",
        b"\x05\x02" + ":".join(PROXY_LOGIN).encode(),
        b" ".join(map(str.encode, PROXY_LOGIN)),
    ):
        stage.play("ok:hang-up=true")  # so that no connection is kept
        stage.proxy.said = said
        stage.ask(message(text=PROMPT_CORE))
        stage.proxy.said = None
    assert stage.received.count(b"the upstream cannot be reached: the proxy") == 4


def _retired_keys(stage: Stage) -> None:
    stage.simulator.order("unauthorized", "forbidden", "unauthorized")
    stage.ask(message(streamed=True, text=PROMPT_CORE))
    stage.simulator.order()
    stage.ask(message(text=PROMPT_CORE))
    assert b"all configured keys failed authentication" in stage.received


def _replaced_worker(stage: Stage) -> None:
    (worker,) = stage.gateway.worker_pids
    os.kill(worker, signal.SIGKILL)
    assert wait_until(lambda: stage.gateway.worker_pids not in ([], [worker]), SOON_SECONDS)


# In this order: the last two leave no key and no worker behind.
_SCENES: list[Callable[[Stage], None]] = [
    _good,
    _failing_upstream,
    _refused_clients,
    _own_credentials,
    _telling_clients,
    _bad_bodies,
    _broken_heads,
    _clients_that_leave,
    _reloads,
    _refusing_proxy,
    _retired_keys,
    _replaced_worker,
]


def test_secrets_are_nowhere_but_where_they_belong(stage: Stage) -> None:
    """Given secrets planted everywhere, when all goes right and wrong, then no log, page or answer holds one."""
    pages = b""
    for scene in _SCENES:
        scene(stage)
        if scene is not _replaced_worker:
            pages += stage.gateway.request("GET", "/metrics").body
            pages += stage.gateway.request("GET", "/status", headers={"X-Gateway-Token": OPERATOR}).body
    assert pages.count(b"<!doctype html>") == pages.count(b'role="columnheader" scope="col">Key</th>') > 5
    _assert_upstream_saw_only_its_own(stage)
    _wait_for_records(stage)
    stored = _bytes_in(stage.data_dir)
    log = stage.gateway.stop().encode()
    stored += _bytes_in(stage.data_dir)  # the database tidies up when it is closed
    assert log.count(stage.debug_mark) > 50
    assert log.count(b"gateway.access") > 50
    assert len(stage.receiver.spans) > 100
    spans = b"".join(stage.receiver.bodies)
    for core in [
        *KEY_CORES,
        TOKEN_CORE,
        OPERATOR_CORE,
        WRONG_CORE,
        OWN_CORE,
        PROMPT_CORE,
        ANSWER_CORE,
        TELLING_CORE,
        PROXY_USER_CORE,
        PROXY_CORE,
    ]:
        assert _around(log, core) == b""
        assert _around(pages, core) == b""
        assert _around(stored, core) == b""
        assert _around(spans, core) == b""
    for core in [*KEY_CORES, TOKEN_CORE, WRONG_CORE, OWN_CORE, PROMPT_CORE, PROXY_USER_CORE, PROXY_CORE]:
        assert _around(bytes(stage.received), core) == b""


def _wait_for_records(stage: Stage) -> None:
    records = Records.in_folder(stage.data_dir)
    assert wait_until(lambda: sum(map(len, records.ids_by_session().values())) > 60, SOON_SECONDS)


def _bytes_in(folder: Path) -> bytes:
    """Every byte of the database, the spool and whatever else there is."""
    found = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"claude-simulated" in found
    return found


def _around(text: bytes, core: str) -> bytes:
    place = text.find(core.encode())
    return b"" if place < 0 else text[max(0, place - 200) : place + 80]


def _assert_upstream_saw_only_its_own(stage: Stage) -> None:
    assert len(stage.simulator.requests) > 40
    for seen in stage.simulator.requests:
        head = f"{seen.path}?{seen.query}\n" + "\n".join(f"{name}: {value}" for name, value in seen.headers)
        assert TOKEN_CORE not in head
        assert WRONG_CORE not in head
        assert PROXY_CORE not in head
        assert PROXY_USER_CORE not in head
        payers = [core for core in (*KEY_CORES, OWN_CORE) if core in head]
        assert len(payers) == 1
        assert head.count(payers[0]) == 1


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"api_keys": f"{KEYS[0]},{KEYS[0]}"}, id="duplicate"),
        pytest.param({"api_keys": f"a={KEYS[0]} b"}, id="space"),
        pytest.param({"api_keys": f"{KEYS[0]}=primary"}, id="name-and-secret-swapped"),
        pytest.param({"api_keys": f"{KEYS[0]}=="}, id="no-secret-behind"),
        pytest.param({"api_keys": f"a={KEYS[0]};b={KEYS[1]}", "threads": "none"}, id="wrong-separator"),
        pytest.param({"api_keys": KEYS[0], "upstream_url": f"https://user:{KEYS[1]}@host"}, id="password-in-url"),
        pytest.param({"api_keys": KEYS[0], "upstream_proxy": f"https://user:{KEYS[1]}@host"}, id="password-in-proxy"),
        pytest.param({"api_keys": KEYS[0], "upstream_proxy": f"ftp://{KEYS[1]}@host:1"}, id="user-in-proxy"),
        pytest.param({"api_keys": KEYS[0], "key": KEYS[1]}, id="misspelt-name"),
        pytest.param({"api_keys": KEYS[0], "record_url": f"mysql://u:{KEYS[1]}@host/db"}, id="password-of-no-database"),
        pytest.param({"api_keys": KEYS[0], "record_url": f"postgresql://u:{KEYS[1]}@h:x/d"}, id="password-and-no-port"),
    ],
)
def test_broken_settings_quote_no_secret(settings: dict[str, str]) -> None:
    """Given a configuration that is refused, when the gateway says why, then it quotes no secret."""
    chosen = {"log_level": "debug"} | settings
    process = GatewayProcess(chosen.pop("upstream_url", "http://127.0.0.1:9"), [], must_start=False, **chosen)
    try:
        assert process.wait(20) != 0
    finally:
        log = process.stop()
    assert [core for core in KEY_CORES if core in log] == []
