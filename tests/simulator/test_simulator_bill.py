"""The bill: what each shape of usage costs by the public prices, what is charged of an answer that breaks, the sums."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.simulator import SeenRequest, Simulator
from gateway.simulator.bill import Bill
from gateway.simulator.charge import Charge
from gateway.simulator.prices import charged
from tests.harness import wait_until
from tests.simulator.wired import charges_of, request_of
from tests.simulator.worlds import NOW

DAY = "2026-11-29"
TIMEOUT_SECONDS = 60.0
MILLION = 10**6
DOLLAR = 10**12
COUNTS = ",".join(
    f"{count}={MILLION}" for count in ("input-tokens", "output-tokens", "cache-read", "cache-write", "cache-write-1h")
)
NONE = "cache-read=0,cache-write=0"


class Wall:
    """A wall clock that is told the time."""

    def __init__(self) -> None:
        self.seconds = NOW

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def wall() -> Wall:
    return Wall()


def request_at(index: int, key: str) -> SeenRequest:
    return replace(request_of(), index=index, key=key)


def iterations(*entries: dict[str, Any]) -> str:
    return f"ok:stop=end_turn,iterations={json.dumps(entries)}"


def hop(kind: str, model: str = "", *, input: int = MILLION, output: int = 0) -> dict[str, Any]:
    named = {"model": model} if model else {}
    return {"type": kind, "input_tokens": input, "output_tokens": output, **named}


def cost(script: str, day: str = DAY, **fields: Any) -> float | None:
    """Dollars for the whole answer to that request, the same whole and streamed; None where a price is lacking."""
    [costs] = {_dollars(charges_of(script, request_of(stream=stream, **fields))[-1], day) for stream in (True, False)}
    return costs


def _dollars(charge: Charge, day: str = DAY) -> float | None:
    amounts = [part.picodollars for part in charged(charge, day)]
    return None if None in amounts else sum(amount or 0 for amount in amounts) / DOLLAR


@pytest.mark.parametrize(
    ("model", "dollars"),
    [
        ("claude-fable-5-2", 74.2),
        ("claude-mythos-5-1", 92.75),
        ("claude-opus-5-5", 37.2),
        ("claude-opus-5", 46.75),
        ("claude-opus-4-5-20251101", 46.75),
        ("claude-sonnet-5-5", 18.6),
        ("claude-sonnet-4-6", 28.05),
        ("claude-haiku-4-5-latest", 9.35),
        ("claude-haiku-5-5", 4.675),
        ("claude-simulated", None),
    ],
)
def test_million_of_each_token_costs_the_five_prices(model: str, dollars: float | None) -> None:
    assert cost(f"ok:{COUNTS}", model=model) == dollars


@pytest.mark.parametrize(
    ("prompt", "dollars"), [("input-tokens=99990", 0.01), ("input-tokens=99991", 0.05)], ids=["up to", "beyond"]
)
def test_long_prompt_costs_more_for_the_whole_request(prompt: str, dollars: float) -> None:
    """Given 10 more prompt tokens in the cache, then the threshold is between 100,000 and one more."""
    found = cost(f"ok:{prompt},output-tokens=100000,cache-read=7,cache-write=3", model="claude-haiku-5-5")
    assert found == pytest.approx(dollars + 5 * dollars, rel=1e-3)


@pytest.mark.parametrize(("day", "dollars"), [("2026-10-06", 0.2), ("2026-10-07", 0.1)], ids=["before", "since"])
def test_price_is_that_of_the_day(day: str, dollars: float) -> None:
    script = f"ok:input-tokens=0,output-tokens=0,text=x,cache-read={MILLION},cache-write=0"
    assert cost(script, day, model="claude-sonnet-5-5") == pytest.approx(dollars, abs=1e-4)


@pytest.mark.parametrize(
    ("script", "fields", "dollars"),
    [
        pytest.param("", {"speed": "fast"}, 10, id="fast"),
        pytest.param("", {"speed": "standard"}, 5, id="standard"),
        pytest.param(",speed=standard", {"speed": "fast"}, 5, id="served as standard"),
        pytest.param("", {"inference_geo": "us"}, 5.5, id="us"),
        pytest.param("", {"inference_geo": "global"}, 5, id="global"),
        pytest.param(",tier=batch", {}, 2.5, id="batch"),
        pytest.param(",tier=priority", {}, 5, id="priority"),
        pytest.param(",tier=batch", {"speed": "fast", "inference_geo": "us"}, 5.5, id="all of them"),
        pytest.param(",web-searches=3,web-fetches=9", {}, 5.03, id="searches cost, fetches do not"),
        pytest.param(",tier=batch,web-searches=3", {}, 2.53, id="a search is never half"),
    ],
)
def test_terms_multiply_the_price(script: str, fields: dict[str, str], dollars: float) -> None:
    used = f"input-tokens={MILLION - 5},output-tokens=1,text=x,{NONE}"  # one token of output costs five of input
    assert cost(f"ok:{used}{script}", model="claude-opus-5", **fields) == dollars


def test_older_models_cost_the_same_everywhere() -> None:
    used = f"ok:input-tokens={MILLION - 5},output-tokens=1,{NONE}"
    assert cost(used, model="claude-opus-4-5", inference_geo="us") == 5
    assert cost(used, model="claude-opus-4-6", inference_geo="us") == 5.5


def test_fast_mode_without_a_price_has_none() -> None:
    """Given a model without fast mode, or after fast mode's end, then the answer is not priced."""
    assert cost("ok", model="claude-sonnet-5", speed="fast") is None
    assert cost("ok", "2026-11-30", model="claude-opus-4-8", speed="fast") is not None
    assert cost("ok", "2026-12-01", model="claude-opus-4-8", speed="fast") is None


