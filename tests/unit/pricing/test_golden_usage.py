"""Every shape of usage that the API's SDKs know, and what an answer that says so costs: worked out by hand.

Amounts are picodollars: a price of a dollar per million tokens is a million picodollars a token. Nothing here is
calculated by the gateway's own formulas; the sums stand in the comments.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.pricing.bill import Bill, bill
from gateway.pricing.prices import known_prices
from gateway.protocol.messages import Tally
from tests.unit.protocol.test_usage import event, tally_of

ROOT = Path(__file__).parents[3]
TODAY = "2026-11-29"
OPUS, HAIKU, SONNET = "claude-opus-5", "claude-haiku-5-5", "claude-sonnet-5-5"

# What `message_start` alone says, and what it does not know yet.
_SAID_AT_START = ("cache_creation", "service_tier", "inference_geo", "speed")
_SAID_AT_END = ("iterations", "server_tool_use", "fallback_credit", "output_tokens_details")


def used(input: object = 1000, output: object = 200, **members: object) -> dict[str, Any]:
    """By default 1,000 tokens in and 200 out, which are 10,000,000,000 for Opus 5: 1000 * 5M + 200 * 25M."""
    return {"input_tokens": input, "output_tokens": output, **members}


def cached(written: int = 0, read: int = 0, **members: object) -> dict[str, Any]:
    return used(cache_creation_input_tokens=written, cache_read_input_tokens=read, **members)


def lifetimes(minutes: int, hour: int) -> dict[str, int]:
    return {"ephemeral_5m_input_tokens": minutes, "ephemeral_1h_input_tokens": hour}


def entry(kind: str, input: object, output: object, model: str | None = None, **members: object) -> dict[str, Any]:
    named = {} if model is None else {"model": model}
    empty = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"type": kind, **empty, **used(input, output), **named, **members}


DECLINED = entry("message", 900, 0, "claude-fable-5-1")
SERVED = entry("fallback_message", 1000, 200, OPUS)
REDEEMED = {"status": {"type": "redeemed"}}
REFUSED_CREDIT = {
    "status": {"type": "not_applied", "reason": "variant_fields_present", "remove_to_redeem": ["fallbacks"]}
}
ANSWER = entry("message", 1000, 200)
SEARCH = {"web_search_requests": 1}
MANY = [entry("message", 1, 1, OPUS)] * 1500

# Shape, the model that is asked for and answers, usage, picodollars, whether they are an estimate.
GOLDEN: list[tuple[str, str, dict[str, Any], int, bool]] = [
    ("plain", OPUS, used(), 10_000_000_000, False),
    ("input-alone", OPUS, used(1000, 0), 5_000_000_000, False),
    ("output-alone", OPUS, used(0, 200), 5_000_000_000, False),
    ("nothing-used", OPUS, used(0, 0), 0, False),
    ("thinking-is-output", OPUS, used(output_tokens_details={"thinking_tokens": 150}), 10_000_000_000, False),
    # The cache. 10,000M for the rest.
    ("read", OPUS, cached(0, 4000), 12_000_000_000, False),  # + 4000 * 0.5M
    ("lifetime-unsaid", OPUS, cached(800), 15_000_000_000, False),  # + 800 * 6.25M
    ("5m", OPUS, cached(800, cache_creation=lifetimes(800, 0)), 15_000_000_000, False),  # + 800 * 6.25M
    ("1h", OPUS, cached(800, cache_creation=lifetimes(0, 800)), 18_000_000_000, False),  # + 800 * 10M
    ("both", OPUS, cached(800, cache_creation=lifetimes(400, 400)), 16_500_000_000, False),  # + 400 * 6.25M + 400 * 10M
    ("some-unsaid", OPUS, cached(800, cache_creation=lifetimes(0, 400)), 16_500_000_000, False),
    ("lifetimes-alone", OPUS, used(cache_creation=lifetimes(400, 400)), 16_500_000_000, False),
    ("lifetimes-null", OPUS, cached(800, cache_creation=None), 15_000_000_000, False),
    # Tiers: a batch costs half; what the priority tier costs is not public.
    ("standard", OPUS, used(service_tier="standard"), 10_000_000_000, False),
    ("priority", OPUS, used(service_tier="priority"), 10_000_000_000, True),
    ("batch", OPUS, used(service_tier="batch"), 5_000_000_000, False),
    ("unknown-tier", OPUS, used(service_tier="flex"), 10_000_000_000, True),
    ("batch-and-cache", OPUS, cached(800, 4000, service_tier="batch"), 8_500_000_000, False),  # (10+5+2)G / 2
    # Speed: twice, where there is a price for it; without one, twice is a guess.
    ("standard-speed", OPUS, used(speed="standard"), 10_000_000_000, False),
    ("fast", OPUS, used(speed="fast"), 20_000_000_000, False),
    ("fast-without-a-price", "claude-opus-4-7", used(speed="fast"), 20_000_000_000, True),
    ("unknown-speed", OPUS, used(speed="slow"), 10_000_000_000, True),
    # Place: 1.1 times in the United States, from the 4.6 models on.
    ("us", OPUS, used(inference_geo="us"), 11_000_000_000, False),
    ("global", OPUS, used(inference_geo="global"), 10_000_000_000, False),
    ("not-available", OPUS, used(inference_geo="not_available"), 10_000_000_000, False),
    ("unknown-place", OPUS, used(inference_geo="eu"), 10_000_000_000, True),
    # 1000 * 3M + 200 * 15M
    ("us-before-4-6", "claude-sonnet-4-5", used(inference_geo="us"), 6_000_000_000, False),
    # 10,000M * 2 * 1.1 / 2
    ("all-factors", OPUS, used(speed="fast", inference_geo="us", service_tier="batch"), 11_000_000_000, False),
    # 1 * 0.1M * 1.1 / 2
    ("one-token", HAIKU, used(1, 0, inference_geo="us", service_tier="batch"), 55_000, False),
    # Server tools: 0.01 dollars a search, fetches free. No factor holds for them.
    ("search", OPUS, used(server_tool_use={"web_search_requests": 3, "web_fetch_requests": 0}), 40_000_000_000, False),
    ("fetch", OPUS, used(server_tool_use={"web_search_requests": 0, "web_fetch_requests": 9}), 10_000_000_000, False),
    ("search-in-a-batch", OPUS, used(service_tier="batch", server_tool_use=SEARCH), 15_000_000_000, False),
    ("many-tools", OPUS, used(server_tool_use={f"t{n}": 1 for n in range(30)} | SEARCH), 20_000_000_000, False),
    # Long prompts, for the whole request: 100,000 * 0.1M + 200 * 0.5M; 100,001 * 0.5M + 200 * 2.5M.
    ("threshold", HAIKU, used(100_000), 10_100_000_000, False),
    ("above-it", HAIKU, used(100_001), 50_500_500_000, False),
    # 1000 * 0.1M + 49,000 * 0.125M + 50,000 * 0.01M + 200 * 0.5M
    ("threshold-with-the-cache", HAIKU, cached(49_000, 50_000), 6_825_000_000, False),
    # 1000 * 0.5M + 49,001 * 0.625M + 50,000 * 0.05M + 200 * 2.5M
    ("above-it-with-the-cache", HAIKU, cached(49_001, 50_000), 34_125_625_000, False),
    # Other names of a model, and none that is known: the default, 1000 * 10M + 200 * 50M.
    ("dated-name", "claude-haiku-4-5-20251001", used(), 2_000_000_000, False),  # 1000 * 1M + 200 * 5M
    ("vendors-name", "us.anthropic.claude-haiku-4-5-20251001-v1:0", used(), 2_000_000_000, False),
    ("unknown-model", "claude-next-9", used(), 20_000_000_000, True),
    ("deprecated", "claude-mythos-preview", used(), 20_000_000_000, True),
    # Iterations: each at its own model, instead of the answer's own counts.
    ("one-iteration", OPUS, used(iterations=[entry("message", 1000, 200)]), 10_000_000_000, False),
    # 3000 * 5M + 500 * 25M
    ("tool-loop", OPUS, used(3000, 500, iterations=[entry("message", 1000, 200), entry("message", 2000, 300, OPUS)]),
     27_500_000_000, False),
    ("threshold-of-each", HAIKU, used(120_000, 0, iterations=[entry("message", 60_000, 0)] * 2), 12_000_000_000, False),
    # 18,000 * 5M + 350 * 25M for the summary, which the answer's own counts leave out
    ("compaction", OPUS, used(iterations=[entry("compaction", 18_000, 350), ANSWER]),
     108_750_000_000, False),
    # 1000 * 10M + 100 * 50M for the adviser
    ("advisor", OPUS, used(iterations=[ANSWER, entry("advisor_message", 1000, 100, "claude-fable-5-1")]),
     25_000_000_000, False),
    ("iteration-with-cache", OPUS,
     cached(800, 4000, iterations=[entry("message", 1000, 200, OPUS, cache_creation=lifetimes(400, 400),
                                         cache_creation_input_tokens=800, cache_read_input_tokens=4000)]),
     18_500_000_000, False),  # 10,000M + 400 * 6.25M + 400 * 10M + 4000 * 0.5M
    # The answer alone says for how long: 10,000M + 800 * 10M
    ("lifetime-by-the-answer", OPUS,
     cached(800, cache_creation=lifetimes(0, 800), iterations=[ANSWER | {"cache_creation_input_tokens": 800}]),
     18_000_000_000, False),
    # 100 * 6.25M + 100 * 10M; 10,000M + the same; 100 * 0.125M + 100 * 0.2M
    ("cache-of-each", OPUS, cached(200, iterations=[
        entry("compaction", 0, 0, cache_creation=lifetimes(100, 100)),
        SERVED | {"cache_creation": lifetimes(100, 100), "cache_creation_input_tokens": 200},
        entry("advisor_message", 0, 0, HAIKU, cache_creation=lifetimes(100, 100))]), 13_282_500_000, False),
    # Fallback: who declined without a word costs nothing; who has begun to answer does. 900 * 10M + 5 * 50M
    ("declined", OPUS, used(iterations=[DECLINED, SERVED]), 10_000_000_000, False),
    ("declined-twice", OPUS, used(iterations=[DECLINED, DECLINED | {"model": SONNET}, SERVED]), 10_000_000_000, False),
    ("declined-midway", OPUS, used(iterations=[DECLINED | {"output_tokens": 5}, SERVED]), 19_250_000_000, False),
    ("declined-without-a-model", OPUS, used(iterations=[entry("message", 900, 0), SERVED]), 14_500_000_000, False),
    ("searched-and-declined", OPUS, used(iterations=[DECLINED, SERVED], server_tool_use=SEARCH), 20_000_000_000, False),
    ("silent-turn-of-the-same", OPUS, used(iterations=[entry("message", 900, 0, OPUS), SERVED]), 14_500_000_000, False),
    ("credit-redeemed", OPUS, cached(800, fallback_credit=REDEEMED), 15_000_000_000, True),
    ("credit-not-applied", OPUS, cached(800, fallback_credit=REFUSED_CREDIT), 15_000_000_000, False),
    ("odd-credit", OPUS, used(fallback_credit=7), 10_000_000_000, True),
    # Odd shapes: never free, and marked.
    ("no-iterations", OPUS, used(iterations=[]), 10_000_000_000, False),
    ("iterations-null", OPUS, used(iterations=None), 10_000_000_000, False),
    ("iterations-odd", OPUS, used(iterations="many"), 10_000_000_000, True),
    ("odd-entries", OPUS, used(iterations=[None, 7]), 10_000_000_000, True),
    ("empty-entry", OPUS, used(iterations=[{}]), 10_000_000_000, True),
    ("entries-leave-out", OPUS, used(iterations=[entry("message", 400, 50)]), 10_000_000_000, True),
    ("entry-without-output", OPUS, used(iterations=[{"type": "message", "input_tokens": 1000}]), 10_000_000_000, True),
    ("unknown-kind", OPUS, used(iterations=[entry("dream", 1000, 200, "claude-haiku-4-5")]), 2_000_000_000, True),
    # 1500 * (5M + 25M)
    ("many-iterations", OPUS, used(1500, 1500, iterations=MANY), 45_000_000_000, True),
    ("nulls", OPUS, used(cache_read_input_tokens=None, cache_creation_input_tokens=None, server_tool_use=None,
                         service_tier=None, inference_geo=None, speed=None, output_tokens_details=None,
                         fallback_credit=None), 10_000_000_000, False),
    ("odd-words", OPUS, used(service_tier=7, inference_geo=["us"], speed=True, cache_creation=[]), 10 * 10**9, False),
]  # fmt: skip


def costs(tally: Tally, asked_model: str | None, day: str = TODAY) -> tuple[int, bool]:
    """The sum of an answer's bills, and whether one of them is an estimate."""
    bills: list[Bill] = [bill(used, known_prices(), day) for used in tally.billed(asked_model)]
    return sum(each.picodollars for each in bills), any(each.is_estimate for each in bills)


