"""`gateway check`: is this configuration good?

Owns: a report in words. Web layer. MCP servers are asked for their tools, and where there are limits the shared store
for what is used of them; nothing else is sent anywhere, but with `--upstream` each key is shown to the upstream once,
in a request that costs nothing.
"""

from __future__ import annotations

import argparse

from gateway import __version__, launch
from gateway.cli.output import complain, say
from gateway.credential import Key
from gateway.lifecycle import Lifecycle
from gateway.look import Finding, look_at
from gateway.places import NOWHERE, Place
from gateway.service import route_of, tool_limits_of
from gateway.settings import Settings, SettingsError
from gateway.upstream import Upstream
from gateway.verdict import Outcome

_LOOK_SECONDS = 30.0


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--upstream", action="store_true", help="also ask the upstream, with each key, for its list of models"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="count warnings of limits, an MCP server that is down and a tool that is refused as faults",
    )


def run(arguments: argparse.Namespace) -> int:
    """Report on the configuration; 1 if the gateway would not start with it, or a key is refused.

    It starts without MCP servers that are down and tools that are refused, with limits for nobody, and with limits that
    cannot be held over all machines now, so those count with `--strict` only.
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
    say(*(f"limits    {line}" for line in settings.limits.words()))
    findings: dict[Key, Finding] = {}
    with_upstream = Upstream(route_of(settings), _LOOK_SECONDS) if arguments.upstream else None
    for position, key in enumerate(settings.keys, start=1):
        words = ""
        if with_upstream is not None:
            findings[key] = _looked_at(with_upstream, key)
            words = f": {_worded(findings[key])}"
        say(f"key {position:<5} {key.name} ({key.hint}){words}")
    accepted = {key: finding.place for key, finding in findings.items() if finding.verdict.outcome is Outcome.OK}
    say(*_warnings(accepted))
    doubts = _doubts_of_limits(settings)
    say(*(f"warning   {line}" for line in doubts))
    troubles = _report_tools(settings) + len(doubts)
    return 1 if len(accepted) < len(findings) or (arguments.strict and troubles) else 0


def _doubts_of_limits(settings: Settings) -> list[str]:
    """Which limits hold for nobody, and what keeps limits from being held over all machines now."""
    doubts = settings.limits.doubts(settings.tokens)
    if not settings.limits.are_any:
        return doubts
    try:
        _, trouble = launch.read_limits(settings)
    except OSError as error:
        trouble = f"the counts of limits cannot be read: {error.strerror or error}"
    if not trouble:
        return doubts
    waiting = "are refused" if settings.limits_fail == "closed" else "are held to what this machine knows"
    return [*doubts, f"{trouble}: until it can be had, requests that have limits {waiting}"]


def _warnings(places: dict[Key, Place]) -> list[str]:
    """What is to be said of where the keys that the upstream accepts belong."""
    warnings = []
    organisations = {place.organisation for place in places.values()}
    if len(places) > 1 and len(organisations) == 1 and "" not in organisations:
        warnings.append(
            "warning   all keys belong to one organisation: "
            "failover helps against revoked keys alone, not against limits"
        )
    unknown = [key.name for key, place in places.items() if not (place.workspace or key.workspace)]
    if unknown:
        warnings.append(f"warning   the workspace of {', '.join(unknown)} is unknown: the upstream's answer names none")
    return warnings


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
    words = f"{len(settings.tokens)} tokens, {operators} of them operators'"
    groups = sorted({token.group for token in settings.tokens if token.group is not None})
    return f"{words}; groups: {', '.join(groups)}" if groups else words


def _looked_at(upstream: Upstream, key: Key) -> Finding:
    lifecycle = Lifecycle()
    try:
        return look_at(upstream, key, lifecycle)
    finally:
        lifecycle.close()


def _worded(finding: Finding) -> str:
    if not finding.verdict.http_status:
        return finding.why
    place = finding.place
    words = f"{finding.verdict.outcome.value} ({finding.why})"
    return words if place == NOWHERE else f"{words}, {place.organisation or '-'}, {place.workspace or '-'}"
