"""Keys come back by themselves, and what they were forbidden is looked into, by a real gateway of several workers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.simulator import Key, Organisation, Simulator, Workspace, World
from tests.e2e.talk import error_of, message
from tests.harness import Answer, GatewayProcess, run_command, wait_until

NAMES = ("k0", "k1")
SECRETS = tuple(f"sk-sim-looks-{name}" for name in NAMES)
LACKED, GRANTED = "claude-opus-4-8", "claude-sonnet-4-5"
PATIENT_SECONDS = 60.0


class Scene:
    """Keys k0 of org-a and k1 of org-b before a gateway of two workers."""

    def __init__(self, folder: Path, world: World) -> None:
        self.simulator = Simulator(dict.fromkeys(SECRETS, "ok"), world=world)
        self.simulator.start()
        self._folder = folder
        self._keys_file = folder / "keys"
        self.gateway: GatewayProcess | None = None

    def serve(self, *secrets: str, **settings: str) -> GatewayProcess:
        """Start the gateway with these keys, by default both."""
        self.write_keys(*(secrets or SECRETS))
        self.gateway = GatewayProcess(
            self.simulator.url,
            [],
            workers="2",
            data_dir=str(self._folder / "data"),
            api_keys_file=str(self._keys_file),
            **{"probe_seconds": "300", **settings},
        )
        return self.gateway

    def write_keys(self, *secrets: str) -> None:
        fresh = self._keys_file.with_suffix(".new")
        fresh.write_text("".join(f"k{number}={secret}\n" for number, secret in enumerate(secrets)))
        os.utime(fresh, (0, 0))  # it is whole: the gateway need not wait to see whether it still changes
        fresh.rename(self._keys_file)

    def play(self, *scripts: str) -> None:
        for secret, script in zip(SECRETS, scripts, strict=True):
            self.simulator.script(secret, script)

    def ask(self, model: str = GRANTED) -> Answer:
        assert self.gateway is not None
        return self.gateway.request("POST", "/v1/messages", message(model=model))

    def asked(self, path: str) -> list[str]:
        """The keys that brought requests with this path, by name."""
        return [NAMES[SECRETS.index(seen.key)] for seen in self.simulator.requests if seen.path == path]

    def states(self) -> list[str]:
        return [str(key["state"]) for key in self.shown()]

    def are(self, *states: str) -> bool:
        """Whether the keys come to be in these states."""
        return wait_until(lambda: self.states() == list(states), PATIENT_SECONDS)

    def shown(self) -> list[dict[str, object]]:
        """What `gateway keys` says of them."""
        done = run_command(
            *("keys", "--json"),
            upstream_url=self.simulator.url,
            api_keys_file=self._keys_file,
            data_dir=self._folder / "data",
        )
        assert done.returncode == 0, done.stderr
        described: list[dict[str, object]] = json.loads(done.stdout)
        return described

    def looks(self, outcome: str) -> list[float]:
        """How many looks ended so, by key."""
        assert self.gateway is not None
        return [self.gateway.metric("key_looks_total", key=name, outcome=outcome) for name in NAMES]

    def close(self) -> None:
        if self.gateway is not None:
            log = self.gateway.stop()
            assert "Traceback" not in log
            assert not any(secret in log for secret in SECRETS)
        self.simulator.stop()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """One that is closed in the end."""
    members = (
        *(Organisation("org-a"), Organisation("org-b")),
        *(Workspace("wrkspc-a", "org-a"), Workspace("wrkspc-b", "org-b")),
        *(Key(SECRETS[0], "wrkspc-a"), Key(SECRETS[1], "wrkspc-b")),
    )
    scene = Scene(tmp_path, World(members))
    yield scene
    scene.close()


def lack(scene: Scene, *organisations: str) -> None:
    """These organisations may not use the one model."""
    for organisation in organisations:
        scene.simulator.world.change(organisation, lacks_models=frozenset({LACKED}))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"probe_seconds": "1"}, id="after a short first interval"),
        pytest.param({"probe_seconds": "300"}, id="sooner, for no key is usable"),
    ],
)
def test_keys_that_were_all_refused_come_back_by_themselves(scene: Scene, settings: dict[str, str]) -> None:
    """Given keys that all answer 401 for a while, when they are good again, then they serve without anybody's act."""
    gateway = scene.serve(**settings)
    scene.play("unauthorized", "unauthorized")
    assert scene.ask().status == 502
    assert scene.states() == ["retired", "retired"]
    scene.play("ok", "ok")
    assert wait_until(lambda: gateway.metric("key_state", key="k0", state="valid") == 1, PATIENT_SECONDS)
    assert scene.ask().status == 200
    gateway.wait_for_log("is valid again: the upstream accepts it")
    assert scene.looks("accepted")[0] >= 1