def whole(model: str, usage: object, stop_reason: str = "end_turn") -> Tally:
    tally = Tally()
    message = {"type": "message", "model": model, "content": [], "stop_reason": stop_reason, "usage": usage}
    assert tally.observe_whole(json.dumps(message).encode())
    return tally


def start(model: str, usage: dict[str, Any]) -> bytes:
    said = {name: value for name, value in usage.items() if name not in _SAID_AT_END}
    return event("message_start", message={"model": model, "usage": said | {"output_tokens": 1}})


def end(usage: dict[str, Any], stop_reason: str = "end_turn") -> bytes:
    said = {name: value for name, value in usage.items() if name not in _SAID_AT_START}
    return event("message_delta", delta={"stop_reason": stop_reason}, usage=said)


STOP = event("message_stop")


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("model", "usage", "picodollars", "is_estimate"), [pytest.param(*row[1:], id=row[0]) for row in GOLDEN]
)
def test_every_shape_of_usage_costs_what_the_price_list_says(
    model: str, usage: dict[str, Any], picodollars: int, is_estimate: bool, is_streamed: bool
) -> None:
    """Given an answer with this usage, whole or streamed, when it is billed, then it costs exactly this."""
    tally = tally_of(start(model, usage), end(usage), STOP) if is_streamed else whole(model, usage)
    assert costs(tally, model) == (picodollars, is_estimate)


