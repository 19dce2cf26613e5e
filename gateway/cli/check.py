"""`gateway check`: is this configuration good?

Owns: a report in words. The places that a gateway needs are tried (check_places), and MCP servers are asked
for their tools; with `--upstream` each key is shown to the upstream once, in a request that costs nothing. Whatever
hangs, the command ends.
"""

from __future__ import annotations

import argparse
import time

from gateway import __version__
from gateway.access.credential import Key
from gateway.cli.bounded import begun
from gateway.cli.check_places import Trouble, troubles_of_places
from gateway.cli.output import complain, say
from gateway.config.capacity import descriptors_for
from gateway.config.settings import Settings, SettingsError
from gateway.keys.look import Finding, look_at
from gateway.keys.places import NOWHERE, Place
from gateway.protocol.outcomes import Outcome
from gateway.runtime.lifecycle import Lifecycle
from gateway.runtime.machine_limits import most_descriptors
from gateway.upstream import Upstream
from gateway.web import configured
from gateway.web.service import route_of, tool_limits_of

_LOOK_SECONDS = 10.0
_READ_SECONDS = 10.0
_SILENCE_SECONDS = 4.0  # if an answer takes longer than this, the other keys are not asked


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--upstream", action="store_true", help="also try each key at the upstream; this costs nothing")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="status 1 for warnings, for an MCP server that is down and for a tool that is refused, too",
    )


def run(arguments: argparse.Namespace) -> int:
    """Report on the configuration; 1 if a gateway would not start with it, or not work as it says.

    It starts without MCP servers that are down and tools that are refused, and with what is only doubtful, so those
    count with `--strict` only.
    """
    try:
        settings = begun(configured.read_settings).result(_READ_SECONDS)
    except SettingsError as error:
        return complain(*error.complaints)
    except TimeoutError:
        return complain(f"the configuration: a file that it names could not be read within {_READ_SECONDS:g} s")
    say(f"upstream  {settings.upstream_url}")
    if settings.upstream_proxy is not None:
        login = " with a login" if settings.upstream_proxy.login else ""
        say(f"proxy     {settings.upstream_proxy.address}{login}")
    say(f"address   {settings.bind}")
    say(f"data      {settings.data_dir}")
    say(f"clients   {_clients(settings)}")
    say(f"own keys  {settings.allow_byok.value}")
    say(f"requests  {settings.max_requests} at once a worker ({settings.threads} threads)")
    say(*(f"limits    {line}" for line in settings.limits.words()))
    findings = _report_keys(settings, asks_upstream=arguments.upstream)
    accepted = {key: finding.place for key, finding in findings.items() if finding.verdict.outcome is Outcome.OK}
    troubles = [*map(Trouble, settings.faults), *troubles_of_places(settings)]
    troubles += [Trouble(words, is_fault=False) for words in (*_doubts(settings), *_doubts_of_places(accepted))]
    doubts = [trouble.words for trouble in troubles if not trouble.is_fault]
    say(*(f"warning   {words}" for words in doubts))
    weak = len(doubts) + _report_tools(settings)
    faults = [trouble.words for trouble in troubles if trouble.is_fault]
    refused = len(findings) - len(accepted)
    status = 1 if faults or refused or (arguments.strict and weak) else 0
    say(f"result    {_result(len(faults) + refused, weak)}")
    complain(*faults)
    return status


def _result(faults: int, weak: int) -> str:
    """The report in a few words."""
    if not faults and not weak:
        return "good"
    words = [
        f"{number} {name}{'s' * (number > 1)}" for number, name in ((faults, "fault"), (weak, "warning")) if number
    ]
    return ", ".join(words)


def _doubts(settings: Settings) -> list[str]:
    """Limits for nobody, a gateway for nobody, and more requests than there are descriptors for."""
    doubts = settings.doubts()
    needed, allowed = descriptors_for(settings.max_requests), most_descriptors()
    if needed > allowed:
        doubts.append(
            f"GATEWAY_MAX_REQUESTS: {settings.max_requests} requests at once may need {needed} open files, and "
            f"{allowed} are allowed here: raise the hard limit (`ulimit -Hn`), or lower the setting"
        )
    if settings.tokens == ():
        doubts.append(
            f"GATEWAY_CLIENT_TOKENS_FILE: {settings.client_tokens_file} holds no token, so nobody can use the gateway: "
            "make one with `gateway tokens make NAME`"
        )
    return doubts


def _report_keys(settings: Settings, *, asks_upstream: bool) -> dict[Key, Finding]:
    """Print the keys; what the upstream says of each, if it is asked. Where it says nothing, it is asked no more."""
    findings: dict[Key, Finding] = {}
    upstream = Upstream(route_of(settings), _LOOK_SECONDS) if asks_upstream else None
    silent: Finding | None = None
    for position, key in enumerate(settings.keys, start=1):
        words = ""
        if upstream is not None:
            began_at = time.monotonic()
            findings[key] = silent if silent is not None else _looked_at(upstream, key)
            words = f": {'not asked: ' if silent is not None else ''}{_worded(findings[key])}"
            if not findings[key].verdict.http_status and time.monotonic() - began_at >= _SILENCE_SECONDS:
                silent = findings[key]
        say(f"key {position:<5} {key.name} ({key.hint}){words}")
    return findings


def _doubts_of_places(places: dict[Key, Place]) -> list[str]:
    """What is to be said of where the keys that the upstream accepts belong."""
    doubts = []
    organisations = {place.organisation for place in places.values()}
    if len(places) > 1 and len(organisations) == 1 and "" not in organisations:
        doubts.append(
            "all keys belong to one organisation: failover helps only against revoked keys, not against limits"
        )
    unknown = [key.name for key, place in places.items() if not (place.workspace or key.workspace)]
    if unknown:
        doubts.append(f"the workspace of {', '.join(unknown)} is unknown: the upstream's answer does not name it")
    return doubts


def _report_tools(settings: Settings) -> int:
    """Print the MCP servers and their tools; how much is wrong with them."""
    if not settings.mcp_servers:
        return 0
    from gateway.tools.mcp.survey import survey  # loads the SDK

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
    number = len(settings.tokens)
    words = f"{number} token{'s' * (number != 1)}, {operators} of them for operators"
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
