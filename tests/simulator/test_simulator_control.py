"""The control routes, over a real connection."""

import hashlib
import json

import pytest

from gateway.simulator import Simulator
from tests.simulator.worlds import Clock, two_organisations

TIMEOUT_SECONDS = 60.0
KEY = "sk-sim-0123456789"


@pytest.fixture
def simulator():
    with Simulator({KEY: "ok"}) as running:
        yield running


@pytest.fixture
def control(simulator, connect):
    """Sends control requests; status and document."""
    client = connect(simulator)

    def send(method, path, body=b""):
        client.ask("", method=method, path="/_simulator/" + path, body=body)
        answer = client.read_answer()
        return answer.status, answer.json()

    return send


def test_requests_are_shown_without_secrets(simulator, control, connect):
    client = connect(simulator)
    client.ask(KEY, path="/v1/messages?beta=true", extra=f"Authorization: Bearer {KEY}\r\n", body=b"{}")
    client.read_answer()
    client.ask("sk-stranger-0123456789")
    client.read_answer()
    status, document = control("GET", "requests")
    first, second = document["requests"]
    assert status == 200
    assert (first["key"], first["key_hint"], second["key"]) == ("key-1", "sk-sim-…6789", None)
    assert (first["method"], first["path"], first["query"]) == ("POST", "/v1/messages", "beta=true")
    assert (first["body_bytes"], first["body_sha256"]) == (2, hashlib.sha256(b"{}").hexdigest())
    assert ["Authorization", "Bearer sk-sim-…6789"] in first["headers"]
    assert KEY not in str(document)
    assert "sk-stranger-0123456789" not in str(document)


def test_requests_can_be_forgotten(simulator, control, connect):
    client = connect(simulator)
    client.ask(KEY)
    client.read_answer()
    assert control("DELETE", "requests") == (200, {"requests": []})
    assert control("GET", "requests") == (200, {"requests": []})


def test_connections_for_control_are_not_counted(simulator, control, connect):
    assert control("GET", "connections") == (200, {"open": 0, "opened": 0})
    client = connect(simulator)
    client.ask(KEY)
    client.read_answer()
    assert control("GET", "connections") == (200, {"open": 1, "opened": 1})
    client.close()
    assert simulator.wait_until(lambda: simulator.open_connections == 0, TIMEOUT_SECONDS)
    assert control("GET", "connections") == (200, {"open": 0, "opened": 1})


@pytest.mark.parametrize("name", ["key-1", KEY])
def test_key_is_scripted_by_name_or_secret(name, control, connect, simulator):
    status, document = control("PUT", f"keys/{name}", b"rate_limited:retry-after=3 then ok")
    assert (status, document["name"]) == (200, "key-1")
    client = connect(simulator)
    client.ask(KEY)
    assert client.read_answer().header("retry-after") == "3"
    _, document = control("GET", "keys")
    assert document["keys"] == [
        {
            "name": "key-1",
            "hint": "sk-sim-…6789",
            "script": "rate_limited:retry-after=3 then ok",
            "requests": 1,
        }
    ]


def test_order_is_set_and_taken_away(control, connect, simulator):
    client = connect(simulator)
    assert control("PUT", "order", b"overloaded")[0] == 200
    client.ask(KEY)
    assert client.read_answer().status == 529
    assert control("DELETE", "order") == (200, {"order": None})
    client.ask(KEY)
    assert client.read_answer().status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "complaint"),
    [
        ("PUT", "keys/key-1", b"rate_limted", 400, "did you mean"),
        ("PUT", "keys/key-1", b"\xff", 400, "utf-8"),
        ("PUT", "keys/nobody", b"ok", 404, "there are key-1"),
        ("PUT", "order", b"", 400, "empty"),
        ("GET", "other", b"", 404, "GET /_simulator/requests"),
        ("POST", "requests", b"", 404, "no such control route"),
    ],
)
def test_bad_control_request_changes_nothing(method, path, body, status, complaint, control, connect, simulator):
    answered, document = control(method, path, body)
    assert answered == status
    assert complaint in document["error"]
    client = connect(simulator)
    client.ask(KEY)
    assert client.read_answer().status == 200


@pytest.fixture
def worldly(connect):
    """A simulator with a world, and its control."""
    with Simulator({"sk-1": "ok"}, world=two_organisations(Clock())) as running:
        client = connect(running)

        def send(method, path, settings=None):
            client.ask("", method=method, path="/_simulator/" + path, body=json.dumps(settings).encode())
            answer = client.read_answer()
            return answer.status, answer.json()

        yield running, send


