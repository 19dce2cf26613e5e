"""The status page's headline: what is wrong, since when, and what to do about it, worst first.

Owns: what is worth a sentence, and the words. Pure. A sentence is a row of pieces, so that the page can let its times
run and show commands as such; its text alone says the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from gateway.keys.overview import KeyView
from gateway.keys.standing import KeyState
from gateway.keys.verdict import Concern
from gateway.telemetry.recent import Traffic
from gateway.web.status_words import MOST_NAMED, ago, countdown, named, span

_FEWEST_FAILURES = 5  # in five minutes, to be worth a sentence
_FEW_PERCENT = 5
_MANY_PERCENT = 50


class Tone(Enum):
    """How something looks: the page has a colour and a sign for each."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


class Kind(Enum):
    """What a piece of a sentence is, besides its text."""

    WORDS = "words"
    AGO = "ago"  # `seconds` ago
    LEFT = "left"  # `seconds` from now
    COMMAND = "command"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a sentence."""

    text: str
    kind: Kind = Kind.WORDS
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Sentence:
    """One thing to know."""

    tone: Tone
    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        """The sentence as it reads now."""
        return "".join(piece.text for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Health:
    """What the headline is about, besides the keys. `store` names where the state of keys and limits is kept."""

    store: str = "the data folder"
    is_store_up: bool = True
    needs_store: bool = False  # requests that have limits are refused without it
    records_waiting: int = 0
    is_database_up: bool = True
    is_reload_ok: bool = True
    mcp_down: tuple[str, ...] = ()
    inflight: int = 0
    inflight_limit: int = 0
    traffic: Traffic = Traffic(1.0)


def headline(views: Sequence[KeyView], health: Health) -> tuple[Tone, tuple[Sentence, ...]]:
    """What is to be said, the worst first, and how bad it is in all. There is always a sentence."""
    refusals = list(_pool(views))
    said = [*refusals, *_load(health), *_stores(health), *_keys(views)]
    if not refusals:  # else the first to be back is named already
        said += _coming_back(views)
    said += [*_traffic(health.traffic), *_servers(health.mcp_down), *_reload(is_ok=health.is_reload_ok)]
    order = [Tone.BAD, Tone.WARNING, Tone.GOOD]
    said.sort(key=lambda sentence: order.index(sentence.tone))
    tone = said[0].tone if said else Tone.GOOD
    return tone, (*said, *_reassurance(views, said))


def dead_scopes(views: Sequence[KeyView]) -> list[str]:
    """The scopes that no key is usable for, of those that some key cools down for."""
    cooling = [{scope.scope for scope in view.scopes if scope.remaining_seconds} for view in views]
    return [
        name
        for name in sorted(set().union(*cooling))
        if all(name in names or _is_out(view) for names, view in zip(cooling, views, strict=True))
    ]


def _sentence(tone: Tone, *pieces: str | Piece) -> Sentence:
    return Sentence(tone, tuple(Piece(piece) if isinstance(piece, str) else piece for piece in pieces))


def _left(seconds: float) -> Piece:
    return Piece(countdown(seconds), Kind.LEFT, seconds)


def _ago(seconds: float) -> Piece:
    return Piece(ago(seconds), Kind.AGO, seconds)


def _enable(name: str) -> Piece:
    return Piece(f"gateway keys enable {name}", Kind.COMMAND)


def _pool(views: Sequence[KeyView]) -> Iterator[Sentence]:
    """Whether clients are refused for lack of a key."""
    if not views or any(view.status.state is KeyState.VALID for view in views):
        return
    cooling = [view for view in views if view.status.state is KeyState.TEMPORARY]
    if not cooling:
        yield _sentence(
            Tone.BAD, "No key is left: clients are refused until you enable one, or add one and type ", _RELOAD, "."
        )
        return
    if all(_is_out(view) for view in views):
        yield _until_one_is_back("No key is left: clients are refused", cooling)
        return
    for scope in dead_scopes(views):
        yield _until_one_is_back(f"No key is left for {scope}: such requests are refused", cooling, scope)


_RELOAD = Piece("gateway reload", Kind.COMMAND)


def _until_one_is_back(words: str, cooling: Iterable[KeyView], scope: str | None = None) -> Sentence:
    first = min(cooling, key=lambda view: _remaining(view, scope))
    return _sentence(
        Tone.BAD, f"{words} until {first.status.key.name} is back in ", _left(_remaining(first, scope)), "."
    )


def _keys(views: Sequence[KeyView]) -> Iterator[Sentence]:
    """Keys that somebody has to do something about, and those that are being looked into."""
    yield from _with_todo([view for view in views if view.todo])
    for view in views:
        if view.status.is_last_resort:
            yield _sentence(
                Tone.WARNING,
                f"{view.status.key.name} was {view.cause.partition(';')[0]} ",
                _ago(view.status.marked_ago_seconds),
                ": it is being looked into, and tried last.",
            )


def _with_todo(views: Sequence[KeyView]) -> Iterator[Sentence]:
    if len(views) > MOST_NAMED:
        names = named([view.status.key.name for view in views])
        yield _sentence(Tone.WARNING, f"{len(views)} keys need you: {names}. What to do stands beside each, below.")
        return
    for view in views:
        name = view.status.key.name
        if view.status.state is KeyState.PERMANENT:
            yield _sentence(
                Tone.WARNING,
                f"{name} was {view.cause} ",
                _ago(view.status.marked_ago_seconds),
                ": replace it, or if it is good again: ",
                _enable(name),
                ".",
            )
        else:
            yield _sentence(
                Tone.WARNING,
                f"{name}: {view.cause}, found ",
                _ago(view.status.marked_ago_seconds),
                f": {view.todo}, then: ",
                _enable(name),
                ".",
            )


def _coming_back(views: Sequence[KeyView]) -> Iterator[Sentence]:
    """Keys that come back by themselves."""
    views = [view for view in views if view.status.state is KeyState.TEMPORARY and not view.todo]
    if len(views) > MOST_NAMED:
        first = min(views, key=_remaining)
        yield _sentence(
            Tone.WARNING,
            f"{len(views)} keys are cooling down; the first, {first.status.key.name}, is back in ",
            _left(_remaining(first)),
            ".",
        )
        return
    for view in sorted(views, key=_remaining):
        is_part = view.status.concern is Concern.SCOPE
        part = f" for {named([scope.scope for scope in view.scopes if scope.remaining_seconds])}" if is_part else ""
        yield _sentence(Tone.WARNING, f"{view.status.key.name} is back{part} in ", _left(_remaining(view)), ".")


def _reassurance(views: Sequence[KeyView], said: Sequence[Sentence]) -> Iterator[Sentence]:
    """What works, said last."""
    if not views:
        yield _sentence(Tone.GOOD, "No keys here: clients bring their own credentials.")
        return
    valid = [view.status.key.name for view in views if view.status.state is KeyState.VALID]
    disabled = [view.status.key.name for view in views if view.status.record.is_disabled]
    if len(valid) == len(views):
        yield _sentence(Tone.GOOD, "The key is valid." if len(valid) == 1 else f"All {len(valid)} keys are valid.")
        return
    aside = f"; {named(disabled)} {'is' if len(disabled) == 1 else 'are'} disabled" if disabled else ""
    if len(valid) == 1:
        yield _sentence(Tone.WARNING if said else Tone.GOOD, f"One valid key is left, {valid[0]}{aside}.")
    elif valid:
        yield _sentence(Tone.GOOD, f"{len(valid)} of {len(views)} keys are valid{aside}.")


def _load(health: Health) -> Iterator[Sentence]:
    if health.inflight_limit and health.inflight >= health.inflight_limit:
        yield _sentence(
            Tone.BAD, f"The gateway is full: all {health.inflight_limit} slots are taken, and more are refused (529)."
        )


def _stores(health: Health) -> Iterator[Sentence]:
    if not health.is_store_up:
        served = "Clients that have limits are refused (529), others" if health.needs_store else "Requests"
        yield _sentence(
            Tone.BAD,
            f"{health.store[0].upper()}{health.store[1:]} cannot be used: what happens to a key is not shared until it "
            f"can. {served} are served.",
        )
    if not health.is_database_up:
        waiting = health.records_waiting
        wait = "1 record waits" if waiting == 1 else f"{waiting:,} records wait"
        yield _sentence(Tone.WARNING, f"The database of records cannot be used: {wait} on disk. Requests are served.")


def _traffic(traffic: Traffic) -> Iterator[Sentence]:
    window = f"in the last {span(traffic.seconds)}"
    has_failed = traffic.failed >= _FEWEST_FAILURES and traffic.failed_percent >= _FEW_PERCENT
    if has_failed:
        tone = Tone.BAD if traffic.failed_percent >= _MANY_PERCENT else Tone.WARNING
        yield _sentence(
            tone,
            f"{traffic.failed_percent:.0f} % of requests failed {window} ({traffic.failed} of {traffic.requests}); "
            f"affected: {named([name for name, _ in traffic.affected])}.",
        )
    if traffic.upstream_troubles >= _FEWEST_FAILURES and (
        has_failed or 100 * traffic.upstream_troubles >= _FEW_PERCENT * traffic.requests
    ):
        counts = {
            "529 (overloaded)": traffic.upstream_529,
            "another 5xx": traffic.upstream_5xx,
            "no answer": traffic.upstream_silent,
        }
        told = ", ".join(f"{count} × {what}" for what, count in counts.items() if count)
        yield _sentence(Tone.WARNING, f"The upstream failed {window}: {told}. The keys are not the cause.")


def _servers(down: Sequence[str]) -> Iterator[Sentence]:
    if down:
        which = "server" if len(down) == 1 else "servers"
        does = "does" if len(down) == 1 else "do"
        yield _sentence(Tone.WARNING, f"MCP {which} {named(down)} {does} not answer: models are without those tools.")


def _reload(*, is_ok: bool) -> Iterator[Sentence]:
    if not is_ok:
        yield _sentence(
            Tone.WARNING,
            "The last reload was refused, and nothing has changed: ",
            Piece("gateway check", Kind.COMMAND),
            " says why.",
        )


def _is_out(view: KeyView) -> bool:
    """Whether the key is usable for no scope."""
    status = view.status
    is_cooling = status.state is KeyState.TEMPORARY and status.concern is not Concern.SCOPE
    return is_cooling or (status.state is KeyState.PERMANENT)


def _remaining(view: KeyView, scope: str | None = None) -> float:
    """How long until the key is back, for a scope or for all that it cools down for now."""
    for each in view.scopes:
        if scope is not None and each.scope == scope and each.remaining_seconds:
            return each.remaining_seconds
    return max(view.status.remaining_seconds, *(each.remaining_seconds for each in view.scopes), 0.0)
