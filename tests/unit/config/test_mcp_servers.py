"""`[[mcp_servers]]` of the TOML file: what is taken, and what is said of the rest."""

from __future__ import annotations

import re
import tomllib

import pytest

from gateway.access.credential import Secret
from gateway.config.loader import load_settings
from gateway.config.mcp_servers import McpServer, mcp_servers, with_environment
from gateway.config.settings import SettingsError
from gateway.config.values import BadValue

PLANTED = "PLANTED-0123456789-abcdefghij"
GOOD = 'name = "files"\nurl = "http://127.0.0.1:9/mcp"\n'


def read(*tables: str, **environ: str) -> tuple[McpServer, ...]:
    document = tomllib.loads("".join(f"[[mcp_servers]]\n{table}\n" for table in tables))
    return mcp_servers(with_environment(document["mcp_servers"], environ))


def complaints(*tables: str, **environ: str) -> tuple[str, ...]:
    with pytest.raises(BadValue) as raised:
        read(*tables, **environ)
    assert PLANTED not in str(raised.value)
    assert all("\n" not in line for line in raised.value.lines)
    return raised.value.lines


def test_server_with_everything_is_read():
    """Given all members, then the server has them; patterns may be one or a list."""
    (server,) = read(
        GOOD
        + 'allow = "^read"\ndeny = ["secret", "x$"]\nheaders = { Authorization = "Bearer k" }\ntimeout_seconds = 2.5'
    )
    assert server == McpServer(
        "files",
        "http://127.0.0.1:9/mcp",
        (re.compile("^read"),),
        (re.compile("secret"), re.compile("x$")),
        (("Authorization", Secret("Bearer k")),),
        2.5,
    )


def test_server_with_the_least_has_the_defaults():
    """Given a name and a URL, then everything is allowed, nothing is sent beside, and a call may take a minute."""
    (server,) = read(GOOD)
    assert (server.allow, server.deny, server.headers, server.timeout_seconds) == ((), (), (), 60.0)


@pytest.mark.parametrize(
    ("table", "line"),
    [
        pytest.param('name = "a"', "a: url: a URL such as", id="no-url"),
        pytest.param('url = "http://x"', "server 1: name: letters", id="no-name"),
        pytest.param(GOOD.replace("files", "fi les"), "server 1: name: letters", id="space-in-name"),
        pytest.param(GOOD.replace("files", "_a"), "server 1: name: letters", id="name-begins-with-underscore"),
        pytest.param(GOOD.replace("files", "a" * 33), "server 1: name: letters", id="long-name"),
        pytest.param('name = 5\nurl = "http://x"', "server 1: name: letters", id="number-for-name"),
        pytest.param('name = "a"\nurl = "ftp://x"', "a: url: a URL such as", id="other-scheme"),
        pytest.param('name = "a"\nurl = "https://u:p@x"', "a: url: a URL such as", id="user-in-url"),
        pytest.param('name = "a"\nurl = "https://x/#f"', "a: url: a URL such as", id="fragment"),
        pytest.param('name = "a"\nurl = "https://x:port/"', "a: url: a URL such as", id="odd-port"),
        pytest.param('name = "a"\nurl = "https://x/a b"', "a: url: a URL such as", id="space-in-url"),
        pytest.param('name = "a"\nurl = "https://x:0/"', "a: url: a URL such as", id="port-0"),
        pytest.param('name = "a"\nurl = "https://x/\\u007f"', "a: url: a URL such as", id="control-in-url"),
        pytest.param('name = "a"\nurl = "https://[x"', "a: url: a URL such as", id="half-a-bracket"),
        pytest.param(GOOD + 'allow = "("', "files: allow: '(' is not a regular expression", id="broken-pattern"),
        pytest.param(GOOD + "deny = [1]", "files: deny: a regular expression or a list", id="number-for-pattern"),
        pytest.param(GOOD + "timeout_seconds = 0", "files: timeout_seconds: a positive number", id="no-time"),
        pytest.param(GOOD + 'timeout = "5"', "files: timeout: this member does not exist", id="unknown-member"),
        pytest.param(GOOD + 'headers = "x"', "files: headers: a table was expected", id="text-for-headers"),
        pytest.param(
            GOOD + f'headers = {{ "a b" = "{PLANTED}" }}', "files: headers: 'a b' is not the name of a header", id="h1"
        ),
        pytest.param(
            GOOD + f'headers = {{ Host = "{PLANTED}" }}', "files: headers: Host is set by the gateway", id="h2"
        ),
        pytest.param(
            GOOD + f'headers = {{ a = "{PLANTED}\\n" }}', "files: headers: a: the value is empty, or", id="h3"
        ),
        pytest.param(GOOD + "headers = { a = 5 }", "files: headers: a: the value is empty, or", id="h4"),
        pytest.param(
            GOOD + 'headers = { a = "${NOWHERE}" }',
            "files: headers: a: the environment variable NOWHERE is not set",
            id="h5",
        ),
    ],
)
def test_fault_is_one_line_that_names_it(table, line):
    """Given one fault, then one line says which server, which member and what is wrong, and quotes no secret."""
    (said,) = complaints(table)
    assert said.startswith(line)


