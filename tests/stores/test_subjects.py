"""Subjects: what each kind of store makes of records that speak of something about a key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.keys import file_store, keys_file, subjects
from gateway.keys.file_store import FileStore
from gateway.keys.key_record import NEVER_SEEN, Cause, Record
from gateway.keys.redis.store import RedisStore
from gateway.keys.store import MemoryStore, Store
from gateway.keys.subjects import DAY_SECONDS
from gateway.runtime.machine_clock import machine_time
from tests.harness import wait_until
from tests.stores.redis_server import RedisServer

KEY, OTHER = "11" * 32, "22" * 32
SCOPE = f"{KEY}/messages/opus-5"
PATIENCE_SECONDS = 30.0


class Rig:
    """Processes that share one store, or the only one of a store in memory; and the time by which they live."""

    def __init__(self, kind: str, folder: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kind = kind
        self.ahead_seconds = 0.0
        self._folder, self._server = folder, server
        self._made: list[FileStore | RedisStore] = []
        for module in (keys_file, file_store):
            monkeypatch.setattr(module, "machine_time", self.now)

    def now(self) -> float:
        return machine_time() + self.ahead_seconds

    def another(self) -> Store:
        """One more process."""
        if self.kind == "memory":
            return MemoryStore()
        made: FileStore | RedisStore
        if self.kind == "file":
            made = FileStore(self._folder, PATIENCE_SECONDS)
        else:
            made = RedisStore(self._server.url, clock=self.now, lease_timeout_seconds=1.0, start_timeout_seconds=10.0)
        self._made.append(made)
        return made

    def close(self) -> None:
        for store in self._made:
            store.close()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    started = RedisServer()
    yield started
    started.stop()


@pytest.fixture
def make_rig(tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Rig]]:
    """Makes the rig of a test; its store knows nothing yet."""
    made: list[Rig] = []

    def make(kind: str) -> Rig:
        with server.client() as client:
            client.flushall()
        made.append(Rig(kind, tmp_path, server, monkeypatch))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


@pytest.fixture(params=["memory", "file", "redis"])
def rig(request: pytest.FixtureRequest, make_rig: Callable[[str], Rig]) -> Rig:
    return make_rig(request.param)


@pytest.fixture(params=["file", "redis"])
def shared(request: pytest.FixtureRequest, make_rig: Callable[[str], Rig]) -> Rig:
    return make_rig(request.param)


def limited(rig: Rig) -> Cause:
    return Cause("rate_limited", 429, rig.now())


def known(store: Store, subject: str) -> Record:
    store.glance()
    return store.read([subject])[0]


def settled(store: Store) -> int:
    """Its number, when what it has told has come back."""
    for _ in range(3):
        assert store.flush()
    return store.glance()


def test_each_subject_has_a_record_of_its_own(rig: Rig) -> None:
    """Given every kind of mark of one detail, then it says there what it says of a key, and the key, its other details
    and other keys know nothing of it."""
    store, now = rig.another(), rig.now()
    assert store.cool(SCOPE, now + 50, 0, limited(rig))
    assert not store.cool(SCOPE, now + 60, 0, limited(rig))
    assert known(store, SCOPE).is_cooling(now)
    assert store.retire(SCOPE, 0, Cause("unauthorized", 401, now))
    assert not store.retire(SCOPE, 0, Cause("unauthorized", 401, now))
    assert store.revive(SCOPE, 0)
    assert known(store, SCOPE).generation == 1
    assert not store.cool(SCOPE, now + 70, 0, limited(rig)), "of an earlier generation"
    store.disable(SCOPE, Cause("operator", 0, now))
    assert known(store, SCOPE).is_disabled
    store.enable(SCOPE)
    store.confirm(SCOPE, 2, now)
    record = known(store, SCOPE)
    assert (record.generation, record.is_permanent, record.confirmed_at) == (2, False, now)
    others = [KEY, OTHER, f"{KEY}/messages", f"{OTHER}/messages/opus-5"]
    assert store.read(others) == [NEVER_SEEN] * 4
    store.retire(KEY, 0, Cause("unauthorized", 401, now))
    assert not known(store, SCOPE).is_permanent


def test_one_request_at_a_time_tries_a_subject(rig: Rig) -> None:
    """Given a detail on trial, then one lease of it is given, and once given back another."""
    store, now = rig.another(), rig.now()
    store.cool(SCOPE, now - 1, 0, limited(rig))
    assert store.flush()
    assert [store.lease(SCOPE, now + 30, now) for _ in range(2)] == [True, False]
    assert not store.lease(f"{KEY}/models", now + 30, now), "that one is not on trial"
    store.release(SCOPE, now + 30)
    assert store.lease(SCOPE, now + 31, now)
    store.confirm(SCOPE, 0, now + 1)
    assert not store.lease(SCOPE, now + 32, now + 2)


def test_details_of_a_base_are_listed(rig: Rig) -> None:
    """Given marks of some details of two bases, then each base's are listed, sorted, slashes and all."""
    store = rig.another()
    for subject in (SCOPE, f"{KEY}/count_tokens", KEY, f"{OTHER}/models", "organisation/org_1"):
        store.cool(subject, rig.now() + 50, 0, limited(rig))
    assert store.details(KEY) == ["count_tokens", "messages/opus-5"]
    assert store.details(OTHER) == ["models"]
    assert store.details("organisation") == ["org_1"]
    assert store.details("session") == []


