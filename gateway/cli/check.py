"""`gateway check`: is this configuration good?

Owns: a report in words. Web layer. MCP servers are asked for their tools; nothing else is sent anywhere, but with
`--upstream` each key is shown to the upstream once, in a request that costs nothing.
"""

from __future__ import annotations

import argparse
import time

from gateway import __version__, launch
from gateway.classification import LARGEST_JUDGED_BYTES, Rests, judge
from gateway.cli.output import complain, say
from gateway.credential import Key, key_header
from gateway.errors import GatewayError
from gateway.lifecycle import Lifecycle
from gateway.prober import PROBE
from gateway.service import route_of, tool_limits_of
from gateway.settings import Settings, SettingsError
from gateway.upstream import Upstream
from gateway.watch import Watch

_PROBE_SECONDS = 30.0


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--upstream", action="store_true", help="also ask the upstream, with each key, for its list of models"
    )
    parser.add_argument(
        "--strict", action="store_true", help="count an MCP server that is down or a tool that is refused as a fault"
    )


def run(arguments: argparse.Namespace) -> int:
    """Report on the configuration; 1 if the gateway would not start with it, or a key is refused.

    It starts without MCP servers that are down and tools that are refused, so those count with `--strict` only.
    """
    try:
        settings = launch.read_settings()
    except SettingsError as error:
        return complain(*error.complaints)
    say(f"upstream  {settings.upstream_url}")
    if settings.upstream_proxy is not None:
        login = " with a login" if settings.upstream_proxy.login else ""
        say(f"proxy     {settings.upstream_proxy.address}{login}")
    say(f"address   {settings.bind}")
    say(f"clients   {_clients(settings)}")
    say(f"own keys  {settings.allow_byok.value}")
    say(f"streams   {settings.admission_limit} at once ({settings.threads} threads)")
    refused = 0
    with_upstream = Upstream(route_of(settings), _PROBE_SECONDS) if arguments.upstream else None
    for position, key in enumerate(settings.keys, start=1):
        finding = ""
        if with_upstream is not None:
            is_accepted, finding = _probe(with_upstream, key)
            refused += not is_accepted
        say(f"key {position:<5} {key.name} ({key.hint}){finding}")
    troubles = _report_tools(settings)
    return 1 if refused or (arguments.strict and troubles) else 0


def _report_tools(settings: Settings) -> int:
    """Print the MCP servers and their tools; how much is wrong with them."""
    if not settings.mcp_servers:
        return 0
    from gateway.mcp.survey import survey  # loads the SDK

    troubles = 0
    for finding in survey(settings.mcp_servers, __version__, settings.mcp_start_seconds, tool_limits_of(settings)):
        troubles += len(finding.listing.refusals) + bool(finding.trouble)
        server = finding.server
        state = f"down: {finding.trouble}" if finding.trouble else f"{len(finding.listing.tools)} tools"
        say(f"mcp       {server.name} ({server.address}): {state}")
        for tool in finding.listing.tools:
            say(f"  {tool.name}")
        for refusal in finding.listing.refusals:
            say(f"  {refusal}")
    return troubles


def _clients(settings: Settings) -> str:
    if settings.tokens is None:
        return "no token file: this machine only"
    operators = sum(token.is_operator for token in settings.tokens)
    return f"{len(settings.tokens)} tokens, {operators} of them operators'"


def _probe(upstream: Upstream, key: Key) -> tuple[bool, str]:
    lifecycle = Lifecycle()
    try:
        reply = upstream.send(PROBE, (key_header(key),), Watch(None, lifecycle))
        body, is_all = reply.read_refusal(LARGEST_JUDGED_BYTES)
        reply.discard()
    except GatewayError as error:
        return False, f": {error.message}"
    finally:
        lifecycle.close()
    verdict = judge(reply.status, dict(reply.headers), body if is_all else b"", time.time(), Rests(0.0, 0.0))
    return reply.status < 400, f": {verdict.outcome.value} (status {reply.status})"
