"""What is kept of an interception: plain values, as they lie in the spool and in the database.

Owns: the fields and their meaning. Pure; immutable; any thread. A record holds who, what, when, how much and how it
ended; never a prompt, an argument, a result or an answer. The field names are the database's column names
(docs/records.md describes them); new fields have defaults, so that a spool of an older version can be read.

Points in time are epoch seconds; `after_seconds` counts from the interception's start. `turn` counts from 0.
"""

from __future__ import annotations

import msgspec


class PassedOver(msgspec.Struct, frozen=True):
    """A key that a walk did not try: its state at that moment, and the mark behind it.

    `concern` is whom the mark speaks of: `key`, `scope` (the key for requests of this kind), `workspace`,
    `organisation`, or `siblings` (others of its workspace were limited). Empty in records of older versions.
    """

    turn: int
    key: str
    state: str
    reason: str
    status: int
    remaining_seconds: float
    concern: str = ""


class Attempt(msgspec.Struct, frozen=True):
    """One upstream exchange. `key` is None for the client's own credential; `status` 0 when no answer came.

    It lasts until the walk knew what to do: to the first event of a stream, to the end of a whole answer.
    """

    turn: int
    key: str | None
    outcome: str
    status: int
    cooldown_seconds: float
    after_seconds: float
    duration_seconds: float
    request_id: str | None


class TurnUsage(msgspec.Struct, frozen=True):
    """One inference that a turn's answer is billed for, in the upstream's own counts, and its bill.

    Most answers are one inference; `kind` is `message` then. `certainty` says how far the counts can be trusted
    (`usage.Certainty`). `cost_picodollars` are 10^-12 dollars, None where the client's own credential pays or nobody
    knew prices yet; `price` names the row of the table behind it, and `is_cost_estimated` tells that the upstream may
    ask something else.

    All `_tokens` are the upstream's own counts. `guessed_output_tokens` differs from `output_tokens` only where the
    certainty is `estimated`. `server_tools` is a JSON object of counts by name; `server_tool_uses` is their sum.
    """

    turn: int
    key: str | None
    model: str | None
    service_tier: str | None
    certainty: str
    input_tokens: int
    output_tokens: int
    guessed_output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    server_tool_uses: int
    server_tools: str
    kind: str = "message"
    inference_geo: str | None = None
    speed: str | None = None
    cost_picodollars: int | None = None
    price: str | None = None
    is_cost_estimated: bool = False


class ToolCall(msgspec.Struct, frozen=True):
    """A tool that an answer called: one of the client's own, or an injected one, of which the result is known too."""

    turn: int
    name: str
    is_injected: bool
    input_bytes: int
    result_bytes: int | None = None
    outcome: str | None = None
    duration_seconds: float | None = None


class InterceptionRecord(msgspec.Struct, frozen=True):
    """One client request, from first byte in to last byte out.

    `id` is the gateway's own id for it, `request_id` the one that the client saw; `day` is the UTC date of its start.
    `token` is None on an open gateway, `token_group` for a token without a group; `key` names the key that answered
    last and `hint` masks what paid.
    """

    id: str
    route: str
    started_at: float
    day: str
    duration_seconds: float
    outcome: str
    status: int
    request_id: str
    credential: str
    token: str | None = None
    key: str | None = None
    hint: str | None = None
    client: str | None = None
    client_version: str | None = None
    session: str | None = None
    trace_id: str | None = None
    model: str | None = None
    is_streamed: bool = False
    first_event_seconds: float | None = None
    error: str | None = None
    passed_over: tuple[PassedOver, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    usage: tuple[TurnUsage, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    token_group: str | None = None

    @property
    def cost_picodollars(self) -> int | None:
        """What the request costs in all; None if nothing is known of that."""
        costs = [turn.cost_picodollars for turn in self.usage if turn.cost_picodollars is not None]
        return sum(costs) if costs else None

    @property
    def is_cost_estimated(self) -> bool:
        """Whether the upstream may ask something else for a part of it."""
        return any(turn.is_cost_estimated for turn in self.usage)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(InterceptionRecord)


def encode_record(record: InterceptionRecord) -> bytes:
    """A record as one line of JSON, with its line end."""
    return _encoder.encode(record) + b"\n"


def decode_record(line: bytes) -> InterceptionRecord:
    """The record in a line. Raises ValueError for anything else."""
    return _decoder.decode(line)
