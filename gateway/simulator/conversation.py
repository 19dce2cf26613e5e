"""The life of one connection: request after request, each answered as the playbook and the world say.

The way of a request: head -> control route, or key -> behaviour -> body -> the world's ruling -> journal ->
the behaviour's steps. One thread per connection runs it.
"""

import contextlib
import time

from gateway.simulator.answers import Ok
from gateway.simulator.behaviour import Behaviour
from gateway.simulator.bill import Bill
from gateway.simulator.charge import Charge
from gateway.simulator.control import CONTROL_PREFIX, Control
from gateway.simulator.framing import head as answer_head
from gateway.simulator.grammar import ScriptError
from gateway.simulator.journal import Journal
from gateway.simulator.message import to_json
from gateway.simulator.playbook import Playbook, parse_script
from gateway.simulator.refusals import BadRequest, MethodNotAllowed, NotFound, Unauthorized
from gateway.simulator.routes import route_of
from gateway.simulator.rulings import ruled
from gateway.simulator.seen import SeenRequest
from gateway.simulator.steps import Close, Pause, Reset, Send, Stall
from gateway.simulator.wire import MalformedRequestError, PeerGoneError, RequestHead, Wire
from gateway.simulator.world import World

SCRIPT_HEADER = "x-simulator-script"


class Conversation:
    """Serves one connection until either side ends it."""

    def __init__(
        self, wire: Wire, playbook: Playbook, world: World, journal: Journal, bill: Bill, control: Control
    ) -> None:
        self._wire = wire
        self._playbook = playbook
        self._world = world
        self._journal = journal
        self._bill = bill
        self._control = control
        self._is_counted = False

    def run(self) -> None:
        """Returns when the connection is closed; nothing is raised that a peer can cause."""
        self._journal.connection_opened()
        self._is_counted = True
        try:
            self._wire.handshake()
            while self._serve_one():
                pass
        except PeerGoneError:
            pass
        except MalformedRequestError as error:
            self._refuse_malformed(str(error))
        finally:
            self._wire.close()
            if self._is_counted:
                self._journal.connection_closed()

    def _serve_one(self) -> bool:
        """Answers one request; whether the connection lives on."""
        head = self._wire.read_head()
        if head is None:
            return False
        now, now_epoch = time.monotonic(), time.time()
        if head.target.startswith(CONTROL_PREFIX):
            return self._serve_control(head)
        path, _, query = head.target.partition("?")
        key = _key_of(head)
        behaviour = self._choose(head, path, key)
        body = self._wire.read_body(head) if behaviour.reads_body else b""
        request = SeenRequest(
            index=-1,
            key=key,
            method=head.method,
            path=path,
            query=query,
            headers=head.headers,
            body=body,
            arrived_at=now,
            arrived_at_epoch=now_epoch,
            version=head.version,
        )
        behaviour, request = ruled(self._world, behaviour, request)
        request = self._journal.record(request)
        try:
            return self._play(behaviour, request)
        finally:
            self._bill.end(request)

    def _choose(self, head: RequestHead, path: str, key: str) -> Behaviour:
        """A wrong path, method or key gets what the API gives; only others use up a step."""
        route = route_of(path)
        if route is None:
            return NotFound()
        if route.method != head.method:
            return MethodNotAllowed()
        scripted = self._playbook.take(key) or Unauthorized()
        own = head.header(SCRIPT_HEADER)
        return _own_behaviour(own) if own and isinstance(scripted, Ok) else scripted

    def _play(self, behaviour: Behaviour, request: SeenRequest) -> bool:
        for step in behaviour.plan(request):
            match step:
                case Send(data):
                    self._wire.send(data)
                case Charge():
                    self._bill.charge(request, step)
                case Pause(seconds):
                    self._wire.stay_silent(seconds)
                case Stall():
                    self._wire.stay_silent(None)
                case Close(is_ragged):
                    self._wire.end(is_ragged)
                    return False
                case Reset():
                    self._wire.reset()
                    return False
        if request.is_last_on_its_connection or not behaviour.reads_body:
            self._wire.end(is_ragged=False)
            return False
        return True

    def _serve_control(self, head: RequestHead) -> bool:
        if self._is_counted:
            self._journal.connection_disregarded()
            self._is_counted = False
        body = self._wire.read_body(head)
        status, document = self._control.answer(head.method, head.target, body)
        payload = to_json(document) + b"\n"
        headers = [("content-type", "application/json"), ("content-length", str(len(payload)))]
        self._wire.send(answer_head(status, headers, time.time()) + payload)
        return "close" not in head.header("connection").lower()

    def _refuse_malformed(self, why: str) -> None:
        now_epoch = time.time()
        request = SeenRequest(-1, "", "", "", "", [], b"", time.monotonic(), now_epoch)
        with contextlib.suppress(PeerGoneError):
            self._play(BadRequest(message=why, framing="close"), request)


def _own_behaviour(script: str) -> Behaviour:
    """The one step that a request brings along."""
    try:
        [(behaviour, _)] = parse_script(script).steps
    except ScriptError as error:
        return BadRequest(message=f"{SCRIPT_HEADER}: {error}")
    except ValueError:
        return BadRequest(message=f"{SCRIPT_HEADER} wants one step")
    return behaviour


def _key_of(head: RequestHead) -> str:
    """The secret as sent, in `x-api-key` or else as a Bearer token."""
    if key := head.header("x-api-key"):
        return key
    scheme, _, token = head.header("authorization").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
