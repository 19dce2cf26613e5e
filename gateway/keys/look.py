"""One look at a key: what the upstream says of it when it is asked for its list of models, which costs nothing.

Owns: that call, and reading its answer. The calling thread waits, but not for long. What follows from it
is told by `looks`.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum

from gateway.access.credential import Key, key_headers
from gateway.keys.classification import LARGEST_JUDGED_BYTES, Cooldowns, judge
from gateway.keys.places import NOWHERE, Place, place_of
from gateway.keys.verdict import Verdict
from gateway.protocol.errors import GatewayError
from gateway.protocol.outcomes import Outcome
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.pause import Pause, complete
from gateway.upstream import Call, Upstream
from gateway.upstream.watch import Watch

LOOK = Call("GET", "/v1/models?limit=1", [("anthropic-version", "2023-06-01")])
_PATIENCE_SECONDS = 10.0
_NO_COOLDOWNS = Cooldowns(0.0, 0.0)  # a look lets nobody cool down
_MARKING_STATUSES = (401, 403)


class Found(Enum):
    """What a look has found out; the values are the metric's `outcome` label."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    NO_ANSWER = "no_answer"  # nothing that says anything of the key


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look has found out, why, and where the key belongs, if the answer says so."""

    found: Found
    verdict: Verdict
    why: str
    place: Place = NOWHERE

    @property
    def marks(self) -> bool:
        """Whether it is to be held against the key: no refusal but a 401, and a 403 that nothing explains."""
        return self.found is Found.REFUSED and self.verdict.http_status in _MARKING_STATUSES


def look_at(upstream: Upstream, key: Key, lifecycle: Lifecycle) -> Finding:
    """Ask with this key."""
    try:
        return complete(_looked(upstream, key, Watch(None, lifecycle)), time.monotonic() + _PATIENCE_SECONDS)
    except TimeoutError:
        return _unanswered(f"no answer in {_PATIENCE_SECONDS:g} s")
    except GatewayError as error:
        return _unanswered(error.message)


def _looked(upstream: Upstream, key: Key, watch: Watch) -> Generator[Pause, None, Finding]:
    reply = yield from upstream.exchange(LOOK, key_headers(key), watch)
    body = b""
    try:
        if reply.status >= 400:
            body, _ = yield from reply.read_refusal(LARGEST_JUDGED_BYTES)
    finally:
        reply.discard()
    headers = dict(reply.headers)
    verdict = judge(reply.status, headers, body, 0.0, _NO_COOLDOWNS)
    found = Found.NO_ANSWER
    if verdict.outcome is Outcome.OK:  # a 404 is that of an upstream without such a list
        found = Found.ACCEPTED
    elif verdict.retires:
        found = Found.REFUSED
    return Finding(found, verdict, f"status {reply.status}", place_of(headers))


def _unanswered(why: str) -> Finding:
    return Finding(Found.NO_ANSWER, Verdict(Outcome.TRANSPORT_ERROR), why)
