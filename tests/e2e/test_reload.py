"""SIGHUP: the files are read again in place; what is broken changes nothing; nothing that runs is disturbed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import certifi
import pytest

from gateway.server.master import Hangups
from gateway.simulator import Simulator
from tests.e2e.talk import Talk, events_of, message, token_line
from tests.harness import GatewayProcess, wait_until

A, B, C = (f"sk-ant-api03-secret-of-key-{name}" for name in "abc")
TOKEN, OTHER_TOKEN = "gateway-token-of-alice-0123456789", "gateway-token-of-bob-0123456789"
SOON_SECONDS = 30.0

Start = Callable[..., GatewayProcess]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """One upstream for the module."""
    with Simulator(keys={A: "ok", B: "ok", C: "ok"}) as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def _good_keys(simulator: Simulator) -> None:
    for secret in (A, B, C):
        simulator.script(secret, "ok")
    simulator.clear_requests()


class Reloadable:
    """A gateway whose keys stand in a file, and its SIGHUPs."""

    def __init__(self, start: Start, simulator: Simulator, folder: Path, **settings: object) -> None:
        self.keys_file = folder / "keys"
        self.write_keys(f"a={A}", f"b={B}")
        self.process = start(simulator.url, keys=[], api_keys_file=str(self.keys_file), **settings)
        self._simulator = simulator
        self._done = 0
        self._refused = 0

    def write_keys(self, *lines: str) -> None:
        """Replace the keys file, at one stroke."""
        fresh = self.keys_file.with_suffix(".new")
        fresh.write_text("# the pool\n" + "\n".join(lines) + "\n")
        fresh.rename(self.keys_file)

    def reload(self) -> None:
        """SIGHUP, and wait until it is in force."""
        self.process.send_signal(signal.SIGHUP)
        self._done += 1
        assert wait_until(lambda: self.process.log.count("configuration reloaded") == self._done, SOON_SECONDS), (
            self.process.log
        )

    def refused_reload(self) -> list[str]:
        """SIGHUP with something broken; the log's new lines."""
        before = self.process.log
        self.process.send_signal(signal.SIGHUP)
        self._refused += 1
        assert wait_until(lambda: self.process.log.count("reload refused") == self._refused, SOON_SECONDS), (
            self.process.log
        )
        return self.process.log.removeprefix(before).splitlines()

    def paid_by(self) -> list[str]:
        """The keys that one message goes to upstream."""
        self._simulator.clear_requests()
        assert self.process.request("POST", "/v1/messages", message()).status == 200
        return self._simulator.keys_seen


@pytest.fixture
def reloadable(gateway_process: Start, simulator: Simulator, tmp_path: Path) -> Reloadable:
    """A gateway with keys `a` and `b` in a file."""
    return Reloadable(gateway_process, simulator, tmp_path)


def test_keys_are_added_removed_reordered_and_renamed_with_their_states(
    reloadable: Reloadable, simulator: Simulator
) -> None:
    """Given a cooling and a valid key, when the file changes in every way, then order and names do, states stay."""
    simulator.script(A, "rate_limited:retry-after=600")
    assert reloadable.paid_by() == [A, B]
    (worker,) = reloadable.process.worker_pids
    rows = [
        # lines of the file, keys that a message then goes to, states
        ([f"b={B}", f"a={A}"], [B], {"a": "temporary", "b": "valid"}),
        ([f"first={A}", f"second={B}"], [B], {"first": "temporary", "second": "valid"}),
        ([f"b={A}", f"c={C}", f"a={B}"], [C], {"b": "temporary", "c": "valid", "a": "valid"}),
        ([C], [C], {"key-1": "valid"}),
        ([A, f"c={C}"], [C], {"key-1": "temporary", "c": "valid"}),
    ]
    for lines, paid_by, states in rows:
        reloadable.write_keys(*lines)
        reloadable.reload()
        assert reloadable.paid_by() == paid_by
        assert reloadable.process.key_states() == states
    assert reloadable.process.worker_pids == [worker]


