"""A connection to PostgreSQL on which nothing waits without a bound.

Owns: the deadlines on this side of the connection, and what a database must be like. One thread, and one
more while it connects. A server that is stopped, and a path that takes everything and forwards nothing, are known to
this side alone: neither the kernel's time-outs nor the server's see anything wrong.

Every step after connecting is a generator of psycopg's that says what it waits for, on a socket that does not block; so
each can be given up. Connecting may also ask for names, tickets and services in ways that cannot: it has a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from sqlalchemy import Engine, event

from gateway.records.forwarder import DatabaseUnavailable

# One address; and all of them, with the finding of them.
_ADDRESS_SECONDS = 5
CONNECT_SECONDS = 30.0
# What the server gives a statement, and a transaction whose next statement does not come (a client that is lost with
# its path must not keep its locks); and what this side gives each step: a statement, a commit, a rollback.
STATEMENT_SECONDS = 15
STEP_SECONDS = 20.0


class SilentServer(psycopg.OperationalError, TimeoutError):
    """The server has not answered in time."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed when one of its steps takes too long."""

    def wait(self, gen: PQGen[RV], *options: Any, **named: Any) -> RV:
        """Take a step. Raises SilentServer."""
        return super().wait(self._bounded(gen), *options, **named)

    def _bounded(self, step: PQGen[RV]) -> PQGen[RV]:
        ends_at = time.monotonic() + STEP_SECONDS
        try:
            wanted = next(step)
            while True:
                ready = yield wanted
                if time.monotonic() >= ends_at:
                    self.close()
                    raise SilentServer(
                        f"the server has not answered for {STEP_SECONDS:g} s; the connection is given up"
                    )
                wanted = step.send(ready)
        except StopIteration as ended:
            result: RV = ended.value
            return result


def arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """What psycopg is to connect with, besides what the URL says; that goes before most of it."""
    limit_ms = 1000 * STATEMENT_SECONDS
    wanted = {
        "connect_timeout": _ADDRESS_SECONDS,
        "application_name": "messages-gateway",
        "keepalives_idle": 60,
        "keepalives_interval": 15,
        "tcp_user_timeout": limit_ms,
        "options": f"-c statement_timeout={limit_ms} -c idle_in_transaction_session_timeout={limit_ms}",
    }
    # Whatever the environment, the user or the database prefer: otherwise texts may arrive as bytes.
    return {name: value for name, value in wanted.items() if name not in given} | {"client_encoding": "utf8"}


def attend(engine: Engine) -> None:
    """Have this engine connect so."""
    event.listen(engine, "do_connect", _connect)


def _connect(dialect: object, record: object, arguments: Any, parameters: Any) -> BoundedConnection:
    made: Future[BoundedConnection] = Future()

    def connect() -> None:
        try:
            connection = BoundedConnection.connect(*arguments, **parameters)
        except Exception as error:  # noqa: BLE001  # whoever waits for it has it
            if made.set_running_or_notify_cancel():
                made.set_exception(error)
            return
        if made.set_running_or_notify_cancel():
            made.set_result(connection)
        else:  # nobody waits for it any more
            connection.close()

    threading.Thread(target=connect, name="database-connect", daemon=True).start()
    try:
        connection = made.result(CONNECT_SECONDS)
    except NotInTime:
        if made.cancel():
            raise SilentServer(f"the server could not be connected to within {CONNECT_SECONDS:g} s") from None
        connection = made.result()
    try:
        _refuse_unfit(connection)
    except DatabaseUnavailable:
        connection.close()
        raise
    return connection


def _refuse_unfit(connection: BoundedConnection) -> None:
    if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
        raise DatabaseUnavailable(
            f"the database {connection.info.dbname} has the encoding SQL_ASCII, in which texts are bytes of any kind; "
            "it needs one that was made with ENCODING 'UTF8' TEMPLATE template0"
        )
