"""What the tests of the world share: a clock that is told the time, two organisations, answers without sockets."""

from __future__ import annotations

import json
from typing import Any

from gateway.simulator import Asked, Key, Organisation, SeenRequest, Workspace, World
from gateway.simulator.playbook import parse_script
from gateway.simulator.rulings import ruled
from gateway.simulator.scopes import asked_of
from gateway.simulator.steps import Send
from tests.simulator.wired import Wired, answer_of

NOW = 1_800_000_000.0  # when every request arrives by the wall clock: 2027-01-15 08:00:00 UTC
OPUS = "claude-opus-4-8"
HELLO = [{"role": "user", "content": "hello"}]


class Clock:
    """Seconds that pass when told so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def pass_seconds(self, seconds: float) -> None:
        self.seconds += seconds


def two_organisations(clock: Clock, **settings: Any) -> World:
    """org-a with ws-1 (sk-1, sk-1b) and ws-2 (sk-2), org-b with ws-3 (sk-3); settings are of `World`."""
    organisations = [Organisation("org-a"), Organisation("org-b")]
    workspaces = [Workspace("ws-1", "org-a"), Workspace("ws-2", "org-a"), Workspace("ws-3", "org-b")]
    keys = [Key("sk-1", "ws-1"), Key("sk-1b", "ws-1"), Key("sk-2", "ws-2"), Key("sk-3", "ws-3")]
    return World([*organisations, *workspaces, *keys], clock=clock, **settings)


def request_of(key: str, path: str = "/v1/messages", *, beta: str = "", **fields: Any) -> SeenRequest:
    method = "GET" if path.startswith("/v1/models") else "POST"
    body = json.dumps({"model": OPUS, "messages": HELLO} | fields).encode() if method == "POST" else b""
    headers = [("Anthropic-Beta", beta)] if beta else []
    return SeenRequest(7, key, method, path, "", headers, body, 0.0, NOW)


def answer(world: World, request: SeenRequest, script: str = "ok") -> Wired:
    """What the request is answered when its key plays that script."""
    [(scripted, _)] = parse_script(script).steps
    behaviour, request = ruled(world, scripted, request)
    return answer_of(b"".join(step.data for step in behaviour.plan(request) if isinstance(step, Send)))


def ask(world: World, key: str, path: str = "/v1/messages", **fields: Any) -> Wired:
    return answer(world, request_of(key, path, **fields))


def wanted(request: SeenRequest) -> Asked:
    return asked_of(request, json.loads(request.body or b"{}"))
