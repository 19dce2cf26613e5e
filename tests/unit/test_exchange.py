"""The book-keeping of a request: whatever becomes of its record, its client has an answer."""

from __future__ import annotations

import pytest

from gateway.app import create_app
from gateway.credential import Key, Secret
from gateway.interception_record import InterceptionRecord
from gateway.service import Gateway
from gateway.settings import Settings


class Sink:
    """Keeps records, or fails as nobody foresaw."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.records: list[InterceptionRecord] = []
        self._is_broken = is_broken

    def put(self, record: InterceptionRecord) -> None:
        if self._is_broken:
            raise RuntimeError("a bug")
        self.records.append(record)

    def close(self) -> None: ...


def ask(sink: Sink) -> tuple[int, str]:
    """A request to a gateway whose upstream is not there; status and request id of the answer."""
    gateway = Gateway(Settings(upstream_url="http://127.0.0.1:1", keys=(Key("a", Secret("sk-a")),)))
    gateway.recorder = sink
    body = {"model": "m", "metadata": {"user_id": '{"session_id":"in-the-body"}'}}
    response = create_app(gateway).test_client().post("/v1/messages", json=body, headers={"User-Agent": "curl/8.5.0"})
    assert gateway.admission.taken == 0
    return response.status_code, response.headers["request-id"]


def test_a_request_leaves_one_record() -> None:
    """Given a request that fails upstream; then its record has what the client saw, and who it was."""
    sink = Sink()
    status, request_id = ask(sink)
    [record] = sink.records
    assert (record.status, record.request_id, record.outcome) == (status, request_id, "upstream_failed")
    assert (record.client, record.session, record.model) == ("curl", "in-the-body", "m")
    assert [(attempt.key, attempt.outcome) for attempt in record.attempts] == [("a", "transport_error")]


def test_a_recorder_that_fails_fails_no_request(caplog: pytest.LogCaptureFixture) -> None:
    """Given a bug in the recorder; then the client has the answer that it has otherwise, and the log has the bug."""
    assert ask(Sink(is_broken=True))[0] == ask(Sink())[0] == 502
    assert "its record is lost" in caplog.text
