"""`gateway report` and `gateway explain`: what they print, and what they say when they cannot."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.records.database import Database, DatabaseWriter
from gateway.records.spool import FileSpool
from gateway.records.usage_report import DIMENSIONS, MEASURES
from gateway.runtime.data_folder import spool_folder
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
    writer = DatabaseWriter(Database(f"sqlite:///{data_dir / 'records.db'}"), 30, lambda: NOW)
    with closing(writer):
        writer.prepare()
        writer.write(
            [
                record_of(1),
                record_of(2, token="bob", outcome="truncated", usage=(usage_of(**ESTIMATED),)),
                record_of(3, day="2027-01-16", started_at=NOW + DAY_SECONDS, token=None),
            ]
        )


def test_the_table_ends_with_the_total_and_names_the_database(command: Command, recorded: None, data_dir: Path) -> None:
    """Given records; then a line a day, in columns, the total, and where they were read."""
    status, out, err = command("report")
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["day", *MEASURES],
        ["2027-01-15", "2", "1", "1", "20", "6", "18", "8", "10", "40", "0", "4", "0.002469", "1"],
        ["2027-01-16", "1", "0", "0", "10", "3", "9", "4", "5", "20", "0", "2", "0.001235", "0"],
        ["total", "3", "1", "1", "30", "9", "27", "12", "15", "60", "0", "6", "0.003704", "1"],
        ["from", "the", "records", "in", f"{data_dir}/records.db"],
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
    with closing(FileSpool(spool_folder(str(data_dir)))) as spool:
        spool.append([record_of(8), record_of(9)])
    status, _, err = command("report")
    assert (status, err) == (0, "gateway: records that wait in the spool, and are not in this report yet: 2\n")


@pytest.mark.parametrize("words", [("report",), ("explain", "req_gw_1")])
def test_a_gateway_that_has_recorded_nothing_says_so(command: Command, words: tuple[str, ...], data_dir: Path) -> None:
    """Given no database; then the words say so, and where it and the spool were looked for; none is made."""
    status, out, err = command(*words)
    assert (status, out) == (1, "")
    assert f"nothing has been recorded yet: there is no {data_dir}/records.db" in err
    assert f"the spool in {data_dir}/journal" in err
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


def test_what_cannot_be_read_of_the_spool_keeps_no_report_back(
    command: Command, recorded: None, data_dir: Path
) -> None:
    """Given all that may lie in a spool, beside a segment; then the report is there, and each is named."""
    with closing(FileSpool(spool_folder(str(data_dir)))) as spool:
        spool.append([record_of(8)])
    names = put_all(spool_folder(str(data_dir)))
    status, out, err = command("report", "--by", "token")
    assert (status, out.splitlines()[0].split()[0]) == (0, "token")
    assert "records that wait in the spool, and are not in this report yet: 1" in err
    assert err.count(" in the spool is skipped") == len(names)
    status, out, err = command("explain", "req_up_8")
    assert (status, "How it ended" in out) == (0, True)
    assert all(f"{name!r} in the spool is skipped" in err for name in names)
    assert "no record of req_unknown in what could be read" in command("explain", "req_unknown")[2]


def test_a_spool_that_is_no_folder_keeps_no_report_back(command: Command, recorded: None, data_dir: Path) -> None:
    """Given a spool that this user may not read; then the report is there, and a line tells what may be missing."""
    spool_folder(str(data_dir)).write_text("no folder")
    status, out, err = command("report", "--by", "token")
    assert (status, out.splitlines()[0].split()[0]) == (0, "token")
    assert "the spool cannot be read" in err
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
    with closing(FileSpool(spool_folder(str(data_dir)))) as spool:
        spool.append([record_of(7)])
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
    _, out, err = command("report")
    assert err == f"gateway: {data_dir}/records.db has no records\n"
    assert command("report", "--since", "7d")[2].endswith("has no records of the time that was asked for\n")
    nothing = ["0.000000" if name == "cost" else "0" for name in MEASURES]
    assert [line.split() for line in out.splitlines()] == [["day", *MEASURES], ["total", *nothing]]


# Costs.


def test_a_cost_is_a_plain_decimal_to_the_microdollar(command: Command, data_dir: Path) -> None:
    """Given costs small and large; then CSV and JSON have dollars with six decimals, and nothing else."""
    with closing(DatabaseWriter(Database(f"sqlite:///{data_dir / 'records.db'}"), 30, lambda: NOW)) as writer:
        writer.prepare()
        small, large = usage_of(cost_picodollars=499_999), usage_of(cost_picodollars=1_234_567_000_000_500_000)
        writer.write([record_of(1, usage=(small,)), record_of(2, usage=(large,), token_group=None)])
    out = command("report", "--by", "group,day", "--format", "csv")[1]
    assert out.splitlines()[0] == ",".join(["group", "day", *MEASURES])
    assert [(row["group"], row["day"], row["cost"]) for row in csv.DictReader(io.StringIO(out))] == [
        ("", "2027-01-15", "1234567.000001"),
        ("research", "2027-01-15", "0.000000"),
    ]
    document = json.loads(command("report", "--format", "json")[1])
    assert (document["rows"][0]["cost"], document["total"]["cost"]) == ("1234567.000001", "1234567.000001")


def exported(path: Path, **changes: object) -> str:
    """The API's usage of the three recorded interceptions, in a file."""
    usage = {
        "model": "claude-a-1",
        "uncached_input_tokens": 10,
        "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 5},
        "cache_read_input_tokens": 3,
        "output_tokens": 20,
        "server_tool_use": {"web_search_requests": 2},
    }
    days = ("2027-01-15", "2027-01-16", "2027-01-17")
    buckets = [
        {
            "starting_at": f"{day}T00:00:00Z",
            "ending_at": f"{following}T00:00:00Z",
            "results": [usage] * number,
        }
        for day, following, number in zip(days, days[1:], (2, 1), strict=False)
    ]
    buckets[1]["results"] = [usage | changes]
    path.write_text(json.dumps({"data": buckets, "has_more": False, "next_page": None}))
    return str(path)


