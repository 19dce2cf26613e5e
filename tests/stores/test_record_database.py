"""The database of records, on real SQLite and real PostgreSQL: every record is in it once, whatever happens."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text

from gateway.pricing.money import MOST_PICODOLLARS
from gateway.records.database import Database, DatabaseWriter, Reader, schema
from gateway.records.database.schema import PARTS, SCHEMA_VERSION, interceptions, metadata
from gateway.records.forwarder import DatabaseUnavailable
from gateway.records.interception_record import PassedOver, decode_record, encode_record
from tests.harness import wait_until
from tests.record_samples import NOW, PLAIN, counts_of, record_of, usage_of
from tests.stores.postgres_server import PASSWORD, PostgresServer
from tests.unit.fakes import race

DAY_SECONDS = 86_400.0
PROCESSES = 4

NewUrl = Callable[[], str]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'records.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def writer(url: str) -> Iterator[DatabaseWriter]:
    with closing(writer_of(url)) as writer:
        writer.prepare()
        yield writer


@pytest.fixture
def reader(url: str, writer: DatabaseWriter) -> Iterator[Reader]:
    database = Database(url)
    database.prepare_to_read()
    yield Reader(database)
    database.close()


def writer_of(url: str, days: int = 30, now: float = NOW) -> DatabaseWriter:
    return DatabaseWriter(Database(url), days, lambda: now)


def why_unreadable(url: str) -> str:
    with closing(Database(url)) as database, pytest.raises(DatabaseUnavailable) as refused:
        database.prepare_to_read()
    return str(refused.value)


def rows_in(url: str) -> dict[str, int]:
    """How many rows each table has."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() as connection:
            return {
                table.name: connection.execute(text(f"SELECT count(*) FROM {table.name}")).scalar_one()
                for table in (interceptions, *PARTS.values())
            }
    finally:
        engine.dispose()


def change(url: str, *statements: str) -> None:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
    finally:
        engine.dispose()


# Writing.


def test_a_record_comes_back_as_it_was(writer: DatabaseWriter, reader: Reader) -> None:
    """Given records with everything and with next to nothing; then they are read as they were written."""
    assert writer.write([record_of(1), PLAIN]) == 0
    assert reader.find("req_gw_1") == [record_of(1)]
    assert reader.find(PLAIN.id) == [PLAIN]


def test_a_record_written_again_is_there_once(url: str, writer: DatabaseWriter) -> None:
    """Given batches that overlap, as after a commit that nobody heard of; then every row is there once."""
    writer.write([record_of(1), record_of(2)])
    before = rows_in(url)
    writer.write([record_of(2), record_of(1)])
    assert rows_in(url) == before
    writer.write([record_of(2), record_of(3)])
    assert rows_in(url)["interceptions"] == 3
    assert rows_in(url)["attempts"] == 6


