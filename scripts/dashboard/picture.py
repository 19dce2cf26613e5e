"""Make docs/pictures/dashboard.png, a part of `make pictures`: what the dashboard shows of four minutes of traffic.

A real gateway over the simulated upstream, and a real Prometheus that watches it and is asked the dashboard's own
queries. Alerts are in haste, or none would fire in such a time. Grafana is not run: page.jsx, as built by setup.sh,
draws the answers with Grafana's own components. A query or a panel that fails ends this, and the error names the panel.
"""

from __future__ import annotations

import json
import math
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

from gateway.simulator import Key, Limit, Organisation, Simulator, Workspace, World
from tests.e2e.browser import Browser
from tests.e2e.prometheus_server import PrometheusServer
from tests.e2e.talk import message, token_line
from tests.harness import ROOT, GatewayProcess

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "gateway.json").read_text())
SITE = Path(__file__).parent / "node_modules" / "site"
PICTURE = ROOT / "docs" / "pictures" / "dashboard.png"
WIDTH = 1600
# The rows of the dashboard that are drawn, and how many lines of panels of each.
SHOWN = {"At a glance": 2, "Keys": 2, "Traffic": 1, "Money": 2}
WARM_UP_SECONDS, STORY_SECONDS, STEP_SECONDS, RATE_SECONDS = 15, 240, 2, 12

KEYS = {name: f"sk-ant-api03-{name}-picture" for name in ("team-a", "team-b", "team-c", "team-d")}
# From so many seconds of the story on, a key plays a script.
STORY = (
    (42, "team-a", "rate_limited:retry-after=35 then ok"),
    (110, "team-a", "rate_limited:retry-after=25 then ok"),
    (112, "team-b", "unauthorized"),
    (165, "team-a", "rate_limited:retry-after=20 then ok"),
    (206, "team-a", "rate_limited:retry-after=60 then ok"),
    (209, "team-c", "rate_limited:retry-after=45 then ok"),
)
LIMITS = """
[limits.groups.research]
dollars_per_day = 6
dollars_per_month = 25
[limits.groups.product]
dollars_per_day = 15
[limits.tokens.nightly-ci]
requests_per_minute = 40
"""


@dataclass(frozen=True)
class Client:
    """Who asks what, how long after the last answer on average, and the simulator's step that answers."""

    name: str
    group: str
    model: str
    pause_seconds: float
    script: str
    is_streamed: bool = True
    path: str = "/v1/messages"

    @property
    def token(self) -> str:
        """What it authenticates with."""
        return f"gwt_picture-{self.name}"


SLOWLY = "first=0.4,delay=0.06"
CLIENTS = (
    Client("alice", "research", "claude-opus-5", 0.8, f"ok:input-tokens=2400,output-tokens=350,{SLOWLY}"),
    Client("bob", "research", "claude-sonnet-5", 0.5, f"ok:input-tokens=3000,output-tokens=500,{SLOWLY}"),
    Client("carol", "product", "claude-sonnet-5", 0.3, "ok:input-tokens=1200,output-tokens=250", is_streamed=False),
    Client("carol", "product", "claude-sonnet-5", 1.2, "ok", is_streamed=False, path="/v1/messages/count_tokens"),
    Client("nightly-ci", "product", "claude-sonnet-5", 0.5, f"ok:input-tokens=6000,output-tokens=300,{SLOWLY}"),
    Client("dave", "", "claude-opus-5", 2.0, f"ok:input-tokens=5000,output-tokens=600,{SLOWLY}"),
    Client("dave", "", "claude-opus-5", 9.0, "overloaded"),
    Client("erin", "product", "claude-next", 3.0, "ok:input-tokens=900,output-tokens=200", is_streamed=False),
)


def world() -> World:
    """Each key has an organisation of its own, with limits that the upstream tells."""
    limits = {f"messages/{name}": Limit(size, 300) for name, size in (("opus-5", 260), ("sonnet-5", 700))}
    members: list[Organisation | Workspace | Key] = []
    for name, secret in KEYS.items():
        members += [Organisation(f"org-{name}", limits=limits), Workspace(f"wrkspc-{name}", f"org-{name}")]
        members.append(Key(secret, f"wrkspc-{name}"))
    return World(members)


def asking(client: Client, gateway: GatewayProcess, done: threading.Event) -> None:
    """One client, until it is done; it asks more at some times than at others."""
    random, began_at = Random(client.name + client.script), time.monotonic()
    headers = {"X-Gateway-Token": client.token, "x-simulator-script": client.script}
    body = message(streamed=client.is_streamed, model=client.model)
    while True:
        wave = 1 + 0.5 * math.sin((time.monotonic() - began_at) / 25)
        if done.wait(random.expovariate(wave / client.pause_seconds)):
            return
        gateway.request("POST", client.path, body, headers)


