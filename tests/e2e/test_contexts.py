"""What belongs to one request, under the real server: nothing of it is there for the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.e2e.talk import Talk, message
from tests.harness import GatewayProcess, wait_until

KEY = "sk-sim-0001"
SOON_SECONDS = 30.0


def test_each_request_has_contexts_of_its_own_which_end_with_it(
    gateway_process: Callable[..., GatewayProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given requests one after the other on one connection, whole, streamed and refused, on fixed routes and others,
    then each finds `flask.g` empty, and what is to be called at its end is called, once."""
    notes = tmp_path / "notes"
    monkeypatch.setenv("WATCHED_FILE", str(notes))
    with Simulator(keys={KEY: "ok"}) as simulator:
        gateway = gateway_process(simulator.url, [KEY], ["tests.e2e.watched_app:create_app()"])
        assert wait_until(lambda: gateway.request("GET", "/readyz").status == 200, SOON_SECONDS)
        notes.write_text("")
        with Talk(gateway) as talk:
            statuses = [
                talk.exchange(method, path, body).status
                for method, path, body in (
                    ("POST", "/v1/messages", message()),
                    ("POST", "/v1/messages", message(streamed=True)),
                    ("POST", "/v1/messages", b"no JSON"),
                    ("GET", "/v1/models/one", b""),
                    ("GET", "/nothing", b""),
                    ("GET", "/healthz", b""),
                )
            ]
    assert statuses[:3] == [200, 200, 400]
    assert statuses[4:] == [404, 200]
    assert notes.read_text().splitlines() == ["begun 1", "request ended None", "context ended 1 None"] * len(statuses)
