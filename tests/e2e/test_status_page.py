"""The status page in a real browser, over a real gateway of two workers: live, readable, and closed to strangers."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from gateway.web.status_words import ago, countdown
from tests.e2e.browser import Browser
from tests.e2e.fleet import SOON_SECONDS, Fleet, KeysFile
from tests.e2e.talk import message, token_line
from tests.harness import GatewayProcess, wait_until
from tests.ports import free_port
from tests.stores.redis_server import RedisServer

OPERATOR, USER = "gwt_an-operators-token", "gwt_a-users-token"
AS_USER = {"X-Gateway-Token": USER}
AS_OPERATOR = {"X-Gateway-Token": OPERATOR}

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
    assert wait_until(lambda: browser.text("#connection") == "Live", 30)


def ask(fleet: Fleet) -> int:
    return fleet.gateway.request("POST", "/v1/messages", message(), AS_USER).status


def state_of(browser: Browser, number: int) -> str:
    """The word that the page shows for the state of the key at this position."""
    return browser.text(f'[data-part="key-{number + 1}"] .state')


def becomes(browser: Browser, number: int, state: str, timeout_seconds: float = 30.0) -> bool:
    """Whether the page comes to show that state in time."""
    return wait_until(lambda: state_of(browser, number) == state, timeout_seconds)


def seconds_left(browser: Browser) -> int:
    return int(browser.text("td .left").removesuffix(" s"))


def headline(browser: Browser) -> str:
    """What the page says first, on one line."""
    return " ".join(browser.text("#live .headline").split())


def test_a_key_cools_and_comes_back_on_screen_without_reload(fleet: Fleet, browser: Browser) -> None:
    """Given an open page, when a key is limited, cools down and answers again, then the page shows it all by itself."""
    fleet.renew_keys("rate_limited:retry-after=9 then ok", "ok")
    open_page(fleet, browser)
    browser.run("window.isTheSamePage = true")
    assert headline(browser) == "All 2 keys are valid."
    assert [state_of(browser, number) for number in (0, 1)] == ["valid", "valid"]

    assert ask(fleet) == 200
    assert becomes(browser, 0, "cooling down")
    assert "Limited for messages/simulated" in browser.text('[data-part="key-1"] .why')
    first, second = fleet.keys.names
    assert headline(browser).startswith(f"{first} is back for messages/simulated in ")
    assert headline(browser).endswith(f"One valid key is left, {second}.")
    assert "1 rate limited" in browser.text('[data-part="key-1"]')
    before = seconds_left(browser)
    assert 0 < before <= 9
    assert wait_until(lambda: seconds_left(browser) < before, 3)

    assert becomes(browser, 0, "on trial", 60)
    assert ask(fleet) == 200
    assert becomes(browser, 0, "valid")
    assert headline(browser) == "All 2 keys are valid."
    assert wait_until(lambda: f"{first} is back for" in browser.text('[data-part="events"]'), 30)
    assert browser.run("return window.isTheSamePage") is True
    assert browser.complaints() == []


def test_requests_without_a_key_through_any_worker_are_on_the_page(fleet: Fleet, browser: Browser) -> None:
    """Given two workers that each found no key, then every worker's page tells of both, and when the last was."""
    fleet.renew_keys("rate_limited:retry-after=600")
    pids = fleet.gateway.worker_pids
    before = fleet.total("pool_exhaustions_total")
    for pid in pids:
        with fleet.only(pid):
            assert ask(fleet) == 429
    told = f"No key was left {before + len(pids):.0f} times: all were cooling down or retired"
    for pid in pids:
        with fleet.only(pid):
            page = fleet.gateway.request("GET", "/status", headers=AS_OPERATOR).body.decode()
            assert told in page
            assert "last <time" in page
            assert "No key left: all are cooling down or retired, 2 times" in page
    open_page(fleet, browser)
    assert headline(browser).startswith("No key is left for messages/simulated: such requests are refused until")
    assert "Affected: user (2)" in browser.text('[data-part="affected"]')


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "is_phone"), [(1280, False), (940, False), (700, False), (360, True)])
def test_the_page_is_readable(fleet: Fleet, browser: Browser, tmp_path: Path, scheme: str, width: int, is_phone: bool):
    """Given both themes and widths down to a phone's, then nothing overflows, contrast is enough, cells have names; bad
    keys come first, and on a phone a good one is a line.
    """
    fleet.renew_keys("rate_limited:retry-after=600 then ok", "unauthorized", "ok")
    assert ask(fleet) == 200
    browser.show(width=width, height=900, scheme=scheme, is_phone=is_phone)
    open_page(fleet, browser)
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    contrast, where = browser.run(LEAST_CONTRAST)
    assert contrast >= 4.5, where
    ground = browser.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(ground) < 200) == (scheme == "dark")
    assert browser.roles("tbody tr:first-child > *") == ["rowheader", *["cell"] * 5]
    states = browser.run("return [...document.querySelectorAll('tbody .state')].map((state) => state.innerText)")
    assert states == ["retired", "cooling down", "valid"]
    height = browser.run("return document.querySelector('tbody tr:last-child').getBoundingClientRect().height")
    assert height < 60
    command = f"gateway keys enable {fleet.keys.names[1]}"
    assert command in headline(browser)
    assert command in browser.text('[data-part="key-2"] .why')
    assert browser.complaints() == []
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_the_script_words_times_as_the_gateway_does(fleet: Fleet, browser: Browser) -> None:
    """Given any time that is left or past, then its words do not change between two polls."""
    open_page(fleet, browser)
    for seconds in (0, 0.3, 59, 59.5, 60, 61, 3599, 3600, 5400, 86399.5, 86400, 200000):
        assert browser.run("return countdown(arguments[0])", seconds) == countdown(seconds)
        assert browser.run("return ago(arguments[0])", seconds) == ago(seconds)


