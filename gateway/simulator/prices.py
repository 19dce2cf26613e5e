"""What the API charges for an answer, in whole picodollars (10^-12 dollars). Pure.

Written from the public prices (https://docs.claude.com/en/about-claude/pricing, and for the newest models from third
parties, as of November 2026), so that a bill of the gateway's can be held against another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from gateway.simulator.charge import Charge
from gateway.simulator.message import Message
from gateway.simulator.scopes import name_of
from gateway.simulator.usage import FALLBACK, MESSAGE, Counts, Iteration, Usage

WEB_SEARCH = "web_search"
_WEB_SEARCH_PICODOLLARS = 10**10
_US_FACTOR = Fraction(11, 10)
_BATCH_FACTOR = Fraction(1, 2)


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens, which are microdollars a token; `fast` is fast mode's factor, None without one."""

    input: Fraction
    write_5m: Fraction
    write_1h: Fraction
    read: Fraction
    output: Fraction
    fast: Fraction | None


@dataclass(frozen=True, slots=True)
class Charged:
    """One inference of an answer, or its web searches; no amount where no price is known."""

    kind: str
    model: str
    picodollars: int | None


# Model, input, cache writes for five minutes and for an hour, cache read, output; fast input and output.
_TABLE = """
fable-5-2          8     10     16    0.20  40    16  80
mythos-5-2         8     10     16    0.20  40    16  80
fable-5-1          10    12.50  20    0.25  50
mythos-5-1         10    12.50  20    0.25  50
fable-5            10    12.50  20    1     50
mythos-5           10    12.50  20    1     50
opus-5-5           4     5      8     0.20  20    8   40
opus-5             5     6.25   10    0.50  25    10  50
opus-4-8           5     6.25   10    0.50  25
opus-4-8,fast      5     6.25   10    0.50  25    10  50
opus-4-7           5     6.25   10    0.50  25
opus-4-6           5     6.25   10    0.50  25
opus-4-5           5     6.25   10    0.50  25
sonnet-5-5         2     2.50   4     0.10  10
sonnet-5-5,before  2     2.50   4     0.20  10
sonnet-5           2     2.50   4     0.20  10
sonnet-4-6         3     3.75   6     0.30  15
sonnet-4-5         3     3.75   6     0.30  15
haiku-5-5          0.10  0.125  0.20  0.01  0.50
haiku-5-5,long     0.50  0.625  1     0.05  2.50
haiku-4-5          1     1.25   2     0.10  5
"""
_SAME_EVERYWHERE = ("opus-4-5", "sonnet-4-5", "haiku-4-5")  # older than the models that cost more in the US alone
_LONG_PROMPT_TOKENS = 100_000
_SONNET_READS_CHEAPER_FROM = "2026-10-07"
_LAST_FAST_DAY = "2026-11-30"


def charged(charge: Charge, day: str) -> list[Charged]:
    """What an answer has cost on that UTC day (2026-11-29), as far as it has been sent."""
    message, usage = charge.message, charge.message.usage
    of = message.deltas
    sent = Fraction(charge.deltas, of) if of and not charge.is_complete else Fraction(1)
    if not usage.iterations:
        found = [Charged(MESSAGE, message.model, _cost(message.model, usage.counts, usage, day, sent))]
    else:
        found = _charged_iterations(message, day, sent)
    if searches := (usage.server_tools or {}).get("web_search_requests", 0):
        found.append(Charged(WEB_SEARCH, message.model, searches * _WEB_SEARCH_PICODOLLARS))
    return found


def _charged_iterations(message: Message, day: str, sent: Fraction) -> list[Charged]:
    """Each at its own model; `sent` is how much of the last one's output counts."""
    iterations = message.usage.iterations
    found = []
    for position, hop in enumerate(iterations, start=1):
        model = hop.model or message.model
        later = iterations[position:]
        is_free = _has_declined(hop, later, message)
        share = Fraction(1) if later else sent
        cost = 0 if is_free else _cost(model, hop.counts, message.usage, day, share)
        found.append(Charged(hop.kind, model, cost))
    return found


def _has_declined(hop: Iteration, later: Sequence[Iteration], message: Message) -> bool:
    """Whether a model has declined without a token: another one goes on, or the answer ends there in a refusal.

    An entry of the model that goes on is a turn of its own tool loop, and has not declined.
    """
    if hop.kind != MESSAGE or hop.counts.output:
        return False
    others = [other.model or message.model for other in later if other.kind in (MESSAGE, FALLBACK)]
    model = hop.model or message.model
    return any(other != model for other in others) or (not others and message.stop_reason == "refusal")


def _cost(model: str, counts: Counts, usage: Usage, day: str, sent: Fraction) -> int | None:
    name = name_of(model)
    price = _price(name, counts.prompt, day)
    if price is None or (usage.speed == "fast" and price.fast is None):
        return None
    output = -(-counts.output * sent.numerator // sent.denominator)  # rounded up
    microdollars = (
        counts.input * price.input
        + counts.cache_write * price.write_5m
        + counts.cache_write_1h * price.write_1h
        + counts.cache_read * price.read
        + output * price.output
    )
    if usage.speed == "fast" and price.fast is not None:
        microdollars *= price.fast
    if usage.geo == "us" and name not in _SAME_EVERYWHERE:
        microdollars *= _US_FACTOR
    if usage.tier == "batch":
        microdollars *= _BATCH_FACTOR
    picodollars = microdollars * 10**6
    if picodollars.denominator != 1:
        raise ArithmeticError(f"a price of {model} is no whole number of picodollars a token")
    return picodollars.numerator


def _price(name: str, prompt_tokens: int, day: str) -> Price | None:
    if name == "haiku-5-5" and prompt_tokens > _LONG_PROMPT_TOKENS:
        name += ",long"
    elif name == "sonnet-5-5" and day < _SONNET_READS_CHEAPER_FROM:
        name += ",before"
    elif name == "opus-4-8" and day <= _LAST_FAST_DAY:
        name += ",fast"
    return _PRICES.get(name)


def _read_table(text: str) -> dict[str, Price]:
    prices = {}
    for line in text.strip().splitlines():
        name, *words = line.split()
        input, write_5m, write_1h, read, output, *fast = map(Fraction, words)
        factor = fast[0] / input if fast else None
        assert not fast or fast[1] / output == factor, f"{name}: fast mode has one factor"
        prices[name] = Price(input, write_5m, write_1h, read, output, factor)
    return prices


_PRICES = _read_table(_TABLE)
