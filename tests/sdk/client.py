"""Calls through the official Python SDK, each told as one JSON document on standard output.

Runs alone, in an environment that holds an `anthropic` SDK of any major version and nothing of
this project. It owns no expectations: it says what an application sees, and the test compares. A
job is a JSON object (README.md beside this file lists its members), given as an argument or on a
line of standard input; tests keep one process for many jobs, for an SDK is slow to import.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import anthropic

MODEL = "claude-sonnet-5-5"
MESSAGES = [{"role": "user", "content": "Say grüß Gott, 你好 and \U0001f44b."}]
REQUEST = {"model": MODEL, "max_tokens": 256, "messages": MESSAGES}


class Telling:
    """What the application has seen so far; an error adds to it and erases nothing."""

    def __init__(self) -> None:
        self.sdk = f"anthropic-python {anthropic.__version__}"
        self.events: list[Any] = []
        self.result: Any = None
        self.request_id: str | None = None
        self.headers: dict[str, str] | None = None
        self.error: dict[str, Any] | None = None

    def head(self, response: Any) -> None:
        """Notes the head of an answer; `response` is of whatever HTTP library the SDK uses."""
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self.request_id = self.headers.get("request-id")

    def failure(self, error: Exception) -> None:
        """Notes the exception that an application would have to handle."""
        response = getattr(error, "response", None)
        if response is not None:
            self.head(response)
        self.error = {
            "class": type(error).__name__,
            "is_sdk_error": isinstance(error, anthropic.AnthropicError),
            "message": str(error),
            "status": getattr(error, "status_code", None),
            "body": getattr(error, "body", None),
            "retry_after": (self.headers or {}).get("retry-after"),
        }


def plain(value: Any) -> Any:
    """The value as JSON data, holding just the fields that came over the wire."""
    if isinstance(value, anthropic.BaseModel):
        return value.model_dump(mode="json", exclude_unset=True, warnings=False)
    return value


def whole(client: anthropic.Anthropic, telling: Telling) -> None:
    message = client.messages.create(**REQUEST)
    telling.request_id = getattr(message, "_request_id", None)  # major 0 once had none
    telling.result = plain(message)


def stream(client: anthropic.Anthropic, telling: Telling) -> None:
    """The SDK's own accumulating helper."""
    with client.messages.stream(**REQUEST) as events:
        telling.head(events.response)
        for event in events:
            telling.events.append(plain(event))
        telling.result = plain(events.get_final_message())


def raw_stream(client: anthropic.Anthropic, telling: Telling) -> None:
    """The events as the SDK decodes them, nothing accumulated."""
    events = client.messages.create(**REQUEST, stream=True)
    telling.head(events.response)
    for event in events:
        telling.events.append(plain(event))


def count_tokens(client: anthropic.Anthropic, telling: Telling) -> None:
    if hasattr(client.messages, "count_tokens"):
        counted = client.messages.count_tokens(model=MODEL, messages=MESSAGES)
    else:  # the oldest SDKs reach what they do not know by its path
        body = {"model": MODEL, "messages": MESSAGES}
        counted = client.post("/v1/messages/count_tokens", cast_to=object, body=body)
    telling.result = plain(counted)


def models(client: anthropic.Anthropic, telling: Telling) -> None:
    if hasattr(client, "models"):
        telling.result = [plain(model) for model in client.models.list(limit=20).data]
    else:
        options = {"params": {"limit": 20}}
        telling.result = client.get("/v1/models", cast_to=object, options=options)


def model(client: anthropic.Anthropic, telling: Telling) -> None:
    if hasattr(client, "models"):
        telling.result = plain(client.models.retrieve(MODEL))
    else:
        telling.result = client.get(f"/v1/models/{MODEL}", cast_to=object)


MODES: dict[str, Callable[[anthropic.Anthropic, Telling], None]] = {
    "whole": whole,
    "stream": stream,
    "raw_stream": raw_stream,
    "count_tokens": count_tokens,
    "models": models,
    "model": model,
}


def build_client(job: dict[str, Any]) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        base_url=job["base_url"],
        max_retries=job.get("max_retries", 0),
        timeout=job.get("timeout_seconds", 30.0),
        default_headers=job.get("headers", {}),
        **{job.get("credential_as", "api_key"): job["credential"]},
    )


def tell(job: dict[str, Any]) -> dict[str, Any]:
    """Does the job and returns what was seen; only a job that makes no sense raises."""
    call, telling = MODES[job["mode"]], Telling()
    with build_client(job) as client:
        try:
            call(client, telling)
        except Exception as error:  # noqa: BLE001  # whatever an application may meet is to be told
            telling.failure(error)
    return vars(telling)


def main(jobs: Iterable[str]) -> None:
    for job in jobs:
        print(json.dumps(tell(json.loads(job)), sort_keys=True), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or sys.stdin)
