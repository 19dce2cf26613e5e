"""The records of the keys on a Redis server that all machines share; requests do not wait for it.

Owns: the thread that keeps this process's replica and the server in step. Requests read and mark the replica alone. A
mark wakes the thread, which tells the server at once, and the server publishes that there is news: so the threads of
the other processes wake, too, and look (redis.news). Twice a second each looks anyway. So nothing fails, and nothing
waits, when the server is slow or gone: the gateway goes on with what it knows, and what was marked meanwhile is merged
when the server is back. One question is put to the server while a request waits, for a few milliseconds at most: who
may try a key on trial. From a server that is down, or too slow, no answer is awaited: then one request of each process
tries it.

An exchange begins with a look at what has changed there. If that is nothing, and nothing is untold here, it is over.

A server whose answers make no sense is one that does not answer. A server that restarts may have lost anything, and so
may one whose data were flushed; each process then tells all it knows, and the merge sorts it out. A restart shows as a
new connection, a flush as a new epoch.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace

from gateway.keys.key_record import Record, leased, released
from gateway.keys.redis.exchange import MOST_AT_ONCE, Exchanges, Look
from gateway.keys.redis.leases import LeaseAnswer, LeaseDesk
from gateway.keys.redis.news import News
from gateway.keys.redis.scripts import IS_THERE
from gateway.keys.redis.wire import SERVER_ERRORS, Server, ServerClock
from gateway.keys.replica import Replica
from gateway.keys.store import Change, MergingStore
from gateway.keys.subjects import named
from gateway.runtime.background import BackgroundThread, GrowingPause
from gateway.runtime.machine_clock import machine_time

log = logging.getLogger("gateway.redis_store")

# The server's names of keys are hashes of fingerprints under this label, the same on every machine: what is read
# there cannot be looked up in a list of hashed secrets.
_LABEL = b"messages-gateway key state"
_SHORTEST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_FLUSH_SECONDS = 1.0
_CLOSING_SECONDS = 0.5
_MOST_TOLD = 10
# After a look others' news waits for so many times as long as that look took, at most so long. So what hearing costs is
# bounded, however much is published, and the more the server has to do, the less often it is asked.
_LOOKS_APART = 9
_LONGEST_APART_SECONDS = 0.05


class RedisStore(MergingStore):
    """A Store for the processes of several machines. Made after the fork, one a process; it starts a thread.

    `url` is redis://, rediss:// or unix://. `clock` must be the callers'. Waits up to
    `start_timeout_seconds` to learn what the others know. Raises ValueError if the URL is none; a server that
    does not answer raises nothing, here or later.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "gateway:",
        clock: Callable[[], float] = machine_time,
        pull_seconds: float = 0.5,
        start_timeout_seconds: float = 0.5,
        lease_timeout_seconds: float = 0.005,
    ) -> None:
        self._clock = clock
        self._pull_seconds = pull_seconds
        self._names: dict[str, str] = {}  # a cache that only grows; races write the same value
        self._replica = Replica(clock)
        self._server = Server(url, prefix)
        server_clock = ServerClock()
        sender = secrets.token_hex(8)
        self._exchanges = Exchanges(self._server, server_clock, clock, sender)
        self._news = News(self._server, sender)
        self._lease_desk = LeaseDesk(self._server, server_clock, lease_timeout_seconds)
        self._epoch = b""
        self._is_up: bool | None = None  # None before the first attempt; written by the thread alone
        self._odd: set[bytes | str] = set()  # what was passed over
        self._progress = threading.Condition()  # guards the two counts, and tells of them and of _is_up
        self._begun_count = 0
        self._done_count = 0  # the number of the latest exchange that succeeded
        self._pause = GrowingPause(_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        self._hears = True  # what others publish, as far as the log says
        self._thread = BackgroundThread("redis-store", self._step, at_end=self._end, wake_by=self._news)
        self._thread.start()
        with self._progress:
            self._progress.wait_for(lambda: self._is_up is not None, start_timeout_seconds)

    @staticmethod
    def exists(url: str, prefix: str = "gateway:") -> bool:
        """Whether a gateway has used this server; changes nothing there.

        True, too, if the server cannot be asked: opening the store tells why. Raises ValueError if the URL is none.
        """
        server = Server(url, prefix)
        try:
            with closing(server.connect()) as connection:
                return bool(connection.script(IS_THERE, [server.key("epoch")]))
        except SERVER_ERRORS:
            return True

    @property
    def is_up(self) -> bool:
        """Whether the server answered when it was last asked."""
        return self._is_up is True

    def read(self, fingerprints: Sequence[str]) -> list[Record]:
        return self._replica.read([self._name(fingerprint) for fingerprint in fingerprints])

    def glance(self) -> int:
        return self._replica.changes

    def details(self, base: str) -> list[str]:
        return self._replica.details(self._base_name(base))

    def lease(self, fingerprint: str, until_at: float, now: float) -> bool:
        name = self._name(fingerprint)
        if not self._replica.lease(name, lambda record: leased(record, until_at, now)):
            return False
        if not self.is_up:
            return True
        (record,) = self._replica.read([name])
        answer = self._lease_desk.lease(name, until_at, now, record)
        if isinstance(answer, Record):
            self._replica.learn_one(name, answer)
            self.release(fingerprint, until_at)  # the server may have given it
            return False
        if isinstance(answer, LeaseAnswer):
            return True
        # Another process tries the key, or there was no answer. Ask again when its lease has ended, when the next
        # pull may have told more, or when the thread has made a new connection.
        stays_away_until_at = min(answer, now + self._pull_seconds)
        self._replica.lease(name, lambda record: _held(record, until_at, stays_away_until_at))
        if self._lease_desk.is_wanted:
            self._thread.wake()
        return False

    def release(self, fingerprint: str, until_at: float) -> None:
        lease = self._lease_desk.written(until_at)
        self._replica.release(self._name(fingerprint), lambda record: released(record, until_at), lease)
        self._thread.wake()

    def flush(self, timeout_seconds: float = _FLUSH_SECONDS) -> bool:
        """Wait until the server has all that was marked here before; False if it has not when the time is over."""
        with self._progress:
            wanted = self._begun_count + 1
            self._thread.wake()
            return self._progress.wait_for(lambda: self._done_count >= wanted, timeout_seconds)

    def close(self) -> None:
        """Tell the server what is untold, if it answers within half a second, and end the thread."""
        if self.is_up and not self._thread.is_stopping:
            self.flush(_CLOSING_SECONDS)
        self._thread.stop()
        self._thread.join(_CLOSING_SECONDS)

    def _change(self, fingerprint: str, change: Change) -> tuple[Record, Record]:
        before, after = self._replica.mark(self._name(fingerprint), change)
        if after is not before:
            self._thread.wake()
        return before, after

    def _name(self, subject: str) -> str:
        return named(subject, self._base_name)

    def _base_name(self, base: str) -> str:
        name = self._names.get(base)
        if name is None:
            name = hmac.new(_LABEL, base.encode(), hashlib.sha256).hexdigest()
            self._names[base] = name
        return name

    # The thread's

    def _step(self) -> float:
        """One exchange with the server, as far as it can be had."""
        with self._progress:
            self._begun_count += 1
            number = self._begun_count
        began_at = time.monotonic()
        try:
            is_told = self._synchronise()
        except SERVER_ERRORS as error:
            self._disconnect()
            self._note(False, error)
            self._thread.wait(self._pause.next_seconds())  # not all processes at once, when the server is back
            return 0.0
        except BaseException as error:
            self._disconnect()
            self._note(False, error)
            raise
        if not is_told:
            return _SHORTEST_PAUSE_SECONDS
        self._pause.reset()
        self._note(True)
        self._note_hearing()
        with self._progress:
            self._done_count = number
            self._progress.notify_all()
        took_seconds = time.monotonic() - began_at
        self._news.rest_for(min(_LOOKS_APART * took_seconds, _LONGEST_APART_SECONDS))
        return self._pull_seconds

    def _end(self) -> None:
        self._is_up = False
        self._disconnect()
        self._news.close()

    def _synchronise(self) -> bool:
        """Tell the server what is untold, and learn what it knows; False if all has to be told once more."""
        if not self._exchanges.is_connected:
            self._exchanges.connect()
            self._replica.doubt()
            self._epoch = b""
        self._news.tend()  # before the look: what is changed after it is heard
        is_more = True
        while is_more:
            look = self._exchanges.look()
            if look.is_clock_set:  # what the server holds now ends at another moment than what is known here
                self._replica.doubt()
            if not self._exchange(look):
                self._exchanges.start_over()
                self._replica.doubt()
                return False
            is_more = look.is_more
        self._lease_desk.open()
        return True

    def _exchange(self, look: Look) -> bool:
        """Exchange what has changed here or there; False if that showed that the server has lost its data."""
        asked = self._replica.untold().union(look.names)
        if look.has_bases or look.epoch != self._epoch:
            asked |= self._replica.bases()
        elif not asked and not look.odd:
            return True
        names, odd = sorted(asked), set[bytes | str](look.odd)
        for start in range(0, max(1, len(names)), MOST_AT_ONCE):
            told = self._replica.tell(names[start : start + MOST_AT_ONCE])
            try:
                answer = self._exchanges.exchange(told)
            except BaseException:
                self._replica.take_back(told)
                raise
            odd |= answer.odd
            is_lost = self._epoch not in (b"", answer.epoch)
            records = answer.records
            if is_lost:  # then only what has just been told is there whole
                records = {name: record for name, record in records.items() if told[name].is_news}
            self._epoch = answer.epoch
            self._replica.learn(told, records, self._clock())
            if is_lost:
                return False
        self._pass_over(odd, is_all=look.has_bases)
        return True

    def _pass_over(self, odd: set[bytes | str], *, is_all: bool) -> None:
        for what in sorted(map(ascii, odd - self._odd))[:_MOST_TOLD]:
            log.warning(
                "the state server %s holds under the name of a key what no gateway has written: %.100s is passed over, "
                "the other keys count",
                self._server.place,
                what,
            )
        self._odd = odd if is_all else self._odd | odd

    def _disconnect(self) -> None:
        self._exchanges.close()
        self._news.disconnect()
        self._lease_desk.close()

    def _note(self, is_up: bool, error: BaseException | None = None) -> None:
        was_up = self._is_up
        if is_up and was_up is False:
            log.info("the state server %s answers again; marks made meanwhile are merged", self._server.place)
        elif not is_up and was_up is not False:
            log.warning(
                "the state server %s does not answer (%s): this worker goes on with what it knows; "
                "its marks are shared when the server is back",
                self._server.place,
                error,
            )
        self._is_up = is_up
        if was_up is None:
            with self._progress:
                self._progress.notify_all()

    def _note_hearing(self) -> None:
        failure = self._news.failure
        if failure is None and not self._hears:
            log.info("what other processes publish on the state server %s is heard again", self._server.place)
        elif failure is not None and self._hears:
            log.warning(
                "the state server %s lets nobody subscribe to %s (%s): what other processes mark is seen up to %.1f s "
                "later; subscribing is tried again",
                *(self._server.place, self._server.channel, failure, self._pull_seconds),
            )
        self._hears = failure is None

    def __repr__(self) -> str:
        return f"<RedisStore {self._server.place} is_up={self.is_up} {self._replica!r}>"


def _held(record: Record, mine_until_at: float, until_at: float) -> Record:
    """Another process has the lease that was to be mine."""
    return replace(record, lease_until_at=until_at) if record.lease_until_at == mine_until_at else record
