"""What other machines have used, asked of the Redis server once.

Owns: the questions. One thread's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.config.limit_rules import Limited
from gateway.keys.redis.wire import SERVER_ERRORS, Server
from gateway.limits.calendar import today
from gateway.limits.link_words import Exchanger
from gateway.limits.machine_file import Memory
from gateway.limits.machine_memory import slots_of
from gateway.limits.statements import Report

_MOST_AT_ONCE = 200


def hear_all(
    memory: Memory,
    everybody: Sequence[Limited],
    state_url: str,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
) -> str:
    """Write to a memory what other machines have used of everybody's limits; what is wrong if that is not known.

    Raises ValueError if the URL is none.
    """
    server = Server(state_url, "gateway:")
    try:
        _hear(memory, everybody, server, clock, wall_clock)
    except SERVER_ERRORS as error:
        return f"the state server {server.place} does not answer ({error})"
    return ""


def _hear(
    memory: Memory,
    everybody: Sequence[Limited],
    server: Server,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
) -> None:
    exchanger = Exchanger(server, clock, wall_clock)
    connection = server.connect()
    try:
        # The server's clock says which day it is, and is heard before that matters.
        ahead_seconds = exchanger.exchange(connection, "look", Report(memory.slots.machine)).ahead_seconds
        memory.slots.set_clock_offset(ahead_seconds)
        day = today(wall_clock() + ahead_seconds)
        subjects = [one.subject for one in everybody]
        for start in range(0, len(subjects), _MOST_AT_ONCE):
            some = subjects[start : start + _MOST_AT_ONCE]
            for slot in slots_of(memory, some):
                slot.facts_at(int(clock()), day)
            statements = [slot.statement for slot in slots_of(memory, some)]
            heard = exchanger.exchange(connection, "look", Report(memory.slots.machine, statements))
            for slot in slots_of(memory, some):
                slot.hear(heard.others[slot.subject])
    finally:
        connection.close()
