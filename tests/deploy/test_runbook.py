"""The commands of docs/runbook.md work on the machine of docs/deploying.md, whose two gateways have one database."""

from __future__ import annotations

import re

import pytest

from tests.deploy.machine import DOCS, Machine, blocks

pytestmark = pytest.mark.timeout(400)

_ID = "req_011CSHoEeqs5C35K2UUqR7Fy"
_PROGRAMS = ("gateway", "systemctl", "journalctl", "redis-cli")
_ASK = """
ask() {
    curl -fs -D - -o /dev/null http://127.0.0.1:$1/v1/messages -H "x-api-key: $(cat /run/token-of-ann)" \
        -d '{"model": "claude-simulated", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}' |
        sed -n 's/^request-id: //p' | tr -d '\\r'
}
first=$(ask 8081)
second=$(ask 8082)
for id in $first $second; do
    tries=0
    until gateway explain $id >/run/timeline 2>&1; do tries=$((tries + 1)); [ $tries -lt 60 ]; sleep 0.2; done
done
"""


def commands() -> list[str]:
    """Every command of the page, once: those of its blocks, and those that stand in a sentence."""
    text = (DOCS / "runbook.md").read_text()
    inline = [word for word in re.findall(r"`([^`\n]+ [^`\n]+)`", text) if word.split()[0] in _PROGRAMS]
    lines = [line for block in blocks("runbook.md") for line in block.splitlines()]
    return list(dict.fromkeys(lines + inline))


def elsewhere(command: str) -> bool:
    """Whether a command that stands in a sentence is only named there, or needs a machine of its own."""
    return command in ("gateway simulate", "journalctl -k", "redis-cli -u")


def test_every_command_of_the_runbook_runs_on_the_documented_machine(machine: Machine) -> None:
    """Given the machine as it is set up, when each command of the runbook is run, then none fails; what one gateway has
    served, the commands tell with the settings of the other.
    """
    runs = [command for command in commands() if not elsewhere(command)]
    assert len(runs) > 20
    script = [f"echo '+ {command}'\n{command.replace(_ID, '$second')}" for command in runs]
    said = machine.run(_ASK, 'echo "ids: $first $second"', *script)
    (ids,) = re.findall(r"^ids: (\S+) (\S+)$", said, re.MULTILINE)
    assert len(set(ids)) == 2
    assert f"\n{ids[1]} (in the gateway: " in said
    assert re.search(r"^- +ann +2 +0 ", said, re.MULTILINE), "a report has both gateways' requests"
    assert "result    good" in said
    assert "messages-gateway@8081 is active" in said
    assert "team-b" in said


def test_commands_name_the_units_and_ports_of_the_documented_machine() -> None:
    """Given the page, then a unit has its port, and no port is one that nobody listens on there."""
    text = (DOCS / "runbook.md").read_text()
    assert set(re.findall(r"messages-gateway(@?\S*?)[' `\n]", text)) <= {"@8081", "@*", "/keys", "/gateway.env", ""}
    assert set(re.findall(r"127\.0\.0\.1:(\d+)", text)) == {"8081", "8082"}
