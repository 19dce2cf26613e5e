"""`gateway report` and `gateway explain`: what they print, and what they say when they cannot."""

from __future__ import annotations

import csv
import io
import json
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.data_folder import journal_folder
from gateway.journal import FileJournal
from gateway.ledger import Database, DatabaseLedger
from gateway.usage_report import DIMENSIONS, MEASURES
from tests.record_samples import NOW, record_of, usage_of
from tests.stores.odd_entries import put_all

DAY_SECONDS = 86_400.0
ESTIMATED = {"certainty": "estimated", "is_cost_estimated": True}

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("GATEWAY_API_KEYS", "a=sk-ant-a")
    return tmp_path


@pytest.fixture
def command(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command; its status, output and complaints."""

    def run(*words: str) -> tuple[int, str, str]:
        status = main(words)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def recorded(data_dir: Path) -> None:
    """Three interceptions on two days, of two tokens."""
    ledger = DatabaseLedger(Database(f"sqlite:///{data_dir / 'records.db'}"), 30, lambda: NOW)
    with closing(ledger):
        ledger.prepare()
        ledger.write(
            [
                record_of(1),
                record_of(2, token="bob", outcome="truncated", usage=(usage_of(**ESTIMATED),)),
                record_of(3, day="2027-01-16", started_at=NOW + DAY_SECONDS, token=None),
            ]
        )


def test_the_table_ends_with_the_total(command: Command, recorded: None) -> None:
    """Given records; then a line a day, in columns, and the total."""
    status, out, err = command("report")
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["day", *MEASURES],
        ["2027-01-15", "2", "1", "1", "20", "6", "18", "8", "10", "40", "0", "4", "0.002469", "1"],
        ["2027-01-16", "1", "0", "0", "10", "3", "9", "4", "5", "20", "0", "2", "0.001235", "0"],
        ["total", "3", "1", "1", "30", "9", "27", "12", "15", "60", "0", "6", "0.003704", "1"],
    ]


def test_csv_has_a_head_and_rows_alone(command: Command, recorded: None) -> None:
    """Given two dimensions; then CSV has a column for each, and nothing where nothing is known."""
    status, out, _ = command("report", "--by", "token,day", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0
    assert [(row["token"], row["day"], row["input"]) for row in rows] == [
        ("", "2027-01-16", "10"),
        ("alice", "2027-01-15", "10"),
        ("bob", "2027-01-15", "10"),
    ]


def test_json_has_rows_and_total(command: Command, recorded: None) -> None:
    """Given a time; then JSON has what began in it."""
    status, out, _ = command("report", "--by", "token", "--format", "json", "--since", "2027-01-16")
    document = json.loads(out)
    assert status == 0
    assert document["by"] == ["token"]
    assert [row["token"] for row in document["rows"]] == [None]
    assert document["total"]["requests"] == 1
    assert set(document["total"]) == set(MEASURES)


@pytest.mark.parametrize(
    ("words", "requests"),
    [
        (("--since", "2027-01-15T08:00"), 3),
        (("--since", "2027-01-15T08:00:01"), 1),
        (("--since", "2027-01-15T09:00:00+01:00"), 3),
        (("--until", "2027-01-16"), 2),
        (("--since", "2027-01-15", "--until", "2027-01-15T08:00"), 0),
        (("--until", "30m"), 0),
    ],
)
def test_times_are_utc_unless_they_say_otherwise(
    command: Command, recorded: None, words: tuple[str, ...], requests: int
) -> None:
    """Given `--since` and `--until` in their forms; then the report is of that time."""
    assert json.loads(command("report", "--format", "json", *words)[1])["total"]["requests"] == requests


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_every_dimension_can_be_asked_for(command: Command, recorded: None, dimension: str) -> None:
    """Given each dimension; then there is a report by it."""
    assert command("report", "--by", dimension)[0] == 0


@pytest.mark.parametrize(
    "words",
    [("--by", "colour"), ("--by", "day,day"), ("--by", ""), ("--since", "yesterday"), ("--format", "xml")],
)
def test_a_wrong_command_line_is_told(command: Command, words: tuple[str, ...]) -> None:
    """Given words that mean nothing; then the exit status is 2."""
    with pytest.raises(SystemExit) as ended:
        command("report", *words)
    assert ended.value.code == 2


def test_records_that_wait_are_mentioned(command: Command, recorded: None, data_dir: Path) -> None:
    """Given records that the database has not got yet; then the report says how many it lacks."""
    with closing(FileJournal(journal_folder(str(data_dir)))) as journal:
        journal.append([record_of(8), record_of(9)])
    status, _, err = command("report")
    assert (status, err) == (0, "gateway: 2 records are not in the database yet, and not in this report\n")


@pytest.mark.parametrize("words", [("report",), ("explain", "req_gw_1")])
def test_a_gateway_that_has_recorded_nothing_says_so(command: Command, words: tuple[str, ...], data_dir: Path) -> None:
    """Given no database; then the words say so, and none is made."""
    status, out, err = command(*words)
    assert (status, out) == (1, "")
    assert "nothing has been recorded yet" in err
    assert list(data_dir.iterdir()) == []


@pytest.mark.parametrize("words", [("report",), ("explain", "req_gw_1")])
def test_a_gateway_that_records_nothing_says_so(
    command: Command, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given recording is switched off; then the words say so."""
    monkeypatch.setenv("GATEWAY_RECORD_URL", "none")
    status, out, err = command(*words)
    assert (status, out) == (1, "")
    assert "GATEWAY_RECORD_URL is none" in err


@pytest.mark.parametrize("words", [("report",), ("explain", "req_gw_1")])
def test_a_file_that_is_no_database_is_told(command: Command, words: tuple[str, ...], data_dir: Path) -> None:
    """Given rubbish where the database should be; then a line says so, and no traceback."""
    (data_dir / "records.db").write_bytes(b"rubbish" * 1000)
    status, _, err = command(*words)
    assert status == 1
    assert "file is not a database" in err


def test_what_cannot_be_read_of_the_journal_keeps_no_report_back(
    command: Command, recorded: None, data_dir: Path
) -> None:
    """Given all that may lie in a journal, beside a segment; then the report is there, and each is named."""
    with closing(FileJournal(journal_folder(str(data_dir)))) as journal:
        journal.append([record_of(8)])
    names = put_all(journal_folder(str(data_dir)))
    status, out, err = command("report", "--by", "token")
    assert (status, out.splitlines()[0].split()[0]) == (0, "token")
    assert "1 records are not in the database yet" in err
    assert err.count(" in the journal is left out") == len(names)
    status, out, err = command("explain", "req_up_8")
    assert (status, "How it ended" in out) == (0, True)
    assert all(f"{name!r} in the journal is left out" in err for name in names)
    assert "no record of req_unknown in what could be read" in command("explain", "req_unknown")[2]


def test_a_journal_that_is_no_folder_keeps_no_report_back(command: Command, recorded: None, data_dir: Path) -> None:
    """Given a journal that this user may not read; then the report is there, and a line tells what may be missing."""
    journal_folder(str(data_dir)).write_text("no folder")
    status, out, err = command("report", "--by", "token")
    assert (status, out.splitlines()[0].split()[0]) == (0, "token")
    assert "the journal cannot be read" in err
    assert "How it ended" in command("explain", "req_up_1")[1]


def test_a_database_that_cannot_be_read_says_nothing_of_what_it_has(
    command: Command, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a database that is down; then `explain` says so, and not that there is no record."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("GATEWAY_RECORD_URL", f"postgresql://gateway@127.0.0.1:{port}/records")
    status, out, err = command("explain", "req_gw_1")
    assert (status, out) == (1, "")
    assert "onnection" in err
    assert "no record" not in err
    with closing(FileJournal(journal_folder(str(data_dir)))) as journal:
        journal.append([record_of(7)])
    status, out, err = command("explain", "req_gw_7")
    assert (status, "How it ended" in out) == (0, True)
    assert "onnection" in err


def test_a_bad_configuration_is_told(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given settings with a fault; then its line."""
    monkeypatch.setenv("GATEWAY_RECORD_URL", "postgresql://user:Planted@host:port/name")
    for words in (("report",), ("explain", "x")):
        status, _, err = command(*words)
        assert status == 1
        assert "GATEWAY_RECORD_URL: it is not a URL" in err
        assert "Planted" not in err


def test_a_report_of_a_database_without_records_is_empty(command: Command, recorded: None, data_dir: Path) -> None:
    """Given a database that has forgotten all; then the total is 0."""
    with closing(sqlite3.connect(data_dir / "records.db", isolation_level=None)) as database:
        database.execute("DELETE FROM interceptions")
    _, out, _ = command("report")
    nothing = ["0.000000" if name == "cost" else "0" for name in MEASURES]
    assert [line.split() for line in out.splitlines()] == [["day", *MEASURES], ["total", *nothing]]


@pytest.mark.parametrize("asked", ["req_gw_1", "req_up_1", "req_first_1"])
def test_explain_tells_the_story_by_any_id(command: Command, recorded: None, asked: str) -> None:
    """Given an id that the client, the gateway or an upstream gave; then the story."""
    status, out, err = command("explain", asked)
    assert (status, err) == (0, "")
    assert out.startswith("req_up_1 (in the gateway: req_gw_1)\n")
    assert "key k0: rate limited (429)" in out


def test_explain_finds_what_still_waits(command: Command, recorded: None, data_dir: Path) -> None:
    """Given a record in the journal, and one in both; then each is told once."""
    with closing(FileJournal(journal_folder(str(data_dir)))) as journal:
        journal.append([record_of(7), record_of(1)])
    assert command("explain", "req_first_7")[1].startswith("req_up_7")
    assert command("explain", "req_up_1")[1].count("How it ended") == 1


def test_explain_tells_all_that_share_an_id(command: Command, data_dir: Path) -> None:
    """Given an upstream that gave one id twice; then both are told, the older first."""
    with closing(FileJournal(journal_folder(str(data_dir)))) as journal:
        journal.append([record_of(2, started_at=NOW + 1), record_of(1, attempts=record_of(2).attempts)])
    out = command("explain", "req_up_2")[1]
    assert [line for line in out.splitlines() if line.startswith("req_")] == [
        "req_up_1 (in the gateway: req_gw_1)",
        "req_up_2 (in the gateway: req_gw_2)",
    ]


def test_explain_says_when_there_is_nothing(command: Command, recorded: None) -> None:
    """Given an id that nobody knows; then the words say so, and how far records go back."""
    assert command("explain", "req_unknown") == (
        1,
        "",
        "gateway: no record of req_unknown; records are kept for 90 days\n",
    )