def test_retired_key_stays_retired_until_its_secret_changes(reloadable: Reloadable, simulator: Simulator) -> None:
    """Given a retired key, when the file is read again, then it stays so; under a new secret, the name is valid."""
    simulator.script(A, "unauthorized")
    assert reloadable.paid_by() == [A, B]
    reloadable.reload()
    assert reloadable.process.key_states() == {"a": "permanent", "b": "valid"}
    reloadable.write_keys(f"a={C}", f"b={B}")
    reloadable.reload()
    assert reloadable.process.key_states() == {"a": "valid", "b": "valid"}
    assert reloadable.paid_by() == [C]


def test_no_stream_is_cut_by_a_reload(reloadable: Reloadable, simulator: Simulator) -> None:
    """Given a stream on a key, when that key is removed, then the stream runs to its end, and the next uses another."""
    simulator.script(A, "ok:events=60,delay=0.05")
    with Talk(reloadable.process) as talk:
        first = talk.begin_stream()
        reloadable.write_keys(f"b={B}")
        reloadable.reload()
        assert reloadable.paid_by() == [B]
        assert events_of(first + talk.rest())[-1][0] == "message_stop"


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        pytest.param(["a = "], "a", id="empty-secret"),
        pytest.param([], "no keys", id="no-keys"),
        pytest.param([f"a={A}", f"b={A}"], "same secret", id="duplicate"),
        pytest.param([f"a={A}", f"a={B}"], "is used twice", id="duplicate-name"),
        pytest.param(["a b=c"], "name", id="bad-name"),
    ],
)
def test_broken_keys_file_changes_nothing(reloadable: Reloadable, lines: list[str], complaint: str) -> None:
    """Given a broken file, when SIGHUP comes, then one line says so, the metric is 0, all goes on; mended: 1."""
    process = reloadable.process
    assert process.metric("config_reload_success") == 1
    reloadable.write_keys(*lines)
    log = reloadable.refused_reload()
    assert sum("configuration:" in line and complaint in line for line in log) == 1, log
    assert process.metric("config_reload_success") == 0
    assert reloadable.paid_by() == [A]
    reloadable.write_keys(f"b={B}")
    reloadable.reload()
    assert process.metric("config_reload_success") == 1
    assert reloadable.paid_by() == [B]
    assert A not in process.log


def test_missing_keys_file_changes_nothing(reloadable: Reloadable) -> None:
    """Given the keys file is gone, when SIGHUP comes, then one line names it, and the keys in force stay so."""
    reloadable.keys_file.unlink()
    log = reloadable.refused_reload()
    assert sum("GATEWAY_API_KEYS_FILE: cannot read" in line for line in log) == 1, log
    assert reloadable.paid_by() == [A]


def test_toml_and_tokens_are_read_again(gateway_process: Start, simulator: Simulator, tmp_path: Path) -> None:
    """Given a TOML file that names a token file, when both change, then SIGHUP puts them in force."""
    toml, tokens, others = tmp_path / "gateway.toml", tmp_path / "tokens", tmp_path / "others"
    tokens.write_text(token_line("alice", TOKEN))
    others.write_text(token_line("bob", OTHER_TOKEN))
    toml.write_text(f'client_tokens_file = "{tokens}"\nmax_body_bytes = 2048\n')
    gateway = Reloadable(gateway_process, simulator, tmp_path, config=str(toml))

    def status(token: str, body: bytes) -> int:
        return gateway.process.request("POST", "/v1/messages", body, {"X-Gateway-Token": token}).status

    large = message(pad_bytes=5000)
    assert (status(TOKEN, message()), status(TOKEN, large), status(OTHER_TOKEN, message())) == (200, 413, 401)
    toml.write_text(f'client_tokens_file = "{others}"\nmax_body_bytes = 65536\n')
    gateway.reload()
    assert (status(TOKEN, large), status(OTHER_TOKEN, large)) == (401, 200)
    toml.write_text(f'client_tokens_file = "{others}"\nmax_body_bytes = "plenty"\n')
    log = gateway.refused_reload()
    assert sum("max_body_bytes" in line for line in log) == 1, log
    toml.write_text("this is no TOML\n")
    gateway.refused_reload()
    assert status(OTHER_TOKEN, large) == 200


