"""What the machines that share a Redis server tell each other of what they have used.

Owns: when something is told, and whether the server can be reached. Thread-safe. Beside the requests a
thread tells the server, several times a second, what is active on this machine, and hears what others have used; all
workers of the machine know it then, for it lies in the memory that they share. Which of them does the next round is
settled there, too. A request puts one question to the server where it has a limit that must hold over all machines at
every moment, and waits for some milliseconds at most.

When the server is out of reach nothing is lost: each machine has its own counts, and tells them whole when the server
is back. A server whose data were lost shows another epoch, and is told all that there is.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable, Sequence

from gateway.config.limit_rules import Limited
from gateway.keys.redis.wire import SERVER_ERRORS, Connection, Server
from gateway.limits.counters import Entry, MachineCounters
from gateway.limits.link_script import EXCHANGE
from gateway.limits.link_words import Exchanger, Heard
from gateway.limits.statements import Report, Unanswered
from gateway.runtime.background import BackgroundThread, GrowingPause

log = logging.getLogger(__name__)

ASK_SECONDS = 0.02  # how long a request waits for an answer, if it can go on without
PATIENT_ASK_SECONDS = 0.5  # the same, if it is refused without
_CONNECTIONS = 8
_QUEUE_SECONDS = 0.5  # how long a question waits for its turn
_LOOK_SECONDS = 1.0  # what a look may take, for which no request waits
_TICK_SECONDS = 0.2
_ROUND_SECONDS = 0.4
_TOGETHER_SECONDS = 0.02  # what is told within this goes together
_MOST_AT_ONCE = 200
_START_SECONDS = 0.5
_CLOSING_SECONDS = 1.0
_SHORTEST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_REFUSED = "until it does, requests that have limits are refused"
_BY_OWN_COUNTS = "limits go by what this machine has counted, and by what it has heard of others"


class Link:
    """This process's way to the server; `start` begins to use it. Made after the fork.

    `fails_closed`: without the server, requests that have limits are refused. Raises ValueError if the URL is none; a
    server that does not answer raises nothing here.
    """

    def __init__(
        self,
        url: str,
        counters: MachineCounters,
        *,
        prefix: str = "gateway:",
        fails_closed: bool = False,
        ask_seconds: float | None = None,
    ) -> None:
        self._counters = counters
        self._server = Server(url, prefix)
        self._exchanger = Exchanger(self._server, counters.clock, counters.wall_clock)
        self._fails_closed = fails_closed
        self._ask_seconds = ask_seconds or (PATIENT_ASK_SECONDS if fails_closed else ASK_SECONDS)
        self._ready: queue.LifoQueue[Connection] = queue.LifoQueue()  # for questions
        self._lock = threading.Lock()  # guards the three that follow
        self._open_count = 0  # connections for questions, ready or lent
        self._dirty: set[str] = set()  # these subjects have changed, and others are to know at once
        self._doubts = 0  # questions without an answer
        self._settled_doubts = 0  # so many of them came before the last exchange that succeeded
        self._is_up: bool | None = None  # None before the first exchange; written by the thread alone
        self._is_known = threading.Event()  # which of the two it is
        self._told_at = 0.0
        self._connection: Connection | None = None  # the thread's
        self._pause = GrowingPause(_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        self._thread = BackgroundThread("limits-link", self._step, at_end=self._end)

    @property
    def is_up(self) -> bool:
        """Whether the server is worth asking."""
        return self._is_up is True and self._doubts == self._settled_doubts

    def start(self) -> None:
        """Begin, and wait for a moment to hear what others have used."""
        self._thread.start()
        self._is_known.wait(_START_SECONDS)

    def close(self) -> None:
        """Tell what others do not know yet, and end."""
        self._thread.stop()
        self._thread.join(_CLOSING_SECONDS)

    def changed(self, limited: Iterable[Limited]) -> None:
        """Something of these has changed that others should know at once."""
        with self._lock:
            self._dirty.update(one.subject for one in limited)
        self._thread.wake()

    def ask(self, entry: Entry) -> tuple[int, str] | None:
        """Tell of a request that was counted here, and ask whether the limits hold over all machines.

        Returns the place of whose limit does not hold, and the limit's name. Raises Unanswered.
        """
        return self._asked("ask", entry.report, entry.limited).over

    def hear(self, report: Report) -> None:
        """Hear what others have used of these now. Raises Unanswered."""
        self._asked("tell", report)

    def hear_all(self, everybody: Sequence[Limited]) -> None:
        """Hear what others have used of these, who may be idle here. Raises Unanswered."""
        subjects = [one.subject for one in everybody]
        for start in range(0, len(subjects), _MOST_AT_ONCE):
            some = subjects[start : start + _MOST_AT_ONCE]
            self._counters.begin(some)
            self._asked("look", self._counters.report(some), seconds=_LOOK_SECONDS)

    def _asked(self, act: str, report: Report, limited: Sequence[Limited] = (), seconds: float | None = None) -> Heard:
        if not report.machine:
            raise Unanswered
        connection = self._free_connection()
        try:
            answer_seconds = self._ask_seconds if seconds is None else seconds
            heard = self._exchanger.exchange(connection, act, report, limited, answer_seconds)
        except BaseException as error:
            connection.close()
            with self._lock:
                self._open_count -= 1
            if isinstance(error, SERVER_ERRORS):
                raise self._doubted() from error
            raise
        self._ready.put(connection)
        self._counters.hear(heard.others, heard.ahead_seconds)
        return heard

    def _free_connection(self) -> Connection:
        """One that no other question has. Raises Unanswered, which says nothing against the server."""
        ends_at = time.monotonic() + _QUEUE_SECONDS
        while True:
            try:
                return self._ready.get(timeout=self._ask_seconds)
            except queue.Empty:
                if not self.is_up or time.monotonic() >= ends_at:
                    raise Unanswered from None

    def _doubted(self) -> Unanswered:
        with self._lock:
            self._doubts += 1
        self._thread.wake()
        return Unanswered()

    # The thread's

    def _step(self) -> float:
        self._thread.wait(max(0.0, self._told_at + _TOGETHER_SECONDS - time.monotonic()))
        with self._lock:
            dirty, self._dirty = self._dirty, set()
            doubts = self._doubts
        try:
            self._synchronise(dirty, doubts != self._settled_doubts)
        except SERVER_ERRORS as error:
            with self._lock:
                self._dirty |= dirty
            self._disconnect()
            self._note(False, error)
            self._thread.wait(self._pause.next_seconds())  # not all processes at once, when the server is back
            return 0.0
        except BaseException as error:
            self._disconnect()
            self._note(False, error)
            raise
        self._pause.reset()
        self._settled_doubts = doubts
        self._note(True)
        return _TICK_SECONDS

    def _synchronise(self, dirty: set[str], is_doubted: bool) -> None:
        is_new = self._connection is None
        if is_new:
            self._connection = self._server.connect()
            self._counters.set_filled(0)  # it may have missed what is active no longer
        is_round = self._counters.claim_round(_ROUND_SECONDS)
        if is_new or is_round or is_doubted or dirty:
            subjects = dirty.union(self._counters.active()) if is_round else dirty
            epoch = self._tell(sorted(subjects))
            if not self._counters.is_filled(epoch):
                self._tell(self._counters.everybody())
                self._counters.set_filled(epoch)
        while self._open_count < _CONNECTIONS:
            self._open_one()

    def _tell(self, subjects: Sequence[str]) -> int:
        """Tell of these, hear of the others; the epoch of the server's data."""
        assert self._connection is not None
        epoch = 0
        for start in range(0, max(1, len(subjects)), _MOST_AT_ONCE):
            report = self._counters.report(subjects[start : start + _MOST_AT_ONCE])
            heard = self._exchanger.exchange(self._connection, "tell", report)
            self._counters.hear(heard.others, heard.ahead_seconds)
            epoch = heard.epoch
        self._told_at = time.monotonic()
        return epoch

    def _open_one(self) -> None:
        connection = self._server.connect()
        try:
            connection.load(EXCHANGE)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._open_count += 1
        self._ready.put(connection)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        while True:
            try:
                self._ready.get_nowait().close()
            except queue.Empty:
                return
            with self._lock:
                self._open_count -= 1

    def _end(self) -> None:
        try:
            if self._is_up and self._connection is not None:
                self._tell(sorted(self._dirty.union(self._counters.active())))
        except SERVER_ERRORS:
            pass  # it hears of it from another worker
        finally:
            self._is_up = False
            self._disconnect()

    def _note(self, is_up: bool, error: BaseException | None = None) -> None:
        was_up = self._is_up
        if is_up and was_up is False:
            log.info("the state server %s answers again: it is told what was used meanwhile", self._server.place)
        elif not is_up and was_up is not False:
            log.warning(
                "the state server %s does not answer (%s): %s",
                *(self._server.place, error, _REFUSED if self._fails_closed else _BY_OWN_COUNTS),
            )
        self._is_up = is_up  # who sees this finds the line in the log
        self._is_known.set()
