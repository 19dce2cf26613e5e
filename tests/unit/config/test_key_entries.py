"""Entries of keys as the operator writes them, and what of them goes upstream."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from gateway.access.credential import Key, Secret, key_headers
from gateway.config.key_entries import keys_from
from gateway.config.loader import load_settings
from gateway.config.settings import Settings
from gateway.web.app import create_app
from gateway.web.service import Gateway
from tests.unit.tiny_server import TinyServer, take_request

PLANTED = "sk-ant-planted-entry-0001"
BODY = {"model": "claude-opus-4-8", "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]}
DOCUMENT = b'{"type": "message", "usage": {}}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"


def parts(key: Key) -> tuple[str, str, str]:
    return key.name, key.secret.reveal(), key.workspace


def settings_of(environ: str, keys_file: str) -> Settings:
    """Those of a gateway whose two lists of keys have these texts."""
    named = {"HOME": "/home/ann", "GATEWAY_API_KEYS": environ}
    if keys_file:
        named["GATEWAY_API_KEYS_FILE"] = "/keys"
    return load_settings(named, {"/keys": keys_file.encode()}.__getitem__)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        pytest.param("s1", ("key-1", "s1", ""), id="secret"),
        pytest.param("a=s1", ("a", "s1", ""), id="named"),
        pytest.param("a=s1 workspace=wrkspc_1", ("a", "s1", "wrkspc_1"), id="workspace"),
        pytest.param("s1 workspace=wrkspc_1", ("key-1", "s1", "wrkspc_1"), id="unnamed-with-workspace"),
        pytest.param("a = s1\tworkspace = wrkspc_1", ("a", "s1", "wrkspc_1"), id="blanks"),
        pytest.param("a=s1=x== workspace=default", ("a", "s1=x==", "default"), id="equals-signs"),
        pytest.param("workspace=s1", ("workspace", "s1", ""), id="key-called-workspace"),
        pytest.param("workspace=s1 workspace=w", ("workspace", "s1", "w"), id="called-so-with-a-workspace"),
    ],
)
def test_entry_is_a_key(entry, expected):
    """Given an entry, then its name, secret and workspace are these."""
    (key,), complaints = keys_from([("entry 1", entry)])
    assert (parts(key), complaints) == (expected, [])


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        pytest.param(f"a={PLANTED} workspace=", "the workspace of a is not valid", id="empty"),
        pytest.param(f"a={PLANTED} workspace=a/b", "the workspace of a is not valid", id="odd-character"),
        pytest.param(f"a={PLANTED} workspace={'w' * 65}", "the workspace of a is not valid", id="too-long"),
        pytest.param(f"a={PLANTED} workspace=w more", "the secret of a", id="more-behind-it"),
        pytest.param(f"a={PLANTED} workspace", "the secret of a", id="no-equals-sign"),
        pytest.param(f"a={PLANTED} region=eu", "the secret of a", id="another-word"),
        pytest.param(f"{PLANTED}=a workspace=w", "the secret is where the name should be", id="swapped"),
    ],
)
def test_entry_that_is_no_key_is_complained_of_without_its_secret(entry, what):
    """Given an entry that is not of the form, then a line says where and why, and does not quote the secret."""
    keys, (complaint,) = keys_from([("line 7", entry)])
    assert keys == ()
    assert complaint.startswith("line 7: ")
    assert what in complaint
    assert PLANTED not in complaint


def test_one_secret_in_two_workspaces_is_one_key_twice():
    """Given a secret that stands twice with different workspaces, then that is refused: a key belongs to one."""
    _, (complaint,) = keys_from([("entry 1", "a=s1 workspace=w1"), ("entry 2", "b=s1 workspace=w2")])
    assert complaint == "entry 2: b has the same secret as a"


def test_workspaces_may_stand_in_both_lists():
    """Given workspaces in GATEWAY_API_KEYS and in the keys file, with a comment, then both are taken, in order."""
    settings = settings_of("a=s1 workspace=wrkspc_1,b=s2", "# ours\nc=s3 workspace=wrkspc_3\n")
    assert list(map(parts, settings.keys)) == [("a", "s1", "wrkspc_1"), ("b", "s2", ""), ("c", "s3", "wrkspc_3")]


def test_workspace_goes_upstream_with_its_key_alone():
    """Given keys with and without a workspace, then the header goes with the former."""
    with_one, without = Key("a", Secret("s1"), "wrkspc_1"), Key("b", Secret("s2"))
    assert [(h.name, h.secret.reveal()) for h in key_headers(with_one)] == [
        ("x-api-key", "s1"),
        ("anthropic-workspace-id", "wrkspc_1"),
    ]
    assert [h.name for h in key_headers(without)] == ["x-api-key"]


class Wire:
    """A gateway over these keys, and what its upstream was sent."""

    def __init__(self, server: TinyServer, sent: list[bytes], *keys: Key) -> None:
        self.sent = sent
        settings = Settings(keys=keys, upstream_url=server.url)
        self.client: FlaskClient = create_app(gateway=Gateway(settings)).test_client()

    def workspaces(self, **headers: str) -> list[bytes]:
        """The values of the header in the one request that a request with these headers caused."""
        self.sent.clear()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        assert self.client.post("/v1/messages", json=BODY, headers=named).status_code == 200
        (request,) = self.sent
        lines = [line.partition(b": ") for line in request.split(b"\r\n\r\n")[0].split(b"\r\n")]
        return [value for name, _, value in lines if name.lower() == b"anthropic-workspace-id"]


@pytest.fixture
def upstream() -> Iterator[tuple[TinyServer, list[bytes]]]:
    """A server that answers every request, and the requests."""
    sent: list[bytes] = []

    def answer(client: socket.socket) -> None:
        sent.append(take_request(client))
        client.sendall(HEAD % len(DOCUMENT) + DOCUMENT)

    with TinyServer(answer) as server:
        yield server, sent


@pytest.mark.parametrize(("workspace", "expected"), [("wrkspc_ours", [b"wrkspc_ours"]), ("", [])])
def test_pooled_client_s_own_workspace_stops_here(upstream, workspace, expected):
    """Given a client that the pool pays for, when it names a workspace, then the upstream is told the key's own, if it
    has one, and never the client's."""
    wire = Wire(*upstream, Key("a", Secret("s1"), workspace))
    assert wire.workspaces(anthropic_workspace_id="wrkspc_theirs") == expected
    assert wire.workspaces() == expected


def test_client_s_workspace_goes_with_its_own_credential(upstream):
    """Given a client that pays itself, then the workspace that it names passes, and the pool's does not go along."""
    wire = Wire(*upstream, Key("a", Secret("s1"), "wrkspc_ours"))
    own = {"x_api_key": "sk-ant-own-0001"}
    assert wire.workspaces(**own, anthropic_workspace_id="wrkspc_theirs") == [b"wrkspc_theirs"]
    assert wire.workspaces(**own) == []
