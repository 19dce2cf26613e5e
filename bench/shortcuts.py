"""What the shortcuts around gunicorn's parser and Flask's matcher buy: instructions a request, counted by valgrind.

Run it with `make bench-shortcuts`; it prints the table of bench/RESULTS.md ("What the shortcuts buy"). Each is run in a
process of its own, with and without, so that the same is counted in every run: a head as Claude Code sends it, through
the parser to its body's end; a request through Flask to a view that does nothing. What they take in time, at the same
place, is the least of several rounds. `bench.marks` measures what the keys' stores have of this kind.
"""

from __future__ import annotations

import io
import sys
import timeit
from collections.abc import Callable, Iterator
from typing import Any

from flask import Blueprint, Flask, Response
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser

from bench.callgrind import of_one
from gateway.server.request_head import HeadParser, KnownLines, read_once
from gateway.web.application import Application

FIELDS = """host: 127.0.0.1:8080
accept: application/json
accept-encoding: gzip, deflate, br, zstd
anthropic-beta: claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27
anthropic-dangerous-direct-browser-access: true
anthropic-version: 2023-06-01
authorization: Bearer gwt_bench
content-type: application/json
user-agent: claude-cli/2.1.0 (external, cli)
x-app: cli
x-stainless-arch: x64
x-stainless-helper-method: stream
x-stainless-lang: js
x-stainless-os: Linux
x-stainless-package-version: 0.70.0
x-stainless-retry-count: 0
x-stainless-runtime: node
x-stainless-runtime-version: v24.3.0
x-stainless-timeout: 600
connection: keep-alive
content-length: 98"""
HEAD = "\r\n".join(["POST /v1/messages HTTP/1.1", *FIELDS.splitlines(), "", "x" * 98]).encode()
# Instructions of two runs whose difference is counted: what a start costs falls out.
COUNTED = (50, 250)
ROUNDS, TIMES = 20, 1000


def heads(parser_of: Callable[[Config, Iterator[bytes]], Any], *, attributes: bool) -> Callable[[], None]:
    """Reads one head after the other from a connection."""
    config = Config()
    if attributes:
        read_once(config)
    parser = parser_of(config, iter(lambda: HEAD, b""))

    def read() -> None:
        request = next(parser)
        request.body.read()
        request.should_close()
        parser.finish_body()

    return read


def by_gunicorn(config: Config, pieces: Iterator[bytes]) -> Any:
    return RequestParser(config, pieces, ("127.0.0.1", 4000))


def by_known_lines(config: Config, pieces: Iterator[bytes]) -> Any:
    return HeadParser(KnownLines(config), config, pieces, ("127.0.0.1", 4000))


def flask(application: Flask) -> Callable[[], None]:
    """Serves one request after the other."""
    routes = Blueprint("routes", __name__)
    routes.before_app_request(lambda: None)
    routes.post("/v1/messages", endpoint="messages")(lambda: Response(b"x"))
    routes.get("/v1/models/<name>", endpoint="model")(lambda name: name)
    for path in ("/v1/messages/count_tokens", "/v1/models", "/healthz", "/readyz", "/metrics", "/status"):
        routes.get(path, endpoint=path.replace("/", "_"))(lambda: "x")
    application.register_blueprint(routes)
    if isinstance(application, Application):
        application.fix_routes("routes")
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v1/messages",
        "QUERY_STRING": "beta=true",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_TYPE": "application/json",
        "HTTP_HOST": "localhost",
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.input": io.BytesIO(),
    }
    return lambda: application.wsgi_app(dict(environ), lambda *_: lambda _: None).close()  # type: ignore[attr-defined]


SCENES: dict[str, Callable[[], Callable[[], None]]] = {
    "a head, as it is": lambda: heads(by_known_lines, attributes=True),
    "a head, lines not known": lambda: heads(by_gunicorn, attributes=True),
    "a head, nor settings as attributes": lambda: heads(by_gunicorn, attributes=False),
    "Flask, as it is": lambda: flask(Application("bench")),
    "Flask, plain": lambda: flask(Flask("bench", static_folder=None)),
}


def instructions(name: str) -> float:
    """How many one call takes."""
    return of_one(lambda number: [sys.executable, "-m", "bench.shortcuts", name, str(number)], *COUNTED)


def main() -> None:
    """Run one so many times, or print the table of all."""
    if len(sys.argv) > 1:
        call = SCENES[sys.argv[1]]()
        for _ in range(int(sys.argv[2])):
            call()
        return
    print("| what | instructions | µs |")
    print("|---|---|---|")
    for name, scene in SCENES.items():
        least = min(timeit.repeat(scene(), number=TIMES, repeat=ROUNDS)) / TIMES * 1e6
        print(f"| {name} | {instructions(name):.0f} | {least:.1f} |", flush=True)


if __name__ == "__main__":
    main()
