"""Requests that are relayed whole: `count_tokens` and `models`, with the same walk as messages.

Owns: nothing but the absence of a stream. Belongs to one thread.
"""

from __future__ import annotations

from gateway.protocol.errors import UpstreamError
from gateway.relay.pace import Head, Pace
from gateway.relay.turn import TurnMaker
from gateway.upstream import Call


def relay_whole(call: Call, turns: TurnMaker, pace: Pace) -> Head:
    """The upstream's answer as a whole. Raises GatewayError and ClientGone."""
    turning = turns.obtain(call, pace)
    while True:
        try:
            next(turning)
        except StopIteration as stop:
            turn = stop.value
            break
    body = turn.body
    turn.reply.close()
    if turn.reply.status == 200 and not turn.tally.observe_whole(body):
        raise UpstreamError("the upstream's answer is not a JSON object")
    return pace.whole(turn.reply, body)
