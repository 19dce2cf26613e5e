"""A number of whole messages through the application, in this process and without sockets: for counting instructions.

`bench.tracing` runs it under valgrind, with one copy of the gateway or another first on the path. Everything from the
WSGI call to the last byte is real but the upstream, whose answer is there at once.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

from gateway.config.loader import load_settings
from gateway.runtime.pause import Pause
from gateway.web.app import create_app
from gateway.web.service import Gateway

REQUEST = b'{"model":"claude-opus-5","max_tokens":8,"messages":[{"role":"user","content":"hi"}]}'
ANSWER = (
    b'{"id":"msg_1","type":"message","role":"assistant","model":"claude-opus-5","content":[{"type":"text","text":"hi"}],'
    b'"stop_reason":"end_turn","usage":{"input_tokens":8,"cache_creation_input_tokens":3,"cache_read_input_tokens":4,'
    b'"cache_creation":{"ephemeral_5m_input_tokens":3,"ephemeral_1h_input_tokens":0},"output_tokens":2,'
    b'"service_tier":"standard"}}'
)


class Answer:
    """One whole answer."""

    status = 200
    headers: Sequence[tuple[str, str]] = (("content-type", "application/json"), ("request-id", "req_1"))
    content_type = "application/json"
    is_event_stream = False

    def read_whole(self) -> Generator[Pause, None, bytes]:
        yield from ()
        return ANSWER

    def close(self) -> None: ...


class Upstream:
    """Gives the same answer to everybody."""

    def exchange(self, *_: Any) -> Generator[Pause, None, Answer]:
        yield from ()
        return Answer()

    def close(self) -> None: ...


def environ() -> dict[str, Any]:
    """A request as a server hands it over."""
    return {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v1/messages",
        "RAW_URI": "/v1/messages?beta=true",
        "QUERY_STRING": "beta=true",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(REQUEST)),
        "HTTP_HOST": "localhost",
        "HTTP_USER_AGENT": "claude-cli/2.1.0 (external, cli)",
        "HTTP_ANTHROPIC_VERSION": "2023-06-01",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(REQUEST),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.version": (1, 0),
    }


def serve(gateway: Gateway, number: int, **headers: str) -> None:
    """Serve so many requests, with these headers as well."""
    gateway.configuration = replace(gateway.configuration, upstream=Upstream())  # type: ignore[arg-type]
    application: Callable[..., Any] = create_app(gateway).extensions["pausing"]  # as the worker calls it
    for _ in range(number):
        statuses: list[str] = []
        body = application(environ() | headers, lambda status, headers: statuses.append(status))  # noqa: B023
        answer = b"".join(body)
        body.close()
        assert (statuses, answer) == (["200 OK"], ANSWER)


def main() -> None:
    """Serve so many requests."""
    serve(Gateway(load_settings({"GATEWAY_API_KEYS": "sk-a", "HOME": "/nonexistent"}, lambda _: b"")), int(sys.argv[1]))


if __name__ == "__main__":
    main()
