"""The gateway's routes: where a request comes in, and the way it takes.

Owns: who is let in, what is asked of the upstream, and the responses. The order of things, for every route that calls
upstream:

    open gateway? the path's own spelling?   pass_door
    who is it, what pays                     authenticate
    is there a slot                          Admission, before the body is read
    has it any of its limits left            Limiter, likewise
    body, in time and within bounds          read_body, read_request
    one answer, or turns with tools          OneTurn, ToolLoop
    attempts over the pool                   TurnMaker, walk
    the answer                               Interception (messages) or relay_whole (the rest)

A view is the door alone: it returns once the request is admitted. All that may wait, the body first, happens in the
generator that it hands to the server.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, current_app, request

from gateway import __version__
from gateway.access.authentication import Caller, authenticate
from gateway.access.client_address import origin_of
from gateway.access.client_info import client_of, session_of
from gateway.access.credential import WORKSPACE_HEADER
from gateway.keys.classification import Cooldowns
from gateway.keys.failover import Course
from gateway.limits.limiter import Admitted
from gateway.limits.no_limits import NO_LIMITS
from gateway.models.scopes import COUNT_TOKENS, MODELS, messages_scope
from gateway.protocol.errors import GatewayError, NotFound, Overloaded
from gateway.protocol.headers import Headers, for_upstream
from gateway.protocol.messages import RequestSummary, read_request
from gateway.relay.conversation import Conversation, OneTurn
from gateway.relay.interception import Interception
from gateway.relay.pace import Output, Pace
from gateway.relay.passthrough import relay_whole
from gateway.relay.tool_loop import ToolLoop
from gateway.relay.turn import TurnMaker
from gateway.runtime.lifecycle import Phase
from gateway.runtime.pause import Pause
from gateway.telemetry.metrics import CONTENT_TYPE
from gateway.telemetry.observer import Observer
from gateway.tools.injection import ToolRequest
from gateway.upstream import Call
from gateway.upstream.watch import Watch
from gateway.web.door import client_headers, pass_door
from gateway.web.exchange import Exchange
from gateway.web.request_body import read_body
from gateway.web.responses import RelayedResponse, json_response, text_response
from gateway.web.service import Configuration, Gateway

routes = Blueprint("routes", __name__)

# WSGI's (PEP 3333). Views hand it on: `request` looks for the request anew each time.
Environ = dict[str, Any]

_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]*")


@routes.post("/v1/messages", endpoint="messages")
def messages() -> Response:
    """Relay a message, streamed or whole, failing over."""
    environ = request.environ
    exchange = _admitted(environ, "messages")
    return RelayedResponse(exchange, _message(exchange, environ))


@routes.post("/v1/messages/count_tokens", endpoint="count_tokens")
def count_tokens() -> Response:
    """Relay a count of tokens, failing over."""
    environ = request.environ
    exchange = _admitted(environ, "count_tokens")
    return RelayedResponse(exchange, _token_count(exchange, environ))


@routes.get("/v1/models", endpoint="models")
def models() -> Response:
    """Relay the list of models, failing over."""
    environ = request.environ
    exchange = _admitted(environ, "models")
    return RelayedResponse(exchange, _passed_through(exchange, environ, "GET", "/v1/models", MODELS))


@routes.get("/v1/models/<model_id>", endpoint="model")
def model(model_id: str) -> Response:
    """Relay one model's description, failing over. Its id is checked: keys may open more than models."""
    if not _MODEL_ID.fullmatch(model_id):
        raise NotFound("there is no such model here: the id has characters that no model id has")
    environ = request.environ
    exchange = _admitted(environ, "model")
    path = f"/v1/models/{quote(model_id, safe=':@')}"
    return RelayedResponse(exchange, _passed_through(exchange, environ, "GET", path, MODELS))


@routes.get("/", endpoint="root")
def root() -> Response:
    """Say what this is; no upstream call."""
    return json_response(200, {"name": "messages-gateway", "version": __version__})