def test_storing_many_records_makes_way_between_pieces(writer: DatabaseWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a batch, when it is stored, then others have their turn after each record and after each statement."""
    made_way = 0

    def count() -> None:
        nonlocal made_way
        made_way += 1

    monkeypatch.setattr("gateway.records.database.writing.make_way", count)
    writer.write([record_of(number) for number in range(250)])
    assert made_way >= 250 + 250 // 100  # records, and statements of a hundred rows at most


def test_a_batch_with_a_bad_record_loses_that_one_alone(url: str, writer: DatabaseWriter) -> None:
    """Given a record that the database refuses for good; then the others of its batch are stored, and it is told."""
    bad, worse = record_of(2, outcome=None), record_of(4, status=2**80)
    assert writer.write([record_of(1), bad, worse, record_of(3)]) == 2
    assert rows_in(url)["interceptions"] == 2


def test_writers_of_the_same_records_at_once_store_each_once(url: str, writer: DatabaseWriter) -> None:
    """Given several writers with the same and with other records; then all are there, once."""

    def write(number: int) -> None:
        with closing(writer_of(url)) as own:
            own.prepare()
            for start in range(0, 100, 20):
                own.write([record_of(at) for at in range(start, start + 20)])
                own.write([record_of(1000 * (number + 1) + start)])

    race(PROCESSES, write)
    assert rows_in(url)["interceptions"] == 100 + 5 * PROCESSES
    assert rows_in(url)["usage"] == 100 + 5 * PROCESSES


# The schema.


def test_the_tables_for_queries_are_those_that_the_steps_make(url: str, writer: DatabaseWriter) -> None:
    """Given a database brought up to date; then it has the tables, columns and indexes that queries count on."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    found = inspect(engine)
    assert set(found.get_table_names()) == set(metadata.tables)
    for name, table in metadata.tables.items():
        columns = {column["name"]: column["nullable"] for column in found.get_columns(name)}
        assert columns == {column.name: column.nullable for column in table.columns}
        assert found.get_pk_constraint(name)["constrained_columns"] == [c.name for c in table.primary_key.columns]
        assert {index["name"] for index in found.get_indexes(name)} == {index.name for index in table.indexes}
    engine.dispose()


def _prepare(url: str, barrier: object, outcomes: object) -> None:
    database = Database(url)
    barrier.wait(30)  # type: ignore[attr-defined]
    try:
        database.prepare()
        outcomes.put("")  # type: ignore[attr-defined]
    except DatabaseUnavailable as error:
        outcomes.put(str(error))  # type: ignore[attr-defined]
    finally:
        database.close()


def test_workers_that_start_at_once_make_one_schema(url: str) -> None:
    """Given an empty database and processes that all begin at once; then each finds the schema in order."""
    context = multiprocessing.get_context("fork")
    barrier, outcomes = context.Barrier(PROCESSES), context.Queue()
    processes = [context.Process(target=_prepare, args=(url, barrier, outcomes)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    told = [outcomes.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(30)
    assert told == [""] * PROCESSES
    assert rows_in(url)["interceptions"] == 0


def test_a_schema_of_a_newer_program_is_left_alone(url: str, writer: DatabaseWriter) -> None:
    """Given a database that a newer gateway has used; then it is neither written nor read, and the words say so."""
    change(url, f"UPDATE gateway_schema SET version = {SCHEMA_VERSION + 1}")
    with (
        closing(writer_of(url)) as later,
        pytest.raises(DatabaseUnavailable, match=f"schema {SCHEMA_VERSION + 1}.*newer gateway"),
    ):
        later.prepare()
    assert "newer gateway" in why_unreadable(url)


def test_a_reader_of_an_older_schema_says_what_to_do(
    url: str, writer: DatabaseWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a database that only an older gateway has used; then whoever reads it is told to start the new one."""
    monkeypatch.setattr("gateway.records.database.opening.SCHEMA_VERSION", SCHEMA_VERSION + 1)
    assert "start the gateway once" in why_unreadable(url)


def test_records_of_the_first_schema_stay_readable(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a database of a gateway that did not note whom a mark concerns, when this one has started; then its records
    are there, and nothing is said of that."""
    with monkeypatch.context() as former, closing(writer_of(url)) as earlier:
        former.setattr(schema, "_STEPS", schema._STEPS[:1])
        former.setattr(schema, "SCHEMA_VERSION", 1)
        earlier.prepare()
    change(url, "INSERT INTO passed_over VALUES ('req_gw_1', 0, 0, 'k9', 'temporary', 'rate_limited', 429, 12.5)")
    with closing(writer_of(url)) as later, closing(Database(url)) as database:
        later.prepare()
        later.write([record_of(1, passed_over=())])
        (found,) = Reader(database).find("req_gw_1")
    assert found.passed_over == (PassedOver(0, "k9", "temporary", "rate_limited", 429, 12.5, ""),)


def test_records_from_before_prices_stay_and_have_no_cost(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a database of a gateway that knew no prices, with records in it, when this one has started; then they are
    read and summed as before, their cost is missing, and new ones lie beside them.
    """
    with monkeypatch.context() as former, closing(writer_of(url)) as earlier:
        former.setattr(schema, "_STEPS", schema._STEPS[:2])
        former.setattr(schema, "SCHEMA_VERSION", 2)
        earlier.prepare()
    change(
        url,
        "INSERT INTO interceptions VALUES ('req_gw_1', 'messages', 1800000000.0, '2027-01-15', 1.5, 'completed', 200,"
        " 'req_up_1', 'pooled', 'alice', 'k1', NULL, NULL, NULL, NULL, NULL, 'claude-a', TRUE, NULL, NULL)",
        "INSERT INTO usage VALUES"
        " ('req_gw_1', 0, 0, 'k1', 'claude-a-1', 'standard', 'exact', 10, 20, 20, 3, 9, 4, 5, 2, '{}')",
    )
    with closing(writer_of(url)) as later, closing(Database(url)) as database:
        later.prepare()
        reader = Reader(database)
        [found] = reader.find("req_gw_1")
        [usage] = found.usage
        assert (found.token_group, found.cost_picodollars, usage.kind, usage.is_cost_estimated) == (
            *(None, None, "message", False),
        )
        later.write([record_of(2)])
        assert reader.find("req_gw_2") == [record_of(2)]
        [row], _ = reader.usage(["token"], None, None)
        assert [row.measures[name] for name in ("requests", "input", "cost", "cost_estimated")] == [
            *(2, 20, 1_234_567_891, 1),
        ]
        [spent] = [row for row in reader.spent(NOW, NOW + 1) if row.uncosted]
        assert (spent.uncosted, spent.picodollars) == (1, 0)


def test_what_an_earlier_version_left_in_a_spool_is_stored(writer: DatabaseWriter, reader: Reader) -> None:
    """Given a line of a spool from before prices and groups; then its record is stored, without a cost."""
    row = json.loads(encode_record(record_of(1)))
    row.pop("token_group")
    for name in ("kind", "inference_geo", "speed", "cost_picodollars", "price", "is_cost_estimated"):
        row["usage"][0].pop(name)
    writer.write([decode_record(json.dumps(row).encode())])
    plain = usage_of(inference_geo=None, speed=None, cost_picodollars=None, price=None)
    assert reader.find("req_gw_1") == [record_of(1, token_group=None, usage=(plain,))]


def test_an_empty_database_is_said_to_be_empty(url: str) -> None:
    """Given nothing was ever recorded; then the words say so, and reading made nothing."""
    why = why_unreadable(url)
    assert "nothing has been recorded yet" in why
    assert url.rpartition("/")[2] in why
    assert PASSWORD not in why
    if url.startswith("sqlite"):
        assert not Path(url.removeprefix("sqlite:///")).exists()


# Forgetting.


def test_what_is_past_its_time_is_forgotten_a_little_at_a_time(url: str, writer: DatabaseWriter) -> None:
    """Given old and young records; when some are forgotten at a time; then the oldest go first, whole."""
    old = [record_of(number, started_at=NOW - 31 * DAY_SECONDS + number) for number in range(5)]
    young = [record_of(number, started_at=NOW - 29 * DAY_SECONDS) for number in range(10, 13)]
    writer.write([*young, *old])
    assert [writer.forget(2) for _ in range(4)] == [2, 2, 1, 0]
    assert rows_in(url) == {"interceptions": 3, "passed_over": 3, "attempts": 6, "usage": 3, "tool_calls": 6}


# Reading.


def test_usage_is_summed_by_what_was_asked_for(writer: DatabaseWriter, reader: Reader) -> None:
    """Given interceptions of several turns, keys and ends; then each group counts them once and their usage whole."""
    writer.write(
        [
            record_of(1, usage=(usage_of(), usage_of(turn=1, key="k2", model="claude-b-1", input_tokens=1))),
            record_of(2, token="bob", outcome="truncated", usage=(usage_of(certainty="partial"),)),
            record_of(3, token="bob", outcome="exhausted", key=None, usage=()),
            record_of(4, day="2027-01-16", started_at=NOW + DAY_SECONDS, credential="byok", key=None),
            record_of(5, route="count_tokens", usage=()),
        ]
    )
    groups, total = reader.usage(["token"], None, None)
    assert [(row.group, row.measures["requests"], row.measures["failed"]) for row in groups] == [
        (("alice",), 2, 0),
        (("bob",), 2, 2),
    ]
    assert [row.measures["input"] for row in groups] == [21, 10]
    assert counts_of(total.measures) == {
        **{"requests": 4, "failed": 2, "uncertain": 1, "input": 31, "cache_read": 12, "cache_write": 36},
        **{"cache_write_5m": 16, "cache_write_1h": 20, "output": 80, "server_tools": 8, "cost": 4 * 1_234_567_891},
    }
    by_key, _ = reader.usage(["key"], None, None)
    assert {row.group[0]: (row.measures["requests"], row.measures["input"]) for row in by_key} == {
        "k1": (2, 20),
        "k2": (1, 1),
        "(client's own)": (1, 10),
        None: (1, 0),
    }
    by_both, _ = reader.usage(["model", "day"], None, None)
    assert [row.group for row in by_both] == [
        ("claude-a", "2027-01-15"),
        ("claude-a-1", "2027-01-15"),
        ("claude-a-1", "2027-01-16"),
        ("claude-b-1", "2027-01-15"),
    ]
    assert all(reader.usage([name], None, None)[0] for name in ("day", "group", "client", "session"))


def test_inferences_of_a_request_cost_each_and_count_once(writer: DatabaseWriter, reader: Reader) -> None:
    """Given hidden turns and an answer that two models made; then each inference is under its own model with its own
    cost, and the request is one.
    """
    turns = (
        usage_of(cost_picodollars=1_000_001),
        usage_of(turn=1, kind="message", cost_picodollars=0, price="free"),
        usage_of(turn=1, kind="fallback_message", model="claude-b-1", cost_picodollars=2_000_002),
    )
    writer.write([record_of(1, usage=turns), record_of(2, token_group=None, usage=())])
    assert reader.find("req_gw_1")[0].usage == turns
    by_model, total = reader.usage(["model"], None, None)
    assert [(row.group[0], row.measures["requests"], row.measures["cost"]) for row in by_model] == [
        ("claude-a", 1, 0),
        ("claude-a-1", 1, 1_000_001),
        ("claude-b-1", 1, 2_000_002),
    ]
    assert (total.measures["requests"], total.measures["cost"], total.told()["cost"]) == (2, 3_000_003, "0.000003")
    by_group, _ = reader.usage(["group"], None, None)
    assert [(row.group[0], row.measures["cost"]) for row in by_group] == [(None, 0), ("research", 3_000_003)]


def test_costs_add_up_exactly_beyond_64_bits(writer: DatabaseWriter, reader: Reader) -> None:
    """Given the largest costs that a row holds; then their sum is exact, in picodollars."""
    most = MOST_PICODOLLARS - 1
    writer.write([record_of(number, usage=(usage_of(cost_picodollars=most),)) for number in range(5)])
    assert reader.usage(["day"], None, None)[1].measures["cost"] == 5 * most > 2**63
    assert sum(row.picodollars for row in reader.spent(NOW, NOW + 1)) == 5 * most


@pytest.mark.parametrize(
    ("changes", "cost", "estimated"),
    [
        ({}, 1_234_567_891, 0),
        ({"usage": (usage_of(), usage_of(is_cost_estimated=True))}, 2 * 1_234_567_891, 1),
        ({"usage": (usage_of(cost_picodollars=None, price=None),)}, 0, 1),
        ({"usage": ()}, 0, 0),
        ({"credential": "byok", "usage": (usage_of(cost_picodollars=None, price=None),)}, 0, 0),
    ],
    ids=["exact", "estimate", "recorded before prices", "nothing said", "client's own"],
)
def test_an_estimated_or_missing_cost_is_counted(
    writer: DatabaseWriter, reader: Reader, changes: dict[str, object], cost: int, estimated: int
) -> None:
    """Given each way in which a cost can be known or not; then the report says how far it can be trusted."""
    writer.write([record_of(1, **changes)])
    measures = reader.usage([], None, None)[1].measures
    assert (measures["cost"], measures["cost_estimated"]) == (cost, estimated)


def test_what_the_pool_has_spent_is_told_as_it_is_billed(writer: DatabaseWriter, reader: Reader) -> None:
    """Given exact and broken answers, cache writes of no lifetime, web searches, others' credentials and other times;
    then each model has a day's tokens as they are billed, and its cost.
    """
    unsaid = usage_of(
        cache_write_tokens=30, cache_write_5m_tokens=0, server_tools='{"web_fetch_requests": 9}', cost_picodollars=5
    )
    broken = usage_of(certainty="estimated", output_tokens=1, guessed_output_tokens=700)
    writer.write(
        [
            record_of(1, usage=(unsaid, usage_of(), usage_of(turn=1))),
            record_of(2, usage=(broken, usage_of(kind="advisor_message", model=None))),
            record_of(3, credential="byok"),
            record_of(4, started_at=NOW + 60),
        ]
    )
    totals: dict[str | None, Counter[str]] = {}
    for row in reader.spent(NOW, NOW + 60):
        assert (row.day, row.uncosted) == ("2027-01-15", 0)
        totals.setdefault(row.model, Counter()).update({**row.counts, "cost": row.picodollars})
    assert totals == {
        "claude-a-1": {
            **{"input": 40, "cache_read": 12, "cache_write_5m": 25 + 3 * 4, "cache_write_1h": 20, "output": 760},
            **{"web_searches": 6, "cost": 3 * 1_234_567_891 + 5},
        },
        "claude-a": {
            **{"input": 10, "cache_read": 3, "cache_write_5m": 4, "cache_write_1h": 5, "output": 20},
            **{"web_searches": 2, "cost": 1_234_567_891},
        },
    }


def test_usage_is_bounded_by_since_and_until(writer: DatabaseWriter, reader: Reader) -> None:
    """Given records of three moments; then a report takes those from `since` on and before `until`."""
    writer.write([record_of(number, started_at=NOW + number) for number in range(3)])
    assert reader.usage([], NOW + 1, None)[1].measures["requests"] == 2
    assert reader.usage([], None, NOW + 1)[1].measures["requests"] == 1
    assert reader.usage([], NOW + 1, NOW + 2)[1].measures["requests"] == 1
    assert reader.usage(["day"], NOW + 9, None) == ([], reader.usage([], NOW + 9, None)[1])


@pytest.mark.parametrize("asked", ["req_gw_2", "req_up_2", "req_first_2"])
def test_an_interception_is_found_by_every_id_it_had(writer: DatabaseWriter, reader: Reader, asked: str) -> None:
    """Given the gateway's id, the one that the client saw, or that of an attempt that failed; then it is found."""
    writer.write([record_of(number) for number in range(4)])
    assert reader.find(asked) == [record_of(2)]
    assert reader.find(asked + "0") == []


@pytest.mark.parametrize("asked", ["abc_-%12", "req_gw_abc_-%12"])
def test_interceptions_are_found_by_their_proxy_s_id(writer: DatabaseWriter, reader: Reader, asked: str) -> None:
    """Given a proxy's id that several requests came under, and others like it; then those are found, and no others."""
    writer.write([record_of(number, id=f"req_gw_{number}.abc_-%12") for number in (1, 2)])
    writer.write([record_of(3, id="req_gw_3.xabc_-%12"), record_of(4, id="req_gw_4.abc_-xx12")])
    assert [record.request_id for record in reader.find(asked)] == ["req_up_1", "req_up_2"]


# What goes wrong.


def test_a_server_that_was_down_is_used_again(postgres: PostgresServer) -> None:
    """Given a PostgreSQL that dies; then writing says so without the password, and goes on when it is back."""
    url = postgres.new_database()
    with closing(writer_of(url)) as writer:
        writer.prepare()
        writer.write([record_of(1)])
        postgres.kill()
        try:
            with pytest.raises(DatabaseUnavailable) as lost:
                writer.write([record_of(2)])
            with pytest.raises(DatabaseUnavailable) as refused:
                writer.prepare()
        finally:
            postgres.start()
        assert PASSWORD not in f"{lost.value}{refused.value}{lost.value!r}{refused.value!r}"
        assert wait_until(lambda: _is_ready(writer), 30)
        writer.write([record_of(2)])
    assert rows_in(url)["interceptions"] == 2


def _is_ready(writer: DatabaseWriter) -> bool:
    try:
        writer.prepare()
    except DatabaseUnavailable:
        return False
    return True


def test_a_wrong_password_is_told_without_it(postgres: PostgresServer) -> None:
    """Given a password that the server refuses; then the words say so and do not hold it."""
    url = postgres.url("postgres").replace(PASSWORD, "WrongPlanted9z")
    with (
        closing(Database(url)) as database,
        pytest.raises(DatabaseUnavailable, match="password authentication failed") as refused,
    ):
        database.prepare()
    assert "WrongPlanted9z" not in f"{refused.value!r} {database!r} {refused.value.__cause__!r}"


def test_a_busy_sqlite_is_waited_for(tmp_path: Path) -> None:
    """Given another process that writes for a moment; then the write waits its turn."""
    url = f"sqlite:///{tmp_path / 'records.db'}"
    with closing(writer_of(url)) as writer, closing(writer_of(url)) as other:
        writer.prepare()
        other.prepare()
        race(2, lambda number: (writer, other)[number].write([record_of(at) for at in range(number, 400, 2)]))
    assert rows_in(url)["interceptions"] == 400


def test_a_sqlite_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    """Given a folder that is not there; then the words name the file."""
    with pytest.raises(DatabaseUnavailable, match="No such file"):
        writer_of(f"sqlite:///{tmp_path / 'nowhere' / 'records.db'}").prepare()


def test_sqlite_files_are_private(tmp_path: Path) -> None:
    """Given an open-handed umask; then the database and what lies beside it are for their owner alone."""
    before = os.umask(0)
    try:
        with closing(writer_of(f"sqlite:///{tmp_path / 'records.db'}")) as writer:
            writer.prepare()
            writer.write([record_of(1)])
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"records.db": 0o600, "records.db-journal": 0o600}


def test_a_data_folder_may_be_called_anything(tmp_path: Path) -> None:
    """Given a folder with characters that mean something in a URL; then its database is in it."""
    folder = tmp_path / "a?b=c%20d#e"
    folder.mkdir()
    with closing(Database.in_folder(folder)) as database:
        database.prepare()
    assert (folder / "records.db").exists()


def test_a_password_among_the_options_is_not_told() -> None:
    """Given a URL with its password behind the question mark; then a repr shows none of what stands there."""
    with closing(Database("postgresql://u@127.0.0.1/db?password=Planted&sslmode=require")) as database:
        assert repr(database) == "<Database postgresql+psycopg://u@127.0.0.1/db>"


def test_a_record_that_is_refused_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Given a value that the database will never take; then the log has the record's id, and not the value."""
    with closing(writer_of(f"sqlite:///{tmp_path / 'records.db'}")) as writer:
        writer.prepare()
        assert writer.write([record_of(1), record_of(2, usage=(usage_of(input_tokens=2**70 + 1),))]) == 1
    assert "the record of req_gw_2 cannot be stored" in caplog.text
    assert str(2**70 + 1) not in caplog.text
    assert "req_gw_1" not in caplog.text


@pytest.mark.parametrize(
    "bad", ["sqlite://", "sqlite:///:memory:", "mysql://host/x", "nonsense", "postgresql://u:Planted@host:port/x"]
)
def test_a_url_that_cannot_be_used_is_refused_unquoted(bad: str) -> None:
    """Given a URL that leads nowhere; then it is refused at once, and not quoted: it may hold a password."""
    with pytest.raises(ValueError, match=r"database|URL|sqlite") as refused:
        Database(bad)
    assert "Planted" not in str(refused.value)
