"""How much of an answer is charged for, and from when on. Pure.

An answer is charged for from its first event on (a whole one from its first byte on), whether the client is still
there or not: its prompt at once, its output as its deltas go out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.simulator.message import Event, Message


@dataclass(frozen=True, slots=True)
class Charge:
    """From now on the answer is charged for with so many of its deltas; the last charge of an answer counts."""

    message: Message
    deltas: int
    is_complete: bool = False


def charges_of_stream(message: Message, events: Iterable[Event]) -> list[Charge | None]:
    """For each event of a stream the charge that it brings, if any."""
    charges: list[Charge | None] = []
    deltas = 0
    for event in events:
        deltas += event.name == "content_block_delta"
        is_complete = event.name == "message_stop"
        counts = is_complete or event.name in ("message_start", "content_block_delta")
        charges.append(Charge(message, deltas, is_complete) if counts else None)
    return charges


def charges_of_whole(message: Message, pieces: int) -> list[Charge | None]:
    """For each piece of a whole answer the same: it was generated before its first byte went out."""
    deltas = message.deltas
    charges: list[Charge | None] = [None] * pieces
    charges[0] = Charge(message, deltas)
    charges[-1] = Charge(message, deltas, is_complete=True)
    return charges