@pytest.mark.parametrize("detail", ["", "a b", "ä", "a\n", "x" * 161, 'a"'], ids=repr)
def test_details_that_no_store_takes_are_refused(rig: Rig, detail: str) -> None:
    """Given a detail of other characters, or none, or too long, then it is refused before anything is written."""
    store = rig.another()
    with pytest.raises(ValueError, match="a detail is"):
        store.cool(f"{KEY}/{detail}", rig.now() + 50, 0, limited(rig))
    assert store.cool(f"{KEY}/{'x' * 160}", rig.now() + 50, 0, limited(rig))


def test_glance_tells_of_changes_alone(rig: Rig) -> None:
    """Given marks, then the number is another one after each that changed a record, and stays when nothing does."""
    store = rig.another()
    seen = {store.glance()}
    for subject in (KEY, SCOPE, "organisation/org_1"):
        store.cool(subject, rig.now() + 50, 0, limited(rig))
        seen.add(store.glance())
    assert len(seen) == 4
    before = settled(store)
    store.read([KEY, SCOPE, "organisation/org_2"])
    store.revive(SCOPE, 7)
    store.lease(SCOPE, rig.now() + 30, rig.now())
    store.details(KEY)
    assert settled(store) == before


def test_glance_tells_of_what_others_did(shared: Rig) -> None:
    """Given two processes, when one marks a key or a detail of it, then the other's number is another one, and it
    knows; when it hears nothing new, the number stays."""
    one, other = shared.another(), shared.another()
    for subject in (KEY, SCOPE):
        before = settled(other)
        one.cool(subject, shared.now() + 50, 0, limited(shared))
        assert one.flush()
        assert wait_until(lambda before=before: other.glance() != before, PATIENCE_SECONDS)
        assert known(other, subject).is_cooling(shared.now())
    assert other.details(KEY) == ["messages/opus-5"]
    assert settled(other) == settled(other)
    assert known(shared.another(), SCOPE).is_cooling(shared.now()), "one that comes later"


def test_spent_details_are_forgotten_and_the_others_kept(rig: Rig) -> None:
    """Given details whose times lie a day back, then they leave when more is marked and the file is begun anew; one
    that cools down for longer stays, a permanent one, and every key."""
    store = rig.another()
    lasting = f"{KEY}/files"
    for subject in (SCOPE, KEY):
        store.cool(subject, rig.now() + 50, 0, limited(rig))
    store.cool(lasting, rig.now() + 2 * DAY_SECONDS, 0, limited(rig))
    store.disable(f"{KEY}/skills", Cause("operator", 0, rig.now()))
    assert store.flush()
    rig.ahead_seconds = DAY_SECONDS + 7200.0
    store.cool(f"{KEY}/models", rig.now() + 50, 0, limited(rig))
    if isinstance(store, FileStore):
        store.start_anew(rig.now())
    assert store.details(KEY) == ["files", "models", "skills"]
    assert known(store, KEY).limited_count == 1
    assert store.flush()
    if rig.kind != "memory":
        another = rig.another()
        assert set(another.details(KEY)) >= {"files", "models", "skills"}


