"""Things that go wrong on purpose: one gateway for each, and the alerts that are about it.

Owns: a trouble's gateway, how it begins, what its clients do meanwhile, how it is mended. Nothing here knows the rules.
"""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from gateway.simulator import Simulator
from tests.e2e.clients import Client, ask, message_body
from tests.e2e.fleet import SOON_SECONDS, Fleet, KeysFile
from tests.harness import wait_until
from tests.ports import free_port
from tests.stores.redis_server import RedisServer

LONG = "rate_limited:retry-after=600"
# The simulator's model has no price of its own, which is a trouble by itself.
_PRICES = """[[price]]
model = "claude-simulated"
from = 2026-01-01
input = 1
cache_write_5m = 1.25
cache_write_1h = 2
cache_read = 0.10
output = 5
"""


class Trouble(ABC):
    """One gateway of one worker, and its upstream, scraped as a job of its own; it has so many keys."""

    job: ClassVar[str]
    alerts: ClassVar[set[str]]
    key_count: ClassVar[int] = 2

    def __init__(self, folder: Path) -> None:
        self._simulator = Simulator()
        self._simulator.start()
        self.keys = KeysFile(self._simulator, folder)
        self.keys.renew(*["ok"] * self.key_count)
        prices = folder / "prices.toml"
        prices.write_text(_PRICES)
        settings = {"prices_file": prices, **self.settings()}
        self.fleet = Fleet(self._simulator, self.keys, folder / "data", workers=1, **settings)

    def settings(self) -> dict[str, object]:
        """What its gateway is set to."""
        return {"bind": f"127.0.0.1:{free_port()}"}

    @property
    def address(self) -> str:
        """Where Prometheus finds it."""
        return f"127.0.0.1:{self.fleet.gateway.port}"

    @abstractmethod
    def begin(self) -> None:
        """Let it go wrong."""

    def tick(self) -> None:
        """What its clients do, a few times a second, before, meanwhile and after."""
        for is_streamed in (True, False):
            ask(self.fleet.gateway.url, message_body(is_streamed))

    @abstractmethod
    def mend(self) -> None:
        """Put it right, as the runbook says."""

    def stop(self) -> None:
        """End the gateway, streams and all, and what it leans on."""
        self.fleet.gateway.stop(signal.SIGQUIT)
        self._simulator.stop()

    def enable_keys(self) -> None:
        """The operator's hand: every key is good again, and valid."""
        self.keys.play(*["ok"] * len(self.keys.names))
        for name in self.keys.names:
            self.fleet.command("enable", name)


class Stopped(Trouble):
    """A good gateway ends, and is started again."""

    job = "gateway"
    alerts: ClassVar = {"GatewayDown"}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._is_up = True

    def begin(self) -> None:
        self._is_up = False
        self.fleet.gateway.stop()

    def tick(self) -> None:
        if self._is_up:
            super().tick()

    def mend(self) -> None:
        self.fleet.start()
        self._is_up = True


class KeysLost(Trouble):
    """Of three keys one is revoked and one limited for long."""

    job = "keys"
    alerts: ClassVar = {"GatewayKeyRetired", "GatewayOneKeyLeft"}
    key_count = 3

    def begin(self) -> None:
        self.keys.play("unauthorized", LONG, "ok")

    def mend(self) -> None:
        self.enable_keys()


class AllLimited(Trouble):
    """All keys are limited for long."""

    job = "limited"
    alerts: ClassVar = {"GatewayNoValidKey", "GatewayPoolExhausted"}

    def begin(self) -> None:
        self.keys.play(LONG, LONG)

    def mend(self) -> None:
        self.enable_keys()


class BadUpstream(Trouble):
    """The first key is limited over and over for a moment; the second one's answers fail, break off or turn bad."""

    job = "upstream"
    alerts: ClassVar = {"GatewayFailoverRate", "GatewayErrorRate", "GatewayTruncationRate"}

    def settings(self) -> dict[str, object]:
        return {**super().settings(), "probe_at_start": "true"}  # looks are on the dashboard, too

    def begin(self) -> None:
        bad = ["server_error", "cut:after=6", "error_event:after=3"] * 500  # three, as streamed and whole take turns
        self.keys.play("rate_limited:retry-after-ms=20", " then ".join(bad))

    def mend(self) -> None:
        self.keys.play("ok", "ok")


class SlowUpstream(Trouble):
    """Every stream waits for its first event longer than anybody likes."""

    job = "slow"
    alerts: ClassVar = {"GatewaySlowFirstEvent"}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._is_slow = False
        self._waiting = ExitStack()

    def settings(self) -> dict[str, object]:
        return {"threads": 512}

    def begin(self) -> None:
        self.keys.play("slow_head:seconds=11", "slow_head:seconds=11")
        self._is_slow = True

    def tick(self) -> None:
        if self._is_slow:
            client = self._waiting.enter_context(Client(self.fleet.gateway.url))
            client.send(message_body(True))
        else:
            super().tick()

    def mend(self) -> None:
        self.keys.play("ok", "ok")
        self._is_slow = False
        self._waiting.close()

    def stop(self) -> None:
        self._waiting.close()
        super().stop()


class Full(Trouble):
    """Streams that do not end take every slot, and others ask."""

    job = "full"
    alerts: ClassVar = {"GatewaySaturated", "GatewayOverloaded"}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._streams = ExitStack()

    def settings(self) -> dict[str, object]:
        return {"threads": 8, "reserved_threads": 4}

    def begin(self) -> None:
        self.keys.play("stall:after=4", "stall:after=4")
        for _ in range(4):
            client = self._streams.enter_context(Client(self.fleet.gateway.url))
            client.send(message_body(True))
            assert client.read_head().status == 200

    def mend(self) -> None:
        self.keys.play("ok", "ok")
        self._streams.close()

    def stop(self) -> None:
        self._streams.close()
        super().stop()


class Cut(Trouble):
    """Redis is away, and a broken file is to be read."""

    job = "shared"
    alerts: ClassVar = {"GatewayStoreDown", "GatewayReloadFailed"}

    def settings(self) -> dict[str, object]:
        self._redis = RedisServer()
        return {"state_url": self._redis.url}

    def begin(self) -> None:
        self._redis.kill()
        self._good = self.keys.path.read_text()
        self.keys.path.write_text("one=sk-sim-twice\ntwo=sk-sim-twice\n")
        self._hang_up("reload refused")

    def mend(self) -> None:
        self._redis.start()
        self.keys.path.write_text(self._good)
        self._hang_up("configuration reloaded")

    def stop(self) -> None:
        super().stop()
        self._redis.stop()

    def _hang_up(self, answer: str) -> None:
        before = self.fleet.gateway.log.count(answer)
        self.fleet.gateway.send_signal(signal.SIGHUP)
        assert wait_until(lambda: self.fleet.gateway.log.count(answer) > before, SOON_SECONDS)


COMMON_TROUBLES: tuple[type[Trouble], ...] = (Stopped, KeysLost, AllLimited, BadUpstream, SlowUpstream, Full, Cut)
