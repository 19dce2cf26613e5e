"""The status page of two gateways behind the nginx of deploy/nginx: one of them is shown steadily, and named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.e2e.browser import Browser
from tests.e2e.nginx_deployed import DeployedNginx
from tests.e2e.talk import token_line
from tests.harness import GatewayProcess, wait_until
from tests.ports import free_port

KEY, OPERATOR = "sk-ant-api03-the-only-key", "gwt_an-operators-token"
SOON_SECONDS = 30.0
STALE_SECONDS = 30.0  # the page waits ten
NAMES = ("gateway-1", "gateway-2")
# Notes every gateway that the page shows, and every state of its line of connection, from now on.
WATCH = """
window.shown = new Set();
window.connections = new Set();
window.watching = setInterval(() => {
  shown.add(document.querySelector("#live [data-gateway]").dataset.name);
  connections.add(document.getElementById("connection").textContent);
}, 20);
"""


class Scene:
    """Two gateways, nginx in front of them, and a browser."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._simulator = stack.enter_context(Simulator(keys={KEY: "ok"}))
        self._tokens = folder / "tokens"
        self._tokens.write_text(token_line("ops", OPERATOR, "operator"))
        self.ports = {name: free_port() for name in NAMES}
        self.gateways: dict[str, GatewayProcess] = {}
        for name in NAMES:
            self.start(name)
        stack.callback(lambda: [gateway.stop() for gateway in self.gateways.values()])
        self.nginx = stack.enter_context(DeployedNginx(self.ports.values()))
        self.browser = stack.enter_context(Browser())

    def start(self, name: str) -> None:
        """Start a gateway, at the address that it always has."""
        self.gateways[name] = GatewayProcess(
            self._simulator.url,
            [f"only={KEY}"],
            name=name,
            bind=f"127.0.0.1:{self.ports[name]}",
            client_tokens_file=str(self._tokens),
        )

    def open(self) -> str:
        """Open the page, until both gateways have answered it; which is shown."""
        self.browser.open(f"https://ops:{OPERATOR}@localhost:{self.nginx.port}/status")
        assert wait_until(lambda: len(self.choices) == 2, SOON_SECONDS)
        return self.shown

    @property
    def shown(self) -> str:
        """The name of the gateway that the page shows."""
        return self.browser.text("#live .who b")

    @property
    def choices(self) -> dict[str, bool]:
        """The gateways that the page offers, and whether each is the one that is shown."""
        script = """
            return [...document.querySelectorAll("#gateways button")]
                .map((button) => [button.dataset.id, button.ariaPressed === "true"])
        """
        return dict(self.browser.run(script))

    def choose(self, name: str) -> None:
        """Show this gateway instead."""
        self.browser.run("document.querySelector(`#gateways button[data-id^='${arguments[0]}']`).click()", name)

    def as_of(self) -> str:
        """The time at which the shown gateway answered last."""
        return self.browser.text(".asof time")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One scene for the module."""
    with ExitStack() as stack:
        yield Scene(tmp_path_factory.mktemp("several"), stack)


def other_than(name: str) -> str:
    """The other gateway."""
    return NAMES[1 - NAMES.index(name)]


def test_one_gateway_is_shown_steadily_and_the_others_are_offered(scene: Scene) -> None:
    """Given polls that nginx leads to either gateway in turn, then the page stays with the one that it came from, live;
    and both are offered, with their addresses."""
    first = scene.open()
    assert scene.choices == {f"{name} 127.0.0.1:{scene.ports[name]}": name == first for name in NAMES}
    scene.browser.run(WATCH)
    moments = {scene.as_of()}
    assert wait_until(lambda: moments.add(scene.as_of()) or len(moments) == 4, 2 * SOON_SECONDS)
    assert scene.browser.run("clearInterval(watching); return [...shown, ...connections]") == [first, "Live"]
    assert set(NAMES) == {name.split()[0] for name in scene.choices}


def test_another_gateway_is_shown_if_it_is_chosen(scene: Scene) -> None:
    """Given a reader who chooses the other gateway, then the page shows it at once, and from then on."""
    other = other_than(scene.open())
    scene.choose(other)
    assert scene.shown == other
    moment = scene.as_of()
    assert wait_until(lambda: scene.as_of() != moment, SOON_SECONDS)
    assert scene.shown == other
    assert scene.choices == {f"{name} 127.0.0.1:{scene.ports[name]}": name == other for name in NAMES}


def test_gateway_that_is_gone_is_the_headline_and_the_other_can_be_chosen(scene: Scene) -> None:
    """Given the shown gateway ends, so that nginx leads to the other alone, then the headline says that what stands
    there is old, since when, and where the address leads; the other's page is live; and so is the first's when it is
    back."""
    first = scene.open()
    other = other_than(first)
    scene.gateways[first].stop()
    gone = f"{first} has not answered since; this address leads to {other} now: choose it below."
    assert wait_until(lambda: gone in scene.browser.text("#stale"), STALE_SECONDS)
    assert scene.browser.text("#stale").startswith("This page is stale, as of ")
    assert scene.shown == first
    scene.choose(other)
    assert wait_until(lambda: scene.browser.text("#connection") == "Live", SOON_SECONDS)
    assert scene.shown == other
    scene.start(first)
    assert wait_until(lambda: len(scene.choices) == 2, SOON_SECONDS)
    assert scene.shown == other


def test_data_names_its_gateway(scene: Scene) -> None:
    """Given a program that asks through nginx, then each answer says which gateway it is of."""
    named = set()

    def asks() -> bool:
        with scene.nginx.client() as client:
            client.send(
                b"", method="GET", path="/status", headers=[f"X-Gateway-Token: {OPERATOR}", "Accept: application/json"]
            )
            gateway = json.loads(client.read_answer().body)["gateway"]
        named.add((gateway["name"], gateway["address"]))
        return len(named) == 2

    assert wait_until(asks, SOON_SECONDS)
    assert named == {(name, f"127.0.0.1:{scene.ports[name]}") for name in NAMES}
