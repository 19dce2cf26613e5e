"""Requests that are relayed whole: `count_tokens` and `models`, with the same walk as messages.

Owns: nothing but the absence of a stream.
"""

from __future__ import annotations

from collections.abc import Generator

from gateway.protocol.errors import UpstreamError
from gateway.relay.pace import Head, Output, Pace
from gateway.relay.turn import TurnMaker
from gateway.upstream import Call


def relay_whole(call: Call, turns: TurnMaker, pace: Pace) -> Generator[Output, None, Head]:
    """The upstream's answer as a whole; yields Pauses. Raises GatewayError and ClientGone."""
    turn = yield from turns.obtain(call, pace)
    body = turn.body
    turn.reply.close()
    if turn.reply.status == 200 and not turn.tally.observe_whole(body):
        raise UpstreamError("the upstream's answer is not a JSON object")
    return pace.whole(turn.reply, body)
