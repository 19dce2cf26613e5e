"""One spelling a path, and advice for clients whose base URL is wrong."""

from __future__ import annotations

import time

import pytest

from gateway.web.paths import advice, written_path


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/v1/messages", "/v1/messages"),
        ("/v1/messages?beta=true&a=/b", "/v1/messages"),
        ("//metrics", "//metrics"),
        ("/v1%2fmessages?x", "/v1%2fmessages"),
        ("/v1/messages#x", "/v1/messages#x"),
        ("http://gw.example:8080/v1/models?limit=1", "/v1/models"),
        ("HTTPS://gw.example//metrics", "//metrics"),
        ("ftp://gw.example/metrics", "ftp://gw.example/metrics"),
        ("*", "*"),
    ],
)
def test_path_is_taken_as_it_is_written(target, path):
    """Given a request's target, then its path is what stands there, without query or server, and nothing decoded."""
    assert written_path(target) == path


@pytest.mark.parametrize(
    ("path", "drop"),
    [
        ("/v1/v1/messages", "drop /v1 "),
        ("/v1/v1/messages/count_tokens", "drop /v1 "),
        ("/v1/v1/models", "drop /v1 "),
        ("/v1/v1/models/claude-x", "drop /v1 "),
        ("/v1/v1/complete", "drop /v1 "),
        ("/v1/v1/v1/messages", "drop /v1/v1 "),
        ("/v1/messages/v1/messages", "drop /v1/messages "),
        ("/anthropic/v1/messages", "drop /anthropic "),
        ("/a/b/v1/messages", "drop /a/b "),
        ("//v1/messages", "the slash too many"),
        ("/v1//messages", "the slash too many"),
        ("/v1/messages/", "the slash too many"),
        ("/v1/models/", "the slash too many"),
        ("/v1/v1/messages/", "drop /v1 "),
        ("/messages", "add /v1 "),
        ("/messages/count_tokens", "add /v1 "),
    ],
)
def test_wrong_base_url_is_told_what_to_change(path, drop):
    """Given a path that a wrong base URL makes, then the advice names what is too much or too little."""
    assert drop in (advice(path) or "")
    assert "base URL" in (advice(path) or "")


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/v1", "/v1/", "/v1/complete", "/v1/messages/batches", "/v1/models/a/b", "/healthz/", "//metrics"),
        *("/v1/./messages", "/v1%2fmessages", "/V1/messages", "/v1/messages;a=b", "/v1/messagesx", "/favicon.ico"),
    ],
)
def test_other_paths_get_no_advice(path):
    """Given any other path, then nothing is guessed."""
    assert advice(path) is None


@pytest.mark.parametrize("piece", ["/v1", "/", "/v1/models", "/v1/models/a", "/v1/messages", "x"])
def test_no_path_takes_long(piece):
    """Given a long path of any pieces, then one that is twice as long takes no more than a few times as long."""

    def seconds(length: int) -> float:
        path = "/" + piece * (length // len(piece))
        best = 1.0
        for _ in range(5):
            began = time.thread_time()  # what others do at the same time does not count
            advice(path)
            best = min(best, time.thread_time() - began)
        return best

    assert seconds(80_000) < 8 * seconds(40_000) + 0.01