def test_page_is_whole_without_its_script(fleet: Fleet, browser: Browser) -> None:
    """Given a page whose script never runs, then the headline, the keys, their times and the events are there."""
    fleet.renew_keys("rate_limited:retry-after=600 then ok", "unauthorized", "ok")
    assert ask(fleet) == 200
    page = f"http://ops:{OPERATOR}@127.0.0.1:{fleet.gateway.port}/status"
    with browser.without_scripts():
        browser.open(page)
        assert "was refused (401)" in headline(browser)
        assert re.search(r"is back for messages/simulated in (10:00|9:5\d)\.", headline(browser))
        assert "loads itself again" in browser.text("#connection")
        assert " UTC." in browser.text(".who")
        assert browser.text("tbody tr:first-child .state") == "retired"


def test_same_as_data(fleet: Fleet) -> None:
    """Given a program that asks for JSON, then any worker gives it what the page shows."""
    fleet.renew_keys("unauthorized", "ok")
    assert ask(fleet) == 200
    first, second = fleet.keys.names
    headers = AS_OPERATOR | {"Accept": "application/json"}
    for pid in fleet.gateway.worker_pids:
        with fleet.only(pid):
            data = json.loads(fleet.gateway.request("GET", "/status", headers=headers).body)
            assert [(key["key"], key["state"]) for key in data["keys"]] == [(first, "retired"), (second, "valid")]
            assert data["headline"].startswith(f"{first} was refused (401)")
            assert data["gateway"]["address"] == f"127.0.0.1:{fleet.gateway.port}"


