"""Who used what, end to end: for every way in which an answer can end, the record says what the upstream had said."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.records.interception_record import InterceptionRecord
from tests.e2e.clients import Client, ask, events_of, message_body
from tests.e2e.recorded import Records, Said, run_command
from tests.e2e.rig import Rig
from tests.e2e.test_relay import BROKEN, GOOD
from tests.mcp.servers import FaultServer

STREAMED, WHOLE = message_body(is_streamed=True), message_body(is_streamed=False)
USAGE = "input-tokens=11,output-tokens=22,cache-read=33,cache-write=44,cache-write-1h=55,web-searches=2"
IDLE_SECONDS = 3.0

# Scripts, and how their interception ends: streamed, and whole.
BREAKS = {
    name: (script, "truncated" if after else "upstream_failed", "upstream_failed")
    for name, (script, after) in BROKEN.items()
    if after < 10
}
# A whole answer has fewer pieces than a stream has events.
LATE_BREAKS = {
    name: (script, "truncated", "upstream_failed" if "half" in script else "completed")
    for name, (script, after) in BROKEN.items()
    if after >= 10
}
ENDS = {
    **{name: (script, "completed", "completed") for name, script in GOOD.items()},
    **BREAKS,
    **LATE_BREAKS,
    "cut_behind_its_head": ("cut:after=0,hold=1.5", "truncated", "upstream_failed"),
    "late_end": ("late_end", "completed", ""),  # a whole answer ends by its length
    "short_length": ("short_length", "completed", "upstream_failed"),
    "stall": ("stall:after=4", "idle_timeout", "timed_out"),
    "stall_half": ("stall_half:after=4", "idle_timeout", "timed_out"),
    "stall_behind_the_count": ("stall:after=10", "idle_timeout", "completed"),
    "silent": ("silent", "timed_out", "timed_out"),
    "error_first": ("error_event", "upstream_error", "upstream_error"),
    "error_later": ("error_event:after=3", "upstream_error", "upstream_error"),
    "server_error": ("server_error", "upstream_error", "upstream_error"),
    "overloaded": ("overloaded", "upstream_error", "upstream_error"),
    "bad_request": ("bad_request", "upstream_error", "upstream_error"),
}
NO_MESSAGE = ("html", "garbage", "close", "silent", "server_error", "overloaded", "bad_request")


@dataclass(frozen=True)
class Played:
    """One end, played: what the upstream sent in whole, and the record."""

    sent: bytes
    record: InterceptionRecord

    @property
    def said(self) -> Said | None:
        """What the upstream said of usage, by what it sent."""
        return Said.in_answer(self.sent, is_streamed=b"event:" in self.sent)

    @property
    def certainty(self) -> str:
        """What is to be thought of it."""
        if self.record.outcome == "completed":
            return "exact"
        return "partial" if "message_delta" in dict(events_of(self.sent)) else "estimated"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """One gateway for every end: each test plays its own."""
    with Rig(read_idle_timeout_seconds=IDLE_SECONDS, ping_seconds=0.4) as rig:
        yield rig


def play(rig: Rig, name: str, *, is_streamed: bool) -> Played:
    """Let a request end so, and wait for its record."""
    script = ENDS[name][0]
    has_message = script.partition(":")[0] not in NO_MESSAGE
    rig.keys(f"{script}{',' if ':' in script else ':'}{USAGE}" if has_message else script)
    session = f"{name}-{is_streamed}"
    answer = ask(rig.gateway.url, STREAMED if is_streamed else WHOLE, headers=[f"x-session-id: {session}"])
    sent = _sent_by(rig, has_message) if is_streamed else answer.body
    return Played(sent, Records.in_folder(rig.gateway.data_dir).of_session(session))


def _sent_by(rig: Rig, has_message: bool) -> bytes:
    """What the upstream sends a client that asks it directly, by the time that the gateway waits."""
    if not has_message:
        return b""
    with Client(rig.simulator.url) as client:
        client.socket.settimeout(IDLE_SECONDS)
        client.send(STREAMED, headers=[f"x-api-key: {rig.secrets[0]}"])
        answer = client.read_head()
        with suppress(TimeoutError, ValueError):  # it fell silent, or what followed was no chunk
            client.read_body(answer)
    return answer.body


@pytest.mark.parametrize(("name", "outcome"), [(name, row[1]) for name, row in ENDS.items()], ids=ENDS)
def test_the_usage_of_a_stream_is_what_the_upstream_had_said(rig: Rig, name: str, outcome: str) -> None:
    """Given a stream that ends in any way; then what came in whole events is recorded, and how far to trust it."""
    end = play(rig, name, is_streamed=True)
    assert end.record.outcome == outcome
    assert end.record.is_streamed
    assert end.record.attempts
    assert Said.recorded(end.record) == end.said
    assert [usage.certainty for usage in end.record.usage] == [end.certainty] * len(end.record.usage)
    assert_costs_what_its_counts_come_to(end.record)


@pytest.mark.parametrize(("name", "outcome"), [(name, row[2]) for name, row in ENDS.items() if row[2]])
def test_the_usage_of_a_whole_answer_is_what_the_client_got(rig: Rig, name: str, outcome: str) -> None:
    """Given a whole answer, or one that broke off; then its usage, or none."""
    end = play(rig, name, is_streamed=False)
    assert end.record.outcome == outcome
    assert not end.record.is_streamed
    assert Said.recorded(end.record) == Said.in_answer(end.sent, is_streamed=False)
    assert [usage.certainty for usage in end.record.usage] == ["exact"] * len(end.record.usage)
    assert_costs_what_its_counts_come_to(end.record)


def assert_costs_what_its_counts_come_to(record: InterceptionRecord) -> None:
    """Of a model without a price: each costs its counts, and for output that nobody has counted the guess, at the
    default's rates; and is an estimate.
    """
    for used in record.usage:
        written_5m = used.cache_write_tokens - used.cache_write_1h_tokens
        microdollars = 10 * used.input_tokens + 50 * used.guessed_output_tokens + used.cache_read_tokens
        microdollars += 12.5 * written_5m + 20 * used.cache_write_1h_tokens + 10_000 * used.server_tool_uses
        assert (used.price, used.is_cost_estimated) == ("default", True)
        assert used.cost_picodollars == microdollars * 10**6


def test_hidden_turns_and_other_models_cost_each_for_themselves(tmp_path: Path) -> None:
    """Given a request whose first turn the client never saw, and whose second a model declined and another took over;
    then each inference has a row with its own model and cost, the report has them by model, and explain tells them.
    """
    hidden = 'tool_use:name=bmcp_faults_echo,input={"text":"tide"},input-tokens=200,output-tokens=10'
    entries = [
        {"type": "message", "input_tokens": 1000, "output_tokens": 0},
        {"type": "fallback_message", "model": "claude-haiku-4-5", "input_tokens": 1000, "output_tokens": 100},
    ]
    config = tmp_path / "gateway.toml"
    with FaultServer(tmp_path) as server:
        config.write_text(f'[[mcp_servers]]\nname = "faults"\nurl = "{server.url}"\n')
        with Rig(config=config) as rig:
            rig.keys(f"{hidden},cache-read=0,cache-write=0 then ok:iterations={json.dumps(entries)}")
            body = message_body(is_streamed=True, model="claude-opus-5")
            assert ask(rig.gateway.url, body, headers=["x-session-id: turns"]).status == 200
            record = Records.in_folder(rig.gateway.data_dir).of_session("turns")
            report = run_command(rig.gateway.data_dir, "report", "--by", "model", "--format", "csv")
            timeline = run_command(rig.gateway.data_dir, "explain", record.id).stdout
    costs = [(used.turn, used.kind, used.model, used.cost_picodollars) for used in record.usage]
    assert costs == [
        (0, "message", "claude-opus-5", (200 * 5 + 10 * 25) * 10**6),
        (1, "message", "claude-opus-5", 0),
        (1, "fallback_message", "claude-haiku-4-5", (1000 * 1 + 100 * 5) * 10**6),
    ]
    assert [(row["model"], row["requests"], row["cost"]) for row in csv.DictReader(io.StringIO(report.stdout))] == [
        ("claude-haiku-4-5", "1", "0.001500"),
        ("claude-opus-5", "1", "0.001250"),
    ]
    assert "  cost     0.002750 dollars\n" in timeline
    assert "usage of the fallback: claude-haiku-4-5" in timeline
    assert "0.000000 dollars (free: the model declined)" in timeline
