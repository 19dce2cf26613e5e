"""What one inference costs.

Owns: the arithmetic, and what makes an amount an estimate. Pure; any thread.
"""

from __future__ import annotations

import msgspec

from gateway.pricing.money import MOST_PICODOLLARS
from gateway.pricing.prices import Price, PriceList
from gateway.protocol.usage import WEB_SEARCH, BilledUsage

_US = "us"
_KNOWN_TIERS = (None, "standard", "batch")  # what the priority tier costs is between the upstream and its customer
_KNOWN_PLACES = (None, _US, "global", "not_available")
_KNOWN_SPEEDS = (None, "standard", "fast")
# Speed, place and tier of most answers: the row's own rates.
_PLAIN = frozenset(
    (speed, place, tier)
    for speed in (None, "standard")
    for place in (None, "global", "not_available")
    for tier in (None, "standard")
)
_PERCENT = 100
_FREE = "free"
_ASSUMED_FAST_PERCENT = 200  # of a model that has no price for fast mode


class Bill(msgspec.Struct, frozen=True):
    """An amount, the row of the table behind it, and whether it may differ from what the upstream will ask.

    `unpriced_tokens` is how many tokens were charged at the default's rates.
    """

    picodollars: int
    price: str
    is_estimate: bool
    unpriced_tokens: int = 0


def bill(used: BilledUsage, prices: PriceList, day: str) -> Bill:
    """The bill for an inference on that UTC day (2026-11-29)."""
    searches = used.server_tools.get(WEB_SEARCH, 0) * prices.web_search if used.server_tools else 0
    if used.is_free:
        return Bill(min(searches, MOST_PICODOLLARS), _FREE, not used.is_exact)
    write_5m = used.cache_write_tokens - used.cache_write_1h_tokens  # a write of no lifetime is one of five minutes
    input_tokens = used.input_tokens + used.guessed_input_tokens
    prompt_tokens = input_tokens + used.cache_read_tokens + used.cache_write_tokens
    price = prices.price_of(used.model, day, prompt_tokens)
    picodollars = (
        input_tokens * price.input
        + write_5m * price.cache_write_5m
        + used.cache_write_1h_tokens * price.cache_write_1h
        + used.cache_read_tokens * price.cache_read
        + used.billed_output_tokens * price.output
    )
    is_estimate = not used.is_exact or price.is_default
    if (used.speed, used.inference_geo, used.service_tier) not in _PLAIN:
        picodollars = _multiplied(picodollars, used, price)
        is_estimate = is_estimate or not _has_known_price(used, price)
    picodollars += searches
    return Bill(
        picodollars if picodollars < MOST_PICODOLLARS else MOST_PICODOLLARS,
        price.name,
        is_estimate,
        prompt_tokens + used.billed_output_tokens if price.is_default else 0,
    )


def _multiplied(picodollars: int, used: BilledUsage, price: Price) -> int:
    """Times the factors of fast mode, of the place and of a batch; rounded half up."""
    numerator = denominator = 1
    if used.speed == "fast":
        numerator, denominator = price.fast_percent or _ASSUMED_FAST_PERCENT, _PERCENT
    if used.inference_geo == _US:
        numerator, denominator = numerator * price.us_percent, denominator * _PERCENT
    if used.service_tier == "batch":
        denominator *= 2
    return (2 * picodollars * numerator + denominator) // (2 * denominator) if denominator > 1 else picodollars


def _has_known_price(used: BilledUsage, price: Price) -> bool:
    """Whether there is a factor for the way in which it was served."""
    return (
        used.service_tier in _KNOWN_TIERS
        and used.inference_geo in _KNOWN_PLACES
        and used.speed in _KNOWN_SPEEDS
        and (used.speed != "fast" or price.fast_percent is not None)
    )
