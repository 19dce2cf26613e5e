"""Values that are well formed and cannot be what was meant: each is told with its place, and no secret is shown."""

from __future__ import annotations

import pytest

from gateway.config.loader import load_settings
from gateway.config.setting_faults import did_you_mean
from gateway.config.settings import SettingsError

SECRET = "sk-ant-api03-PLANTED-0123456789-abcdefgh"


def faults_of(files: dict[str, str] | None = None, **settings: str) -> tuple[str, ...]:
    """The faults of a configuration that is good but for these settings."""
    environ = {"GATEWAY_API_KEYS": SECRET} | {f"GATEWAY_{name.upper()}": value for name, value in settings.items()}
    texts = files or {}
    return load_settings(environ, lambda path: texts[path].encode()).faults


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        pytest.param(f'"{SECRET}"', "quotation mark", id="quoted"),
        pytest.param(f"a='{SECRET}'", "quotation mark", id="named-and-quoted"),
        pytest.param(f'a={SECRET}"', "quotation mark", id="half-quoted"),
        pytest.param("a=${ANTHROPIC_KEY}", "${ANTHROPIC_KEY} was not replaced", id="placeholder"),
        pytest.param("${ANTHROPIC_KEY:-none}", "${ANTHROPIC_KEY} was not replaced", id="placeholder-with-default"),
        pytest.param("a={{key}}", "a placeholder was not replaced", id="template"),
        pytest.param("sk-ant-oat01-PLANTED-0123456789", "an OAuth token", id="oauth-token"),
        pytest.param("a=sk-ant-ort01-PLANTED-0123456789", "an OAuth refresh token", id="refresh-token"),
        pytest.param("a=sk-ant-admin01-PLANTED-0123456789", "a key of the Admin API", id="admin-key"),
        pytest.param("a=gwt_PLANTED0123456789", "a client token", id="client-token"),
    ],
)
@pytest.mark.parametrize("place", ["environment", "file"])
def test_what_is_no_key_is_told_with_its_place(keys: str, what: str, place: str) -> None:
    """Given an entry that the upstream cannot accept, then a line says where it stands and what is wrong with it."""
    if place == "file":
        (fault,) = faults_of({"/keys": f"# ours\nfirst={SECRET}1\n{keys}\n"}, api_keys="", api_keys_file="/keys")
        assert fault.startswith("GATEWAY_API_KEYS_FILE, line 3: ")
    else:
        (fault,) = faults_of(api_keys=f"first={SECRET}1,{keys}")
        assert fault.startswith("GATEWAY_API_KEYS, entry 2: ")
    assert what in fault
    assert "PLANTED" not in fault


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ping_second", "ping_seconds"),
        ("GATEWAY_PING-SECONDS", "ping_seconds"),
        ("Bindd", "bind"),
        ("bnid", "bind"),
        ("bixx", None),
        ("colour", None),
    ],
)
def test_a_name_that_is_nearly_one_is_taken_for_it(name: str, meant: str | None) -> None:
    """Given an unknown name, then the known one that it resembles is suggested, if it resembles any."""
    assert did_you_mean(name, iter(["bind", "ping_seconds", "read_seconds"])) == meant


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("https://api.anthropic.com/v1", "https://api.anthropic.com"),
        ("https://api.anthropic.com/v1/", "https://api.anthropic.com"),
        ("http://127.0.0.1:9/base/v1/messages", "http://127.0.0.1:9/base"),
    ],
)
def test_upstream_with_the_path_of_the_api_is_told(url: str, written: str) -> None:
    """Given an upstream that ends in what the gateway adds, then the line says what to write instead."""
    (fault,) = faults_of(upstream_url=url)
    assert fault.startswith("GATEWAY_UPSTREAM_URL: the gateway adds /v1/messages, so a URL that ends in /v1")
    assert fault.endswith(f"write {written}")


@pytest.mark.parametrize("url", ["http://v1", "http://127.0.0.1:9/v10", "http://127.0.0.1:9/v1beta", "http://a/v1/b"])
def test_upstream_that_only_looks_so_is_let_be(url: str) -> None:
    """Given `v1` as a host or as a part of a path, then nothing is said."""
    assert faults_of(upstream_url=url) == ()


def test_values_of_every_kind_are_looked_at() -> None:
    """Given placeholders and quotation marks in the environment and in the file's tables, then a line for each."""
    file = 'trusted_proxies = "none"\n[[mcp_servers]]\nname = "a"\nurl = "https://tools.internal/${TENANT}"\n'
    faults = faults_of({"/g": file}, config="/g", data_dir="'/var/lib/gateway'", record_url="sqlite:////${D}/r.db")
    assert sorted(fault.partition(": ")[0] for fault in faults) == ["/g", "GATEWAY_DATA_DIR", "GATEWAY_RECORD_URL"]
    assert any(fault.startswith("/g: mcp_servers: ${TENANT} was not replaced") for fault in faults)


def test_what_may_have_such_marks_is_let_be() -> None:
    """Given a regular expression and a header that is replaced from the environment, then nothing is said."""
    file = '[[mcp_servers]]\nname = "a"\nurl = "https://tools.internal/"\nheaders = { a = "${WORD}" }\n'
    environ = {"GATEWAY_API_KEYS": SECRET, "GATEWAY_CONFIG": "/g", "WORD": "word"}
    environ["GATEWAY_TOOLS_EXCLUDED_MODELS"] = "'haiku|{{a}}'"
    assert load_settings(environ, lambda path: file.encode()).faults == ()


def test_faults_are_told_beside_what_the_configuration_is_refused_for() -> None:
    """Given a bad value and one that cannot be meant, then both are told at once."""
    with pytest.raises(SettingsError) as raised:
        faults_of(threads="'8'", api_keys=f'"{SECRET}"')
    told = "\n".join(raised.value.complaints)
    assert "GATEWAY_THREADS: a whole number" in told
    assert "GATEWAY_THREADS: the quotation marks are part of the value" in told
    assert "GATEWAY_API_KEYS, entry 1: the key contains a quotation mark" in told