def test_events_are_the_gateways_whichever_worker_answers(fleet: Fleet) -> None:
    """Given a reload, a refused one, a mark and the operator's acts, then every worker tells of them alike."""
    fleet.renew_keys("unauthorized", "ok")
    first, _ = fleet.keys.names
    assert ask(fleet) == 200
    headers = AS_OPERATOR | {"Accept": "application/json"}

    def events() -> list[tuple[str, str]]:
        data = json.loads(fleet.gateway.request("GET", "/status", headers=headers).body)
        return [(event["key"], event["what"]) for event in data["events"]]

    assert wait_until(lambda: (first, "was refused (401) and is retired") in events(), SOON_SECONDS)
    fleet.command("enable", first)
    assert wait_until(lambda: (first, "was enabled by the operator") in events(), SOON_SECONDS)
    good = fleet.keys.path.read_text()
    fleet.keys.path.write_text("no key = at all\n")
    fleet.gateway.send_signal(signal.SIGHUP)
    assert wait_until(lambda: events()[0] == ("", "a reload was refused: nothing has changed"), SOON_SECONDS)
    told = []
    for pid in fleet.gateway.worker_pids:
        with fleet.only(pid):
            told.append(events())
            page = fleet.gateway.request("GET", "/status", headers=AS_OPERATOR).body.decode()
            assert "The last reload was refused, and nothing has changed: " in page
            assert "<code>gateway check</code>" in page
    assert told[0] == told[1]
    wanted = [
        ("", "a reload was refused: nothing has changed"),
        (first, "was enabled by the operator"),
        (first, "was refused (401) and is retired"),
        ("", "the configuration was reloaded"),
    ]
    assert [event for event in told[0] if event in wanted][: len(wanted)] == wanted
    fleet.keys.path.write_text(good)
    fleet.reload()


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
    """Given an open page, when the operator's token is revoked, then the headline says so and the page asks no more."""
    open_page(fleet, browser)
    kept = tokens.read_text()
    tokens.write_text(token_line("user", USER))
    assert wait_until(lambda: "This token no longer opens it" in browser.text("#stale"), 30)
    assert browser.text("#connection") == "Stopped"
    tokens.write_text(kept)
    fleet.reload()


def test_a_page_without_its_gateway_says_that_it_is_old(fleet: Fleet, browser: Browser) -> None:
    """Given an open page, when the gateway does not answer, then that is the headline, with the time of what stands
    below; when it answers again, the page is live.
    """
    open_page(fleet, browser)
    as_of = browser.text(".asof time")[:5]
    fleet.gateway.stop(signal.SIGQUIT)
    assert wait_until(lambda: "does not answer: is it running?" in browser.text("#stale"), 30)
    assert re.search(r"This page is stale, as of \d\d:\d\d\.", browser.text("#stale"))
    assert as_of[:3] in browser.text("#stale") or as_of.endswith("59")
    assert browser.run("return document.body.className") == "stale"
    assert browser.run("return document.title").startswith("Stale: ")
    first_below = browser.run("return document.querySelector('.headline:not([hidden])').id")
    assert first_below == "stale"
    fleet.start()
    assert wait_until(lambda: browser.text("#connection") == "Live", SOON_SECONDS)
    assert browser.run("return document.getElementById('stale').hidden") is True


def test_a_page_that_hears_nothing_for_long_is_stale(fleet: Fleet, browser: Browser) -> None:
    """Given a gateway that takes the question and does not answer it, then the page is stale after ten seconds."""
    open_page(fleet, browser)
    with fleet.only(0):  # none
        assert wait_until(lambda: "This page is stale" in browser.text("#stale"), 30)
    assert wait_until(lambda: browser.text("#connection") == "Live", SOON_SECONDS)


def test_stores_that_are_down_are_in_the_headline(simulator: Simulator, tokens: Path) -> None:
    """Given a Redis that has gone and a database that was never there, then the headline says so of both, and how many
    records wait; when Redis is back, it is only the database."""
    simulator.script("sk-sim-stores", "ok")
    redis = RedisServer()
    gateway = GatewayProcess(
        simulator.url,
        ["only=sk-sim-stores"],
        client_tokens_file=str(tokens),
        state_url=redis.url,
        record_url=f"postgresql://nobody@127.0.0.1:{free_port()}/nowhere",
    )
    headers = AS_OPERATOR | {"Accept": "application/json"}

    def says(*words: str) -> bool:
        headline = json.loads(gateway.request("GET", "/status", headers=headers).body)["headline"]
        return all(each in headline for each in words)

    database = "The database of records cannot be used: 1 record waits on disk."
    try:
        assert gateway.request("POST", "/v1/messages", message(), AS_USER).status == 200
        assert wait_until(lambda: says(database), SOON_SECONDS)
        assert not says("Redis")
        redis.kill()
        assert wait_until(lambda: says("Redis cannot be used", database), SOON_SECONDS)
        redis.start()
        assert wait_until(lambda: not says("Redis"), 2 * SOON_SECONDS)
        assert says(database)
    finally:
        gateway.stop()
        redis.stop()