def test_records_that_agree_with_the_api_s_report_say_so(command: Command, recorded: None, tmp_path: Path) -> None:
    """Given an export that says what the records say; then every line has both, and the exit status is 0."""
    status, out, err = command("report", "--reconcile", exported(tmp_path / "usage.json"))
    lines = [line.split() for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert lines[:2] == [
        ["day", "model", "measure", "api", "gateway", "difference"],
        ["2027-01-15", "claude-a-1", "input", "20", "20", "0"],
    ]
    assert lines[-1] == ["total", "-", "web_searches", "6", "6", "0"]


def test_records_that_differ_from_the_api_s_report_are_marked(command: Command, recorded: None, tmp_path: Path) -> None:
    """Given an export with other counts; then each form marks that line alone, and the exit status is 1."""
    path = exported(tmp_path / "usage.json", output_tokens=25)
    status, out, _ = command("report", "--reconcile", path)
    marked = [line.split() for line in out.splitlines() if line.endswith("differs")]
    assert (status, marked) == (
        1,
        [
            ["2027-01-16", "claude-a-1", "output", "25", "20", "-5", "differs"],
            ["total", "-", "output", "65", "60", "-5", "differs"],
        ],
    )
    status, out, _ = command("report", "--reconcile", path, "--format", "csv")
    rows = [row for row in csv.DictReader(io.StringIO(out)) if row["differs"] == "true"]
    assert (status, [(row["day"], row["measure"], row["difference"]) for row in rows]) == (
        1,
        [("2027-01-16", "output", "-5")],
    )
    status, out, _ = command("report", "--reconcile", path, "--format", "json")
    document = json.loads(out)
    assert (status, sum(row["differs"] for row in document["rows"])) == (1, 1)
    assert document["total"][4] == {
        **{"day": "total", "model": None, "measure": "output"},
        **{"api": 65, "gateway": 60, "difference": -5, "differs": True},
    }


def test_costs_are_held_against_the_api_s_in_dollars(command: Command, recorded: None, tmp_path: Path) -> None:
    """Given a cost report that ends with a page that promises another; then dollars are compared, and that is told."""
    result = {"amount": "250.0", "currency": "USD", "model": "claude-a-1"}
    time = {"starting_at": "2027-01-15T00:00:00Z", "ending_at": "2027-01-16T00:00:00Z"}
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"data": [time | {"results": [result]}], "has_more": True, "next_page": "page_2"}))
    status, out, err = command("report", "--reconcile", str(path), "--format", "csv")
    assert status == 1
    assert out.splitlines()[1:] == ["2027-01-15,claude-a-1,cost,2.500000,0.002469,-2.497531,true"]
    assert "the report's last page is missing" in err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"<html>", "it is not JSON"),
        (b'{"type": "error"}', "it is not a report of the API"),
    ],
)
def test_a_file_that_is_no_export_is_told(
    command: Command, recorded: None, tmp_path: Path, content: bytes | None, expected: str
) -> None:
    """Given a file that cannot be compared with; then one line says so, and the exit status is 2."""
    path = tmp_path / "export.json"
    if content is not None:
        path.write_bytes(content)
    status, out, err = command("report", "--reconcile", str(path))
    assert (status, out) == (2, "")
    assert re.match(rf"gateway: {re.escape(str(path))}:? {expected}", err)
    assert len(err.splitlines()) == 1


