"""The command as a process: what it prints, how it ends, what it refuses."""

import argparse
import json
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from gateway.simulator import cli

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 60.0


@pytest.fixture
def simulate():
    """Starts the command; every process is ended after the test."""
    processes = []

    def start(*arguments):
        command = [sys.executable, "-m", "gateway.simulator", *arguments]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate(timeout=TIMEOUT_SECONDS)


def listening(process):
    """The address and the rest of the line that it prints once it listens."""
    line = process.stdout.readline()
    assert line.startswith("simulating the Messages API on "), process.stderr.read()
    address, _, rest = line.strip().rpartition(" on ")[2].partition(",")
    return address, rest


def get(url, context=None):
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS, context=context) as answer:
        return json.load(answer)


def run(capsys, *arguments):
    """The command in process, for what ends before it serves."""
    parser = argparse.ArgumentParser()
    cli.configure(parser)
    code = cli.run(parser.parse_args(arguments))
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_while_a_stream_stalls(number, simulate):
    process = simulate("--bind", "127.0.0.1:0", "--key", "sk-a=stall")
    port = int(listening(process)[0].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as client:
        client.sendall(b'POST /v1/messages HTTP/1.1\r\nx-api-key: sk-a\r\ncontent-length: 15\r\n\r\n{"stream":true}')
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        process.send_signal(number)
        assert process.wait(TIMEOUT_SECONDS) == 0
    assert process.stderr.read() == ""


def test_without_keys_it_starts_a_drill(simulate):
    address, _ = listening(simulate("--bind", "127.0.0.1:0"))
    names = [key["name"] for key in get(f"{address}/_simulator/keys")["keys"]]
    assert names == ["limited", "revoked", "good"]


def test_tls_prints_the_authority_that_verifies_it(simulate, tmp_path):
    address, rest = listening(simulate("--bind", "127.0.0.1:0", "--tls-dir", str(tmp_path)))
    assert rest == f" certificate authority: {tmp_path / 'ca.pem'}"
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    assert get(f"{address}/_simulator/connections", context) == {"open": 0, "opened": 0}


def test_script_file_and_command_line_go_together(simulate, tmp_path):
    file = tmp_path / "drill.toml"
    file.write_text(
        'order = ["ok", "close"]\nany_key = "overloaded*2 then ok"\n'
        '[[keys]]\nsecret = "sk-a"\nname = "primary"\nscript = ["rate_limited*2", "ok"]\n'
        '[[keys]]\nsecret = "sk-b"\n'
    )
    process = simulate("--bind", "127.0.0.1:0", "--script", str(file), "--key", "sk-c=close")
    address, _ = listening(process)
    keys = get(f"{address}/_simulator/keys")["keys"]
    assert [(key["name"], key["script"]) for key in keys] == [
        ("primary", "rate_limited*2 then ok"),
        ("key-2", "ok"),
        ("key-3", "close"),
    ]


WORLD = """
[organisations.org-a]
credit = 2
limits = {"messages/opus-4" = "5/60", count_tokens = "100/60"}
[organisations.org-b]
lacks_models = ["claude-opus-4-8"]
[workspaces.ws-1]
organisation = "org-a"
[workspaces.ws-2]
organisation = "org-b"
unusable = true
[[keys]]
secret = "sk-a"
workspace = "ws-1"
[[keys]]
secret = "sk-b"
name = "b"
workspace = "ws-2"
revoked = true
[[keys]]
secret = "sk-c"
"""


def test_script_file_has_the_world(simulate, tmp_path):
    """Given a file with organisations, workspaces and keys, then the process plays them."""
    file = tmp_path / "drill.toml"
    file.write_text(WORLD)
    address, _ = listening(simulate("--bind", "127.0.0.1:0", "--script", str(file)))
    members = {member["name"]: member for member in get(f"{address}/_simulator/world")["members"]}
    assert list(members) == ["org-a", "org-b", "ws-1", "ws-2", "key-1", "b"]
    assert (members["org-a"]["credit"], members["org-a"]["limits"]["count_tokens"]) == (2, "100/60")
    assert members["org-b"]["lacks_models"] == ["claude-opus-4-8"]
    assert members["ws-2"]["unusable"]
    assert members["b"]["revoked"]
    request = urllib.request.Request(f"{address}/v1/models", headers={"x-api-key": "sk-a"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        assert (answer.headers["anthropic-organization-id"], answer.headers["anthropic-workspace-id"]) == (
            "org-a",
            "ws-1",
        )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--key", "sk-a"], "SECRET=SCRIPT"),
        (["--key", "=ok"], "SECRET=SCRIPT"),
        (["--key", "sk-a=rate_limted"], "did you mean 'rate_limited'"),
        (["--key", "sk-a=ok", "--key", "sk-a=ok"], "same secret"),
        (["--order", "nothing"], "unknown behaviour"),
        (["--any-key", "nothing"], "unknown behaviour"),
        (["--bind", "9000"], "HOST:PORT"),
        (["--bind", "localhost:x"], "HOST:PORT"),
        (["--journal", "-1"], "0 or more"),
        (["--script", "/nowhere/drill.toml"], "/nowhere/drill.toml: No such file"),
    ],
)
def test_bad_script_is_one_line_and_exit_2(arguments, complaint, capsys):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("keys = 1", "wants [[keys]] tables"),
        ("x = 1", "the file has unknown 'x'"),
        ("[[keys]]", "key 1 wants a secret"),
        ('[[keys]]\nsecret = "a"\nscrpt = "ok"', "key 1 has unknown 'scrpt'"),
        ('[[keys]]\nsecret = "a"\nname = 1', "name wants a text"),
        ('[[keys]]\nsecret = "a"\nscript = 1', "key 1 wants a script"),
        ('[[keys]]\nsecret = "a"\nscript = [1]', "key 1 wants a script"),
        ('[[keys]]\nsecret = "a"\nscript = "x"', "key 1: unknown behaviour"),
        ('[[keys]]\nsecret = "a"\n[[keys]]\nsecret = "a"', "same secret"),
        ('[[keys]]\nsecret="a"\nname="n"\n[[keys]]\nsecret="b"\nname="n"', "same name"),
        ("order = []", "order: the script is empty"),
        ("any_key = 1", "any_key wants a script"),
        ("[[keys", "Expected"),
        ("caches_all = 1", "caches_all wants true or false"),
        ("organisations = 1", "wants [organisations.ID] tables"),
        ("[organisations.a]\ncredits = 1", "organisations.a has unknown 'credits'"),
        ("[organisations]\na = 1", "organisations.a wants a table"),
        ("[workspaces.w]", "workspaces.w wants its organisation"),
        ('[workspaces.w]\norganisation = "a"', "there is no organisation 'a'"),
        ('[[keys]]\nsecret = "a"\nworkspace = "w"', "workspace 'w' does not exist"),
        ('[[keys]]\nsecret = "a"\nrevoked = true', "key 1 wants its workspace"),
    ],
)
def test_bad_script_file_is_one_line_that_names_it(text, complaint, capsys, tmp_path):
    file = tmp_path / "drill.toml"
    file.write_text(text)
    code, _, err = run(capsys, "--script", str(file))
    assert code == 2
    assert str(file) in err
    assert complaint in err
    assert err.count("\n") == 1


def test_taken_port_is_one_line_and_exit_1(simulate):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = simulate("--bind", f"127.0.0.1:{taken.getsockname()[1]}")
        assert process.wait(TIMEOUT_SECONDS) == 1
        err = process.stderr.read()
    assert "Address already in use" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_list_shows_every_behaviour(form, capsys):
    code, out, _ = run(capsys, "--list", form)
    assert code == 0
    assert "rate_limited" in out
    assert "retry-after" in out
