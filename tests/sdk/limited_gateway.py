"""A gateway whose only client belongs to a group with limits. Nothing here knows how the gateway works inside."""

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.simulator import Simulator
from tests.e2e.talk import message, token_line
from tests.harness import GatewayProcess, wait_until
from tests.sdk.sdk_comparison import POOLED

TOKEN = "token-of-a-client-0123456789abcdef"
EXPENSIVE = "ok:output-tokens=1000000"  # whatever the model, it costs more than any budget here
SPENT = "spend limit reached (daily; resets "
WHOSE = "UTC): group research has spent "
BOUND_SECONDS = 30
_HEADERS = {"x-gateway-token": TOKEN, "content-type": "application/json"}


class LimitedGateway:
    """The gateway, its limits (a line of the group's table), and the upstream behind it."""

    def __init__(self, folder: Path, upstream: Simulator, limit: str) -> None:
        tokens, config = folder / "tokens", folder / "gateway.toml"
        tokens.write_text(token_line("someone", TOKEN, "group=research"))
        tokens.chmod(0o600)
        config.write_text(f"[limits.groups.research]\n{limit}\n")
        self.upstream = upstream
        self.process = GatewayProcess(upstream.url, [POOLED], client_tokens_file=str(tokens), config=str(config))
        self.url = self.process.url

    @property
    def refused(self) -> float:
        """How many requests were refused for their limits so far."""
        return self.process.total("limit_refusals_total")

    def spend(self) -> None:
        """Ask until the budget is spent, which takes one expensive answer."""
        self.upstream.script(POOLED, EXPENSIVE)
        assert wait_until(lambda: self.ask() == 429, BOUND_SECONDS)

    def ask(self) -> int:
        """One request of the group; its status."""
        return self.process.request("POST", "/v1/messages", message(), _HEADERS).status

    @contextmanager
    def one_running(self) -> Iterator[None]:
        """A request of the group that runs meanwhile; later ones are answered, and earlier ones have ended."""
        assert wait_until(lambda: self.process.total("requests_inflight") == 0, BOUND_SECONDS)
        self.upstream.script(POOLED, "stall:after=2 then ok")
        connection = http.client.HTTPConnection("127.0.0.1", self.process.port, timeout=BOUND_SECONDS)
        try:
            connection.request("POST", "/v1/messages", message(streamed=True), _HEADERS)
            with connection.getresponse() as response:
                assert response.status == 200
                assert response.readline()
                yield
        finally:
            connection.close()

    def wait_for_refusal(self, before: float) -> None:
        """Wait until one more has been refused than `before`."""
        assert wait_until(lambda: self.refused > before, BOUND_SECONDS)
