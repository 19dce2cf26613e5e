"""What the gateway says that requests cost, against the upstream's own bill, while workers are killed.

The simulator's prices and arithmetic are written anew, so an error would have to be made twice. A request that ends
has a record, and costs there what it costs on the bill, to the microdollar. A killed worker takes records with it: at
most those of requests in flight and of what it had not written down yet. The gateway's metrics tell how many, and the
bill shows which. Requests that break have an estimate, and a client token of their own, so that they stand apart.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.records.spool import waiting_records
from gateway.runtime.data_folder import spool_folder
from gateway.simulator import Simulator
from gateway.simulator.bill import Line
from tests.e2e.clients import Client, ask, message_body
from tests.e2e.recorded import run_command
from tests.e2e.talk import token_line
from tests.harness import GatewayProcess, wait_until
from tests.mcp.servers import FaultServer

REQUESTS, KILLS = 300, 3
ALL_REQUESTS, ALL_KILLS = 10_000, 40
CLIENTS = 16
WORKERS = 3
SOON_SECONDS = 60.0
SEED = 20261129
TOKENS = {"ending": "gwt_token-of-what-ends-012345", "broken": "gwt_token-of-what-breaks-0123"}
# Two keys are limited now and then, each for a moment; a third answers whatever they do not.
KEYS = {
    "sk-ant-bill-first": " then ".join(["ok*9", "rate_limited:retry-after-ms=60"] * 1000),
    "sk-ant-bill-second": " then ".join(["ok*5", "rate_limited:retry-after-ms=40*2"] * 1000),
    "sk-ant-bill-third": "ok",
}
FAST = ["claude-opus-5", "claude-opus-5-5", "claude-fable-5-2"]
MODELS = [
    *FAST,
    "claude-sonnet-5-5",
    "claude-haiku-4-5-20251001",
    "claude-opus-4-5",
    "claude-opus-4-8",
    "claude-sonnet-4-6",
]
HAIKU = "claude-haiku-5-5"
HIDDEN_TURN = 'tool_use:once,name=bmcp_faults_echo,input={"text":"tide"}'
BREAKS = ("cut:after=6", "cut_half:after=5", "error_event:after=4", "reset:after=5", "stall:after=5")


@dataclass(frozen=True)
class Wish:
    """One request: the step that it is answered by, and members of its body."""

    session: str
    script: str
    is_streamed: bool
    members: dict[str, Any]
    token: str = "ending"

    @property
    def headers(self) -> list[str]:
        return [
            f"X-Gateway-Token: {TOKENS[self.token]}",
            f"x-session-id: {self.session}",
            f"x-simulator-script: {self.script}",
        ]

    @property
    def body(self) -> bytes:
        return message_body(self.is_streamed, **self.members)


def wish(dice: random.Random, number: int) -> Wish:
    """A request of any kind."""
    session = f"bill-{number}"
    is_fast = dice.random() < 0.2
    models = FAST if is_fast else [*MODELS, HAIKU, HAIKU]
    members: dict[str, Any] = {"model": dice.choice(models)}
    if is_fast:
        members["speed"] = "fast"
    if dice.random() < 0.3:
        members["inference_geo"] = dice.choice(["us", "global"])
    if dice.random() < 0.05:
        step = dice.choice(BREAKS)
        return Wish(session, f"{step},input-tokens={dice.randint(1, 5000)}", True, members, "broken")
    step = HIDDEN_TURN if dice.random() < 0.1 else "ok:events=3"
    options = [step, *(_iterations(dice, models) if dice.random() < 0.25 else _counts(dice, members["model"]))]
    if dice.random() < 0.3:
        options.append(f"tier={dice.choice(['batch', 'priority'])}")
    if dice.random() < 0.2:
        options.append(f"web-searches={dice.randint(0, 5)},web-fetches={dice.randint(0, 3)}")
    return Wish(session, ",".join(options), dice.random() < 0.6, members)


def _counts(dice: random.Random, model: str) -> list[str]:
    """Counts of one inference; of Haiku 5.5 on either side of the threshold, and on it."""
    read, written, hour = dice.randint(0, 20_000), dice.randint(0, 5000), dice.choice([0, 0, dice.randint(1, 5000)])
    entered = dice.randint(1, 200_000)
    if model == HAIKU and dice.random() < 0.5:
        entered = 100_000 - read - written - hour + dice.choice([-1, 0, 1])
    counts = [f"input-tokens={entered},output-tokens={dice.randint(1, 9000)}"]
    counts.append(f"cache-read={read},cache-write={written},cache-write-1h={hour}")
    return counts if hour else [*counts, f"lifetimes={dice.choice(['true', 'false'])}"]


def _iterations(dice: random.Random, models: list[str]) -> list[str]:
    """An answer of several inferences."""

    def one(kind: str, model: str = "", *, has_output: bool = True) -> dict[str, Any]:
        hour, minutes = dice.randint(0, 300), dice.randint(0, 300)
        return {
            "type": kind,
            **({"model": model} if model else {}),
            "input_tokens": dice.randint(0, 120_000),
            "output_tokens": dice.randint(1, 3000) if has_output else 0,
            "cache_read_input_tokens": dice.randint(0, 9000),
            "cache_creation_input_tokens": hour + minutes,
            "cache_creation": {"ephemeral_1h_input_tokens": hour, "ephemeral_5m_input_tokens": minutes},
        }

    match dice.choice(["compaction", "fallback", "advisor", "tools", "refusal"]):
        case "compaction":
            entries = [one("message"), one("compaction"), one("message")]
        case "fallback":
            first, second = dice.sample(models, 2)
            declined = [one("message", first, has_output=dice.random() < 0.3)]
            entries = [
                *declined,
                one("message", second, has_output=False),
                one("fallback_message", dice.choice(models)),
            ]
        case "advisor":
            entries = [one("message"), one("advisor_message", dice.choice(models)), one("message")]
        case "refusal":
            return ["stop=refusal", f"iterations={json.dumps([one('message', has_output=dice.random() < 0.5)])}"]
        case _:
            entries = [one("message") for _ in range(dice.randint(1, 4))]
    return [f"iterations={json.dumps(entries)}"]


@dataclass
class Storm:
    """A gateway of several workers before the simulator, and what its clients have seen."""

    simulator: Simulator
    gateway: GatewayProcess
    data_dir: Path
    answered: set[str] = field(default_factory=set)
    torn: set[str] = field(default_factory=set)
    killed_in_flight: list[int] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)  # guards what is above and below
    _in_flight: int = 0

    def blow(self, wishes: list[Wish], kills: int, dice: random.Random) -> None:
        """All requests from several clients; after every so many of them a worker is killed."""
        kill_at = {len(wishes) * (number + 1) // (kills + 1) for number in range(kills)}

        def one(number: int) -> None:
            if number in kill_at:
                self._kill(dice)
            with self._lock:
                self._in_flight += 1
            is_answered = self._ask(wishes[number])
            with self._lock:
                self._in_flight -= 1
                (self.answered if is_answered else self.torn).add(wishes[number].session)

        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(one, range(len(wishes))))

    def _kill(self, dice: random.Random) -> None:
        assert wait_until(lambda: len(self.gateway.worker_pids) == WORKERS, SOON_SECONDS)
        with self._lock:  # no request begins meanwhile
            self.killed_in_flight.append(self._in_flight)
            os.kill(dice.choice(self.gateway.worker_pids), signal.SIGKILL)

    def _ask(self, wish: Wish) -> bool:
        """Whether the answer came to its end; some clients leave before."""
        if wish.script.startswith("stall"):
            return self._leave(wish)
        try:
            answer = ask(self.gateway.url, wish.body, headers=wish.headers)
        except (OSError, AssertionError):
            return False
        if not answer.is_complete:
            return False
        if wish.token == "ending":
            assert answer.status == 200, answer.body
            assert not wish.is_streamed or b"event: message_stop" in answer.body
        return True

    def _leave(self, wish: Wish) -> bool:
        try:
            with Client(self.gateway.url) as client:
                client.send(wish.body, headers=wish.headers)
                client.read_body(client.read_head(), lambda body: b"content_block_delta" in body)
        except (OSError, AssertionError):
            pass
        return False

    def settle(self) -> None:
        """Wait until every request has ended, and whatever is written down is in the database."""
        spool = spool_folder(str(self.data_dir))
        assert wait_until(lambda: self.gateway.total("requests_inflight") == 0, SOON_SECONDS)
        assert wait_until(lambda: self.gateway.total("recorder_queue_length") == 0, SOON_SECONDS)
        assert wait_until(lambda: not list(waiting_records(spool)), SOON_SECONDS)
        # A segment that changes hands is in nobody's list for a moment.
        assert wait_until(lambda: self._stored() >= self.gateway.total("recorder_written_total"), SOON_SECONDS)

    def _stored(self) -> int:
        """How many records the database has."""
        with closing(sqlite3.connect(self.data_dir / "records.db")) as database:
            (number,) = database.execute("SELECT count(*) FROM interceptions").fetchone()
            return int(number)

    def untold(self) -> int:
        """How many requests were let in and have no record, as the metrics say."""
        return int(self.gateway.total("requests_admitted_total") - self.gateway.total("recorder_written_total"))

    def recorded(self) -> dict[str, str]:
        """Session by upstream request id, of all records."""
        with closing(sqlite3.connect(self.data_dir / "records.db")) as database:
            query = "SELECT a.request_id, i.session FROM attempts a JOIN interceptions i ON i.id = a.interception_id"
            return dict(database.execute(query))

    def report(self, by: str) -> dict[str, Any]:
        """The rows of `gateway report`, by name."""
        done = run_command(self.data_dir, "report", "--by", by, "--format", "json")
        assert (done.returncode, done.stderr) == (0, "")
        return {row[by]: row for row in json.loads(done.stdout)["rows"]}


@pytest.fixture
def storm(tmp_path: Path) -> Iterator[Storm]:
    tokens, config = tmp_path / "tokens", tmp_path / "gateway.toml"
    tokens.write_text("".join(token_line(name, token) for name, token in TOKENS.items()))
    with FaultServer(tmp_path) as tools, Simulator(KEYS) as simulator:
        config.write_text(f'[[mcp_servers]]\nname = "faults"\nurl = "{tools.url}"\n')
        data_dir = tmp_path / "data"
        named = {
            "config": config,
            "client_tokens_file": tokens,
            "data_dir": data_dir,
            "workers": WORKERS,
            "threads": 64,
        }
        keys = [f"k{number}={secret}" for number, secret in enumerate(KEYS)]
        gateway = GatewayProcess(simulator.url, keys, **{name: str(value) for name, value in named.items()})
        try:
            yield Storm(simulator, gateway, data_dir)
        finally:
            gateway.stop(signal.SIGKILL)


def microdollars(picodollars: int) -> Decimal:
    """Dollars, rounded once."""
    return Decimal((picodollars + 500_000) // 10**6).scaleb(-6)


def cost_of(lines: list[Line]) -> Decimal:
    return microdollars(sum(line.picodollars for line in lines))


@pytest.mark.parametrize(
    ("requests", "kills"),
    [
        pytest.param(REQUESTS, KILLS, marks=pytest.mark.timeout(300)),
        pytest.param(ALL_REQUESTS, ALL_KILLS, marks=[pytest.mark.long, pytest.mark.timeout(1500)]),
    ],
)
def test_report_costs_what_the_upstream_bills_though_workers_are_killed(
    storm: Storm, requests: int, kills: int
) -> None:
    """Given mixed requests and workers that are killed, then each that has a record costs what the upstream charges,
    and so do all of them; what lacks a record was in flight, or not written down yet, and is told by the metrics."""
    dice = random.Random(SEED)
    wishes = [wish(dice, number) for number in range(requests)]
    storm.blow(wishes, kills, dice)
    storm.settle()
    lines = storm.simulator.bill.lines()
    session_of = {seen.request_id: seen.header("x-session-id") for seen in storm.simulator.requests}
    ending = {wish.session for wish in wishes if wish.token == "ending"}
    recorded = storm.recorded()
    kept = [line for line in lines if line.request_id in recorded and session_of[line.request_id] in ending]
    missing = [line for line in lines if line.request_id not in recorded]
    broken = [line for line in lines if line.request_id in recorded and session_of[line.request_id] not in ending]

    assert all(line.is_priced for line in lines)
    assert all(line.is_complete for line in kept)
    by_token, by_session = storm.report("token"), storm.report("session")
    assert set(recorded) - {line.request_id for line in lines}, "no key was limited"
    billed = defaultdict(list)
    for line in kept:
        billed[session_of[line.request_id]].append(line)
    assert any(len(its) > 1 for its in billed.values()), "no turn was hidden"
    reported = {session: Decimal(by_session[session]["cost"]) for session in billed}
    wrong = [
        wish for wish in wishes if wish.session in billed and reported[wish.session] != cost_of(billed[wish.session])
    ]
    assert not wrong
    unbilled = {
        wish.session: by_session[wish.session]
        for wish in wishes
        if wish.token == "ending" and wish.session in by_session and wish.session not in billed
    }
    assert not any(Decimal(row["cost"] or 0) for row in unbilled.values()), unbilled
    assert Decimal(by_token["ending"]["cost"]) == cost_of(kept)

    lost = {session_of[line.request_id] for line in missing}
    # What breaks by itself, or is left, may have ended for its client a moment before the kill, and not been written.
    torn = (storm.torn & ending) - set(by_session)
    untold = storm.untold()
    assert lost.isdisjoint(by_session)
    assert len(lost) <= untold
    assert len(torn) <= sum(storm.killed_in_flight)
    assert len(storm.killed_in_flight) == kills
    print(
        f"{requests} requests, {kills} workers killed with {sum(storm.killed_in_flight)} requests in flight in all\n"
        f"ended and recorded: {len(billed)}; report {by_token['ending']['cost']}, bill {cost_of(kept)} dollars\n"
        f"without a record: {len(lost)} that the upstream charges {cost_of(missing)} dollars for"
        f" ({len(lost & torn)} in flight, {len(lost & storm.answered)} answered);"
        f" {untold} let in and not written down, by the metrics\n"
        f"broken: {len(broken)}; report {by_token['broken']['cost']} (estimates), bill {cost_of(broken)} dollars\n"
        f"bill in all: {cost_of(lines)} dollars"
    )
