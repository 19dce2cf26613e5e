"""`gateway check` with MCP servers: what it says of them and their tools, and what its exit status is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cli import main
from tests.mcp.raw_server import RawMcpServer, tool
from tests.ports import free_port

PLANTED = "PLANTED-0123456789-abcdefghij"


@pytest.fixture
def check(tmp_path: Path, monkeypatch, capsys) -> Callable[..., tuple[int, list[str]]]:
    """Runs the command with these servers, by name and URL: its status, and the lines about servers."""
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "gateway.toml"
    monkeypatch.setenv("GATEWAY_CONFIG", str(file))
    monkeypatch.setenv("GATEWAY_API_KEYS", "sk-ant-anything-0123456789")
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("GATEWAY_BIND", "127.0.0.1:0")
    monkeypatch.setenv("GATEWAY_MCP_START_SECONDS", "10")

    def run(*arguments: str, **urls: str) -> tuple[int, list[str]]:
        tables = (
            f'[[mcp_servers]]\nname = "{name}"\nurl = "{url}"\nheaders = {{ a = "{PLANTED}" }}\n'
            for name, url in urls.items()
        )
        file.write_text("".join(tables))
        status = main(["check", *arguments])
        out, err = capsys.readouterr()
        assert PLANTED not in out + err
        return status, [line for line in out.splitlines() if line.startswith(("mcp", "  "))]

    return run


@pytest.mark.parametrize("arguments", [(), ("--strict",)], ids=["plain", "strict"])
def test_servers_and_their_tools_are_listed(check, arguments):
    """Given a server that is up, then it and its tools are told, by the names that models see; status 0."""
    with RawMcpServer([tool("two"), tool("one")]) as server:
        status, lines = check(*arguments, files=f"{server.url}?key={PLANTED}")
        assert lines == [f"mcp       files ({server.url}): 2 tools", "  bmcp_files_one", "  bmcp_files_two"]
        assert status == 0
        assert server.asked("DELETE") == 1


@pytest.mark.parametrize(("arguments", "expected"), [((), 0), (("--strict",), 1)], ids=["plain", "strict"])
def test_trouble_is_told_and_counts_if_asked_for(check, arguments, expected):
    """Given a server that is down, one that hangs and one with a tool that is refused, then each is told; the gateway
    starts all the same, so the status is 1 with `--strict` only."""
    with RawMcpServer([tool("x" * 200), tool("one")]) as server, RawMcpServer() as hanging:
        hanging.answers["server/discover"] = hanging.hang
        status, lines = check(
            *arguments, files=server.url, down=f"http://127.0.0.1:{free_port()}/mcp", hangs=hanging.url
        )
        assert status == expected
    told = [line for line in lines if line.startswith("mcp")]
    assert [line.rpartition("): ")[2] for line in told] == [
        "1 tools",
        "down: it cannot be reached",
        "down: it has not answered in 10 s",
    ]
    (refusal,) = [line for line in lines if "is not offered" in line]
    assert "211 characters" in refusal


def test_no_servers_are_not_mentioned(check):
    """Given no servers, then nothing is said of them."""
    assert check() == (0, [])


def test_tools_that_are_left_out_are_named_for_what_is_wrong_with_them(check, monkeypatch):
    """Given tools that no request can carry and ones that are too much, then each has a line, and the others stay."""
    monkeypatch.setenv("GATEWAY_TOOLS_MAX_BYTES", "250")
    odd = tool("odd") | {"inputSchema": True}
    endless = tool("endless", properties={"a": {"maximum": float("inf")}})
    with RawMcpServer([odd, endless, tool("one"), tool("two")]) as server, RawMcpServer([tool("three")]) as other:
        status, lines = check("--strict", files=server.url, more=other.url)
    assert status == 1
    assert [line for line in lines if "is not offered" not in line] == [
        f"mcp       files ({server.url}): 2 tools",
        "  bmcp_files_one",
        "  bmcp_files_two",
        f"mcp       more ({other.url}): 0 tools",
    ]
    assert [line.partition(" is not offered: ")[::2] for line in lines if "is not offered" in line] == [
        ("  tool 'endless' of server files", "its input schema has a number that is not finite"),
        ("  tool 'odd' of server files", "its input schema is not an object"),
        ("  tool 'three' of server more", "with it, all tools together would have more than 250 bytes"),
    ]
