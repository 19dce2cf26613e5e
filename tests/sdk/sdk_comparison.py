"""One call as data, made and observed at both of its ends, and what may differ between two of them.

The list of what has to differ between a call straight to the upstream and one through the gateway
lives here, with the reasons; whatever is not on it must be equal.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.simulator import SeenRequest, Simulator
from tests.sdk.sdk_process import SdkProcess, Telling

DIRECT = "sk-ant-direct-0000000000000000"
POOLED = "sk-ant-pooled-0000000000000000"
BYOK = "sk-ant-byok-00000000000000000000"
NOT_A_KEY = "of-no-worth-upstream"  # an open loopback gateway lets the pool pay for this

# The two servers' own, or about the connection alone; what the gateway adds to every stream;
# the coding that it takes off; and whose key it was.
ANSWER_HEADERS_THAT_DIFFER = {
    "anthropic-organization-id",
    *("connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"),
    *("cache-control", "x-accel-buffering"),
    "content-encoding",
}
GATEWAYS_OWN_ID = "req_gw_"  # an answer that comes without a request id (of a middle box) is given one
# About the connection alone; who pays; the gateway reads answers that are not encoded; and what Node's fetch says as a
# browser would stops at the gateway.
REQUEST_HEADERS_THAT_DIFFER = {
    *("connection", "host", "keep-alive"),
    *("authorization", "x-api-key"),
    "accept-encoding",
    "sec-fetch-mode",
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call and what the upstream does with it.

    `error` is the type in the body of the error that the SDK raises: None where it raises none,
    empty where the body names none. The environments in `too_new_for` hold an SDK that stumbles over this
    answer by itself; it has to stumble in the same way behind the gateway.
    """

    id: str
    mode: str
    behaviour: str
    error: str | None = None
    credential: str = NOT_A_KEY
    too_new_for: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an SDK told, freed of what must differ, and the request that made it so."""

    telling: Telling
    request: SeenRequest


Direct = Callable[[SdkProcess, Call], Outcome]


def observe(simulator: Simulator, sdk: SdkProcess, call: Call, base_url: str, credential: str, paid_by: str) -> Outcome:
    """Makes the call and finds the one request that it made upstream."""
    simulator.script(paid_by, call.behaviour)
    seen_before = len(simulator.requests)
    telling = sdk.tell(call.mode, base_url, credential)
    (request,) = simulator.requests[seen_before:]
    assert request.key == paid_by
    return Outcome(comparable(telling, request), request)


def comparable(telling: Telling, request: SeenRequest) -> Telling:
    """The telling less what must differ: some headers, request ids, the moment limits are reset."""
    if (telling["request_id"] or "").startswith(GATEWAYS_OWN_ID):
        telling = {**telling, "request_id": None}
    headers = telling["headers"]
    if headers is not None:
        kept = {name: headers[name] for name in headers.keys() - ANSWER_HEADERS_THAT_DIFFER}
        if kept.get("request-id", "").startswith(GATEWAYS_OWN_ID):
            del kept["request-id"]
        for name in kept:
            if name.startswith("anthropic-") and name.endswith("-reset"):
                kept[name] = _seconds_after(kept[name], request)
        telling = {**telling, "headers": kept}
    comparable: Telling = json.loads(json.dumps(telling).replace(request.request_id, "its id"))
    return comparable


def _seconds_after(moment: str, request: SeenRequest) -> float:
    """From the request's arrival, in whole seconds as upstream tells them, to that moment."""
    return datetime.fromisoformat(moment).timestamp() - int(request.arrived_at_epoch)


def what_was_asked(request: SeenRequest) -> dict[str, Any]:
    """The request less what must differ: the headers of the connection and of who pays."""
    headers = sorted((name.lower(), value) for name, value in request.headers)
    return {
        "line": f"{request.method} {request.path}?{request.query}",
        "headers": [pair for pair in headers if pair[0] not in REQUEST_HEADERS_THAT_DIFFER],
        "body": request.body,
    }


def error_type(telling: Telling) -> str | None:
    """The type in the body of the error that the SDK raised; see `Call.error`."""
    if telling["error"] is None:
        return None
    body = telling["error"]["body"]
    return body["error"]["type"] if isinstance(body, dict) else ""