@routes.get("/healthz", endpoint="healthz")
def healthz() -> Response:
    """Alive: a thread took the request."""
    return text_response(200, "ok\n")


@routes.get("/readyz", endpoint="readyz")
def readyz() -> Response:
    """Ready for traffic: not while starting or stopping; key states do not matter."""
    phase = _gateway().lifecycle.phase
    return text_response(200 if phase is Phase.SERVING else 503, f"{phase.value}\n")


@routes.get("/metrics", endpoint="metrics")
def metrics() -> Response:
    """Everything that is counted, for Prometheus."""
    return Response(_gateway().metrics.render(), content_type=CONTENT_TYPE)


@routes.before_app_request
def at_the_door() -> Response | None:
    """What holds for every path comes before its view."""
    return pass_door(request, _gateway().configuration.settings)


def _gateway() -> Gateway:
    gateway: Gateway = current_app.extensions["gateway"]
    return gateway


def _admitted(environ: Environ, route: str) -> Exchange:
    """Let the caller in: a known one, if there is a slot, and by its limits."""
    gateway = _gateway()
    configuration = gateway.configuration
    settings = configuration.settings
    started_at = gateway.clock()
    headers = dict(client_headers(environ))
    caller: Caller = authenticate(headers, configuration.tokens(), settings.allow_byok)
    origin = origin_of(environ.get("REMOTE_ADDR", ""), headers, settings.trusted_proxies)
    client = client_of(headers)
    trace = gateway.tracing.begin(request, headers, origin.address, settings.upstream_url)
    if trace.trace_id is not None:
        client = replace(client, trace_id=trace.trace_id)
    if not gateway.admission.enter():
        raise Overloaded(
            f"the gateway is serving {gateway.admission.limit} requests, as many as it can; try again",
            retry_after_seconds=1,
        )
    try:
        admitted = _held_to_limits(gateway, configuration, caller, route)
    except BaseException as error:
        gateway.admission.leave()
        if isinstance(error, GatewayError):
            error.token_name = caller.token_name
        raise
    return Exchange(gateway, configuration, caller, origin, client, route, started_at, trace, admitted)


def _held_to_limits(gateway: Gateway, configuration: Configuration, caller: Caller, route: str) -> Admitted:
    """Count the request for whoever has limits. Raises LimitReached, SpendLimitReached, Overloaded."""
    limited = configuration.limited(caller)
    if not limited:
        return NO_LIMITS
    return gateway.limiter.enter(limited, costs=route == "messages", is_own=bool(caller.own))


def _message(exchange: Exchange, environ: Environ) -> Generator[Output, None, None]:
    """The response to a message: what follows once it is admitted."""
    body = yield from _body(exchange, environ)
    summary = read_request(body)
    exchange.mode = "streamed" if summary.is_streaming else "whole"
    exchange.builder.asked(summary.model, summary.is_streaming, session_of(summary.user_id), body)
    exchange.trace.asks(summary.model, summary.is_streaming)
    call = Call("POST", _target(environ, "/v1/messages"), _headers(exchange, environ), body, may_stream=True)
    watch, observer = _watch(exchange, environ), _observer(exchange)
    turns, pace = _turns(exchange, watch, observer, _course(exchange, summary, body))
    conversation = _conversation(exchange, call, summary, watch, observer)
    del body, call  # of megabytes, perhaps, while the answer may last for minutes

    def settle() -> None:
        if conversation.is_last:
            exchange.settle()

    interception = Interception(
        conversation,
        turns,
        pace,
        exchange.gateway.metrics,
        exchange.builder,
        exchange.started_at,
        exchange.gateway.clock,
        settle,
    )
    yield from interception.run()


def _token_count(exchange: Exchange, environ: Environ) -> Generator[Output, None, None]:
    body = yield from _body(exchange, environ)
    summary = read_request(body)
    exchange.builder.asked(summary.model, False, session_of(summary.user_id))
    exchange.trace.asks(summary.model, None)
    with_tools = _with_tools(exchange, body, summary)  # they count, too
    path = "/v1/messages/count_tokens"
    yield from _passed_through(exchange, environ, "POST", path, COUNT_TOKENS, body, with_tools)


