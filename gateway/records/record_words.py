"""How facts become the fields of a record: in words from a known set, or of an expected form.

Owns: what may be kept of what others wrote. Pure; any thread.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

from gateway.pricing.bill import bill
from gateway.pricing.prices import PriceList
from gateway.protocol.messages import Tally
from gateway.protocol.safe_text import safe_text
from gateway.protocol.usage import BilledUsage
from gateway.records.interception_record import TurnUsage

UNEXPECTED = "unexpected"
_LONGEST_WORD = 128
_TOO_LONG = _LONGEST_WORD + 1  # more need not be looked at, or remembered
_WORD = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:@/\[\]-]{{0,{_LONGEST_WORD - 1}}}")
_LONGEST_ERROR = 300


def usage_of(
    turn: int, key: str | None, asked_model: str | None, tally: Tally, prices: PriceList | None, day: str
) -> list[TurnUsage]:
    """What one answer is billed for, as it is kept. No prices: the client's own credential pays."""
    inferences = tally.billed(asked_model)
    certainty = tally.usage.certainty(tally.has_stopped).value if inferences else ""
    return [_inference(turn, key, inference, certainty, prices, day) for inference in inferences]


def _inference(
    turn: int, key: str | None, used: BilledUsage, certainty: str, prices: PriceList | None, day: str
) -> TurnUsage:
    billed = bill(used, prices, day) if prices is not None else None
    tools = {word(name): count for name, count in used.server_tools.items()} if used.server_tools else {}
    return TurnUsage(
        turn=turn,
        key=key,
        model=_kept_word(used.model and used.model[:_TOO_LONG]),
        service_tier=_kept_word(used.service_tier and used.service_tier[:_TOO_LONG]),
        certainty=certainty,
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        guessed_output_tokens=used.billed_output_tokens,
        cache_read_tokens=used.cache_read_tokens,
        cache_write_tokens=used.cache_write_tokens,
        cache_write_5m_tokens=used.cache_write_5m_tokens,
        cache_write_1h_tokens=used.cache_write_1h_tokens,
        server_tool_uses=sum(tools.values()),
        server_tools=json.dumps(tools) if tools else "{}",
        kind=used.kind,
        inference_geo=_kept_word(used.inference_geo and used.inference_geo[:_TOO_LONG]),
        speed=_kept_word(used.speed and used.speed[:_TOO_LONG]),
        cost_picodollars=billed.picodollars if billed is not None else None,
        price=billed.price if billed is not None else None,
        is_cost_estimated=billed is not None and billed.is_estimate,
    )


def word(text: str) -> str:
    """A name as it is if it looks like one; else UNEXPECTED, for it may be anything."""
    return text if _WORD.fullmatch(text) else UNEXPECTED


@lru_cache(maxsize=1024)  # a gateway meets few models, tiers and places
def _kept_word(text: str | None) -> str | None:
    return word(text) if text is not None else None


def plain(text: str) -> str:
    """A message of the gateway's own, of bounded length, in ASCII."""
    return safe_text(text, _LONGEST_ERROR).encode("ascii", "replace").decode()
