"""Which lines there are: the gateway's, the server's, other libraries', an exporter's, and what none of them quotes."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from gateway.server.logs import Sparing
from tests.harness import ROOT

SETUP = """
import logging, sys, warnings
from gateway.server import logs
from gateway.config.settings import Settings
logs.configure(Settings(**{settings!r}))
log = logging.getLogger
"""


def logged(lines: str, **settings: object) -> list[str]:
    """What a process logs that sets its loggers up so and runs these lines."""
    program = SETUP.format(settings=settings) + lines
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def json_of(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_access_lines_are_there_whatever_the_level(log_format: str) -> None:
    """Given a gateway that logs errors alone, and an access log, then its lines are written, and warnings are not."""
    program = "log('gateway.access').info('request'); log('gateway.some').warning('hidden')"
    (line,) = logged(program, log_level="error", log_format=log_format, access_log=True)
    assert "gateway.access" in line


def test_other_libraries_warnings_have_the_same_form() -> None:
    """Given a library's warning by either way, then it is a line of the same form, once; its debug lines are none."""
    program = "log('urllib3').warning('odd'); log('urllib3').info('chatter'); warnings.warn('old', UserWarning)"
    lines = json_of(logged(program, log_format="json"))
    assert [(line["logger"], line["level"]) for line in lines] == [("urllib3", "warning"), ("py.warnings", "warning")]


def test_a_line_of_the_gateway_is_written_once() -> None:
    """Given a warning of the gateway's own, then it is not written by the root's handler a second time."""
    assert len(logged("log('gateway.some').warning('once')", log_format="json")) == 1


def test_an_exporter_that_fails_is_heard_and_not_again_for_a_while() -> None:
    """Given an exporter that complains with every batch, then one line is written."""
    program = (
        "for _ in range(100): log('opentelemetry.exporter.otlp.proto.http.trace_exporter').error('Failed to export')\n"
        "for _ in range(100): log('opentelemetry.sdk._shared_internal').warning('Queue full')"
    )
    assert len(logged(program)) == 1


def test_what_may_quote_clients_or_credentials_is_not_heard() -> None:
    """Given OpenTelemetry's words about a client's tracestate or the exporter's headers, then nothing is written."""
    program = "log('opentelemetry.trace.span').warning('secret'); log('opentelemetry.util.re').warning('secret')"
    assert logged(program) == []


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_servers_own_lines_are_made_safe(log_format: str) -> None:
    """Given gunicorn's logger, when it quotes what a client sent, then it forges no line and moves no cursor."""
    program = (
        "from gunicorn.config import Config\n"
        f"settings = Settings(log_format={log_format!r})\n"
        "config = Config(); config.set('accesslog', '/dev/stderr')\n"
        "logger = logs.server_logger(settings)(config)\n"
        "logger.error('bad request %s', 'a\\n\x1b[2K\u202e')\n"
        "logger.access_log.info('GET %s', 'a\\n\x1b[2K\u202e')\n"
    )
    lines = logged(program, log_format=log_format)
    assert len(lines) == 2
    assert all(line.isprintable() and "u202e" in line for line in lines)


def test_a_threads_uncaught_exception_is_a_record_as_any_other() -> None:
    """Given a thread that ends by an exception which quotes what others sent, then the log has it, made safe."""
    program = (
        "import threading\n"
        "def fail(): raise ValueError('x\\n[2026] [1] [INFO] forged \x1b[2K')\n"
        "thread = threading.Thread(target=fail, name='some-thread'); thread.start(); thread.join()\n"
    )
    first, *more = logged(program)
    assert "[ERROR] gateway.logs: the thread some-thread ended" in first
    assert more[-1].lstrip().startswith("[2026]")
    assert all(line.startswith("    ") and line.isprintable() for line in more)


def test_sparing_lets_one_pass_in_a_while() -> None:
    """Given records in a row, then the first passes; and every one does when there is no while."""
    record = logging.makeLogRecord({})
    sparing = Sparing(quiet_seconds=1000.0)
    assert [sparing.filter(record) for _ in range(3)] == [True, False, False]
    assert [Sparing(quiet_seconds=0.0).filter(record) for _ in range(3)] == [True] * 3
