"""What others wrote stays one bounded line of visible characters, wherever it is shown."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from gateway.cli import main
from gateway.cli.output import complain, say
from gateway.cli.timeline import tell
from gateway.config.loader import load_settings
from gateway.config.settings import SettingsError
from gateway.protocol.errors import UpstreamError, error_body
from gateway.protocol.outcomes import ToolOutcome
from gateway.protocol.safe_text import safe_lines, safe_text
from gateway.records.record_words import plain
from gateway.telemetry.metrics import Metrics
from gateway.tools.mcp.failures import ServerTrouble
from tests.record_samples import record_of

FORGED = "x\n[2026-01-01 00:00:00 +0000] [1] [INFO] gateway.pool: key k0 is valid\x1b[2K\u202e\u200b\ud800\x9b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("key k0 (…abcd)", "key k0 (…abcd)", id="plain"),
        pytest.param("Zürich 東京 🎉", "Zürich 東京 🎉", id="letters-of-any-script"),
        pytest.param("a\r\nb\tc", r"a\r\nb\tc", id="line-ends-and-tabs"),
        pytest.param("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m", id="ansi"),
        pytest.param("\x1b]0;title\x07", r"\x1b]0;title\x07", id="window-title"),
        pytest.param("\x9b2J\x85", r"\x9b2J\x85", id="c1"),
        pytest.param("\x00\x7f", r"\x00\x7f", id="nul-and-delete"),
        pytest.param("\u202ea\u202c\u2066b\u2069", r"\u202ea\u202c\u2066b\u2069", id="bidi-overrides-and-isolates"),
        pytest.param("a\u200bb\u200dc\ufeff\u2060", r"a\u200bb\u200dc\ufeff\u2060", id="zero-width"),
        pytest.param("\u2028\u2029", r"\u2028\u2029", id="separators"),
        pytest.param("a\xa0b\u3000c", r"a\xa0b\u3000c", id="spaces-of-other-widths"),
        pytest.param("\xad", r"\xad", id="soft-hyphen"),
        pytest.param("a\ufe0fb\u034f\u3164", r"a\ufe0fb\u034f\u3164", id="selectors-and-fillers"),
        pytest.param("\U000e0041", r"\U000e0041", id="tags"),
        pytest.param("\ud83d \udcff", r"\ud83d \udcff", id="lone-surrogates"),
        pytest.param("\ue000\U0010ffff", r"\ue000\U0010ffff", id="private-and-unassigned"),
        pytest.param(b"HTTP/1.1 200 \xff\x1b\r\n", r"HTTP/1.1 200 \xff\x1b\r\n", id="bytes"),
        pytest.param("Zürich".encode(), "Zürich", id="utf-8"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_what_is_not_seen_is_shown_escaped(text: str | bytes, shown: str) -> None:
    """Given text of others, then what has ink stays as it is, and the rest is written as in a literal."""
    assert safe_text(text) == shown
    assert safe_text(shown) == shown


def test_no_character_of_unicode_passes_that_moves_the_cursor_or_hides() -> None:
    """Given every code point, then what comes out is visible: no control, format or separator."""
    shown = set().union(*map(safe_text, map(chr, range(sys.maxunicode + 1))))
    assert len(shown) > 100_000
    for character in shown - {" "}:
        assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


@pytest.mark.parametrize("text", ["x" * 10**6, "\n" * 10**6, "é" * 10**6, b"\xff" * 10**6, "🎉".encode() * 10**6])
def test_length_is_bounded(text: str | bytes) -> None:
    """Given a megabyte, then at most as many characters as are allowed come out, and the cut is marked."""
    assert len(safe_text(text)) == 200
    assert safe_text(text, 50).endswith("...")
    assert len(safe_text(text, 50)) == 50
    assert safe_text("x" * 50, 50) == "x" * 50


def test_lines_that_are_meant_stay_lines() -> None:
    """Given a traceback, then its lines are kept, each safe, up to a number of them."""
    assert safe_lines("a\n  b\r\n\x1b", "> ") == "> a\n>   b\\r\n> \\x1b"
    assert safe_lines("a\n" * 10, most=3) == "a\na\na\n..."


def test_a_traceback_has_500_lines_of_1000_characters_at_most() -> None:
    """Given as many lines as are shown, and as long ones, then they are whole; one more of either is cut."""
    line = "x" * 1000
    assert safe_lines("\n".join([line] * 500)) == "\n".join([line] * 500)
    assert safe_lines("\n".join(["x"] * 501)) == "\n".join(["x"] * 500 + ["..."])
    assert safe_lines(line + "x") == "x" * 997 + "..."


def is_safe(text: str) -> bool:
    return (text.isascii() and text.isprintable()) or text == safe_text(text, 10**6)


def test_errors_of_the_gateway_are_safe_whatever_they_quote() -> None:
    """Given an error that quotes an upstream's or a proxy's words, then its message is safe, as text and as JSON."""
    error = UpstreamError(f"the proxy said {FORGED}")
    assert is_safe(error.message)
    assert str(error) == error.message
    assert b"\\n" not in error_body(error.kind, error.message, "req").replace(b"\\\\n", b"")
    assert len(UpstreamError("x" * 10**6).message) == 1000
    assert is_safe(str(ServerTrouble(FORGED)))


def test_records_and_stories_are_safe() -> None:
    """Given an error with foreign words in a record, then it is stored safe; and one stored otherwise is told safe."""
    assert is_safe(plain(FORGED))
    told = tell(record_of(1, error=FORGED, model=FORGED, session=FORGED, client=FORGED, token=FORGED))
    assert all(is_safe(line) for line in told.split("\n"))
    assert len(told.split("\n")) == len(tell(record_of(1)).split("\n"))


def test_commands_print_safely(capsys: pytest.CaptureFixture[str]) -> None:
    """Given foreign words among what a command says, or complains of, then each line stays one."""
    say(f"no record of {FORGED}", "second")
    assert complain(FORGED) == 1
    out, err = capsys.readouterr()
    assert (len(out.splitlines()), len(err.splitlines())) == (2, 1)
    assert all(is_safe(line) for line in (*out.split("\n"), *err.split("\n")))


def test_what_a_command_did_not_foresee_is_printed_safely(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given an exception that nobody foresaw, with foreign words, then a safe traceback and status 1."""

    def fail() -> None:
        raise RuntimeError(FORGED)

    monkeypatch.setattr("gateway.web.configured.read_settings", fail)
    assert main(["check"]) == 1
    err = capsys.readouterr().err
    assert "RuntimeError" in err
    assert all(is_safe(line) and line.startswith("gateway: ") for line in err.rstrip("\n").split("\n"))


def test_tools_name_is_safe_as_a_label() -> None:
    """Given a tool whose server calls it so as to forge a line, then the metric's label is visible."""
    metrics = Metrics()
    metrics.count_tool_call("notes", FORGED, ToolOutcome.OK, 0.1)
    assert is_safe(metrics.render().decode().replace("\n", ""))


def test_configuration_errors_are_safe() -> None:
    """Given files and variables that hold escape sequences and line ends, then each complaint is one safe line."""
    environ = {
        "GATEWAY_CONFIG": "/etc/x\x1b[2K",
        "GATEWAY_API_KEYS_FILE": "/keys",
        "GATEWAY_BIND": FORGED,
        "GATEWAY_A\nb": "1",
        "GATEWAY_CLIENT_TOKENS_FILE": "/tokens",
    }
    files = {
        "/etc/x\x1b[2K": b'"a\\nb\\u202e" = 1\nbind = 3\n',
        "/keys": "na\x1bme=secret\nn=\u202e\n".encode(),
        "/tokens": b"a\x1b[2K sha256:zz\n",
    }
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, files.__getitem__)
    assert len(caught.value.complaints) >= 5
    assert all(is_safe(line) for line in caught.value.complaints)
