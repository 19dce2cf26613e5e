"""The simulator as one object: playbook, world, journal, control and server wired together."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from gateway.simulator.bill import Bill
from gateway.simulator.control import Control
from gateway.simulator.conversation import Conversation
from gateway.simulator.grammar import ScriptText
from gateway.simulator.journal import Journal
from gateway.simulator.members import Key
from gateway.simulator.playbook import Playbook, parse_script
from gateway.simulator.seen import SeenRequest
from gateway.simulator.server import Server
from gateway.simulator.tls import server_context
from gateway.simulator.wire import Wire
from gateway.simulator.world import World


class Simulator:
    """An upstream that does what its scripts say. Every method may be called from any thread."""

    def __init__(
        self,
        keys: Mapping[str, ScriptText] | None = None,
        *,
        world: World | None = None,
        tls: bool = False,
        tls_dir: Path | None = None,
        any_key: bool | ScriptText = False,
        host: str = "127.0.0.1",
        port: int = 0,
        journal_limit: int = 100_000,
        keep_bodies: bool = True,
    ) -> None:
        """`any_key` lets unknown keys in, to play `ok` or its script; `tls_dir` gets `ca.pem`.

        The world's keys are known, too; those without a script at the start play `ok`.

        Raises: ScriptError.
        """
        any_script = None if any_key is False else parse_script("ok" if any_key is True else any_key)
        self._host = host
        self._port = port
        self._playbook = Playbook(any_script)
        self._journal = Journal(journal_limit, keep_bodies)
        self._world = world or World()
        self._bill = Bill(journal_limit)
        self._control = Control(self._playbook, self._world, self._journal, self._bill)
        self._has_tls = tls
        self._tls_dir = tls_dir
        self._own_tls_dir: tempfile.TemporaryDirectory[str] | None = None
        self._ca_file: Path | None = None
        self._server: Server | None = None
        for secret, script in (keys or {}).items():
            self.script(secret, script)

    def start(self) -> None:
        """Binds and serves; once.

        Raises: OSError when the address cannot be had, TlsUnavailableError.
        """
        for member in self._world.members():
            if isinstance(member, Key) and self._playbook.secret_of(member.id) is None:
                self.script(member.id, "ok")
        context = None
        if self._has_tls:
            if self._tls_dir is None:
                self._own_tls_dir = tempfile.TemporaryDirectory(prefix="simulator-tls-")
                self._tls_dir = Path(self._own_tls_dir.name)
            self._ca_file = self._tls_dir / "ca.pem"
            context = server_context(self._ca_file, self._host)
        self._server = Server(self._host, self._port, context, self._serve)
        self._server.start()

    def stop(self) -> None:
        """Ends every connection, also those that stall, and waits for their threads; idempotent."""
        if self._server is not None:
            self._server.stop()
        if self._own_tls_dir is not None:
            self._own_tls_dir.cleanup()

    def __enter__(self) -> Simulator:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end; over TLS by the name `localhost`."""
        if self._server is None:
            raise RuntimeError("the simulator is not started")
        host = f"[{self._host}]" if ":" in self._host else self._host
        if self._has_tls and host in ("127.0.0.1", "[::1]"):
            host = "localhost"
        return f"{'https' if self._has_tls else 'http'}://{host}:{self._server.port}"

    @property
    def ca_file(self) -> str:
        """The path of the authority's certificate, "" without TLS."""
        return str(self._ca_file or "")

    def script(self, secret: str, script: ScriptText, name: str = "") -> None:
        """From now on this key, known or new, plays this script from its start.

        Raises: ScriptError.
        """
        self._playbook.set_key(secret, parse_script(script), name)

    def order(self, *scripts: str) -> None:
        """From now on requests play this script as they arrive, whichever known key they bring.

        Without a script, each key goes on with its own. Raises: ScriptError.
        """
        self._playbook.set_order(parse_script(scripts) if scripts else None)

    @property
    def world(self) -> World:
        """What keys belong to; an empty one unless one was given."""
        return self._world

    @property
    def bill(self) -> Bill:
        """What the API would charge for all answers so far."""
        return self._bill

    @property
    def requests(self) -> list[SeenRequest]:
        """Every request so far, in order."""
        return [entry.request for entry in self._journal.entries()]

    @property
    def keys_seen(self) -> list[str]:
        """The secret of every request so far, in order."""
        return [request.key for request in self.requests]

    def clear_requests(self) -> None:
        """Forgets the requests so far."""
        self._journal.clear()

    @property
    def open_connections(self) -> int:
        """TCP connections open now."""
        return self._journal.connections().open

    @property
    def opened_connections(self) -> int:
        """TCP connections accepted so far."""
        return self._journal.connections().opened

    def wait_until(self, predicate: Callable[[], bool], timeout_seconds: float) -> bool:
        """Waits until the predicate holds, asked again whenever the journal changes."""
        return self._journal.wait_until(predicate, timeout_seconds)

    def _serve(self, wire: Wire) -> None:
        Conversation(wire, self._playbook, self._world, self._journal, self._bill, self._control).run()
