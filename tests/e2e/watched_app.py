"""The gateway's application with eyes: it writes down what a request finds in its contexts, and how they end.

gunicorn builds it in place of the gateway's own; WATCHED_FILE names the file, which each line is written to at once.
"""

from __future__ import annotations

import os

from flask import Flask, g

import gateway


def create_app() -> Flask:
    """The gateway's application, watched."""
    app = gateway.create_app()
    file = os.open(os.environ["WATCHED_FILE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def note(line: str) -> None:
        os.write(file, f"{line}\n".encode())

    def begin() -> None:
        g.seen = getattr(g, "seen", 0) + 1
        note(f"begun {g.seen}")

    app.before_request_funcs.setdefault(None, []).append(begin)
    app.teardown_request_funcs.setdefault(None, []).append(lambda error: note(f"request ended {error!r}"))
    app.teardown_appcontext_funcs.append(lambda error: note(f"context ended {g.seen} {error!r}"))
    return app
