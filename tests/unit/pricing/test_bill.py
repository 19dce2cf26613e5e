"""What one inference costs: rounding, bounds, and which row is named."""

from __future__ import annotations

import msgspec
import pytest

from gateway.pricing.bill import bill
from gateway.pricing.money import MOST_PICODOLLARS
from gateway.pricing.prices import known_prices, read_prices
from gateway.protocol.counts import MOST
from gateway.protocol.usage import BilledUsage

TODAY = "2026-11-29"
USED = BilledUsage(model="claude-opus-5", input_tokens=1000, output_tokens=200, billed_output_tokens=200)


def test_the_row_behind_an_amount_is_named() -> None:
    """Given models with and without a price, then the bill names the row, and counts the tokens of the default."""
    priced = bill(USED, known_prices(), TODAY)
    assert (priced.price, priced.unpriced_tokens) == ("claude-opus-5 from 2026-08-22", 0)
    long = msgspec.structs.replace(USED, model="claude-haiku-5-5", input_tokens=200_000)
    assert bill(long, known_prices(), TODAY).price == "claude-haiku-5-5 from 2026-10-24 above 100000"
    for model in ("gpt-9", None):
        unknown = bill(msgspec.structs.replace(USED, model=model), known_prices(), TODAY)
        assert (unknown.price, unknown.unpriced_tokens, unknown.is_estimate) == ("default", 1200, True)


def test_what_is_free_names_no_row_and_has_no_unpriced_tokens() -> None:
    """Given a model that has declined without a word, then it costs nothing; a search that was made does."""
    declined = msgspec.structs.replace(USED, model="gpt-9", is_free=True)
    assert bill(declined, known_prices(), TODAY) == bill(declined, known_prices(), "2030-01-01")
    assert msgspec.structs.astuple(bill(declined, known_prices(), TODAY)) == (0, "free", False, 0)
    searched = msgspec.structs.replace(declined, server_tools={"web_search_requests": 2})
    assert bill(searched, known_prices(), TODAY).picodollars == 20_000_000_000


@pytest.mark.parametrize("name", ["input_tokens", "billed_output_tokens", "cache_read_tokens", "cache_write_tokens"])
def test_an_amount_fits_a_column_of_64_bits(name: str) -> None:
    """Given the largest counts, then an amount is bounded and no sum of a few thousand overflows Python or SQL."""
    huge = msgspec.structs.replace(USED, **{name: MOST}, speed="fast", inference_geo="us")
    assert 0 < bill(huge, known_prices(), TODAY).picodollars <= MOST_PICODOLLARS < 2**63


def test_half_a_picodollar_is_rounded_up_once() -> None:
    """Given odd picodollars in a batch, then the sum is halved and rounded, not each of its parts."""
    rates = "input = 0.000001\ncache_write_5m = 0.000001\ncache_write_1h = 0\ncache_read = 0.000001\noutput = 0"
    prices = read_prices(f'[[price]]\nmodel = "m"\nfrom = 2026-01-01\n{rates}\n', known_prices())
    batch = BilledUsage(model="m", input_tokens=1, cache_read_tokens=1, cache_write_tokens=1, service_tier="batch")
    assert bill(batch, prices, TODAY).picodollars == 2  # 3 / 2
