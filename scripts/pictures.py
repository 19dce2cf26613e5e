"""Make the pictures of the status page in docs/pictures: `make pictures`.

A real gateway over the simulated upstream, in a real browser. With a folder as its argument it makes pictures of more
situations there, for whoever changes the page and wants to look at it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from gateway.simulator import Simulator
from tests.e2e.browser import Browser
from tests.e2e.talk import message, token_line
from tests.harness import ROOT, GatewayProcess, wait_until

OPERATOR, USERS = "gwt_pictures-operator", {"alice": "gwt_pictures-alice", "bob": "gwt_pictures-bob"}
KEYS = {name: f"sk-ant-api03-{name}-{number}" for number, name in enumerate(("team-a", "team-b", "team-c", "team-d"))}
DOCS = ROOT / "docs" / "pictures"
SOON_SECONDS = 10.0


class Scene:
    """A gateway with four keys, and a browser that shows its status page."""

    def __init__(self, simulator: Simulator, browser: Browser, folder: Path) -> None:
        tokens = folder / "tokens"
        lines = [token_line(name, token) for name, token in USERS.items()]
        tokens.write_text(token_line("ops", OPERATOR, "operator") + "".join(lines))
        self._simulator = simulator
        self._browser = browser
        self._gateway = GatewayProcess(
            simulator.url,
            [f"{name}={secret}" for name, secret in KEYS.items()],
            client_tokens_file=str(tokens),
            name="gateway-1",
        )

    def play(self, **scripts: str) -> None:
        """From now on these keys play these scripts."""
        for name, script in scripts.items():
            self._simulator.script(KEYS[name.replace("_", "-")], script)

    def ask(self, number: int) -> None:
        """So many requests, of two users."""
        for at in range(number):
            token = list(USERS.values())[at % 3 == 0]
            self._gateway.request("POST", "/v1/messages", message(), {"X-Gateway-Token": token})

    def open(self) -> None:
        """Load the page, as an operator."""
        self._browser.open(f"http://ops:{OPERATOR}@127.0.0.1:{self._gateway.port}/status")
        self.wait_for("#connection", "Live")

    def wait_for(self, selector: str, text: str) -> None:
        """Wait until a part of the page says so."""
        assert wait_until(lambda: text in self._browser.text(selector), SOON_SECONDS), f"{selector} is not {text}"

    def take(self, path: Path, scheme: str, *, width: int, is_phone: bool = False, height: int | None = None) -> None:
        """A picture of the page: of so much of it, or of all."""
        self._browser.show(width=width, height=height or 600, scheme=scheme, is_phone=is_phone)
        if height is None:
            height = self._browser.run("return document.documentElement.scrollHeight")
            self._browser.show(width=width, height=height, scheme=scheme, is_phone=is_phone)
        self._browser.screenshot(path)

    def take_all(self, folder: Path, name: str) -> None:
        """Pictures in every form."""
        for scheme in ("light", "dark"):
            self.take(folder / f"{name}-{scheme}.png", scheme, width=1100)
            self.take(folder / f"{name}-phone-{scheme}.png", scheme, width=390, is_phone=True)

    def stop(self) -> None:
        """End the gateway."""
        self._gateway.stop()


def main(folder: Path | None) -> None:
    """Play the situations in turn."""
    DOCS.mkdir(exist_ok=True)
    with Simulator() as simulator, Browser() as browser, tempfile.TemporaryDirectory() as temporary:
        scene = Scene(simulator, browser, Path(temporary))
        try:
            scene.play(team_a="ok", team_b="ok", team_c="ok", team_d="ok")
            scene.ask(24)
            scene.open()
            scene.wait_for('[data-part="failed"]', "0 of 24")
            if folder is not None:
                scene.take_all(folder, "good")
            scene.play(team_a="rate_limited:retry-after=237", team_b="unauthorized", team_c="overloaded*6 then ok")
            scene.ask(18)
            scene.wait_for('[data-part="key-2"] .state', "retired")
            scene.wait_for('[data-part="events"]', "team-b")
            scene.take(DOCS / "status.png", "light", width=1100)
            scene.take(DOCS / "status-phone.png", "dark", width=390, is_phone=True, height=844)
            if folder is not None:
                scene.take_all(folder, "retired")
                limited = "rate_limited:retry-after=237"
                scene.play(team_c=limited, team_d="rate_limited:retry-after=600")
                scene.ask(9)
                scene.wait_for("#live .headline", "No key is left")
                scene.wait_for('[data-part="events"]', "team-d")
                scene.take_all(folder, "none-left")
        finally:
            scene.stop()
        if folder is not None:
            scene.wait_for("#stale", "as of")
            scene.take_all(folder, "stale")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
