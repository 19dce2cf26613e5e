"""The control routes, over a real connection."""

import hashlib

import pytest

from gateway.simulator import Simulator

TIMEOUT_SECONDS = 10.0
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