def test_nothing_to_compare_with_is_no_difference(command: Command, tmp_path: Path) -> None:
    """Given a gateway that has recorded nothing, or options that the file decides; then the exit status is 2."""
    path = exported(tmp_path / "usage.json")
    status, _, err = command("report", "--reconcile", path)
    assert (status, "nothing has been recorded yet" in err) == (2, True)
    status, _, err = command("report", "--reconcile", path, "--since", "7d")
    assert (status, "leave out --by, --since and --until" in err) == (2, True)


@pytest.mark.parametrize("asked", ["req_gw_1", "req_up_1", "req_first_1"])
def test_explain_tells_the_story_by_any_id(command: Command, recorded: None, asked: str) -> None:
    """Given an id that the client, the gateway or an upstream gave; then the timeline."""
    status, out, err = command("explain", asked)
    assert (status, err) == (0, "")
    assert out.startswith("req_up_1 (in the gateway: req_gw_1)\n")
    assert "key k0: rate limited (429)" in out


def test_explain_finds_what_still_waits(command: Command, recorded: None, data_dir: Path) -> None:
    """Given a record in the spool, and one in both; then each is told once."""
    with closing(FileSpool(spool_folder(str(data_dir)))) as spool:
        spool.append([record_of(7), record_of(1)])
    assert command("explain", "req_first_7")[1].startswith("req_up_7")
    assert command("explain", "req_up_1")[1].count("How it ended") == 1


def test_explain_tells_all_that_share_an_id(command: Command, data_dir: Path) -> None:
    """Given an upstream that gave one id twice; then both are told, the older first."""
    with closing(FileSpool(spool_folder(str(data_dir)))) as spool:
        spool.append([record_of(2, started_at=NOW + 1), record_of(1, attempts=record_of(2).attempts)])
    out = command("explain", "req_up_2")[1]
    assert [line for line in out.splitlines() if line.startswith("req_")] == [
        "req_up_1 (in the gateway: req_gw_1)",
        "req_up_2 (in the gateway: req_gw_2)",
    ]


def test_explain_says_when_there_is_nothing(command: Command, recorded: None, data_dir: Path) -> None:
    """Given an id that nobody knows; then the words say so, what was looked through, and how far records go back."""
    assert command("explain", "req_unknown") == (
        1,
        "",
        f"gateway: no record of req_unknown: searched {data_dir}/records.db and the spool in "
        f"{data_dir}/journal; records are kept for 90 days. What was refused for its token, for a limit or for want of "
        "room has none: see the access log\n",
    )