def _passed_through(
    exchange: Exchange,
    environ: Environ,
    method: str,
    path: str,
    scope: str,
    body: bytes = b"",
    with_tools: ToolRequest | None = None,
) -> Generator[Output, None, None]:
    """The response to a request whose answer is relayed whole."""
    call = Call(method, _target(environ, path), _headers(exchange, environ), body)
    if with_tools is not None:
        call = replace(call, headers=with_tools.headers(call.headers), body=with_tools.body())
    course = Course(scope, costs=False, looks=exchange.gateway.looks, request=exchange.builder.name)
    turns, pace = _turns(exchange, _watch(exchange, environ), _observer(exchange), course)
    head = yield from relay_whole(call, turns, pace)
    exchange.settle()
    yield head


def _body(exchange: Exchange, environ: Environ) -> Generator[Pause, None, bytes]:
    settings = exchange.configuration.settings
    return read_body(environ, settings.max_body_bytes, settings.body_timeout_seconds, exchange.gateway.lifecycle)


def _headers(exchange: Exchange, environ: Environ) -> Headers:
    dropped = exchange.configuration.settings.drop_request_headers
    if not exchange.caller.own:  # a workspace goes with the credential that may use it
        dropped = (*dropped, WORKSPACE_HEADER)
    return for_upstream(client_headers(environ), dropped)


def _target(environ: Environ, path: str) -> str:
    query = environ.get("QUERY_STRING", "")
    return f"{path}?{query}" if query else path


def _watch(exchange: Exchange, environ: Environ) -> Watch:
    return Watch(environ.get("gunicorn.socket"), exchange.gateway.lifecycle)


def _observer(exchange: Exchange) -> Observer:
    return Observer(exchange.gateway.metrics, exchange.builder, exchange.trace)


def _with_tools(exchange: Exchange, body: bytes, summary: RequestSummary) -> ToolRequest | None:
    gateway, session = exchange.gateway, exchange.builder.session
    tools = gateway.tool_sessions.tools(exchange.caller.token_name, session, gateway.toolbox.tools())
    return exchange.configuration.tool_policy.inject(body, summary.model, tools)


def _conversation(
    exchange: Exchange, call: Call, summary: RequestSummary, watch: Watch, observer: Observer
) -> Conversation:
    request = _with_tools(exchange, call.body, summary)
    if request is None:
        return OneTurn(call)
    gateway, policy = exchange.gateway, exchange.configuration.tool_policy
    return ToolLoop(call, request, gateway.toolbox, policy, summary.is_streaming, watch, observer, gateway.clock)


def _course(exchange: Exchange, summary: RequestSummary, body: bytes) -> Course:
    """What the walks of a message are for."""
    gateway, configuration = exchange.gateway, exchange.configuration
    model_class = configuration.settings.model_classes.class_of(summary.model)
    scope, caller = messages_scope(model_class, is_fast=summary.is_fast), exchange.caller
    if caller.own:  # no key of the pool is tried
        return Course(scope)
    session = exchange.builder.session or summary.user_id
    pins = configuration.pins(gateway.affinity, caller.token_name, session, body)
    return Course(scope, session=pins, looks=gateway.looks, request=exchange.builder.name)


def _turns(exchange: Exchange, watch: Watch, observer: Observer, course: Course) -> tuple[TurnMaker, Pace]:
    gateway, configuration = exchange.gateway, exchange.configuration
    settings = configuration.settings
    turns = TurnMaker(
        configuration.upstream,
        configuration.pool,
        exchange.caller,
        watch,
        observer,
        course,
        Cooldowns(settings.default_cooldown_seconds, settings.money_rest_seconds),
        settings.stream_idle_timeout_seconds,
        gateway.wall_clock,
    )
    return turns, Pace(exchange.request_id, settings.ping_seconds)
