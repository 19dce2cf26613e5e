"""A real Chromium without a screen, driven over the WebDriver protocol (https://www.w3.org/TR/webdriver2/).

Owns: the driver's process and one browser session. A machine without Chromium fails the tests: what they show cannot be
shown without one. Nothing here knows the gateway.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from tests.harness import wait_until
from tests.ports import free_port

_START_SECONDS = 120.0
_ANSWER_SECONDS = 60.0
_MOST_EXCHANGES = 20
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name of an element's reference
# No screen, no sandbox for root, and nothing that looks for servers of its maker.
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)


class _StaleElementError(Exception):
    """The page has exchanged an element since it was looked for."""


class Browser:
    """One browser with one page. Not thread-safe; `with` ends it."""

    def __init__(self) -> None:
        driver, browser = shutil.which("chromedriver"), shutil.which("chromium")
        if driver is None or browser is None:
            raise AssertionError("these tests need Chromium: apt-get install chromium chromium-driver")
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        self._http = requests.Session()
        self._http.trust_env = False
        self._driver = subprocess.Popen(
            [driver, f"--port={port}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"HOME": self._profile.name},
        )
        try:
            assert wait_until(self._is_ready, _START_SECONDS), "chromedriver does not start"
            options = {"binary": browser, "args": [*_FLAGS, f"--user-data-dir={self._profile.name}/profile"]}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            wanted["acceptInsecureCerts"] = True  # test certificates; who trusts which is not shown here
            session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self._url += f"/session/{session['sessionId']}"
        except BaseException:
            self._end_driver()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._ask("DELETE", "")
        finally:
            self._end_driver()

    def open(self, url: str) -> None:
        """Load a page, and wait until it has loaded."""
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """What a function body in JavaScript returns; a promise is waited for."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        """The text of the first element there, as it is rendered."""
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def roles(self, selector: str) -> list[str]:
        """The roles that these elements have for a screen reader. If the page exchanges them meanwhile, those of the
        new ones."""
        for _ in range(_MOST_EXCHANGES):
            elements = self._ask("POST", "/elements", {"using": "css selector", "value": selector})
            with suppress(_StaleElementError):
                return [str(self._ask("GET", f"/element/{element[_ELEMENT]}/computedrole")) for element in elements]
        raise AssertionError(f"the page exchanges {selector!r} without a pause")

    def show(self, *, width: int, height: int, scheme: str = "light", is_phone: bool = False) -> None:
        """Lay the page out for such a window, and such a preference of colours."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if is_phone else 1, "mobile": is_phone}
        self._command("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._command("Emulation.setEmulatedMedia", {"features": features})

    @contextmanager
    def without_scripts(self) -> Iterator[None]:
        """Within this, pages that are opened run no script of their own; `run` still does."""
        self._command("Emulation.setScriptExecutionDisabled", {"value": True})
        try:
            yield
        finally:
            self._command("Emulation.setScriptExecutionDisabled", {"value": False})

    def screenshot(self, path: Path) -> None:
        """What the window shows, as a PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def complaints(self) -> list[str]:
        """What the browser has written to its console since the last call: errors, refusals by a policy."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def _command(self, name: str, parameters: dict[str, object]) -> None:
        self._ask("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def _ask(self, method: str, path: str, document: object = None) -> Any:
        answer = self._http.request(method, self._url + path, json=document, timeout=_ANSWER_SECONDS)
        value = answer.json()["value"]
        if not answer.ok and value["error"] == "stale element reference":
            raise _StaleElementError(value["message"])
        assert answer.ok, value["message"]
        return value

    def _is_ready(self) -> bool:
        try:
            return bool(self._ask("GET", "/status")["ready"])
        except requests.ConnectionError:
            return False

    def _end_driver(self) -> None:
        self._driver.terminate()
        self._driver.wait(20)
        self._http.close()
        self._profile.cleanup()
