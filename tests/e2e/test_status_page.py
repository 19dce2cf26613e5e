"""The status page in a real browser, over a real gateway of two workers: live, readable, and closed to strangers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from gateway.web.status_pages import duration
from tests.e2e.browser import Browser
from tests.e2e.fleet import SOON_SECONDS, Fleet, KeysFile
from tests.e2e.talk import message, token_line
from tests.harness import wait_until
from tests.stores.redis_server import free_port

OPERATOR, USER = "gwt_an-operators-token", "gwt_a-users-token"
AS_USER = {"X-Gateway-Token": USER}
AS_OPERATOR = {"X-Gateway-Token": OPERATOR}
POLL_SECONDS = 2.0

# The least contrast of any text on the page, by WCAG 2 (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio), and where.
LEAST_CONTRAST = """
const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => {
  const [lr, lg, lb] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * lr + 0.7152 * lg + 0.0722 * lb;
};
const ground = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const [r, g, b, alpha = 1] = numbers(getComputedStyle(e).backgroundColor);
    if (alpha === 1) return [r, g, b];
  }
  return [255, 255, 255];
};
let least = [99, ""];
for (const element of document.body.querySelectorAll("*")) {
  const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!hasText || !element.getClientRects().length) continue;
  const [a, b] = [light(numbers(getComputedStyle(element).color)), light(ground(element))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < least[0]) least = [contrast, element.outerHTML];
}
return least;
"""


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """One upstream for the module."""
    with Simulator() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token file with an operator and a user."""
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(token_line("ops", OPERATOR, "operator") + token_line("user", USER))
    return path


@pytest.fixture(scope="module")
def fleet(simulator: Simulator, tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A gateway of two workers that has the same address when it is started again."""
    folder = tmp_path_factory.mktemp("status")
    settings = {"client_tokens_file": tokens, "bind": f"127.0.0.1:{free_port()}"}
    with Fleet(simulator, KeysFile(simulator, folder), folder / "data", workers=2, **settings) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the module."""
    with Browser() as browser:
        yield browser


def open_page(fleet: Fleet, browser: Browser) -> None:
    """As an operator does, who has given the token as the password."""
    browser.complaints()
    browser.open(f"http://ops:{OPERATOR}@127.0.0.1:{fleet.gateway.port}/status")
    assert wait_until(lambda: browser.text("#connection") == "Live", 3 * POLL_SECONDS)


def ask(fleet: Fleet) -> int:
    return fleet.gateway.request("POST", "/v1/messages", message(), AS_USER).status


def state_of(browser: Browser, number: int) -> str:
    """The word that the page shows for the state of the key at this position."""
    return browser.text(f'[data-part="key-{number + 1}"] .state')


def becomes(browser: Browser, number: int, state: str, timeout_seconds: float = 3 * POLL_SECONDS) -> bool:
    """Whether the page comes to show that state in time."""
    return wait_until(lambda: state_of(browser, number) == state, timeout_seconds)


def seconds_left(browser: Browser) -> int:
    return int(browser.text(".countdown .left").removesuffix(" s"))


def test_a_key_cools_and_comes_back_on_screen_without_reload(fleet: Fleet, browser: Browser) -> None:
    """Given an open page, when a key is limited, rests and answers again, then the page shows it all by itself."""
    fleet.renew_keys("rate_limited:retry-after=9 then ok", "ok")
    open_page(fleet, browser)
    browser.run("window.isTheSamePage = true")
    assert browser.text(".verdict") == "All 2 keys are valid"
    assert [state_of(browser, number) for number in (0, 1)] == ["valid", "valid"]

    assert ask(fleet) == 200
    assert becomes(browser, 0, "temporary")
    assert "rate limited (429)" in browser.text('[data-part="key-1"] .why')
    assert browser.text(".verdict") == "One valid key left of 2"
    assert "1 rate limited" in browser.text('[data-part="key-1"]')
    before = seconds_left(browser)
    assert 0 < before <= 9
    assert wait_until(lambda: seconds_left(browser) < before, 3)

    assert becomes(browser, 0, "on trial", 9 + 3 * POLL_SECONDS)
    assert ask(fleet) == 200
    assert becomes(browser, 0, "valid")
    assert browser.text(".verdict") == "All 2 keys are valid"
    assert browser.run("return window.isTheSamePage") is True
    assert browser.complaints() == []


def test_exhaustions_through_any_worker_are_on_the_page(fleet: Fleet, browser: Browser) -> None:
    """Given two workers that each found no key, then every worker's page tells of both, and when the last was."""
    fleet.renew_keys("rate_limited:retry-after=600")
    pids = fleet.gateway.worker_pids
    before = fleet.total("pool_exhaustions_total")
    for pid in pids:
        with fleet.only(pid):
            assert ask(fleet) == 429
    told = f"<b>{before + len(pids):.0f}</b> times “all configured keys are rate-limited”"
    for pid in pids:
        with fleet.only(pid):
            page = fleet.gateway.request("GET", "/status", headers=AS_OPERATOR).body.decode()
            assert told in page
            assert "last <time" in page
    open_page(fleet, browser)
    assert browser.text(".verdict").startswith("No valid key")
    assert "rate-limited" in browser.text('[data-part="exhaustions"]')


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "is_phone"), [(1280, False), (700, False), (360, True)])
def test_the_page_is_readable(fleet: Fleet, browser: Browser, tmp_path: Path, scheme: str, width: int, is_phone: bool):
    """Given both themes and widths down to a phone's, then nothing overflows, contrast is enough, cells have names."""
    fleet.renew_keys("rate_limited:retry-after=600 then ok", "unauthorized", "ok")
    assert ask(fleet) == 200
    browser.show(width=width, height=900, scheme=scheme, is_phone=is_phone)
    open_page(fleet, browser)
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    contrast, where = browser.run(LEAST_CONTRAST)
    assert contrast >= 4.5, where
    ground = browser.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(ground) < 200) == (scheme == "dark")
    assert browser.roles("tbody tr:last-child > *") == ["rowheader", *["cell"] * 5]
    assert browser.complaints() == []
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_the_script_words_durations_as_the_gateway_does(fleet: Fleet, browser: Browser) -> None:
    """Given any time that is left, then the countdown does not change its words between two polls."""
    open_page(fleet, browser)
    for seconds in (0, 0.3, 59, 59.5, 60, 61, 3599, 3600, 5400, 86399.5, 86400, 200000):
        assert browser.run("return duration(arguments[0])", seconds) == duration(seconds)


