"""Something that the gateway needs and can do without for a while: when it was lost and when it was back, as events.

Owns: telling each of the two once for a gateway, although every worker finds out by itself. Knows neither stores nor
databases.
"""

from __future__ import annotations

from gateway.telemetry.recent import Recent


class Outage:
    """What one worker knows of it. One thread's.

    A worker that sees a change tells it, unless the last that the gateway's events say is that already. The events also
    say what a worker takes over whose predecessor died in an outage.
    """

    def __init__(self, recent: Recent, lost: str, back: str) -> None:
        """`lost` and `back` are the words of the two events."""
        self._recent = recent
        self._lost = lost
        self._back = back
        self._is_up: bool | None = None

    def note(self, is_up: bool) -> None:
        """Whether it is there now."""
        if self._is_up is None:
            self._is_up = self._told() != self._lost
        if is_up == self._is_up:
            return
        self._is_up = is_up
        what = self._back if is_up else self._lost
        if self._told() != what:
            self._recent.happened(what, is_of_all=True)

    def _told(self) -> str:
        """What the events last say of it; empty if they say nothing of it, or not any more."""
        words = (event.what for event in self._recent.events())
        return next((what for what in words if what in (self._lost, self._back)), "")

    def __repr__(self) -> str:
        return f"<Outage is_up={self._is_up} {self._lost!r}>"


def outage_of_database(recent: Recent) -> Outage:
    """Of the database of records."""
    return Outage(
        recent,
        "the database of records cannot be used: records wait on disk",
        "the database of records can be used again: records that waited are stored",
    )


def outage_of_store(recent: Recent, store: str) -> Outage:
    """Of what the keys' state is shared through; `store` is what it is called."""
    return Outage(
        recent,
        f"{store} cannot be used: what happens to a key is not shared",
        f"{store} can be used again: what happened to the keys meanwhile is shared",
    )
