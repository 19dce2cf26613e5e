"""Who may spend how much, over real gateways: what is let in, what is refused and in which words, and what survives."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.e2e.clients import Received
from tests.e2e.spending import (
    ANSWER,
    COST_DOLLARS,
    ENDLESS,
    MODEL,
    PATIENCE_SECONDS,
    SLOW_ANSWER,
    TOKENS,
    USAGE,
    Attempt,
    Stage,
    crowd,
    kind_of,
    secret_of,
    send,
    words_of,
    wrongly_refused,
)
from tests.harness import wait_until
from tests.mcp.servers import FaultServer
from tests.stores.redis_server import RedisServer

CLIENTS = 64
LIMIT = 10
BUDGET_REQUESTS = round(1 / COST_DOLLARS)
RESETS = r"resets \d{4}-\d\d-\d\d 00:00 UTC"
# What a killed worker ran is free again within two seconds.
FREE_SECONDS = 30.0
SLACK_SECONDS = 1.0  # machines know of each other within it


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One gateway of four workers; each test has names of its own."""
    with ExitStack() as stack:
        yield Stage(tmp_path_factory.mktemp("spending"), stack)


@pytest.fixture
def own_stage(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """Starts gateways for one test."""
    with ExitStack() as stack:
        yield lambda **settings: Stage(tmp_path, stack, **settings)


def is_refused_for_pace(answer: Received, words: str) -> bool:
    """Whether it is the refusal that clients repeat after a while."""
    assert (answer.status, kind_of(answer)) == (429, "rate_limit_error"), answer.body
    assert re.fullmatch(words + r"; try again in [1-9]\d? s", words_of(answer)), words_of(answer)
    assert answer.header("x-should-retry") is None
    assert 1 <= int(answer.header("retry-after") or 0) <= 60
    return True


def is_refused_for_money(answer: Received, period: str, words: str) -> bool:
    """Whether it is the refusal that clients do not repeat."""
    assert (answer.status, kind_of(answer)) == (429, "billing_error"), answer.body
    assert re.fullmatch(rf"spend limit reached \({period}; {RESETS}\): {words}", words_of(answer)), words_of(answer)
    assert answer.header("x-should-retry") == "false"
    assert 1 <= int(answer.header("retry-after") or 0) <= (86_400 if period == "daily" else 31 * 86_400)
    return True


# Running requests


def test_running_requests_of_four_workers_never_pass_the_limit(stage: Stage) -> None:
    """Given a limit of ten running requests, when 64 clients ask again and again, then the upstream never has more than
    ten at once, has ten at some time, and nobody is refused while fewer run."""
    stage.given(f"[limits.groups.crowd]\nconcurrent = {LIMIT}", SLOW_ANSWER, ann="crowd", bob="crowd")
    attempts = crowd(stage, ["ann", "bob"] * (CLIENTS // 2), lambda made: len(made) >= 12, is_streamed=True)
    assert {made.status for made in attempts} == {200, 429}
    assert stage.upstream.most_at_once == LIMIT
    assert wrongly_refused(attempts, LIMIT) == []
    assert stage.comes_to_be_used("group/crowd", "concurrent", 0)


def test_as_many_clients_as_may_run_are_never_refused(stage: Stage) -> None:
    """Given a limit of ten running requests, when ten clients ask one after the other, then none is ever refused."""
    stage.given(f"[limits.tokens.ten]\nconcurrent = {LIMIT}", SLOW_ANSWER, ten=None)
    attempts = crowd(stage, ["ten"] * LIMIT, lambda made: len(made) >= 15)
    assert [made.status for made in attempts] == [200] * 15 * LIMIT


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_who_has_an_answer_may_ask_again_at_once(stage: Stage, is_streamed: bool) -> None:
    """Given a limit of one running request, when a client asks anew as soon as it has its answer, each time on a new
    connection, and so of any worker, then it is never refused."""
    name = f"eager-{is_streamed}".lower()
    stage.given(f"[limits.tokens.{name}]\nconcurrent = 1", ANSWER, **{name: None})
    assert [stage.ask(name, is_streamed=is_streamed).status for _ in range(100)] == [200] * 100


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_who_has_spent_the_last_of_a_budget_is_refused_at_once(stage: Stage, is_streamed: bool) -> None:
    """Given a budget for ten requests, when a client asks one after the other, each time on a new connection, then ten
    are answered and the eleventh is refused."""
    name = f"thrifty-{is_streamed}".lower()
    stage.given(f"[limits.tokens.{name}]\ndollars_per_day = {10 * COST_DOLLARS}", ANSWER, **{name: None})
    statuses = [stage.ask(name, is_streamed=is_streamed).status for _ in range(12)]
    assert statuses == [200] * 10 + [429] * 2


def test_what_a_killed_worker_ran_is_free_again(stage: Stage) -> None:
    """Given ten running requests of ten, when a worker with three of them is killed, then within two seconds three may
    run, and no fourth."""
    stage.given(f"[limits.tokens.killed]\nconcurrent = {LIMIT}", ENDLESS, killed=None)
    fleet = stage.fleet
    doomed = fleet.gateway.worker_pids[0]
    with ExitStack() as streams:

        def begins() -> bool:
            stream = stage.running("killed")
            _, answer = stream.__enter__()
            streams.push(stream)
            return answer.status == 200

        with fleet.only(doomed):
            assert [begins() for _ in range(3)] == [True] * 3
        with fleet.only(fleet.gateway.worker_pids[1]):
            assert [begins() for _ in range(8)] == [True] * 7 + [False]
        os.kill(doomed, signal.SIGKILL)
        begun = 0

        def three_have_begun() -> bool:
            nonlocal begun
            begun += begins()
            return begun == 3

        assert wait_until(three_have_begun, FREE_SECONDS), f"{begun} of 3 slots have come back"
        assert not begins()
    assert wait_until(lambda: fleet.is_whole, PATIENCE_SECONDS)
    assert stage.comes_to_be_used("token/killed", "concurrent", 0)


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_clients_that_leave_give_their_slots_back(stage: Stage, is_streamed: bool) -> None:
    """Given one running request of one, when its client hangs up, then the next may run."""
    name = f"leaver-{is_streamed}".lower()
    stage.given(f"[limits.tokens.{name}]\nconcurrent = 1", ENDLESS, **{name: None})
    with stage.client() as client:
        send(client, name, is_streamed=is_streamed)
        assert stage.comes_to_be_used(f"token/{name}", "concurrent", 1)
        assert is_refused_for_pace(stage.ask(name), f"token {name} has used its 1 running requests")
    stage.answers(ANSWER)
    assert wait_until(lambda: stage.ask(name).status == 200, PATIENCE_SECONDS)


@pytest.mark.parametrize("step", [ENDLESS, "silent"], ids=["while it came", "before it came"])
def test_client_that_leaves_a_whole_answer_pays_for_its_prompt(stage: Stage, step: str) -> None:
    """Given a budget, and an upstream that is at work, when the client hangs up, then the prompt is spent, and a small
    budget with it."""
    name = "leaver-pays-" + step.split(":")[0].replace("_", "-")
    stage.given(f"[limits.tokens.{name}]\nconcurrent = 1\ndollars_per_day = 0.0001", step, **{name: None})
    with stage.client() as client:
        send(client, name, metadata={"padding": "word " * 200})
        assert stage.comes_to_be_used(f"token/{name}", "concurrent", 1)
    assert wait_until(lambda: stage.used(f"token/{name}", "dollars_per_day") > 0.0001, PATIENCE_SECONDS)
    assert is_refused_for_money(stage.ask(name), "daily", f"token {name} has spent .*")


# Money


def refused_twice(made: list[Attempt]) -> bool:
    return sum(each.status != 200 for each in made) >= 2


def late_admissions(attempts: list[Attempt], slack_seconds: float) -> list[Attempt]:
    """Those let in although they asked after the budget was reached: after twenty requests were answered."""
    reached_at = sorted(made.answered_at for made in attempts if made.status == 200)[BUDGET_REQUESTS - 1]
    return [made for made in attempts if made.status == 200 and made.sent_at > reached_at + slack_seconds]


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_budget_is_passed_by_what_was_in_flight_alone(stage: Stage, is_streamed: bool) -> None:
    """Given a budget of a dollar, when 64 clients ask until they are refused, then nobody is let in once it is reached,
    and what is counted as spent is what the upstream charges."""
    group = f"budget-{is_streamed}".lower()
    stage.given(f"[limits.groups.{group}]\ndollars_per_day = 1", SLOW_ANSWER, cid=group, dan=group)
    before = len(stage.upstream.bill.lines())
    attempts = crowd(stage, ["cid", "dan"] * (CLIENTS // 2), refused_twice, is_streamed=is_streamed)
    served = sum(made.status == 200 for made in attempts)
    assert served >= BUDGET_REQUESTS
    assert late_admissions(attempts, slack_seconds=0.0) == []
    charged = sum(line.picodollars for line in stage.upstream.bill.lines()[before:]) / 10**12
    assert charged == pytest.approx(served * COST_DOLLARS)
    assert stage.comes_to_be_used(f"group/{group}", "dollars_per_day", charged)
    words = rf"group {group} has spent {charged:.2f} of 1\.00 dollars"
    assert is_refused_for_money(stage.ask("cid"), "daily", words)


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_running_answer_is_never_cut(stage: Stage, is_streamed: bool) -> None:
    """Given a budget, when it is passed while an answer runs, then that runs to its end and counts, and the next is
    refused."""
    name = f"runner-{is_streamed}".lower()
    limits = f"[limits.tokens.{name}]\ndollars_per_month = {COST_DOLLARS}"
    stage.given(limits, f"ok:{USAGE},events=150,delay=0.1", **{name: None})
    with stage.client() as client:
        send(client, name, is_streamed=is_streamed)
        assert stage.upstream.wait_until(lambda: len(stage.upstream.requests) == 1, PATIENCE_SECONDS)
        stage.answers(ANSWER)
        assert stage.ask(name).status == 200
        refusal = rf"token {name} has spent 0\.05 of 0\.05 dollars"
        assert is_refused_for_money(stage.ask(name), "monthly", refusal)
        answer = client.read_answer()
        assert answer.status == 200
        assert answer.is_complete
        assert not is_streamed or answer.events[-1][0] == "message_stop"
    assert stage.comes_to_be_used(f"token/{name}", "dollars_per_month", 2 * COST_DOLLARS)


def test_shares_of_a_budget_are_told_once(stage: Stage) -> None:
    """Given a budget, when 75 % of it is spent, and 95 %, and all, then the log has one warning for each, by whichever
    worker."""
    stage.given(f"[limits.tokens.teller]\ndollars_per_day = {20 * COST_DOLLARS}", teller=None)
    for number in range(1, 21):
        assert stage.ask("teller").status == 200
        assert stage.comes_to_be_used("token/teller", "dollars_per_day", round(number * COST_DOLLARS, 6))
    assert stage.ask("teller").status == 429
    for percent in (75, 95, 100):
        assert stage.logged(f"token teller has spent {percent} % of its 1.00 dollars a day") == 1, percent


def test_money_stops_messages_alone(stage: Stage) -> None:
    """Given nothing to spend, then messages are refused at once, and count_tokens, models and a client that pays itself
    are not."""
    stage.given("[limits.tokens.poor]\ndollars_per_day = 0\ntokens_per_minute = 1", poor=None)
    assert is_refused_for_money(stage.ask("poor"), "daily", r"token poor has spent 0\.00 of 0\.00 dollars")
    assert stage.upstream.requests == []
    for path in ("/v1/messages/count_tokens", "/v1/models", "/v1/models/claude-opus-5"):
        assert stage.ask("poor", path=path).status == 200, path
    for _ in range(2):
        assert stage.ask("poor", is_own=True).status == 200
    assert stage.used("token/poor", "dollars_per_day") == 0


# Requests and tokens


def test_requests_of_every_route_count_by_the_minute(stage: Stage) -> None:
    """Given five requests a minute, then five of any route pass, whoever pays, and the sixth of every route is
    refused."""
    stage.given("[limits.tokens.five]\nrequests_per_minute = 5", five=None)
    paths = ["/v1/messages", "/v1/messages/count_tokens", "/v1/models", "/v1/models/claude-opus-5"]
    assert [stage.ask("five", path=path).status for path in paths] == [200] * 4
    assert stage.ask("five", is_own=True).status == 200
    asked = len(stage.upstream.requests)
    for path in paths:
        assert is_refused_for_pace(stage.ask("five", path=path), "token five has used its 5 requests a minute")
    assert is_refused_for_pace(stage.ask("five", is_own=True), "token five has used its 5 requests a minute")
    assert len(stage.upstream.requests) == asked
    labels = {"limit": "requests_per_minute", "kind": "token", "name": "five"}
    samples = stage.fleet.gateway.metrics()
    assert samples["gateway_limit_refusals_total", frozenset(labels.items())] == 5
    assert samples["gateway_limit_used_ratio", frozenset(labels.items())] == 1


def test_tokens_count_by_the_minute_when_they_are_told(stage: Stage) -> None:
    """Given as many tokens a minute as two answers have, less one, then two pass, and the third is refused; tokens that
    were read from the cache count for nothing."""
    answer = "ok:input-tokens=2000,cache-write=3000,output-tokens=1000,cache-read=90000"
    stage.given(f"[limits.tokens.words]\ntokens_per_minute = {2 * TOKENS - 1}", answer, words=None)
    for number in (1, 2):
        assert stage.ask("words").status == 200
        assert stage.comes_to_be_used("token/words", "tokens_per_minute", number * TOKENS)
    refusal = f"token words has used its {2 * TOKENS - 1} tokens a minute"
    assert is_refused_for_pace(stage.ask("words"), refusal)
    assert stage.ask("words", path="/v1/messages/count_tokens").status == 200
    assert stage.ask("words", is_own=True).status == 200


def test_all_limits_hold_at_once_or_none_is_counted(stage: Stage) -> None:
    """Given a pool with room and a share without, then a refused request counts for neither."""
    limits = "[limits.groups.both]\nrequests_per_minute = 9\n[limits.groups.both.each]\nrequests_per_minute = 1"
    stage.given(limits, eve="both", fay="both")
    assert stage.ask("eve").status == 200
    for _ in range(3):
        assert is_refused_for_pace(stage.ask("eve"), "token eve has used its 1 requests a minute")
    assert stage.used("group/both", "requests_per_minute") == 1
    assert stage.ask("fay").status == 200


# Whose limits


def test_each_has_the_limits_that_are_theirs(stage: Stage) -> None:
    """Given a pool with shares, a token with limits of its own, and a default, then each token is held to the pool of
    its group and to one of the others, and a token that nothing limits to none."""
    limits = """
        [limits.groups.pool]
        requests_per_minute = 4
        [limits.groups.pool.each]
        requests_per_minute = 2
        [limits.tokens.own]
        requests_per_minute = 3
        [limits.tokens.free]
        [limits.default]
        requests_per_minute = 1
    """
    stage.given(limits, shared="pool", own="pool", other="elsewhere", free=None)
    assert [stage.ask("shared").status for _ in range(2)] == [200, 200]
    assert is_refused_for_pace(stage.ask("shared"), "token shared has used its 2 requests a minute")
    assert [stage.ask("own").status for _ in range(2)] == [200, 200]
    assert is_refused_for_pace(stage.ask("own"), "group pool has used its 4 requests a minute")
    assert stage.ask("other").status == 200
    assert is_refused_for_pace(stage.ask("other"), "token other has used its 1 requests a minute")
    assert [stage.ask("free").status for _ in range(5)] == [200] * 5


def test_open_gateways_clients_share_the_default(own_stage: Callable[..., Stage]) -> None:
    """Given a gateway without tokens, then its default is one pool for all, and the status page shows it."""
    stage = own_stage(is_open=True, workers=2)
    stage.given("[limits.default]\nrequests_per_minute = 2\n")
    for _ in range(2):
        with stage.client() as client:
            send(client, None)
            assert client.read_answer().status == 200
    with stage.client() as client:
        send(client, None)
        words = "the clients of this gateway have used their 2 requests a minute"
        assert is_refused_for_pace(client.read_answer(), words)
    page = stage.fleet.gateway.request("GET", "/status/live").body.decode()
    assert "Refused now: the clients of this gateway." in page
    assert "2 of 2 requests a minute" in page
    assert "the clients of this gateway  requests a minute     2" in stage.command("limits")


# Changes, restarts


def test_reload_applies_and_counts_stay(stage: Stage) -> None:
    """Given a token that is refused, when its limit is raised, then it goes on from what it has used; when the limit
    is lowered again or taken away, then that holds at once, too; limits for nobody are warned of."""
    stage.given("[limits.tokens.reload]\nrequests_per_minute = 2", reload=None)
    assert [stage.ask("reload").status for _ in range(3)] == [200, 200, 429]
    doubtful = "[limits.tokens.reload]\nrequests_per_minute = 3\n[limits.groups.ghosts]\nconcurrent = 1"
    stage.given(doubtful, reload=None)
    assert stage.logged("limits.groups.ghosts: no token belongs to this group") == 1
    assert [stage.ask("reload").status for _ in range(2)] == [200, 429]
    stage.given("[limits.tokens.reload]\nrequests_per_minute = 1", reload=None)
    assert is_refused_for_pace(stage.ask("reload"), "token reload has used its 1 requests a minute")
    stage.given("", reload=None)
    assert stage.ask("reload").status == 200


def test_group_of_a_token_changes_while_the_gateway_runs(stage: Stage) -> None:
    """Given a token whose group has spent all, when its line in the token file names another group, then it may go on
    within two seconds, without a reload."""
    limits = "[limits.groups.spent]\ndollars_per_day = 0\n[limits.groups.rich]\ndollars_per_day = 9"
    stage.given(limits, mover="spent", stayer="spent")
    assert stage.ask("mover").status == 429
    stage.write(limits, {"mover": "rich", "stayer": "spent"})
    assert wait_until(lambda: stage.ask("mover").status == 200, PATIENCE_SECONDS)
    assert stage.ask("stayer").status == 429


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_money_survives_the_end_of_everything(own_stage: Callable[..., Stage], how: str) -> None:
    """Given a day's money that is half spent, when the gateway is stopped, or all its processes are killed, and started
    again, then it is half spent, and nothing runs."""
    stage = own_stage(workers=2)
    limits = f"[limits.tokens.saver]\ndollars_per_day = {4 * COST_DOLLARS}\nconcurrent = 1"
    stage.given(limits, saver=None)
    for _ in range(2):
        assert wait_until(lambda: stage.ask("saver").status == 200, PATIENCE_SECONDS)
    assert stage.comes_to_be_used("token/saver", "dollars_per_day", 2 * COST_DOLLARS)
    fleet = stage.fleet
    if how == "killed":
        stage.answers(ENDLESS)
        with stage.running("saver") as (_, answer):
            assert answer.status == 200
            for pid in [fleet.gateway.pid, *fleet.gateway.worker_pids]:
                os.kill(pid, signal.SIGKILL)
        stage.answers(ANSWER)
    fleet.restart()
    assert stage.used("token/saver", "dollars_per_day") == 2 * COST_DOLLARS
    assert stage.used("token/saver", "concurrent") == 0
    for number in (3, 4):
        assert wait_until(lambda: stage.ask("saver").status == 200, PATIENCE_SECONDS)
        assert stage.comes_to_be_used("token/saver", "dollars_per_day", round(number * COST_DOLLARS, 6))
    assert is_refused_for_money(stage.ask("saver"), "daily", r"token saver has spent 0\.20 of 0\.20 dollars")


# Hidden turns


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a tool; what the TOML file says of it."""
    with FaultServer(tmp_path_factory.mktemp("faults")) as server:
        yield f'[[mcp_servers]]\nname = "faults"\nurl = "{server.url}"\n'


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_hidden_turns_count_in_sum(own_stage: Callable[..., Stage], tools: str, is_streamed: bool) -> None:
    """Given an answer of two turns, of which its client sees one message, then it is one request, and costs both turns,
    which are never stopped by money between them."""
    call = f'tool_use:name=bmcp_faults_echo,input={{"text":"ebb"}},{USAGE}'
    stage = own_stage(workers=1, more_toml=tools)
    limits = (
        f"[limits.tokens.looper]\ndollars_per_day = {COST_DOLLARS}\nrequests_per_minute = 1\ntokens_per_minute = 99"
    )
    stage.given(limits, f"{call} then {ANSWER}", looper=None)
    assert wait_until(lambda: stage.fleet.gateway.metric("mcp_server_up", server="faults") == 1, PATIENCE_SECONDS)
    answer = stage.ask("looper", is_streamed=is_streamed)
    assert answer.status == 200
    assert len(stage.upstream.requests) == 2
    used = {"requests_per_minute": 1, "tokens_per_minute": 2 * TOKENS, "dollars_per_day": 2 * COST_DOLLARS}
    assert wait_until(lambda: stage.all_used("token/looper") == used, PATIENCE_SECONDS)
    assert is_refused_for_money(stage.ask("looper"), "daily", r"token looper has spent 0\.10 of 0\.05 dollars")


# What is told


def test_refusal_stands_in_the_access_log(stage: Stage) -> None:
    """Given a refused request, then its line names the token, the error, the limit, and whose it is."""
    stage.given("[limits.groups.told]\ndollars_per_month = 0", gus="told")
    assert stage.ask("gus").status == 429
    wanted: dict[str, Any] = {
        "route": "messages",
        "status": 429,
        "outcome": "rejected",
        "error": "billing_error",
        "token": "gus",
        "limit": "dollars_per_month",
        "limit_of": "group/told",
    }

    def is_told() -> bool:
        lines = (json.loads(line) for line in stage.fleet.gateway.log.splitlines() if line.startswith('{"time"'))
        return any(wanted.items() <= line.items() for line in lines)

    assert wait_until(is_told, PATIENCE_SECONDS)


def test_command_shows_the_nearest_to_its_limit_first(stage: Stage) -> None:
    """Given limits that are used by different shares, then the command's table and JSON begin with the nearest to its
    end, and tell what is used, what is left, and when it is free again."""
    limits = """
        [limits.groups.table]
        dollars_per_day = 0.1
        dollars_per_month = 5
        concurrent = 4
        [limits.tokens.hal]
        requests_per_minute = 4
    """
    stage.given(limits, hal="table")
    assert stage.ask("hal").status == 200
    assert stage.comes_to_be_used("group/table", "dollars_per_day", COST_DOLLARS)
    head, *rows = [re.split(r"\s{2,}", line) for line in stage.command("limits").splitlines()]
    assert head == ["whose", "limit", "used", "of", "left", "%", "free again"]
    assert [row[:6] for row in rows] == [
        ["group table", "dollars a day", "0.05", "0.10", "0.05", "50"],
        ["token hal", "requests a minute", "1", "4", "3", "25"],
        ["group table", "dollars a month", "0.05", "5.00", "4.95", "1"],
        ["group table", "requests at once", "0", "4", "4", "0"],
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d 00:00 UTC", rows[0][6])
    assert [row[6] for row in rows[1::2]] == ["within a minute", "-"]
    (first, *_) = json.loads(stage.command("limits", "--format", "json"))
    assert (first["kind"], first["name"], first["limit"]) == ("group", "table", "dollars_per_day")
    assert (first["used"], first["most"], first["left"], first["ratio"]) == (0.05, 0.1, 0.05, 0.5)
    assert first["resets_at"].endswith("T00:00:00+00:00")


# Several machines


class Machines:
    """Two gateways of two workers each that share a Redis."""

    def __init__(self, folder: Path, stack: ExitStack, **settings: Any) -> None:
        self.redis = RedisServer()
        stack.callback(self.redis.stop)
        self.stage = Stage(folder, stack, machines=2, workers=2, state_url=self.redis.url, **settings)

    def all_hear(self, holder: str, limit: str, amount: float) -> bool:
        """Whether the running gateways come to know soon that so much of a limit is used on all machines together."""
        kind, _, name = holder.partition("/")
        labels = frozenset({"limit": limit, "kind": kind, "name": name}.items())

        def know() -> bool:
            samples = [fleet.gateway.metrics() for fleet in self.stage.fleets]
            return all(abs(each["gateway_limit_used_ratio", labels] - amount) < 1e-6 for each in samples)

        return wait_until(know, PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Two gateways for the module; each test has names of its own."""
    with ExitStack() as stack:
        yield Machines(tmp_path_factory.mktemp("machines"), stack)


def test_running_requests_of_two_machines_never_pass_the_limit(tmp_path: Path) -> None:
    """Given a limit of ten running requests, when 64 clients ask two machines again and again, then the upstream never
    has more than ten at once, and nobody is refused while fewer have run for a second. A store that is too slow for a
    moment lets nobody in (`closed`)."""
    with ExitStack() as stack:
        never_pass_the_limit(Machines(tmp_path, stack, limits_fail="closed"))


def never_pass_the_limit(machines: Machines) -> None:
    stage = machines.stage
    stage.given(f"[limits.groups.wide]\nconcurrent = {LIMIT}", SLOW_ANSWER, ann="wide", bob="wide")
    attempts = crowd(stage, ["ann", "bob"] * (CLIENTS // 2), lambda made: len(made) >= 10, is_streamed=True)
    assert {200, 429} <= {made.status for made in attempts} <= {200, 429, 529}
    assert stage.upstream.most_at_once == LIMIT
    by_limits = [made for made in attempts if made.status != 529]
    wrong = wrongly_refused(by_limits, LIMIT, SLACK_SECONDS)
    slow = sorted(made.answered_at for made in attempts if made.status == 529)
    assert wrong == [], f"{len(wrong)}, from {wrong[0].sent_at} to {wrong[-1].answered_at}; refused for Redis: {slow}"
    assert machines.all_hear("group/wide", "concurrent", 0)


def test_budget_of_two_machines_is_passed_by_what_was_in_flight_alone(machines: Machines) -> None:
    """Given a budget of a dollar, when 64 clients ask two machines until they are refused, then nobody is let in a
    second after it was reached, and both machines tell the same sum, which is the upstream's."""
    stage = machines.stage
    stage.given("[limits.groups.joint]\ndollars_per_day = 1", SLOW_ANSWER, cid="joint", dan="joint")
    before = len(stage.upstream.bill.lines())
    attempts = crowd(stage, ["cid", "dan"] * (CLIENTS // 2), refused_twice)
    served = sum(made.status == 200 for made in attempts)
    assert served >= BUDGET_REQUESTS
    assert late_admissions(attempts, SLACK_SECONDS) == []
    charged = sum(line.picodollars for line in stage.upstream.bill.lines()[before:]) / 10**12
    assert charged == pytest.approx(served * COST_DOLLARS)
    words = rf"group joint has spent {charged:.2f} of 1\.00 dollars"
    for machine in (0, 1):
        assert stage.comes_to_be_used("group/joint", "dollars_per_day", charged, machine)
        assert wait_until(lambda machine=machine: f"{charged:.2f} of" in words_of(stage.ask("cid", machine)), 30)
        assert is_refused_for_money(stage.ask("cid", machine), "daily", words)


def test_what_a_killed_machine_ran_is_free_again(machines: Machines) -> None:
    """Given four running requests of four on one machine, when all its processes are killed, then within some seconds
    four may run on the other."""
    stage = machines.stage
    stage.given("[limits.tokens.lost]\nconcurrent = 4", ENDLESS, lost=None)
    first, _ = stage.fleets
    with ExitStack() as streams:
        for _ in range(4):
            assert streams.enter_context(stage.running("lost", 0))[1].status == 200
        assert is_refused_for_pace(stage.ask("lost", 1), "token lost has used its 4 running requests")
        for pid in [first.gateway.pid, *first.gateway.worker_pids]:
            os.kill(pid, signal.SIGKILL)
        stage.answers(ANSWER)
        assert wait_until(lambda: stage.ask("lost", 1).status == 200, PATIENCE_SECONDS)
    first.restart()


@pytest.mark.parametrize("fail", ["open", "closed"])
def test_limits_while_the_store_is_out_of_reach(tmp_path: Path, fail: str) -> None:
    """Given a Redis that is killed, then open machines go on by what each knows, and refuse by it; closed ones refuse
    whoever has limits and serve the others. When it is back, what each has counted meanwhile is everybody's."""
    with ExitStack() as stack:
        machines = Machines(tmp_path, stack, limits_fail=fail)
        stage = machines.stage
        stage.given(f"[limits.tokens.lim]\ndollars_per_day = {5 * COST_DOLLARS}", lim=None, free=None)
        for machine in (0, 1):
            assert wait_until(lambda of=machine: stage.ask("lim", of).status == 200, PATIENCE_SECONDS)
        assert machines.all_hear("token/lim", "dollars_per_day", 0.4)
        machines.redis.kill()
        told = {"open": "limits go by what this machine has counted", "closed": "requests that have limits are refused"}
        assert wait_until(lambda: stage.logged(told[fail]) >= 4, PATIENCE_SECONDS)
        assert "does not answer" in stage.complaint("limits")
        if fail == "closed":
            refusal = stage.ask("lim")
            assert (refusal.status, kind_of(refusal)) == (529, "overloaded_error")
            assert [stage.ask("free", machine).status for machine in (0, 1)] == [200, 200]
            used = 0.4
        else:
            assert [stage.ask("lim", 0).status for _ in range(2)] == [200, 200]
            used = 0.8
        machines.redis.start()
        assert machines.all_hear("token/lim", "dollars_per_day", used)
        for number in range(round(used * 5) + 1, 6):
            assert wait_until(lambda: stage.ask("lim", 1).status == 200, PATIENCE_SECONDS)
            assert machines.all_hear("token/lim", "dollars_per_day", number / 5)
        for machine in (0, 1):
            words = r"token lim has spent 0\.25 of 0\.25 dollars"
            assert is_refused_for_money(stage.ask("lim", machine), "daily", words)


# The official SDK


def sdk_of(stage: Stage, name: str) -> anthropic.Anthropic:
    """The official client with a token, which asks again up to five times."""
    url = stage.fleet.gateway.url
    return anthropic.Anthropic(base_url=url, api_key=secret_of(name), max_retries=5, timeout=60)


def refusals(stage: Stage, name: str) -> float:
    """How often a limit of a token's has refused."""
    return stage.fleet.total("limit_refusals_total", kind="token", name=name)


def create(client: anthropic.Anthropic) -> anthropic.types.Message:
    return client.messages.create(model=MODEL, max_tokens=64, messages=[{"role": "user", "content": "hello"}])


def test_sdk_stops_at_once_when_the_money_is_spent(stage: Stage) -> None:
    """Given a spent budget, then the SDK asks once, and shows the gateway's words."""
    stage.given("[limits.tokens.sdk-poor]\ndollars_per_day = 0", **{"sdk-poor": None})
    with sdk_of(stage, "sdk-poor") as client, pytest.raises(anthropic.APIStatusError) as raised:
        create(client)
    assert (raised.value.status_code, raised.value.type) == (429, "billing_error")
    assert "spend limit reached (daily; resets " in raised.value.message
    assert refusals(stage, "sdk-poor") == 1


def test_sdk_asks_again_where_waiting_helps(stage: Stage) -> None:
    """Given as many running requests as may be, when one ends, then the SDK, which was refused, has its answer."""
    stage.given("[limits.tokens.sdk-keen]\nconcurrent = 1", ENDLESS, **{"sdk-keen": None})
    with sdk_of(stage, "sdk-keen") as client, ThreadPoolExecutor(1) as pool:
        with stage.running("sdk-keen") as (_, answer):
            assert answer.status == 200
            asked = pool.submit(create, client)
            assert wait_until(lambda: refusals(stage, "sdk-keen") >= 1, PATIENCE_SECONDS)
            stage.answers(ANSWER)
        assert asked.result(60).usage.output_tokens == 1000