def test_nothing_that_is_slipped_into_the_page_runs(fleet: Fleet, browser: Browser) -> None:
    """Given a script and a style that somebody gets into the page, then the policy keeps both from acting."""
    open_page(fleet, browser)
    browser.run("""
        const script = document.createElement("script");
        script.textContent = "window.hasRun = true";
        const style = document.createElement("style");
        style.textContent = "body { background: rgb(1, 2, 3) !important }";
        document.body.append(script, style);
    """)
    assert browser.run("return window.hasRun") is None
    assert browser.run("return getComputedStyle(document.body).backgroundColor") != "rgb(1, 2, 3)"
    assert sum("Content Security Policy" in complaint for complaint in browser.complaints()) == 2


def test_a_page_whose_token_was_taken_back_says_so(fleet: Fleet, browser: Browser, tokens: Path) -> None:
    """Given an open page, when the operator's token is revoked, then the page says so and asks no more."""
    open_page(fleet, browser)
    kept = tokens.read_text()
    tokens.write_text(token_line("user", USER))
    assert wait_until(lambda: "no longer" in browser.text("#connection"), 3 * POLL_SECONDS)
    tokens.write_text(kept)
    fleet.reload()


def test_a_page_without_its_gateway_says_that_it_is_old(fleet: Fleet, browser: Browser) -> None:
    """Given an open page, when the gateway does not answer, then the page says so; when it does again, it is live."""
    open_page(fleet, browser)
    fleet.gateway.stop(signal.SIGQUIT)
    assert wait_until(lambda: "does not answer" in browser.text("#connection"), 3 * POLL_SECONDS)
    assert browser.run("return document.body.className") == "stale"
    fleet.start()
    assert wait_until(lambda: browser.text("#connection") == "Live", SOON_SECONDS)
