"""Where the world and the scripts meet: what a request is answered with in the end. Touches no socket; any thread."""

from __future__ import annotations

import json
from dataclasses import replace

from gateway.simulator.answer import Answer
from gateway.simulator.answers import Ok
from gateway.simulator.behaviour import Behaviour
from gateway.simulator.caches import is_marked, prefixes_of
from gateway.simulator.refusals import (
    BadRequest,
    Forbidden,
    NotEntitled,
    OutOfCredit,
    RateLimited,
    SpendLimited,
    Unauthorized,
)
from gateway.simulator.routes import Route
from gateway.simulator.scopes import asked_of
from gateway.simulator.seen import SeenRequest
from gateway.simulator.world import Cause, Ruling, World

_REFUSALS: dict[Cause, Behaviour] = {
    Cause.REVOKED: Unauthorized(),
    Cause.DISABLED: BadRequest(message="This organization has been disabled."),
    Cause.WORKSPACE_UNUSABLE: BadRequest(
        message="The workspace's encryption key is disabled.", error_code="cmek_key_disabled"
    ),
    Cause.OUT_OF_CREDIT: OutOfCredit(),
    Cause.SPEND_LIMITED: SpendLimited(),
    Cause.WORKSPACE_SPEND_LIMITED: SpendLimited(of_workspace=True),
    Cause.FORBIDDEN: Forbidden(),
    Cause.NOT_ENTITLED: NotEntitled(),
}


def ruled(world: World, scripted: Behaviour, request: SeenRequest) -> tuple[Behaviour, SeenRequest]:
    """The behaviour that answers this request, and the request with its key's place in the world.

    A script that says anything but `ok` wins over the world.
    """
    standing = world.standing(request.key)
    if not standing.workspace_id:
        return scripted, request
    document = _document(request)
    if not isinstance(scripted, Ok) or document is None:
        is_answer = isinstance(scripted, Answer) and document is not None
        world.note_scripted(request.key, "" if is_answer else scripted.name)
        return scripted, replace(request, standing=standing)
    asked = asked_of(request, document)
    is_cached = asked.route is Route.MESSAGES and (world.caches_all or is_marked(document))
    ruling = world.rule(request.key, asked, prefixes_of(document) if is_cached else ())
    return _behaviour(ruling, scripted), replace(request, standing=ruling.standing)


def _behaviour(ruling: Ruling, good: Ok) -> Behaviour:
    if ruling.cause is None:
        return replace(good, cache_read=ruling.cached.read, cache_write=ruling.cached.written, cache_write_1h=0)
    if ruling.cause is Cause.RATE_LIMITED:
        return RateLimited(retry_after=float(ruling.retry_after_seconds))
    return _REFUSALS[ruling.cause]


def _document(request: SeenRequest) -> dict[str, object] | None:
    """The body of a request that should have one; None when it is not a JSON object."""
    if request.method != "POST":
        return {}
    try:
        document = json.loads(request.body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