@contextmanager
def traffic(gateway: GatewayProcess) -> Iterator[None]:
    """Within this the clients ask."""
    done = threading.Event()
    with ThreadPoolExecutor(len(CLIENTS)) as pool:
        asked = [pool.submit(asking, client, gateway, done) for client in CLIENTS]
        try:
            yield
        finally:
            done.set()
        for each in asked:
            each.result()  # raises what ended a client


def play(simulator: Simulator) -> None:
    """The story, in its time."""
    began_at = time.monotonic() + WARM_UP_SECONDS
    for at, key, script in (*STORY, (STORY_SECONDS, "team-d", "ok")):
        time.sleep(max(0.0, began_at + at - time.monotonic()))
        simulator.script(KEYS[key], script)


def shown_panels() -> list[dict[str, Any]]:
    """The panels of the picture, rows among them, moved up to where those before them end."""
    shown: list[dict[str, Any]] = []
    lines: list[int] = []
    row, bottom = "", 0
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        if panel["type"] == "row":
            row, lines = panel["title"], []
        elif place["y"] not in lines:
            lines.append(place["y"])
        if len(lines) <= SHOWN.get(row, -1):
            if place["x"] == 0:
                top, bottom = bottom, bottom + place["h"]
            shown.append(panel | {"gridPos": place | {"y": top}})
    return shown


def answers(
    prometheus: PrometheusServer, panel: dict[str, Any], start: float, end: float
) -> list[list[dict[str, Any]]]:
    """What Prometheus answers to each query of a panel, its variables replaced as Grafana does."""
    midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    range_seconds = end - (midnight if panel.get("timeFrom") == "now/d" else start)
    values = {"$job": "gateway", "$instance": ".*", "$__rate_interval": f"{RATE_SECONDS}s"}
    values["$__range"] = f"{math.ceil(range_seconds)}s"
    found = []
    for target in panel.get("targets", ()):
        query = target["expr"]
        for name, value in values.items():
            query = query.replace(name, value)
        try:
            if target.get("instant"):
                found.append(prometheus.query(query))
            else:
                found.append(prometheus.query_range(query, start, end, STEP_SECONDS))
        except AssertionError as error:
            raise AssertionError(f"panel {panel['title']!r}, query {target['refId']}: {error}") from error
    if not any(found) and panel["type"] not in ("row", "stat"):  # a stat shows that it has no value
        raise AssertionError(f"panel {panel['title']!r} has no data")
    return found


def tell() -> dict[str, Any]:
    """Play the story to its end; what the page draws."""
    with tempfile.TemporaryDirectory() as folder, Simulator(world=world()) as simulator:
        tokens, limits = Path(folder) / "tokens", Path(folder) / "gateway.toml"
        lines = {token_line(each.name, each.token, each.group and f"group={each.group}") for each in CLIENTS}
        tokens.write_text("".join(sorted(lines)))
        limits.write_text(LIMITS)
        keys = [f"{name}={secret}" for name, secret in KEYS.items()]
        gateway = GatewayProcess(simulator.url, keys, client_tokens_file=str(tokens), config=str(limits))
        try:
            with PrometheusServer({"gateway": f"127.0.0.1:{gateway.port}"}) as prometheus, traffic(gateway):
                play(simulator)
                end = time.time() // STEP_SECONDS * STEP_SECONDS
                start = end - STORY_SECONDS
                panels = [panel | {"answers": answers(prometheus, panel, start, end)} for panel in shown_panels()]
        finally:
            gateway.stop()
    steps = [1000 * at for at in range(int(start), int(end) + 1, STEP_SECONDS)]
    return {"panels": panels, "steps": steps, "width": WIDTH}


class Files(SimpleHTTPRequestHandler):
    """The files of the page, without a line on stderr for each."""

    def log_message(self, *_: object) -> None:
        pass


def draw(story: dict[str, Any]) -> None:
    """Make the picture."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=SITE)) as server, Browser() as browser:
        threading.Thread(target=server.serve_forever).start()
        try:
            browser.show(width=WIDTH, height=1000, scheme="dark")
            browser.open(f"http://127.0.0.1:{server.server_port}/")
            browser.show(width=WIDTH, height=browser.run("return draw(arguments[0])", story), scheme="dark")
            browser.screenshot(PICTURE)
        finally:
            server.shutdown()


if __name__ == "__main__":
    draw(tell())