@pytest.mark.parametrize(
    ("model", "usage", "day", "picodollars", "is_estimate"),
    [
        # 4000 * 0.2M, then 4000 * 0.1M, and 1000 * 2M + 200 * 10M
        pytest.param(SONNET, cached(0, 4000), "2026-10-06", 4_800_000_000, False, id="reads-before-the-change"),
        pytest.param(SONNET, cached(0, 4000), "2026-10-07", 4_400_000_000, False, id="reads-from-the-change-on"),
        pytest.param(SONNET, cached(0, 4000), "2026-01-01", 4_800_000_000, False, id="before-the-first-price"),
        pytest.param(SONNET, cached(0, 4000), "2030-01-01", 4_400_000_000, False, id="long-after-the-last"),
        pytest.param("claude-opus-4-8", used(speed="fast"), "2026-11-30", 20_000_000_000, False, id="last-day-of-fast"),
        pytest.param("claude-opus-4-8", used(speed="fast"), "2026-12-01", 20_000_000_000, True, id="no-fast-any-more"),
        pytest.param("claude-opus-4-8", used(), "2026-12-01", 10_000_000_000, False, id="not-fast"),
    ],
)
def test_the_price_is_that_of_the_day(
    model: str, usage: dict[str, Any], day: str, picodollars: int, is_estimate: bool
) -> None:
    """Given prices that change, when an answer is billed on a day, then that day's row holds."""
    assert costs(whole(model, usage), model, day) == (picodollars, is_estimate)