def test_every_fault_has_a_line():
    """Given several faults in several servers, then each is told."""
    assert len(complaints('name = "a"\nurl = "x"\ncolour = 1', 'name = "b b"\nurl = "http://x"')) == 3


@pytest.mark.parametrize("raw", ["http://x", 5, [1], {"name": "a"}, None])
def test_what_is_no_list_of_tables_is_refused(raw):
    """Given anything but tables, then the line says where servers are written."""
    with pytest.raises(BadValue, match=r"\[\[mcp_servers\]\]"):
        mcp_servers(raw)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        pytest.param(("a", "a"), "a: the name is used twice", id="same"),
        pytest.param(("a", "a_b"), "a_b: tools of a could have the same names", id="longer"),
        pytest.param(("a_b", "a"), "a: tools of a_b could have the same names", id="shorter"),
    ],
)
def test_names_whose_tools_could_clash_are_refused(names, line):
    """Given servers such that `bmcp_<server>_<tool>` could mean a tool of either, then one line says so."""
    (said,) = complaints(*(f'name = "{name}"\nurl = "http://x"' for name in names))
    assert said.startswith(line)


def test_names_that_only_look_alike_are_taken():
    """Given names with the same beginning but no `_` behind it, then both are taken."""
    assert len(read(*(f'name = "{name}"\nurl = "http://x"' for name in ("a", "ab_c", "a-b")))) == 3


@pytest.mark.parametrize(
    ("allow", "deny", "offered"),
    [
        pytest.param("", "", {"read", "write", "read_secret"}, id="neither"),
        pytest.param('allow = "read"', "", {"read", "read_secret"}, id="allow"),
        pytest.param('allow = "^read$"', "", {"read"}, id="anchored"),
        pytest.param("", 'deny = "secret"', {"read", "write"}, id="deny"),
        pytest.param('allow = ["read", "write"]', 'deny = "secret"', {"read", "write"}, id="deny-wins"),
        pytest.param("allow = []", "", {"read", "write", "read_secret"}, id="empty-list-is-none"),
    ],
)
def test_allow_and_deny_choose_the_tools(allow, deny, offered):
    """Given patterns, then a tool is offered if it is allowed, or nothing is said of what is, and it is not denied."""
    (server,) = read(f"{GOOD}{allow}\n{deny}")
    assert {tool for tool in ("read", "write", "read_secret") if server.offers(tool)} == offered


def test_header_comes_from_the_environment():
    """Given `${NAME}` in a header's value, then the environment's value stands in its place."""
    (server,) = read(GOOD + 'headers = { Authorization = "Bearer ${TOKEN}" }', TOKEN=PLANTED)
    assert server.headers[0][1] == Secret(f"Bearer {PLANTED}")


def test_secrets_are_not_shown():
    """Given secrets in a header and in the URL's query, then no repr has them, and the address lacks the query."""
    (server,) = read(f'name = "a"\nurl = "https://x/mcp?key={PLANTED}"\nheaders = {{ Authorization = "{PLANTED}" }}')
    assert PLANTED not in f"{server!r} {server.headers!r} {server.address}"
    assert server.address == "https://x/mcp"


def load(text: str, **environ: str):
    def read_file(path: str) -> bytes:
        return text.encode()

    named = {"HOME": "/home/ann", "GATEWAY_API_KEYS": "sk", "GATEWAY_CONFIG": "/g.toml"}
    return load_settings(named | environ, read_file)


def test_settings_have_the_files_servers():
    """Given servers in the TOML file, then the settings have them, with headers from the environment."""
    settings = load(f'[[mcp_servers]]\n{GOOD}headers = {{ a = "${{TOKEN}}" }}\n', TOKEN=PLANTED)
    assert [server.name for server in settings.mcp_servers] == ["files"]
    assert PLANTED not in repr(settings)
    assert settings.digest != load(f"[[mcp_servers]]\n{GOOD}").digest


def test_settings_complain_line_by_line():
    """Given two faulty servers, then the start fails with a line for each that names the file."""
    with pytest.raises(SettingsError) as raised:
        load('[[mcp_servers]]\nname = "a"\n[[mcp_servers]]\nname = "b"\n')
    assert [line.partition(": url")[0] for line in raised.value.complaints] == [
        "/g.toml: mcp_servers: a",
        "/g.toml: mcp_servers: b",
    ]
