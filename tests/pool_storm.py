"""What the storms over a pool share: a world of organisations, what is asked of it, and what the upstream has told.

Owns: 8 keys over 3 organisations of two workspaces each, with random limits for each class of models; and the oracle's
memory: for which key and scope the upstream has told whom to wait until when, so that a refusal can be judged.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gateway.models.scopes import known_classes, messages_scope
from gateway.simulator import Asked, Key, Limit, Organisation, Workspace, World
from gateway.simulator.world import Cause

MODELS = ("claude-opus-4-8", "claude-sonnet-4-6", "claude-haiku-4-5")
ORGANISATIONS = ("org-a", "org-b", "org-c")
BETA, UNENTITLED = "context-1m-2025-08-07", "org-b"
WORKSPACES = tuple(f"{organisation}-ws{number}" for organisation in ORGANISATIONS for number in (1, 2))
KEYS = 8
_SIBLINGS_ENOUGH = 2


def scope_of(model: str) -> str:
    """The scope of a message for this model."""
    return messages_scope(known_classes().class_of(model), is_fast=False)


def storm_world(
    dice: random.Random, load: float, kind: type[World] = World, clock: Callable[[], float] | None = None
) -> World:
    """A world that is asked `load` times a second for each class, and whose limits allow about as much.

    Each organisation's limit is a random share of the load; of its workspaces, about one in two has a lower one of its
    own. Each workspace has one key at least. The window is 60 s, as the API's; `UNENTITLED` may not ask for `BETA`.
    """
    members: list[Organisation | Workspace | Key] = []
    limits = {scope_of(model): [dice.uniform(0.2, 0.45) * load for _ in ORGANISATIONS] for model in MODELS}
    for number, name in enumerate(ORGANISATIONS):
        lacks = frozenset({BETA}) if name == UNENTITLED else frozenset()
        mine = {scope: _limit(rates[number]) for scope, rates in limits.items()}
        members.append(Organisation(name, mine, lacks_betas=lacks))
    for name in WORKSPACES:
        rates = {scope: rates[ORGANISATIONS.index(name[:5])] for scope, rates in limits.items()}
        lower = {scope: _limit(rate * dice.uniform(0.4, 0.9)) for scope, rate in rates.items() if dice.random() < 0.5}
        members.append(Workspace(name, name[:5], lower))
    workspaces = [*WORKSPACES, *dice.choices(WORKSPACES, k=KEYS - len(WORKSPACES))]
    dice.shuffle(workspaces)
    members += [Key(f"sk-ant-storm-{number}-secret", name) for number, name in enumerate(workspaces)]
    return kind(members, **({"clock": clock} if clock is not None else {}))


def _limit(rate: float) -> Limit:
    """So many requests a second; the bucket starts with what comes back in two seconds, so that it drains soon."""
    return Limit(max(2, round(2 * rate)), 2.0)


def secrets_of(world: World) -> list[str]:
    """The keys' secrets in failover order."""
    return [member.id for member in world.members() if isinstance(member, Key)]


def wanted(dice: random.Random) -> Asked:
    """One of a storm's requests."""
    betas = frozenset({BETA}) if dice.random() < 0.05 else frozenset()
    return Asked(model=dice.choice(MODELS), betas=betas)


@dataclass(slots=True)
class Told:
    """What the upstream has told: from when until when a key is to cool down for a scope, and which keys are
    revoked."""

    owners: dict[str, tuple[str, str]]  # workspace and organisation, by the key's secret
    cooldowns: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    troubled: set[str] = field(default_factory=set)  # workspaces and organisations, for longer than any storm

    @classmethod
    def of(cls, world: World) -> Told:
        """Nothing, so far."""
        standings = {secret: world.standing(secret) for secret in secrets_of(world)}
        return cls({secret: (each.workspace_id, each.organisation_id) for secret, each in standings.items()})

    def note(self, secret: str, scope: str, cause: Cause | None, at: float, until_at: float) -> None:
        """A key was told this."""
        if cause is Cause.RATE_LIMITED:
            self.cooldowns.setdefault((secret, scope), []).append((at, until_at))
        elif cause is Cause.REVOKED:
            self.revoked.add(secret)
        elif cause in (Cause.OUT_OF_CREDIT, Cause.SPEND_LIMITED):
            self.troubled.add(self.owners[secret][1])
        elif cause in (Cause.WORKSPACE_SPEND_LIMITED, Cause.WORKSPACE_UNUSABLE):
            self.troubled.add(self.owners[secret][0])

    def is_troubled(self, secret: str) -> bool:
        """Whether the key's workspace or its organisation has no money, or cannot be used."""
        return not self.troubled.isdisjoint(self.owners[secret])

    def excuses(self, secret: str, scope: str, begins_at: float, ends_at: float) -> bool:
        """Whether this key need not have answered a request of that time: it is revoked, or was to cool down, or two of
        its workspace were, or it is in the same trouble as another."""
        if secret in self.revoked or self.is_troubled(secret) or self._rested(secret, scope, begins_at, ends_at):
            return True
        siblings = [other for other, (name, _) in self.owners.items() if name == self.owners[secret][0]]
        return sum(self._rested(other, scope, begins_at, ends_at) for other in siblings) >= _SIBLINGS_ENOUGH

    def cools_until(self, secret: str, scope: str) -> float:
        """The latest moment until which the key was told to cool down for that scope; 0 if it never was."""
        return max((until_at for _, until_at in self.cooldowns.get((secret, scope), ())), default=0.0)

    def _rested(self, secret: str, scope: str, begins_at: float, ends_at: float) -> bool:
        told: Iterable[tuple[float, float]] = self.cooldowns.get((secret, scope), ())
        return any(at <= ends_at and until_at > begins_at for at, until_at in told)
