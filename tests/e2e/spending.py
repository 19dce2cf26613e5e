"""Clients with limits, before gateways that share a TOML file and a token file; and a judge of what became of them.

Owns: what a request costs here, the files, the crowd. The judge knows facts by this machine's wall clock: when clients
asked and were answered, and when the upstream had a request and its last byte to send.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gateway.simulator import Simulator
from gateway.simulator.bill import Bill
from gateway.simulator.charge import Charge
from gateway.simulator.seen import SeenRequest
from tests.e2e.clients import Client, Received, message_body
from tests.e2e.fleet import WORKERS, Fleet, KeysFile
from tests.e2e.talk import token_line
from tests.harness import run_command, wait_until

MODEL = "claude-opus-5"  # 5 dollars a million tokens of input, 25 of output
COST_DOLLARS = 0.05
TOKENS = 6000
PATIENCE_SECONDS = 30.0
_RELOADED = "configuration reloaded"
OWN_KEY = "sk-ant-spending-own"
USAGE = "input-tokens=5000,output-tokens=1000,cache-read=0,cache-write=0"
ANSWER = f"ok:{USAGE}"
SLOW_ANSWER = f"ok:{USAGE},events=4,delay=0.02"
ENDLESS = f"ok:{USAGE},events=5000,delay=0.05"


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which something ran."""

    from_at: float
    to_at: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request of a client's; points of the wall clock."""

    sent_at: float
    answered_at: float
    status: int
    request_id: str


class Upstream(Simulator):
    """A simulator that knows when it had each request: from its head to the moment before the last byte was sent."""

    def __init__(self) -> None:
        super().__init__(keys={OWN_KEY: ANSWER})
        self.spans: dict[str, Span] = {}
        self._bill = _Watched(self.spans)

    @property
    def most_at_once(self) -> int:
        """How many requests it has had at once, at most."""
        return most_at_once(self.spans.values())


class _Watched(Bill):
    def __init__(self, spans: dict[str, Span]) -> None:
        super().__init__(100_000)
        self._spans = spans

    def charge(self, request: SeenRequest, charge: Charge) -> None:
        if charge.is_complete:
            self._spans[request.request_id] = Span(request.arrived_at_epoch, time.time())
        super().charge(request, charge)


def most_at_once(spans: Iterable[Span]) -> int:
    """How many of these overlap at most; one that ends as another begins does not."""
    steps = sorted(step for span in spans for step in ((span.from_at, 1), (span.to_at, -1)))
    running = most = 0
    for _, step in steps:
        running += step
        most = max(most, running)
    return most


class Stage:
    """Gateways with the same tokens and limits. A test gives it limits of names that no other test uses."""

    def __init__(self, folder: Path, stack: ExitStack, machines: int = 1, more_toml: str = "", **settings: Any) -> None:
        self._more_toml = more_toml
        self._config = folder / "gateway.toml"
        self._tokens = folder / "tokens"
        self.upstream = stack.enter_context(Upstream())
        self.keys = KeysFile(self.upstream, folder)
        self.upstream.script(self.keys.secrets[0], ANSWER)
        self.write("", {"nobody": None})
        if settings.pop("is_open", False):
            tokens: dict[str, object] = {}
        else:
            tokens = {"client_tokens_file": self._tokens}
        defaults = {"log_format": "json", "threads": 48, "reserved_threads": 8, "workers": WORKERS}
        self.fleets = [
            stack.enter_context(
                Fleet(
                    self.upstream,
                    self.keys,
                    folder / f"data-{number}",
                    config=self._config,
                    **(tokens | defaults | settings),
                )
            )
            for number in range(machines)
        ]

    @property
    def fleet(self) -> Fleet:
        """The only one."""
        (fleet,) = self.fleets
        return fleet

    def write(self, limits: str, tokens: Mapping[str, str | None]) -> None:
        """Replace both files: the tables of limits, and tokens with their groups."""
        lines = [token_line(name, secret_of(name), f"group={group}" if group else "") for name, group in tokens.items()]
        for path, text in ((self._config, f"{limits}\n{self._more_toml}"), (self._tokens, "".join(lines))):
            fresh = path.with_suffix(".new")
            fresh.write_text(text)
            os.utime(fresh, (0, 0))  # it is whole: the gateway need not wait to see whether it still changes
            fresh.rename(path)

    def given(self, limits: str, answer: str = ANSWER, **tokens: str | None) -> None:
        """These limits, tokens and their groups are in force from now on, and the upstream answers so."""
        self.answers(answer)
        self.write(limits, tokens)
        self.reload()

    def reload(self) -> None:
        """Put the files in force in every worker."""
        for fleet in self.fleets:
            before = fleet.gateway.log.count(_RELOADED)
            fleet.gateway.send_signal(signal.SIGHUP)
            in_force = partial(self._has_reloaded, fleet, before + 1)
            assert wait_until(in_force, PATIENCE_SECONDS), fleet.gateway.log

    @staticmethod
    def _has_reloaded(fleet: Fleet, times: int) -> bool:
        return fleet.gateway.log.count(_RELOADED) >= times

    def answers(self, script: str) -> None:
        """From now on the upstream answers so."""
        self.upstream.script(self.keys.secrets[0], script)
        self.upstream.clear_requests()
        self.upstream.spans.clear()

    def ask(self, name: str, machine: int = 0, **how: Any) -> Received:
        """One request of a token's, to the end of its answer."""
        with self.client(machine) as client:
            send(client, name, **how)
            return client.read_answer()

    def client(self, machine: int = 0) -> Client:
        """A connection to a gateway."""
        return Client(self.fleets[machine].gateway.url)

    @contextmanager
    def running(self, name: str, machine: int = 0) -> Iterator[tuple[Client, Received]]:
        """A stream that has begun, or was refused."""
        with self.client(machine) as client:
            send(client, name, is_streamed=True)
            yield client, client.read_head()

    def command(self, *words: str, machine: int = 0) -> str:
        """What a command prints that has the gateway's settings."""
        done = self._run(*words, machine=machine)
        assert done.returncode == 0, f"status {done.returncode}: {done.stderr}"
        return done.stdout

    def complaint(self, *words: str, machine: int = 0) -> str:
        """What a command complains of that does not succeed."""
        done = self._run(*words, machine=machine)
        assert done.returncode == 1, done.stdout
        return done.stderr

    def _run(self, *words: str, machine: int) -> subprocess.CompletedProcess[str]:
        return run_command(*words, **self.fleets[machine]._settings)

    def used(self, holder: str, limit: str, machine: int = 0) -> float:
        """How much of a limit is used, as `gateway limits` says."""
        return self.all_used(holder, machine)[limit]

    def all_used(self, holder: str, machine: int = 0) -> dict[str, float]:
        """The same of all limits of a group or a token, at one moment."""
        uses = json.loads(self.command("limits", "--format", "json", machine=machine))
        return {each["limit"]: each["used"] for each in uses if f"{each['kind']}/{each['name']}" == holder}

    def comes_to_be_used(self, holder: str, limit: str, amount: float, machine: int = 0) -> bool:
        """Whether so much of a limit is used soon."""
        return wait_until(lambda: abs(self.used(holder, limit, machine) - amount) < 1e-9, PATIENCE_SECONDS)

    def logged(self, text: str) -> int:
        """How often a text stands in the logs."""
        return sum(fleet.gateway.log.count(text) for fleet in self.fleets)


