"""A request as it came over the wire, and what it asks for. Pure values."""

import json
from dataclasses import dataclass, field

from gateway.simulator.buckets import Level


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a request's key belongs, and the tightest limit that holds for it; "" and None outside a world."""

    organisation_id: str = ""
    workspace_id: str = ""
    level: Level | None = None


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """One request that reached the simulator.

    `key` is the secret as sent ("" without one), `path` is without the query, `headers` are as
    received, in order, `body` is decoded from its transfer coding and empty when the behaviour did
    not read it, `arrived_at` is monotonic seconds (when its head was read), `arrived_at_epoch` the
    same moment by the wall clock, `index` counts from 0, `standing` is what the world says of the key.
    """

    index: int
    key: str = field(repr=False)
    method: str
    path: str
    query: str
    headers: list[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False)
    arrived_at: float
    arrived_at_epoch: float
    version: str = "HTTP/1.1"
    standing: Standing = Standing()

    def header(self, name: str, default: str = "") -> str:
        """The first header of that name, whatever its case."""
        wanted = name.lower()
        return next((value for known, value in self.headers if known.lower() == wanted), default)

    @property
    def request_id(self) -> str:
        """What the answer's `request-id` will be."""
        return f"req_sim_{self.index:08d}"

    @property
    def is_last_on_its_connection(self) -> bool:
        """Whether the client wants the connection closed after the answer."""
        connection = self.header("connection").lower()
        if self.version == "HTTP/1.0":
            return "keep-alive" not in connection
        return "close" in connection


@dataclass(frozen=True, slots=True)
class Ask:
    """What a Messages request wants of its answer, as far as the simulator cares."""

    model: str
    is_streaming: bool
    first_tool: str = ""
    speed: str = ""
    geo: str = ""
    has_tool_result: bool = False


def ask_of(request: SeenRequest) -> Ask | None:
    """What the body asks for; None when it is not a JSON object."""
    try:
        document = json.loads(request.body)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    tools = document.get("tools")
    first = tools[0] if isinstance(tools, list) and tools else None
    return Ask(
        model=str(document.get("model", "claude-simulated")),
        is_streaming=document.get("stream") is True,
        first_tool=str(first.get("name", "")) if isinstance(first, dict) else "",
        speed=_text(document.get("speed")),
        geo=_text(document.get("inference_geo")),
        has_tool_result=b'"tool_result"' in request.body,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