def test_request_that_every_key_is_forbidden_is_not_held_against_them(scene: Scene) -> None:
    """Given a model that no key may use, when it is asked for, then clients get the upstream's 403 unchanged, the keys
    are valid again, the same again marks nothing, and other requests are served."""
    lack(scene, "org-a", "org-b")
    gateway = scene.serve()
    answer = scene.ask(LACKED)
    body = json.loads(answer.body)
    assert answer.status == 403
    assert body["error"]["type"] == "permission_error"
    assert body["request_id"].startswith("req_sim_")
    assert scene.are("valid", "valid")
    assert scene.looks("accepted") == [1, 1]
    for _ in range(5):
        assert scene.ask(LACKED).status == 403
    assert scene.states() == ["valid", "valid"]
    assert scene.ask(GRANTED).status == 200
    assert scene.asked("/v1/models") == ["k0", "k1"]
    assert gateway.counted("key_transitions_total", key="k0", state="permanent") == 1
    gateway.wait_for_log("no other key answered the request that it was forbidden")


def test_key_that_lacks_a_model_cools_for_it_alone(scene: Scene) -> None:
    """Given a model that one organisation may not use, when it is asked for, then another one's key answers; the first
    key cools down for that model and serves the others."""
    lack(scene, "org-a")
    gateway = scene.serve()
    assert scene.ask(LACKED).status == 200
    gateway.wait_for_log("another key answered what it was forbidden")
    assert scene.looks("accepted") == [1, 0]
    scene.simulator.clear_requests()
    assert [scene.ask(LACKED).status for _ in range(3)] == [200] * 3
    assert scene.asked("/v1/messages") == ["k1"] * 3
    scene.simulator.clear_requests()
    assert [scene.ask(GRANTED).status for _ in range(3)] == [200] * 3
    assert scene.asked("/v1/messages") == ["k0"] * 3
    assert scene.states() == ["cooling down", "valid"]


@pytest.mark.parametrize("script", ["forbidden", "forbidden then unauthorized"])
def test_key_that_is_revoked_stays_retired(scene: Scene, script: str) -> None:
    """Given a key that is forbidden everything, or is revoked, when it is asked, then another answers, its look is
    refused, and it is asked no more."""
    gateway = scene.serve()
    scene.play(script, "ok")
    assert scene.ask().status == 200
    gateway.wait_for_log("it stays retired")
    assert scene.looks("refused") == [1, 0]
    assert scene.states() == ["retired", "valid"]
    scene.simulator.clear_requests()
    scene.play("ok", "unauthorized")
    answer = scene.ask()
    assert error_of(answer)[0] == 502  # the first one is no last resort any more
    assert scene.asked("/v1/messages") == ["k1"]


def test_request_does_not_wait_for_a_look(scene: Scene) -> None:
    """Given an upstream that never answers looks, when a key is forbidden something, then its requests are answered
    all the same, by it as the last resort."""
    scene.serve(read_idle_timeout_seconds="120")
    scene.play("forbidden then silent then ok", "ok then unauthorized")
    assert scene.ask().status == 200
    assert scene.simulator.wait_until(lambda: scene.asked("/v1/models") == ["k0"], PATIENT_SECONDS)
    assert scene.ask().status == 200
    assert scene.asked("/v1/messages") == ["k0", "k1", "k1", "k0"]


def test_places_are_learned_beside_serving(scene: Scene) -> None:
    """Given a gateway that starts, then each key is looked at once, by one worker, and everybody knows where it
    belongs; after a reload a new key is, alone."""
    gateway = scene.serve(SECRETS[0], probe_at_start="true")

    def placed() -> list[tuple[object, object]]:
        return [(key["organisation"], key["workspace"]) for key in scene.shown()]

    assert wait_until(lambda: placed() == [("org-a", "wrkspc-a")], PATIENT_SECONDS)
    scene.write_keys(*SECRETS)
    gateway.send_signal(signal.SIGHUP)
    assert wait_until(lambda: placed() == [("org-a", "wrkspc-a"), ("org-b", "wrkspc-b")], PATIENT_SECONDS)
    assert wait_until(lambda: scene.looks("accepted") == [1, 1], PATIENT_SECONDS)
    assert scene.asked("/v1/models") == ["k0", "k1"]
    assert len(scene.simulator.requests) == 2
    assert gateway.metric("key_attempts_total", key="k0", outcome="ok") == 0


def test_looks_end_with_the_gateway(scene: Scene) -> None:
    """Given a look under way that is not answered, when the gateway is told to stop, then it stops at once."""
    gateway = scene.serve(drain_seconds="300")
    scene.play("forbidden then silent", "ok")
    assert scene.ask().status == 200
    assert scene.simulator.wait_until(lambda: scene.asked("/v1/models") == ["k0"], PATIENT_SECONDS)
    gateway.stop()