REFUSED = "refusal"


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("usage", "picodollars"),
    [
        pytest.param(used(1000, 0), 0, id="without-a-word"),
        pytest.param(used(1000, 5), 5_125_000_000, id="midway"),  # 1000 * 5M + 5 * 25M
        pytest.param(used(1000, 0, iterations=[entry("message", 1000, 0)]), 0, id="one-iteration"),
        pytest.param(used(1000, 0, iterations=[DECLINED, entry("message", 1000, 0, OPUS)]), 0, id="all-decline"),
        pytest.param(used(1000, 0, iterations=[DECLINED, SERVED | {"output_tokens": 0}]), 0, id="the-fallback-too"),
        # 18,000 * 5M + 350 * 25M
        pytest.param(
            used(1000, 0, iterations=[entry("compaction", 18_000, 350), entry("message", 1000, 0)]),
            98_750_000_000,
            id="behind-a-compaction",
        ),
        # 500 * 5M: only the last turn has declined
        pytest.param(
            used(1500, 0, iterations=[entry("message", 500, 0, OPUS), entry("message", 1000, 0, OPUS)]),
            2_500_000_000,
            id="behind-a-silent-turn",
        ),
        pytest.param(used(1000, 0, server_tool_use=SEARCH), 10_000_000_000, id="behind-a-search"),
    ],
)
def test_a_refusal_without_a_word_is_free_and_nothing_else_is(
    usage: dict[str, Any], picodollars: int, is_streamed: bool
) -> None:
    """Given a model that declines, when it has put out nothing, then its work is free; all other work is not."""
    asked = "claude-fable-5-1" if DECLINED in usage.get("iterations", ()) else OPUS
    stream = (start(OPUS, usage), end(usage, REFUSED), STOP)
    tally = tally_of(*stream) if is_streamed else whole(OPUS, usage, REFUSED)
    assert costs(tally, asked) == (picodollars, False)