def test_world_is_changed_while_it_runs(worldly, connect):
    """Given a running world, when a key, a workspace or an organisation is changed, then the next answer follows."""
    simulator, send = worldly
    client = connect(simulator)

    def status(key):
        client.ask(key)
        return client.read_answer().status

    assert [status(key) for key in ("sk-1", "sk-1b", "sk-3")] == [200, 200, 200]
    assert send("PUT", "world/key-1", {"revoked": True})[0] == 200
    assert [status(key) for key in ("sk-1", "sk-1b", "sk-3")] == [401, 200, 200]
    assert send("PUT", "world/ws-1", {"limits": {"messages/x": "1/60"}})[1]["limits"] == {"messages/x": "1/60"}
    assert [status(key) for key in ("sk-1b", "sk-1b", "sk-3")] == [200, 429, 200]
    assert send("PUT", "world/org-b", {"credit": 1})[0] == 200
    assert [status("sk-3") for _ in range(2)] == [200, 400]
    assert send("PUT", "world/sk-1", {"revoked": False})[0] == 200
    assert send("PUT", "world/ws-1", {"limits": {}})[0] == 200
    assert status("sk-1") == 200


def test_world_is_shown_with_its_counts_and_without_secrets(worldly, connect):
    simulator, send = worldly
    client = connect(simulator)
    send("PUT", "world/org-b", {"disabled": True})
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    prompt = {"model": "claude-x", "system": system}
    for key in ("sk-1", "sk-1b", "sk-3"):
        client.ask(key, body=json.dumps(prompt).encode())
        client.read_answer()
    status, document = send("GET", "world")
    shown = {member["name"]: member for member in document["members"]}
    assert (status, document["attempts"], document["refusals"]) == (200, 3, {"disabled": 1})
    assert document["cache_read_input_tokens"] == document["cache_creation_input_tokens"] > 0
    assert shown["ws-1"]["cache_read_input_tokens"] == document["cache_read_input_tokens"]
    assert shown["ws-2"]["cache_creation_input_tokens"] == 0
    assert (shown["org-b"]["kind"], shown["org-b"]["disabled"]) == ("organisation", True)
    assert (shown["key-1"]["workspace"], shown["key-1"]["attempts"]) == ("ws-1", 1)
    assert shown["key-4"]["refusals"] == {"disabled": 1}
    assert "sk-1" not in str(document)


@pytest.mark.parametrize(
    ("name", "settings", "status", "complaint"),
    [
        ("org-c", {}, 404, "nobody in the world is called 'org-c'"),
        ("org-a", {"credits": 3}, 400, "org-a has unknown 'credits'; known are limits, credit"),
        ("org-a", {"credit": -1}, 400, "credit -1 is not a number"),
        ("org-a", {"credit": True}, 400, "credit True is not a number"),
        ("org-a", {"disabled": 1}, 400, "1 is neither true nor false"),
        ("org-a", {"limits": {"opus-4": "1/60"}}, 400, "'opus-4' is no scope"),
        ("org-a", {"limits": {"models": "1"}}, 400, "'1' is not REQUESTS/SECONDS"),
        ("org-a", {"limits": {"models": "0/60"}}, 400, "'0/60' is not REQUESTS/SECONDS"),
        ("org-a", {"limits": []}, 400, "is not a table"),
        ("org-a", {"lacks_models": "claude-x"}, 400, "is not a list of names"),
        ("org-a", [], 400, "org-a wants a table of settings"),
        ("ws-1", {"organisation": "org-c"}, 400, "no organisation 'org-c'"),
        ("key-1", {"workspace": "org-a"}, 400, "workspace 'org-a' does not exist"),
        ("key-1", {"workspace": 1}, 400, "1 is not a name"),
    ],
)
def test_bad_change_of_the_world_changes_nothing(name, settings, status, complaint, worldly):
    simulator, send = worldly
    before = simulator.world.members()
    answered, document = send("PUT", f"world/{name}", settings)
    assert answered == status
    assert complaint in document["error"]
    assert simulator.world.members() == before


def test_change_that_is_no_json_is_refused(worldly, connect):
    client = connect(worldly[0])
    client.ask("", method="PUT", path="/_simulator/world/org-a", body=b"{")
    assert client.read_answer().status == 400
