"""Who gets which behaviour next: a script per key, or one script by order of arrival.

Every connection's thread takes from it, and the control routes change it; one lock guards all of
it.
"""

import threading
from dataclasses import dataclass

from gateway.simulator.behaviour import Behaviour
from gateway.simulator.catalogue import build
from gateway.simulator.grammar import ScriptText, parse_steps


@dataclass(frozen=True, slots=True)
class Script:
    """Behaviours in a row, each so many times; the last one for ever."""

    text: str
    steps: tuple[tuple[Behaviour, int], ...]


def parse_script(script: ScriptText) -> Script:
    """A script from its text.

    Raises: ScriptError.
    """
    steps = tuple((build(step), step.count) for step in parse_steps(script))
    return Script(script if isinstance(script, str) else " then ".join(script), steps)


@dataclass(frozen=True, slots=True)
class KnownKey:
    """What may be shown of a key: `hint` is its secret, masked."""

    name: str
    hint: str
    script: str
    requests: int


class _Playback:
    """A script and how far it has been played. Not thread-safe: the playbook's lock guards it."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.taken = 0
        self._step = 0
        self._used = 0

    def take(self) -> Behaviour:
        behaviour, count = self.script.steps[self._step]
        self.taken += 1
        self._used += 1
        if self._used >= count and self._step < len(self.script.steps) - 1:
            self._step += 1
            self._used = 0
        return behaviour


class Playbook:
    """The scripts of all keys; `for_any_key` is what keys without one play, None refuses them."""

    def __init__(self, for_any_key: Script | None = None) -> None:
        self._for_any_key = for_any_key
        # Guards everything below.
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}
        self._scripts: dict[str, _Playback] = {}
        self._order: _Playback | None = None

    def set_key(self, secret: str, script: Script, name: str = "") -> None:
        """Starts a script for a key, a known or a new one; an unnamed new key is `key-N`."""
        with self._lock:
            self._add(secret, script, name)

    def set_order(self, script: Script | None) -> None:
        """Starts a script for all known keys together; None goes back to each key's own."""
        with self._lock:
            self._order = _Playback(script) if script else None

    def take(self, secret: str) -> Behaviour | None:
        """The next behaviour for a request with that key; None when the key is not known."""
        with self._lock:
            playback = self._scripts.get(secret)
            if playback is None:
                if self._for_any_key is None or not secret:
                    return None
                playback = self._add(secret, self._for_any_key, "")
            if self._order is not None:
                return self._order.take()
            return playback.take()

    def name_of(self, secret: str) -> str:
        """The key's name, "" when it is not known."""
        with self._lock:
            return self._names.get(secret, "")

    def secret_of(self, name_or_secret: str) -> str | None:
        """The secret of the key of that name (or of that secret)."""
        with self._lock:
            if name_or_secret in self._scripts:
                return name_or_secret
            return next((key for key, name in self._names.items() if name == name_or_secret), None)

    def known_keys(self) -> list[KnownKey]:
        """Every key in the order of adding; `requests` counts the steps taken of its script."""
        with self._lock:
            return [
                KnownKey(self._names[secret], hint(secret), playback.script.text, playback.taken)
                for secret, playback in self._scripts.items()
            ]

    def _add(self, secret: str, script: Script, name: str) -> _Playback:
        if secret not in self._names:
            self._names[secret] = name or f"key-{len(self._names) + 1}"
        playback = self._scripts[secret] = _Playback(script)
        return playback


def hint(secret: str) -> str:
    """A secret masked for showing."""
    if len(secret) < 12:
        return secret[:3] + "…" if secret else ""
    return f"{secret[:7]}…{secret[-4:]}"