def test_no_more_details_are_kept_than_a_store_may_hold(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given more details than that, then the oldest go, and no key does."""
    for module in ("subjects", "file_store"):
        monkeypatch.setattr(f"gateway.keys.{module}.MOST_DETAILED", 50)
    monkeypatch.setattr(subjects, "_KEPT_OF_TOO_MANY", 45)
    store, now = rig.another(), rig.now()
    for number in range(40):
        store.cool(f"{number:064x}", now + 50, 0, Cause("rate_limited", 429, now))
    for number in range(120):
        store.cool(f"session/{number}", now + 50 + number, 0, Cause("rate_limited", 429, now))
        assert len(store.details("session")) <= 50
    assert set(store.details("session")) >= {str(number) for number in range(75, 120)}
    assert all(record.limited_count for record in store.read([f"{number:064x}" for number in range(40)]))


# The file


def test_restart_leaves_details_as_they_are(tmp_path: Path) -> None:
    """Given a refused key and a refused detail, when the gateway restarts, then the key has its trial, the detail is
    as it was."""
    store = FileStore(tmp_path, PATIENCE_SECONDS)
    for subject in (KEY, SCOPE):
        store.retire(subject, 0, Cause("unauthorized", 401, machine_time()))
    before = known(store, SCOPE)
    store.close()
    again = FileStore(tmp_path, PATIENCE_SECONDS)
    again.start_anew(machine_time())
    assert known(again, SCOPE) == before
    assert known(again, KEY).generation == 1
    assert again.details(KEY) == ["messages/opus-5"]
    again.close()


def test_details_move_with_their_key_to_another_salt(tmp_path: Path) -> None:
    """Given a process that knows details, when the file is another gateway's, then it brings them along."""
    one = FileStore(tmp_path / "", PATIENCE_SECONDS)
    one.cool(SCOPE, machine_time() + 50, 0, Cause("rate_limited", 429, machine_time()))
    (tmp_path / "keys.jsonl").unlink()
    other = FileStore(tmp_path, PATIENCE_SECONDS)
    other.cool(f"{KEY}/models", machine_time() + 50, 0, Cause("rate_limited", 429, machine_time()))
    one.tick()
    other.tick()
    for store in (one, other):
        assert store.details(KEY) == ["messages/opus-5", "models"]
        store.close()


def test_line_with_a_detail_that_no_gateway_wrote_makes_the_file_unusable(tmp_path: Path) -> None:
    """Given such a line, then the file is set aside and begun anew with what is known."""
    store = FileStore(tmp_path, PATIENCE_SECONDS)
    store.cool(SCOPE, machine_time() + 50, 0, Cause("rate_limited", 429, machine_time()))
    with (tmp_path / "keys.jsonl").open("a") as file:
        file.write(f'["{"ab" * 32}/a b",{{}}]\n')
    assert known(store, SCOPE).limited_count == 1
    assert (tmp_path / "keys.jsonl.unusable").exists()
    assert store.is_up
    store.close()


def test_file_with_many_details_is_not_begun_anew_with_every_mark(tmp_path: Path) -> None:
    """Given a file that is long because much is known, then marks add lines to it until it is twice as long."""
    store = FileStore(tmp_path, PATIENCE_SECONDS)
    written: set[int] = set()
    path = tmp_path / "keys.jsonl"
    numbers = range(3000)
    for number in numbers:
        store.cool(f"session/{'x' * 100}{number}", machine_time() + 50, 0, Cause("limited", 429, machine_time()))
        written.add(path.stat().st_ino)
    assert path.stat().st_size > keys_file.LONG_BYTES
    assert len(written) <= 4
    store.close()
