"""Records to test with, and a database of them to look into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from gateway.records.interception_record import Attempt, InterceptionRecord, PassedOver, ToolCall, TurnUsage

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT

PLAIN = InterceptionRecord(
    id="req_gw_0",
    route="messages",
    started_at=NOW,
    day="2027-01-15",
    duration_seconds=1.5,
    outcome="completed",
    status=200,
    request_id="req_up_0",
    credential="pooled",
)

USAGE = TurnUsage(
    turn=0,
    key="k1",
    model="claude-a-1",
    service_tier="standard",
    certainty="exact",
    input_tokens=10,
    output_tokens=20,
    guessed_output_tokens=20,
    cache_read_tokens=3,
    cache_write_tokens=9,
    cache_write_5m_tokens=4,
    cache_write_1h_tokens=5,
    server_tool_uses=2,
    server_tools='{"web_search_requests": 2}',
    inference_geo="us",
    speed="fast",
    cost_picodollars=1_234_567_891,
    price="claude-a from 2026-08-22",
)


def record_of(number: int, **changes: Any) -> InterceptionRecord:
    """A record with an id of its own and with every part."""
    full = replace(
        PLAIN,
        id=f"req_gw_{number}",
        request_id=f"req_up_{number}",
        token="alice",
        token_group="research",
        key="k1",
        hint="sk-ant-...last",
        client="claude-code",
        client_version="2.1.0",
        session="57a121ec",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        model="claude-a",
        is_streamed=True,
        first_event_seconds=0.5,
        passed_over=(PassedOver(0, "k9", "temporary", "rate_limited", 429, 12.5),),
        attempts=(
            Attempt(0, "k0", "rate_limited", 429, 30.0, 0.001, 0.2, f"req_first_{number}"),
            Attempt(0, "k1", "ok", 200, 0.0, 0.201, 0.3, f"req_up_{number}"),
        ),
        usage=(USAGE,),
        tool_calls=(ToolCall(0, "Bash", False, 120), ToolCall(0, "bmcp_time_now", True, 2, 40, "ok", 0.1)),
    )
    return replace(full, **changes)


def usage_of(**changes: Any) -> TurnUsage:
    """USAGE with changes."""
    return replace(USAGE, **changes)


def counts_of(measures: Mapping[str, int]) -> dict[str, int]:
    """The measures that are not 0."""
    return {name: value for name, value in measures.items() if value}
