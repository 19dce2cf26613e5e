"""What is said to the server about counts, and what its answers mean.

Owns: the words of one exchange. No state.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.config.limit_rules import Limited, Limits
from gateway.keys.redis.wire import Connection, Server, understood
from gateway.limits.link_script import EXCHANGE
from gateway.limits.slots import name_of
from gateway.limits.statements import HEARD_SECONDS, Others, Report, Statement

_KEPT_SECONDS = 33 * 86_400  # past the end of the month, and some
_LASTS_MICROSECONDS = round(HEARD_SECONDS * 1e6)
_NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer. `over` is the place of the subject whose limit does not hold, and the limit's name."""

    epoch: int
    ahead_seconds: float = 0.0
    others: dict[str, Others] = field(default_factory=dict)
    over: tuple[int, str] | None = None


class Exchanger:
    """Speaks to one server by the clocks of this machine."""

    def __init__(self, server: Server, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self._server = server
        self._clock = clock
        self._wall_clock = wall_clock

    def exchange(
        self,
        connection: Connection,
        act: str,
        report: Report,
        limited: Sequence[Limited] = (),
        timeout_seconds: float | None = None,
    ) -> Heard:
        """Tell, ask or look, as the script says; `limited` are those of the statements, for `ask`.

        With a time-out the server must know the script. Raises SERVER_ERRORS.
        """
        keys = [self._server.key("limits-epoch")]
        keys += [self._server.key("limits", name_of(one.subject).decode()) for one in report.statements]
        arguments = [f"{act} {report.machine or '-'} {secrets.randbits(62) | 1} {_LASTS_MICROSECONDS}"]
        for place, statement in enumerate(report.statements):
            arguments.append(_words_of(statement, limited[place].limits if limited else _NO_LIMITS))
        now, sent_at = self._clock(), self._wall_clock()
        if timeout_seconds is None:
            answer = connection.script(EXCHANGE, keys, arguments)
        else:
            answer = connection.quick_script(EXCHANGE, keys, arguments, timeout_seconds)
        middle_at = (sent_at + self._wall_clock()) / 2
        with understood():
            epoch, shown, over, *fields = answer
            others = {
                statement.subject: _sum_of(told, statement, int(shown), int(now * 1000))
                for statement, told in zip(report.statements, fields, strict=True)
            }
            place, _, limit = over.decode().partition(" ")
            broken = (int(place) - 1, limit) if over else None
            if broken is not None:
                limited[broken[0]]  # an IndexError is an odd answer
            return Heard(int(epoch), int(shown) / 1e6 - middle_at, others, broken)


def _words_of(statement: Statement, limits: Limits) -> str:
    numbers = " ".join(map(str, statement[1:]))
    running = "-" if limits.concurrent is None else limits.concurrent
    requests = "-" if limits.requests_per_minute is None else limits.requests_per_minute
    return f"{numbers} {_KEPT_SECONDS} {running} {requests}"


def _sum_of(fields: Sequence[bytes], statement: Statement, server_now: int, heard_ms: int) -> Others:
    """What other machines have used together, of the days and months of a statement."""
    running = requests = tokens = today = this_month = 0
    for told in fields:
        _, expiry, runs, asked, spoken, day, spent, month, spent_in_month = map(int, told.split())
        if 0 < expiry - server_now <= _LASTS_MICROSECONDS:
            running, requests, tokens = running + runs, requests + asked, tokens + spoken
        if day == statement.day:
            today += spent
        if month == statement.month:
            this_month += spent_in_month
    return Others(heard_ms, running, requests, tokens, statement.day, today, statement.month, this_month)
