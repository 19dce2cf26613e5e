"""The routes under `/_simulator/`: what was seen, and what each key and its world do from now on.

Secrets are shown as hints only, in headers as well: an operator may have sent a real key by
mistake. Any thread.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from urllib.parse import unquote

from gateway.simulator.bill import Bill, Line
from gateway.simulator.journal import Entry, Journal
from gateway.simulator.members import Key, Member, Workspace, read_settings, show_member
from gateway.simulator.playbook import Playbook, hint, parse_script
from gateway.simulator.world import World

CONTROL_PREFIX = "/_simulator/"

Answer = tuple[int, dict[str, Any]]

_AMOUNTS = ("picodollars", "incomplete_picodollars", "unpriced")
_SECRET_HEADERS = ("x-api-key", "authorization", "x-gateway-token", "cookie")


class Control:
    """Answers control requests from the playbook, the world, the journal and the bill."""

    def __init__(self, playbook: Playbook, world: World, journal: Journal, bill: Bill) -> None:
        self._playbook = playbook
        self._world = world
        self._journal = journal
        self._bill = bill
        self._routes: dict[tuple[str, str], Callable[[str, bytes], Answer]] = {
            ("GET", "requests"): self._show_requests,
            ("DELETE", "requests"): self._clear_requests,
            ("GET", "connections"): self._show_connections,
            ("GET", "keys"): self._show_keys,
            ("PUT", "keys"): self._script_key,
            ("PUT", "order"): self._script_order,
            ("DELETE", "order"): self._clear_order,
            ("GET", "world"): self._show_world,
            ("PUT", "world"): self._change_world,
            ("GET", "bill"): self._show_bill,
        }

    def answer(self, method: str, target: str, body: bytes) -> Answer:
        """Status and document for a request whose target begins with the prefix."""
        path = target.partition("?")[0].removeprefix(CONTROL_PREFIX)
        resource, _, name = path.partition("/")
        route = self._routes.get((method, resource))
        if route is None:
            known = [f"{verb} {CONTROL_PREFIX}{noun}" for verb, noun in self._routes]
            return 404, {"error": f"no such control route; there are {', '.join(known)}"}
        return route(unquote(name), body)

    def _show_requests(self, _name: str, _body: bytes) -> Answer:
        return 200, {"requests": [self._shown(entry) for entry in self._journal.entries()]}

    def _clear_requests(self, _name: str, _body: bytes) -> Answer:
        self._journal.clear()
        return 200, {"requests": []}

    def _show_connections(self, _name: str, _body: bytes) -> Answer:
        counts = self._journal.connections()
        return 200, {"open": counts.open, "opened": counts.opened}

    def _show_keys(self, _name: str, _body: bytes) -> Answer:
        keys = [
            {"name": key.name, "hint": key.hint, "script": key.script, "requests": key.requests}
            for key in self._playbook.known_keys()
        ]
        return 200, {"keys": keys}

    def _script_key(self, name: str, body: bytes) -> Answer:
        secret = self._playbook.secret_of(name)
        if secret is None:
            names = ", ".join(key.name for key in self._playbook.known_keys())
            return 404, {"error": f"no key is called {name!r}; there are {names}"}
        try:
            script = parse_script(body.decode())
        except ValueError as error:
            return 400, {"error": str(error)}
        self._playbook.set_key(secret, script)
        return 200, {"name": self._playbook.name_of(secret), "script": script.text}

    def _script_order(self, _name: str, body: bytes) -> Answer:
        try:
            script = parse_script(body.decode())
        except ValueError as error:
            return 400, {"error": str(error)}
        self._playbook.set_order(script)
        return 200, {"order": script.text}

    def _clear_order(self, _name: str, _body: bytes) -> Answer:
        self._playbook.set_order(None)
        return 200, {"order": None}

    def _show_world(self, _name: str, _body: bytes) -> Answer:
        counts, cached = self._world.counts(), self._world.cached()
        return 200, {
            "members": [self._shown_member(member) for member in self._world.members()],
            "attempts": counts.attempts,
            "refusals": dict(counts.refusals),
            "cache_read_input_tokens": cached.read,
            "cache_creation_input_tokens": cached.written,
        }

    def _change_world(self, name: str, body: bytes) -> Answer:
        member_id = name if self._world.member(name) else self._playbook.secret_of(name) or ""
        member = self._world.member(member_id)
        if member is None:
            return 404, {"error": f"nobody in the world is called {name!r}; GET {CONTROL_PREFIX}world shows all"}
        try:
            settings = read_settings(type(member), json.loads(body), name)
            return 200, self._shown_member(self._world.change(member_id, **settings))
        except ValueError as error:
            return 400, {"error": str(error)}

    def _show_bill(self, name: str, _body: bytes) -> Answer:
        if name == "answers":
            return 200, {"answers": [self._shown_line(line) for line in self._bill.lines()]}
        if name:
            return 404, {"error": f"there are {CONTROL_PREFIX}bill and {CONTROL_PREFIX}bill/answers"}
        shown = []
        for account, amounts in self._bill.sums().items():
            whose = {"key": self._playbook.name_of(account.key), "model": account.model, "day": account.day}
            shown.append(whose | asdict(amounts))
        total = {what: sum(each[what] for each in shown) for what in _AMOUNTS}
        return 200, {"sums": shown, "total": total}

    def _shown_line(self, line: Line) -> dict[str, Any]:
        return {
            "request_id": line.request_id,
            "key": self._playbook.name_of(line.key),
            "model": line.model,
            "day": line.day,
            "is_complete": line.is_complete,
            "picodollars": line.picodollars,
            "parts": [asdict(part) for part in line.parts],
        }

    def _shown_member(self, member: Member) -> dict[str, Any]:
        """A member as it is, and how it has fared: what a key was asked, what a workspace's cache has saved."""
        shown: dict[str, Any] = {"kind": type(member).__name__.lower(), "name": member.id, **show_member(member)}
        if isinstance(member, Key):
            counts = self._world.counts(member.id)
            shown["name"] = self._playbook.name_of(member.id)
            return {**shown, "attempts": counts.attempts, "refusals": dict(counts.refusals)}
        if isinstance(member, Workspace):
            cached = self._world.cached(member.id)
            tokens = {"cache_read_input_tokens": cached.read, "cache_creation_input_tokens": cached.written}
            return {**shown, **tokens}
        return shown

    def _shown(self, entry: Entry) -> dict[str, Any]:
        request = entry.request
        return {
            "index": request.index,
            "key": self._playbook.name_of(request.key) or None,
            "key_hint": hint(request.key),
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "headers": [[name, _masked(name, value)] for name, value in request.headers],
            "body_bytes": entry.body_bytes,
            "body_sha256": entry.body_sha256,
            "arrived_at_epoch": request.arrived_at_epoch,
        }


def _masked(name: str, value: str) -> str:
    if name.lower() not in _SECRET_HEADERS:
        return value
    scheme, space, token = value.rpartition(" ")
    return f"{scheme}{space}{hint(token)}"
