"""The routes of the simulated API and the documents that do not depend on a behaviour. Pure."""

from __future__ import annotations

from enum import Enum
from urllib.parse import parse_qs, unquote

from gateway.simulator.seen import SeenRequest

_MODELS = (
    ("claude-simulated-large", "Claude Simulated Large"),
    ("claude-simulated-medium", "Claude Simulated Medium"),
    ("claude-simulated-small", "Claude Simulated Small"),
)
_MODELS_PATH = "/v1/models"


class Route(Enum):
    """A route, with the method that it takes."""

    MESSAGES = ("POST", "/v1/messages")
    COUNT_TOKENS = ("POST", "/v1/messages/count_tokens")
    MODELS = ("GET", _MODELS_PATH)
    MODEL = ("GET", _MODELS_PATH + "/{id}")

    @property
    def method(self) -> str:
        return self.value[0]


_BY_PATH = {route.value[1]: route for route in Route}


def route_of(path: str) -> Route | None:
    """The route of a path; None for a path that the API does not have."""
    if path.startswith(_MODELS_PATH + "/") and path.count("/") == 3 and not path.endswith("/"):
        return Route.MODEL
    return _BY_PATH.get(path)


def models_document(request: SeenRequest) -> dict[str, object]:
    """The list of models, paged by `limit` and `after_id`, or one model; any id is a known one."""
    if request.path != _MODELS_PATH:
        model_id = unquote(request.path.rpartition("/")[2])
        return _model(model_id, dict(_MODELS).get(model_id, model_id))
    query = {name: values[-1] for name, values in parse_qs(request.query).items()}
    ids = [model_id for model_id, _ in _MODELS]
    start = ids.index(query["after_id"]) + 1 if query.get("after_id") in ids else 0
    limit = int(query["limit"]) if query.get("limit", "").isdecimal() else 20
    page = [_model(*model) for model in _MODELS[start : start + limit]]
    return {
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(_MODELS),
    }


def _model(model_id: str, display_name: str) -> dict[str, object]:
    created_at = "2026-01-01T00:00:00Z"
    return {
        "type": "model",
        "id": model_id,
        "display_name": display_name,
        "created_at": created_at,
    }
