"""Fixtures: the SDKs, each running in its own environment; their upstream, and a gateway in front of it."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.harness import GatewayProcess
from tests.sdk.sdk_comparison import BYOK, DIRECT, POOLED, Call, Direct, Outcome, observe
from tests.sdk.sdk_process import SDKS, Sdk, SdkProcess

SETUP = Path(__file__).parent / "setup.sh"
SETUP_TIMEOUT_SECONDS = 600


@pytest.fixture(scope="session")
def sdk_environments() -> None:
    """All environments of the SDKs, made if need be."""
    made = subprocess.run(
        [str(SETUP)],
        capture_output=True,
        encoding="utf-8",
        timeout=SETUP_TIMEOUT_SECONDS,
    )
    if made.returncode != 0:
        pytest.fail(made.stderr, pytrace=False)


@pytest.fixture(scope="session")
def sdk_process(
    sdk_environments: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Sdk], SdkProcess]]:
    """The running client program of an SDK, started when it is first asked for."""
    home = tmp_path_factory.mktemp("sdk-home")
    running: dict[str, SdkProcess] = {}

    def process_of(sdk: Sdk) -> SdkProcess:
        if sdk.name not in running:
            running[sdk.name] = SdkProcess(sdk, home)
        return running[sdk.name]

    yield process_of
    for process in running.values():
        process.stop()


@pytest.fixture(params=SDKS, ids=lambda sdk: sdk.name)
def sdk(request: pytest.FixtureRequest, sdk_process: Callable[[Sdk], SdkProcess]) -> SdkProcess:
    """Each official SDK in turn."""
    return sdk_process(request.param)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """The upstream; each test scripts the keys it uses."""
    with Simulator(keys={DIRECT: "ok", POOLED: "ok", BYOK: "ok"}) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def gateway(simulator: Simulator) -> Iterator[GatewayProcess]:
    """A gateway with one key, for calls that mark no key."""
    process = GatewayProcess(simulator.url, [POOLED])
    yield process
    process.stop()


@pytest.fixture(scope="module")
def direct(simulator: Simulator) -> Direct:
    """What an SDK sees straight from the upstream; looked at once for each call."""
    seen: dict[tuple[str, str], Outcome] = {}

    def outcome_of(sdk: SdkProcess, call: Call) -> Outcome:
        if (sdk.sdk.name, call.id) not in seen:
            outcome = observe(simulator, sdk, call, simulator.url, DIRECT, paid_by=DIRECT)
            seen[sdk.sdk.name, call.id] = outcome
        return seen[sdk.sdk.name, call.id]

    return outcome_of
