"""What one inference costs.

Owns: the arithmetic, and what makes an amount an estimate. Pure; any thread.
"""

from __future__ import annotations

import msgspec

from gateway.pricing.money import MOST_PICODOLLARS
from gateway.pricing.prices import PriceList
from gateway.usage import BilledUsage

_WEB_SEARCH = "web_search_requests"
_US = "us"
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
    if used.is_free:
        return Bill(0, _FREE, not used.is_exact)
    write_5m = used.billed_write_5m_tokens
    prompt_tokens = used.input_tokens + used.cache_read_tokens + write_5m + used.cache_write_1h_tokens
    price = prices.price_of(used.model, day, prompt_tokens)
    picodollars = (
        used.input_tokens * price.input
        + write_5m * price.cache_write_5m
        + used.cache_write_1h_tokens * price.cache_write_1h
        + used.cache_read_tokens * price.cache_read
        + used.billed_output_tokens * price.output
    )
    is_estimate = price.is_default or not used.is_exact or used.service_tier == "priority"
    numerator = denominator = 1
    if used.speed == "fast":
        is_estimate = is_estimate or price.fast_percent is None
        numerator, denominator = price.fast_percent or _ASSUMED_FAST_PERCENT, _PERCENT
    if used.inference_geo == _US:
        numerator, denominator = numerator * price.us_percent, denominator * _PERCENT
    if used.service_tier == "batch":
        denominator *= 2
    if denominator > 1:
        picodollars = (2 * picodollars * numerator + denominator) // (2 * denominator)
    if used.server_tools:
        picodollars += used.server_tools.get(_WEB_SEARCH, 0) * prices.web_search
    return Bill(
        min(picodollars, MOST_PICODOLLARS),
        price.name,
        is_estimate,
        prompt_tokens + used.billed_output_tokens if price.is_default else 0,
    )