def text_of(size_bytes: int) -> bytes:
    """A delta of just so many bytes; what is beyond 128 is taken for text, four bytes a token."""
    bare = len(event("content_block_delta", index=0, delta={"type": "text_delta", "text": ""}))
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": "w" * (size_bytes - bare)})


BEGUN = start(OPUS, used(service_tier="standard"))
FAST_WRITE = start(OPUS, cached(800, cache_creation=lifetimes(0, 800), speed="fast", inference_geo="us"))


@pytest.mark.parametrize(
    ("pieces", "picodollars", "is_estimate"),
    [
        pytest.param([], 0, False, id="before-any-event"),
        pytest.param([event("ping")], 0, False, id="before-any-count"),
        pytest.param([BEGUN], 5_025_000_000, True, id="behind-the-start"),  # 1000 * 5M + the placeholder's 25M
        # 1000 * 5M + 400 / 4 * 25M; 401 bytes are 101 tokens
        pytest.param([BEGUN, text_of(528)], 7_500_000_000, True, id="midway"),
        pytest.param([BEGUN, text_of(528), text_of(129)], 7_525_000_000, True, id="further-on"),
        # (1000 * 5M + 800 * 10M + 100 * 25M) * 2 * 1.1
        pytest.param([FAST_WRITE, text_of(528)], 34_100_000_000, True, id="with-factors"),
        pytest.param([BEGUN, text_of(528), end(used())], 10_000_000_000, True, id="behind-the-count"),
        pytest.param([BEGUN, end(used(1000, 20)), end(used())], 10_000_000_000, True, id="behind-two-counts"),
        pytest.param([BEGUN, text_of(528), event("error", error={})], 7_500_000_000, True, id="error"),
        pytest.param([BEGUN, end({}, REFUSED), STOP], 5_025_000_000, True, id="refusal-without-a-count"),
        pytest.param([BEGUN, end(used(iterations=[DECLINED, SERVED]))], 10_000_000_000, True, id="behind-iterations"),
        # What comes to its end, but says too little. The default's 100 * 50M: nobody has named a model.
        pytest.param([text_of(528), STOP], 5_000_000_000, True, id="no-start"),
        pytest.param([BEGUN, text_of(528), STOP], 7_500_000_000, True, id="no-count"),
        pytest.param([BEGUN, text_of(528), event("message_delta", delta={}), STOP], 7_500_000_000, True, id="no-usage"),
        pytest.param([BEGUN, text_of(528), end({"output_tokens": None}), STOP], 7_500_000_000, True, id="null-count"),
        pytest.param([start(OPUS, used(-5)), end({"output_tokens": 200}), STOP], 5_000_000_000, False, id="odd-input"),
        # Counts only grow: the larger is billed, and the smaller makes it an estimate.
        pytest.param([BEGUN, end(used(0, 200)), STOP], 10_000_000_000, True, id="input-falls"),
        pytest.param([BEGUN, end(used()), end(used(1000, 3)), STOP], 10_000_000_000, True, id="output-falls"),
        pytest.param([start(OPUS, used(0)), end(used()), STOP], 10_000_000_000, False, id="input-grows"),
        # The placeholder is none of the counts.
        pytest.param([start(OPUS, used()), end(used(1000, 0)), STOP], 5_000_000_000, False, id="below-the-placeholder"),
        # 800 for an hour at the start, 400 more of which nobody says for how long
        pytest.param([start(OPUS, cached(800, cache_creation=lifetimes(0, 800))), end(cached(1200)), STOP],
                     20_500_000_000, False, id="writes-grow"),
        # The start tells of the summary's work, the end of the answer's: 18,000 * 5M + 350 * 25M + 10,000M
        pytest.param([start(OPUS, used(18_000)),
                      end(used(iterations=[entry("compaction", 18_000, 350), entry("message", 1000, 200)])), STOP],
                     108_750_000_000, False, id="start-tells-of-a-compaction"),
    ],
)  # fmt: skip
def test_a_broken_or_odd_stream_costs_what_it_has_come_to(
    pieces: list[bytes], picodollars: int, is_estimate: bool
) -> None:
    """Given a stream that breaks off, or says odd things, then it costs what was counted or relayed, and is marked."""
    assert costs(tally_of(*pieces), OPUS) == (picodollars, is_estimate)