def secret_of(name: str) -> str:
    """A token's secret."""
    return f"gwt_{name}-0123456789abcdef"


def send(
    client: Client,
    name: str | None,
    *,
    is_streamed: bool = False,
    path: str = "/v1/messages",
    is_own: bool = False,
    **members: object,
) -> None:
    """Ask as the client with this token; `is_own`: with a credential of its own."""
    headers = [f"X-Gateway-Token: {secret_of(name)}"] if name is not None else []
    headers += [f"x-api-key: {OWN_KEY}"] if is_own else []
    if path.startswith("/v1/models"):
        client.send(method="GET", path=path, headers=headers)
    else:
        client.send(message_body(is_streamed, model=MODEL, **members), path=path, headers=headers)


def attempt(client: Client, name: str, *, is_streamed: bool = False) -> tuple[Attempt, Received]:
    """One request, answered to its end, on a connection that is kept."""
    sent_at = time.time()
    send(client, name, is_streamed=is_streamed)
    answer = client.read_answer()
    return Attempt(sent_at, time.time(), answer.status, answer.header("request-id") or ""), answer


def crowd(
    stage: Stage, names: Iterable[str], is_over: Callable[[list[Attempt]], bool], *, is_streamed: bool = False
) -> list[Attempt]:
    """A client for each name, on a kept connection to one gateway or the next, asks again and again until it is over
    for it; all their attempts. One that is refused waits for a moment."""
    everybody: list[list[Attempt]] = []
    failures: list[BaseException] = []
    pause = threading.Event()

    def main(name: str, machine: int, made: list[Attempt]) -> None:
        try:
            with stage.client(machine) as client:
                while not is_over(made):
                    made.append(attempt(client, name, is_streamed=is_streamed)[0])
                    if made[-1].status != 200:
                        pause.wait(0.02)
        except BaseException as error:  # noqa: BLE001  # raised again below
            failures.append(error)

    threads = []
    for number, name in enumerate(names):
        everybody.append([])
        threads.append(threading.Thread(target=main, args=(name, number % len(stage.fleets), everybody[-1])))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a client hangs"
    if failures:
        raise failures[0]
    return [each for made in everybody for each in made]


def wrongly_refused(attempts: Iterable[Attempt], limit: int, slack_seconds: float = 0.0) -> list[Attempt]:
    """The refused attempts during which, at every moment, fewer than `limit` others may have run.

    A request may run from the moment when its client asks to the moment when it has the whole answer; with slack, so
    much longer.
    """
    attempts = list(attempts)
    spans = [Span(a.sent_at, a.answered_at + slack_seconds) for a in attempts if a.status == 200]
    wrong = []
    for refused in (a for a in attempts if a.status != 200):
        beside = [
            Span(max(span.from_at, refused.sent_at), min(span.to_at, refused.answered_at))
            for span in spans
            if span.from_at < refused.answered_at and span.to_at > refused.sent_at
        ]
        if most_at_once(beside) < limit:
            wrong.append(refused)
    return wrong


def kind_of(answer: Received) -> str:
    """The Anthropic type of an error."""
    return str(answer.json()["error"]["type"])


def words_of(answer: Received) -> str:
    """The message of an error."""
    return str(answer.json()["error"]["message"])