OPUS, SONNET, HAIKU = "claude-opus-5", "claude-sonnet-5", "claude-haiku-4-5"


@pytest.mark.parametrize(
    ("entries", "dollars"),
    [
        pytest.param([hop("compaction"), hop("message", OPUS, output=1000)], 5 + 5 + 0.025, id="compaction"),
        pytest.param([hop("message", output=1000), hop("advisor_message", SONNET)], 5 + 0.025 + 2, id="advisor"),
        pytest.param([hop("message", OPUS), hop("fallback_message", SONNET)], 2, id="declined"),
        pytest.param([hop("message", OPUS), hop("message", HAIKU), hop("fallback_message", SONNET)], 2, id="twice"),
        pytest.param([hop("message", OPUS, output=1), hop("fallback_message", SONNET)], 7.000025, id="declined late"),
        pytest.param([hop("message"), hop("message", output=1000)], 10.025, id="tool loop"),
        pytest.param(
            [hop("message", OPUS), hop("message", SONNET), hop("fallback_message", SONNET)],
            4,
            id="tool loop after a hop",
        ),
    ],
)
def test_iterations_cost_each_at_its_own_model(entries: list[dict[str, Any]], dollars: float) -> None:
    assert cost(iterations(*entries), model=OPUS) == dollars


def test_refused_answer_without_a_token_costs_nothing() -> None:
    script = iterations(hop("message", OPUS)).replace("end_turn", "refusal")
    assert cost(script, model=OPUS) == 0


def test_cache_write_without_a_lifetime_lives_five_minutes() -> None:
    entry = hop("message", input=0) | {"cache_creation_input_tokens": MILLION}
    hour = entry | {"cache_creation": {"ephemeral_1h_input_tokens": MILLION}}
    assert cost(iterations(entry), model=OPUS) == 6.25
    assert cost(iterations(hour), model=OPUS) == 10


# What is charged of an answer, and when.


def test_answer_is_charged_from_its_first_event_on() -> None:
    """Given a stream, then its prompt is charged with the first event, its output by deltas, and the end says so."""
    script = f"ok:events=4,output-tokens=100000,input-tokens={MILLION},{NONE}"
    charges = charges_of(script, request_of(model=OPUS))
    assert [_dollars(charge) for charge in charges] == [5.0, 5.625, 6.25, 6.875, 7.5, 7.5]
    assert [charge.is_complete for charge in charges] == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("script", "deltas", "is_complete"),
    [
        pytest.param("cut:after=6", 3, False, id="cut"),
        pytest.param("cut_half:after=6", 3, False, id="half an event is none"),
        pytest.param("cut_clean:after=9", 5, False, id="all but message_delta"),
        pytest.param("short_length", 5, True, id="short length"),
        pytest.param("late_end", 5, True, id="late end"),
        pytest.param("error_event:after=4", 1, False, id="error"),
        pytest.param("ok:unknown", 5, True, id="unknown event"),
        pytest.param("one_segment", 5, True, id="one write"),
        pytest.param("split", 5, True, id="split"),
        pytest.param("drip_head", 5, True, id="dripping head"),
        pytest.param("ok:gzip", 5, True, id="gzip"),
    ],
)
def test_stream_is_charged_as_far_as_it_was_sent(script: str, deltas: int, is_complete: bool) -> None:
    last = charges_of(script)[-1]
    assert (last.deltas, last.is_complete) == (deltas, is_complete)


@pytest.mark.parametrize("script", ["empty", "error_event", "rate_limited", "server_error", "close", "silent"])
def test_what_has_no_message_costs_nothing(script: str) -> None:
    assert charges_of(script) == []
    assert charges_of(script, request_of(stream=False)) == []


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/models"])
def test_only_messages_cost(path: str) -> None:
    assert charges_of("ok", request_of(path=path, method="POST" if "messages" in path else "GET")) == []


def test_whole_answer_that_breaks_is_charged_whole() -> None:
    [charge] = charges_of("cut:after=2", request_of(stream=False))
    assert (charge.deltas, charge.is_complete) == (5, False)


# The sums.