@pytest.mark.parametrize("usage", [None, 7, {}, {"input_tokens": "many"}], ids=str)
def test_a_whole_answer_without_counts_is_not_free(usage: object) -> None:
    """Given a message that says nothing of its usage, then its output is guessed by its bytes, and marked."""
    picodollars, is_estimate = costs(whole(OPUS, usage), OPUS)
    assert picodollars >= 20 * 25_000_000  # at least 80 bytes of JSON
    assert is_estimate


def test_what_is_no_message_costs_nothing() -> None:
    """Given JSON that is an error or another thing, then nothing is billed."""
    for body in (b'{"type":"error","error":{"type":"api_error"}}', b'{"input_tokens":17}', b'{"data":[]}'):
        tally = Tally()
        tally.observe_whole(body)
        assert tally.billed(OPUS) == []


def test_each_inference_is_billed_at_its_own_model() -> None:
    """Given hops, an adviser and a summary, then each is a line of its own, with the row of its price."""
    entries = [
        entry("compaction", 18_000, 350),
        DECLINED,
        SERVED,
        entry("advisor_message", 1000, 100, HAIKU),
        entry("dream", 1, 1),
    ]
    lines = whole(OPUS, used(1001, 201, iterations=entries)).billed("claude-fable-5-1")
    assert [(line.kind, line.model, bill(line, known_prices(), TODAY).price) for line in lines] == [
        ("compaction", "claude-fable-5-1", "claude-fable-5-1 from 2026-09-01"),
        ("message", "claude-fable-5-1", "free"),
        ("fallback_message", OPUS, "claude-opus-5 from 2026-08-22"),
        ("advisor_message", HAIKU, "claude-haiku-5-5 from 2026-10-24"),
        ("other", OPUS, "claude-opus-5 from 2026-08-22"),
    ]


# What the SDKs know, read by each SDK's own interpreter: members by their path, the kinds of a union in brackets.
_WALK = """
import importlib, json, typing, sys
found = set()
def walk(model, path):
    for name, member in model.model_fields.items():
        if name != "type":
            found.add(path + name)
            expand(member.annotation, path + name)
def expand(kind, path):
    if isinstance(kind, type) and hasattr(kind, "model_fields"):
        named = kind.model_fields.get("type")
        walk(kind, path + (f"[{typing.get_args(named.annotation)[0]}]." if named else "."))
        if named:
            found.add(path + f"[{typing.get_args(named.annotation)[0]}]")
    elif "Literal" in str(typing.get_origin(kind)):
        found.update(f"{path}={value}" for value in typing.get_args(kind) if path in ("service_tier", "speed"))
    else:
        for inner in typing.get_args(kind):
            expand(inner, path)
for module, name in (("usage", "Usage"), ("message_delta_usage", "MessageDeltaUsage"),
                     ("beta.beta_usage", "BetaUsage"), ("beta.beta_message_delta_usage", "BetaMessageDeltaUsage")):
    try:
        walk(getattr(importlib.import_module(f"anthropic.types.{module}"), name), "")
    except ModuleNotFoundError:
        pass
print(json.dumps(sorted(found)))
"""
SDKS = [Path(sys.executable), *sorted(ROOT.glob(".venv-sdk/python-*/bin/python"))]


def paths_of(value: object, path: str = "") -> set[str]:
    """The members of a usage in the table, by the same paths."""
    if isinstance(value, list):
        return set().union(*(paths_of(inner, path) for inner in value)) if value else set()
    if isinstance(value, str) and path in ("service_tier", "speed"):
        return {f"{path}={value}"}
    if not isinstance(value, dict):
        return set()
    kind = f"[{value['type']}]" if "type" in value else ""
    found = {f"{path}{kind}"} if kind else set()
    for name, inner in value.items():
        if name != "type":
            inside = f"{path}{kind}.{name}" if path else name
            found |= {inside} | paths_of(inner, inside)
    return found


@pytest.mark.parametrize("python", SDKS, ids=lambda python: python.parts[-3])
def test_the_table_names_all_that_the_sdks_know(python: Path) -> None:
    """Given an SDK's types of usage, then each member, each kind of iteration, each tier and speed is in the table."""
    walked = subprocess.run([python, "-c", _WALK], capture_output=True, text=True, check=True, timeout=120)
    known = set(json.loads(walked.stdout))
    assert {"input_tokens", "output_tokens"} <= known
    assert known - set().union(*(paths_of(usage) for _, _, usage, _, _ in GOLDEN)) == set()
