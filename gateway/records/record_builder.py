"""One request's builder: what is known of an interception while it runs, and its record at the end.

Owns: the facts, in the order in which they come in. Values only; belongs to whoever runs the request. Whoever
learns a fact tells it here: the routes who asks and for what, the turns their attempts, the walk the keys it passed
over, the interception how it ended. Nothing here waits, logs or counts. Of what a client or an upstream wrote
only short words of an expected form are kept, and what an error of the gateway's quotes, made safe.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

from gateway.access.authentication import Caller
from gateway.access.client_info import Client
from gateway.access.credential import Key
from gateway.keys.standing import Doubt, KeyState, KeyStatus
from gateway.keys.verdict import Verdict
from gateway.pricing.prices import PriceList
from gateway.protocol.errors import ClientGone, GatewayError, UpstreamError
from gateway.protocol.messages import Tally
from gateway.protocol.outcomes import ABANDONED, Ending, ending_of
from gateway.records.interception_record import Attempt, InterceptionRecord, PassedOver, ToolCall, TurnUsage
from gateway.records.record_words import plain, usage_of, word

_DAY_SECONDS = 86_400
_DOUBTS = {Doubt.WORKSPACE: "doubtful_workspace", Doubt.ORGANISATION: "doubtful_organisation"}


class RecordBuilder:
    """Of the interception that `id` names. `clock` is monotonic, `wall_clock` gives epoch seconds.

    `prices` are those in force when the request came.
    """

    def __init__(
        self,
        id: str,
        route: str,
        caller: Caller,
        client: Client,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        prices: PriceList,
    ) -> None:
        self._id = id
        self._route = route
        self._caller = caller
        self._client = client
        self._clock = clock
        self._wall_clock = wall_clock
        self._prices = prices if not caller.own else None  # a client's own credential pays elsewhere
        self._began_at = clock()
        self._started_at = wall_clock()
        self._model: str | None = None
        self._body: bytes | None = None
        self._session = client.session
        self._is_streamed = False
        self._first_event_seconds: float | None = None
        self._ending: Ending | None = None
        self._error: str | None = None
        self._request_id = id
        self.upstream_id: str | None = None  # of the attempt made last
        self._hint = caller.own[0].secret.hint if caller.own else None
        self._turn = 0
        self._key: str | None = None
        self._attempt: _OpenAttempt | None = None
        self._passed_over: list[PassedOver] = []
        self._attempts: list[Attempt] = []
        self._answers: list[tuple[int, str | None, Tally]] = []
        self._usage: tuple[TurnUsage, ...] | None = None
        self._injected_calls: dict[tuple[int, str], tuple[str, int | None, float | None]] = {}

    @property
    def name(self) -> str:
        """How the log names the request: by its own id, with the upstream's for the last attempt once that is known."""
        return self._id if self.upstream_id is None else f"{self._id} (upstream {self.upstream_id})"

    # The request.

    def asked(self, model: str, is_streamed: bool, session: str | None, body: bytes | None = None) -> None:
        """The body is there: what it asks for, and the session that it names.

        `body` is that of a request that costs: by it, the cost of an answer that nobody waited for is guessed.
        """
        self._model = word(model)
        self._body = body
        self._is_streamed = is_streamed
        self._session = self._session or session

    @property
    def model(self) -> str | None:
        """The model that the request asks for."""
        return self._model

    @property
    def session(self) -> str | None:
        """The session that the request names."""
        return self._session

    # The walk and its attempts.

    def passed_over(self, status: KeyStatus, *, is_barred: bool = False, is_elsewhere: bool = False) -> None:
        """A walk has looked at a key and not tried it.

        `is_barred`: its organisation may not make this request; `is_elsewhere`: the session stays with another
        workspace.
        """
        if any(seen.turn == self._turn and seen.key == status.key.name for seen in self._passed_over):
            return
        record = status.record
        if record.is_disabled:
            state = "disabled"
        elif status.state is not KeyState.VALID:
            state = status.state.value
        elif is_barred:
            state = "not_entitled"
        elif status.doubt is not Doubt.NONE:
            state = _DOUBTS[status.doubt]
        else:
            state = "pinned_elsewhere" if is_elsewhere and not status.is_leased else "on_trial"
        reason, http_status = (record.reason, record.status) if status.is_marked else ("", 0)
        concern = "siblings" if status.is_shared_cooldown else status.concern.value
        self._passed_over.append(
            PassedOver(self._turn, status.key.name, state, reason, http_status, status.remaining_seconds, concern)
        )

    def attempt_began(self, key: Key | None) -> None:
        """A request goes upstream; `key` is None for the client's own credential."""
        self.upstream_id = None
        self._attempt = _OpenAttempt(key.name if key is not None else None, self._elapsed())
        if key is not None:
            self._hint = key.hint

    def not_sent(self) -> None:
        """The attempt has ended before the upstream had all of the request."""
        if self._attempt is not None:
            self._attempt.is_at_work = False

    def answered(self, status: int, request_id: str | None) -> None:
        """The attempt's answer has begun: its status and the upstream's id for it."""
        self.upstream_id = word(request_id) if request_id is not None else None
        if self._attempt is not None:
            self._attempt.status = status
            self._attempt.is_at_work = status < 400
            self._attempt.request_id = self.upstream_id

    def attempt_ended(self, verdict: Verdict) -> None:
        """The attempt has ended, with an answer or a transport error."""
        is_key_s = (
            self._attempt is not None and self._attempt.key is not None
        )  # a client's own credential never cools down
        cooldown_seconds = verdict.cooldown_seconds if is_key_s and verdict.cools else 0.0
        self._close_attempt(verdict.outcome.value, cooldown_seconds)

    def turn_obtained(self, tally: Tally) -> None:
        """A turn has its answer; `tally` goes on growing with it."""
        self._answers.append((self._turn, self._key, tally))
        self._body = None  # it may be large, and a stream long
        self._turn += 1

    # The answer.

    def head_sent(self, request_id: str) -> None:
        """The client is told this id."""
        self._request_id = word(request_id)

    def first_event(self) -> None:
        """The first event goes to the client."""
        if self._first_event_seconds is None:
            self._first_event_seconds = self._elapsed()

    def tool_called(
        self, call_id: str, outcome: str, result_bytes: int | None = None, duration_seconds: float | None = None
    ) -> None:
        """The call of an injected tool for the `tool_use` block of this id has ended, or was never made."""
        self._injected_calls[self._turn - 1, call_id] = (outcome, result_bytes, duration_seconds)

    def stream_ended(self, ending: Ending, error: GatewayError | None = None) -> None:
        """A stream that had begun has ended so, with this error of the gateway's if there was one."""
        if error is not None:
            self.failed(error)
        if error is None or isinstance(error, UpstreamError):
            self._ending = ending

    def failed(self, error: GatewayError | ClientGone) -> None:
        """The request ends with an error of the gateway's own making, or without anybody to answer."""
        self._ending = ending_of(error)
        if isinstance(error, GatewayError):
            self._error = plain(f"{error.kind}: {error.message}")

    def finished(self, status: int) -> InterceptionRecord:
        """The request is over; everything that is known of it."""
        self._abandon()
        upstreams_error = self._upstreams_error()
        own_ending = Ending.UPSTREAM_ERROR if status >= 400 or upstreams_error else Ending.COMPLETED
        ending = self._ending or own_ending
        return InterceptionRecord(
            id=self._id,
            route=self._route,
            started_at=self._started_at,
            day=_day(self._started_at // _DAY_SECONDS),
            duration_seconds=self._elapsed(),
            outcome=ending.value,
            status=status,
            request_id=self._request_id,
            credential=self._caller.credential.value,
            token=self._caller.token_name,
            key=self._key,
            hint=self._hint,
            client=self._client.program,
            client_version=self._client.version,
            session=self._session,
            trace_id=self._client.trace_id,
            model=self._model,
            is_streamed=self._is_streamed,
            first_event_seconds=self._first_event_seconds,
            error=self._error or upstreams_error,
            passed_over=tuple(self._passed_over),
            attempts=tuple(self._attempts),
            usage=self.settled(),
            tool_calls=tuple(self._tool_calls()),
            token_group=self._caller.token_group,
        )

    def _elapsed(self) -> float:
        return self._clock() - self._began_at

    def _abandon(self) -> None:
        """Nobody waits for the answer any longer. If the upstream was at work on it, then hardly for nothing."""
        if self._attempt is not None and self._attempt.is_at_work and self._body is not None:
            self._answers.append((self._turn, self._attempt.key, Tally.of_lost_answer(self._model, self._body)))
        self._close_attempt(ABANDONED, 0.0)

    def _close_attempt(self, outcome: str, cooldown_seconds: float) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        self._key = attempt.key
        self._attempts.append(
            Attempt(
                turn=self._turn,
                key=attempt.key,
                outcome=outcome,
                status=attempt.status,
                cooldown_seconds=cooldown_seconds,
                after_seconds=attempt.after_seconds,
                duration_seconds=self._elapsed() - attempt.after_seconds,
                request_id=attempt.request_id,
            )
        )

    def settled(self) -> tuple[TurnUsage, ...]:
        """What is billed, at the prices of this day. Nothing is added behind that: no turn follows."""
        if self._usage is None:
            self._abandon()
            self._usage = self._billed()
        return self._usage

    def _billed(self) -> tuple[TurnUsage, ...]:
        today = _day(self._wall_clock() // _DAY_SECONDS)
        return tuple(
            inference
            for turn, key, tally in self._answers
            for inference in usage_of(turn, key, self._model, tally, self._prices, today)
        )

    def _upstreams_error(self) -> str | None:
        kinds = [tally.error_kind for _, _, tally in self._answers if tally.error_kind is not None]
        return word(kinds[-1]) if kinds else None

    def _tool_calls(self) -> list[ToolCall]:
        calls = []
        for turn, _, tally in self._answers:
            for use in tally.tools.calls:
                name = word(use.name)
                injected = self._injected_calls.get((turn, use.id))
                if injected is None:
                    calls.append(ToolCall(turn, name, False, use.input_bytes))
                else:
                    outcome, result_bytes, seconds = injected
                    calls.append(ToolCall(turn, name, True, use.input_bytes, result_bytes, outcome, seconds))
        return calls


@lru_cache(maxsize=2)  # it changes once a day
def _day(days: float) -> str:
    """The date so many days after 1970-01-01."""
    return datetime.fromtimestamp(days * _DAY_SECONDS, UTC).date().isoformat()


class _OpenAttempt:
    """An attempt under way. `is_at_work`: as far as is known, the upstream has the request and has not refused it."""

    __slots__ = ("after_seconds", "is_at_work", "key", "request_id", "status")

    def __init__(self, key: str | None, after_seconds: float) -> None:
        self.key = key
        self.after_seconds = after_seconds
        self.status = 0
        self.is_at_work = True
        self.request_id: str | None = None