def test_bill_is_of_every_answer_by_its_day(wall: Wall) -> None:
    """Given answers of two keys and days, one of them still on its way, then each stands in a line and in its sum."""
    bill = Bill(100, wall)
    for key, index in (("sk-a", 1), ("sk-b", 2), ("sk-a", 3)):
        request = request_at(index, key)
        for charge in charges_of("ok", request_of(model=OPUS)):
            bill.charge(request, charge)
        bill.end(request)
        wall.seconds += 86_400
    running = request_at(4, "sk-a")
    bill.charge(running, charges_of("ok", request_of(model=OPUS))[0])
    assert [(line.request_id, line.day, line.is_complete) for line in bill.lines()] == [
        ("req_sim_00000001", "2027-01-15", True),
        ("req_sim_00000002", "2027-01-16", True),
        ("req_sim_00000003", "2027-01-17", True),
        ("req_sim_00000004", "2027-01-18", False),
    ]
    whole, begun = bill.lines()[0].picodollars, bill.lines()[3].picodollars
    sums = {(account.key, account.day): total for account, total in bill.sums().items()}
    assert [sums["sk-a", day].picodollars for day in ("2027-01-15", "2027-01-17", "2027-01-18")] == [whole, whole, 0]
    assert sums["sk-a", "2027-01-18"].incomplete_picodollars == begun
    assert "sk-a" not in repr(bill.lines()) + repr(bill.sums())


def test_sums_outlive_the_lines(wall: Wall) -> None:
    bill = Bill(2, wall)
    for index in range(5):
        request = request_at(index, "sk-a")
        bill.charge(request, charges_of("ok", request_of(model=OPUS))[-1])
        bill.end(request)
    assert [line.request_id for line in bill.lines()] == ["req_sim_00000003", "req_sim_00000004"]
    [total] = bill.sums().values()
    assert total.picodollars == 5 * bill.lines()[0].picodollars


def test_only_the_attempt_that_answers_is_charged(connect: Any) -> None:
    """Given a key that refuses and one that answers, then the bill has one line, which the answer's id names."""
    with Simulator({"sk-a": "rate_limited", "sk-b": "ok"}) as simulator:
        client = connect(simulator)
        for key in ("sk-a", "sk-b"):
            client.ask(key, body=json.dumps({"model": OPUS}).encode())
            answer = client.read_answer()
        assert [line.request_id for line in simulator.bill.lines()] == [answer.header("request-id")]


def test_client_that_leaves_is_charged_for_what_was_sent(connect: Any) -> None:
    with Simulator({"sk-a": "stall:after=4"}) as simulator:
        client = connect(simulator)
        client.ask("sk-a", stream=True)
        # A charge is nothing that the simulator's own `wait_until` hears of.
        assert wait_until(lambda: bool(simulator.bill.lines()), TIMEOUT_SECONDS)
        client.close()
        assert simulator.wait_until(lambda: simulator.open_connections == 0, TIMEOUT_SECONDS)
        assert [line.is_complete for line in simulator.bill.lines()] == [False]


def test_control_shows_sums_and_answers(connect: Any) -> None:
    """Given two answers, one without a price, then the bill tells sums by key, model and day, and a line an answer."""
    with Simulator({"sk-sim-0123456789": "ok"}) as simulator:
        client = connect(simulator)
        for model in (OPUS, "claude-simulated"):
            client.ask("sk-sim-0123456789", body=json.dumps({"model": model}).encode())
            client.read_answer()

        def shown(path: str) -> tuple[int, Any]:
            client.ask("", method="GET", path=f"/_simulator/{path}", body=b"")
            answer = client.read_answer()
            return answer.status, answer.json()

        status, bill = shown("bill")
        first, second = shown("bill/answers")[1]["answers"]
        assert status == 200
        assert [(each["key"], each["model"], each["unpriced"]) for each in bill["sums"]] == [
            ("key-1", OPUS, 0),
            ("key-1", "claude-simulated", 1),
        ]
        assert bill["total"] == {"picodollars": first["picodollars"], "incomplete_picodollars": 0, "unpriced": 1}
        assert first["picodollars"] > second["picodollars"] == 0
        assert (first["is_complete"], first["parts"][0]["kind"]) == (True, "message")
        assert shown("bill/more")[0] == 404
        assert "0123456789" not in str(bill)


# A request that says how it is answered.


def test_request_may_bring_its_own_step(connect: Any) -> None:
    """Given a key that plays `ok`, then a request's own step is played instead; a script that says more wins."""
    with Simulator({"sk-a": "ok*3 then overloaded"}) as simulator:
        client = connect(simulator)
        statuses = []
        for script in ("ok:input-tokens=77", "rate_limited:retry-after=1", "ok:nonsense=1", "ok"):
            client.ask("sk-a", extra=f"X-Simulator-Script: {script}\r\n")
            answer = client.read_answer()
            statuses.append(answer.status)
            if script == "ok:input-tokens=77":
                assert answer.json()["usage"]["input_tokens"] == 77
        assert statuses == [200, 429, 400, 529]
        simulator.script("sk-a", "ok")
        client.ask("sk-a", extra="X-Simulator-Script: ok then ok\r\n")
        assert client.read_answer().json()["error"]["message"] == "x-simulator-script wants one step"
