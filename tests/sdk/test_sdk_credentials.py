"""A gateway token counts however an SDK sends it, and none of it goes upstream."""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.simulator import Simulator
from tests.harness import GatewayProcess
from tests.sdk.sdk_comparison import BYOK, NOT_A_KEY, POOLED, error_type
from tests.sdk.sdk_process import SdkProcess

TOKEN = "token-of-a-client-0123456789abcdef"


@pytest.fixture(scope="module")
def gateway_with_tokens(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway that wants TOKEN of its clients."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(f"someone sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    tokens.chmod(0o600)
    process = GatewayProcess(simulator.url, [POOLED], client_tokens_file=str(tokens))
    yield process
    process.stop()


@pytest.mark.parametrize(
    ("credential", "options", "paid_by", "error"),
    [
        pytest.param(TOKEN, {"credential_as": "api_key"}, POOLED, None, id="as api_key"),
        pytest.param(TOKEN, {"credential_as": "auth_token"}, POOLED, None, id="as auth_token"),
        pytest.param(BYOK, {"headers": {"X-Gateway-Token": TOKEN}}, BYOK, None, id="beside an own key"),
        pytest.param(NOT_A_KEY, {}, None, "authentication_error", id="wrong"),
    ],
)
def test_gateway_token_is_taken_as_sdk_sends_it(
    sdk: SdkProcess,
    credential: str,
    options: dict[str, Any],
    paid_by: str | None,
    error: str | None,
    simulator: Simulator,
    gateway_with_tokens: GatewayProcess,
) -> None:
    """Given a token file, then the token counts under whichever header the SDK puts it."""
    for key in (POOLED, BYOK):
        simulator.script(key, "ok")
    seen_before = len(simulator.requests)
    telling = sdk.tell("whole", gateway_with_tokens.url, credential, **options)
    assert error_type(telling) == error
    requests = simulator.requests[seen_before:]
    assert [request.key for request in requests] == ([paid_by] if paid_by else [])
    for request in requests:
        assert TOKEN not in repr(request.headers)
        assert paid_by == POOLED or BYOK in request.header(sdk.sdk.credential_header)