def test_upstream_can_be_changed_by_a_reload(gateway_process: Start, simulator: Simulator, tmp_path: Path) -> None:
    """Given a new upstream in the TOML file, when SIGHUP comes, then messages go there and the old one is let go."""
    with Simulator(keys={A: "ok"}) as other, Simulator(keys={A: "ok:events=60,delay=0.05"}) as first:
        toml = tmp_path / "gateway.toml"
        toml.write_text(f'upstream_url = "{first.url}"\n')
        (tmp_path / "keys").write_text("")
        # The environment wins over the file, so this gateway is given its upstream by the file alone.
        gateway = Reloadable(gateway_process, _Nowhere(), tmp_path, config=str(toml))  # type: ignore[arg-type]
        with Talk(gateway.process) as talk:
            begun = talk.begin_stream()
            toml.write_text(f'upstream_url = "{other.url}"\n')
            gateway.reload()
            assert gateway.process.request("POST", "/v1/messages", message()).status == 200
            assert other.keys_seen == [A]
            assert events_of(begun + talk.rest())[-1][0] == "message_stop"
        assert first.wait_until(lambda: first.open_connections == 0, SOON_SECONDS)


class _Nowhere:
    """Stands for an upstream that the environment does not name."""

    url = ""


def test_log_names_what_needs_a_restart(gateway_process: Start, simulator: Simulator, tmp_path: Path) -> None:
    """Given a change of what is fixed while it runs, when SIGHUP comes, then the log names it and the rest applies."""
    toml = tmp_path / "gateway.toml"
    toml.write_text("ping_seconds = 5\n")
    gateway = Reloadable(gateway_process, simulator, tmp_path, config=str(toml))
    toml.write_text('drain_seconds = 7\nlog_level = "debug"\n')
    gateway.write_keys(f"b={B}")
    gateway.reload()
    for name in ("GATEWAY_DRAIN_SECONDS", "GATEWAY_LOG_LEVEL"):
        assert gateway.process.log.count(f"{name} has changed; that needs a restart") == 1
    assert "PING_SECONDS has changed" not in gateway.process.log
    assert gateway.paid_by() == [B]
    assert gateway.process.metric("config_reload_success") == 1


def test_gateway_that_lost_its_tokens_is_not_opened_to_the_world(
    gateway_process: Start, simulator: Simulator, tmp_path: Path
) -> None:
    """Given a public address taken with gunicorn's -b, when a reload would drop the token file, then it is refused."""
    toml, tokens = tmp_path / "gateway.toml", tmp_path / "tokens"
    tokens.write_text(token_line("alice", TOKEN))
    toml.write_text(f'client_tokens_file = "{tokens}"\n')
    gateway = Reloadable(gateway_process, simulator, tmp_path, config=str(toml), arguments=("-b", "0.0.0.0:0"))
    toml.write_text("")
    gateway.process.send_signal(signal.SIGHUP)
    assert wait_until(lambda: "reload refused" in gateway.process.log, SOON_SECONDS), gateway.process.log
    assert gateway.process.request("GET", "/v1/models").status == 401
    assert gateway.process.metric("config_reload_success") == 0


def test_sigterm_works_while_an_old_stream_runs_after_a_reload(reloadable: Reloadable, simulator: Simulator) -> None:
    """Given a stream from before a reload, when SIGTERM comes, then it drains like any other; exit status 0."""
    simulator.script(A, "ok:events=60,delay=0.05")
    with Talk(reloadable.process) as talk:
        first = talk.begin_stream()
        reloadable.write_keys(f"b={B}")
        reloadable.reload()
        reloadable.process.send_signal(signal.SIGTERM)
        assert events_of(first + talk.rest())[-1][0] == "message_stop"
    assert reloadable.process.wait(SOON_SECONDS) == 0


def test_replaced_worker_serves_with_what_is_in_force(reloadable: Reloadable) -> None:
    """Given a broken file, when the worker is killed, then the next one starts with the configuration in force."""
    process = reloadable.process
    reloadable.write_keys(f"b={B}")
    reloadable.reload()
    reloadable.write_keys("broken = = =", "x y z")
    reloadable.refused_reload()
    (worker,) = process.worker_pids
    os.kill(worker, signal.SIGKILL)
    assert wait_until(lambda: process.worker_pids not in ([], [worker]), 30)

    def is_ready() -> bool:
        try:
            return process.request("GET", "/readyz").status == 200
        except OSError:
            return False

    assert wait_until(is_ready, 30)
    assert reloadable.paid_by() == [B]
    assert process.metric("config_reload_success") == 0
    reloadable.write_keys(f"c={C}")
    reloadable.reload()
    assert reloadable.paid_by() == [C]


@pytest.mark.parametrize("setting", ["api_keys_file", "client_tokens_file", "upstream_ca_file", "config"])
def test_pipe_in_a_file_s_place_is_refused_and_hangs_nothing(
    gateway_process: Start, simulator: Simulator, tmp_path: Path, setting: str
) -> None:
    """Given a pipe that nobody writes to in the place of a file, when SIGHUP comes, then the log says so, and the
    gateway serves on with what it knows, and stops when it is told to."""
    texts = {
        "api_keys_file": f"a={A}\n",
        "client_tokens_file": token_line("ann", "the-token-of-ann"),
        "upstream_ca_file": Path(certifi.where()).read_text(),
        "config": "ping_seconds = 5\n",
    }
    path = tmp_path / "file"
    path.write_text(texts[setting])
    keys = [] if setting == "api_keys_file" else [A]
    process = gateway_process(simulator.url, keys=keys, **{setting: str(path)})
    path.unlink()
    os.mkfifo(path)
    process.send_signal(signal.SIGHUP)
    process.wait_for_log("reload refused")
    assert f"cannot read {path}: it is not a regular file" in process.log
    headers = {"x-api-key": "the-token-of-ann"}
    assert process.request("POST", "/v1/messages", message(), headers).status == 200


def test_hangups_that_come_while_files_are_read_cost_one_more_reading() -> None:
    """Given SIGHUPs that queue while files are waited for, then one reading answers those that came before it."""
    hangups = Hangups()
    for _ in range(3):
        hangups.note()
    assert [hangups.wants_reading() for _ in range(2)] == [True, False]
    hangups.note()
    assert [hangups.wants_reading() for _ in range(2)] == [False, True]


def test_sighup_storm_disturbs_nobody(reloadable: Reloadable, simulator: Simulator) -> None:
    """Given constant load, when files and SIGHUPs come a hundred times, then all is served, the last wins."""
    process = reloadable.process
    (worker,) = process.worker_pids
    done = threading.Event()
    statuses: list[int] = []

    def load() -> None:
        with Talk(process) as talk:
            while not done.is_set():
                statuses.append(talk.exchange(body=message(streamed=True)).status)

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        for number in range(100):
            broken = ["x y z"] if number % 7 == 0 else []
            reloadable.write_keys(f"n{number}={(A, B, C)[number % 3]}", *broken)
            process.send_signal(signal.SIGHUP)
            seen = len(statuses)
            assert wait_until(lambda seen=seen: len(statuses) > seen, SOON_SECONDS)  # type: ignore[misc]
        reloadable.write_keys(f"last={C}")
        assert wait_until(lambda: _is_in_force(process, "last"), SOON_SECONDS)
    finally:
        done.set()
        for client in clients:
            client.join(20)
    assert set(statuses) == {200}
    assert process.worker_pids == [worker]
    assert process.metric("config_reload_success") == 1
    assert reloadable.paid_by() == [C]


def _is_in_force(process: GatewayProcess, key: str) -> bool:
    process.send_signal(signal.SIGHUP)
    return process.metric("key_state", key=key, state="valid") == 1
