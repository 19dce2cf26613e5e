"""The commands of docs/ work as they are written: those that need no systemd, container engine or cluster are run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.deploy import sandbox
from tests.deploy.machine import DOCS, Machine, blocks, etc, runnable
from tests.e2e.nginx_deployed import nginx_binary
from tests.harness import ROOT

# As in the image's own tests: whichever comes first builds it.
pytestmark = pytest.mark.timeout(400)

_CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=gateway.example.com "
    "-keyout {folder}/privkey.pem -out {folder}/fullchain.pem"
)
# Settings of one gateway, and of the environment; and what is refused.
_COMMANDS_OF_ROOT = """
echo "commands of root's"
printf '; of one gateway alone\\nGATEWAY_BIND="127.0.0.1:9082"' > /etc/messages-gateway/8082.env
gateway check
INSTANCE=8082 gateway check
touch /run/gateway.toml
GATEWAY_BIND=127.0.0.1:9999 gateway --config /run/gateway.toml check
rm /etc/messages-gateway/8082.env
statuses=
for command in \
    'setpriv --reuid nobody --clear-groups -- gateway keys' \
    'gateway serve' \
    'gateway --config /etc/messages-gateway/none reload' \
    'sh -c "echo = > /etc/messages-gateway/keys; gateway reload"'
do
    status=0
    eval "$command" || status=$?
    statuses="$statuses, $status"
done
echo "refused with status${statuses#,}"
cd /var/lib/messages-gateway
stat -c '%U %a %n' records.db
"""


def test_one_machine_is_set_up_as_written(machine: Machine) -> None:
    """Given step 1's programs, when the other steps' commands are run, then settings, tokens and nginx are good, both
    gateways run, and commands of root's have each gateway's own settings.
    """
    later = "".join(runnable(block) for block in blocks("deploying.md", "Other keys and tokens"))
    said = machine.run(
        _CERTIFICATE.format(folder="/etc/nginx/tls"),
        "nginx -t",
        "grep -c '^    server 127.0.0.1:808[12] ' /etc/nginx/conf.d/gateways.conf",
        "stat -c '%a %U' /etc/messages-gateway/keys /etc/messages-gateway/tokens /etc/messages-gateway/gateway.env",
        "grep -c ^messages-gateway: /etc/passwd",
        "curl -fs http://127.0.0.1:8081/readyz http://127.0.0.1:8082/readyz",
        later,
        # A new version beside the old one.
        "ln -s messages-gateway /opt/messages-gateway.new",
        *map(runnable, blocks("upgrading.md", "Before")),
        _COMMANDS_OF_ROOT,
    )
    assert "clients   2 tokens, 0 of them for operators" in said
    assert re.search(r"^key 1 +team-a \(.*\): ok \(status 200\), org-", said, re.MULTILINE), said
    assert "test is successful" in said
    assert "[warn]" not in said
    lines = said.splitlines()
    assert lines.count("600 root") == 3
    assert "2" in lines
    assert any(line.startswith("team-a ") and " valid " in line for line in lines), said
    assert lines.count("reloaded: the new configuration is in force") == 2
    told = said.partition("commands of root's\n")[2]
    assert re.findall(r"^address +(\S+)$", told, re.MULTILINE) == ["127.0.0.1:8081", "127.0.0.1:9082", "127.0.0.1:9999"]
    assert re.findall(r"^data +(\S+)$", told, re.MULTILINE) == [
        f"/var/lib/messages-gateway/{name}" for name in ("8081", "8082", "8081")
    ]
    for words in (
        "run this as root",
        "here systemd runs the gateways",
        "the running gateway keeps its configuration",
    ):
        assert words in told
    assert "refused with status 1, 2, 1, 1" in told
    assert "messages-gateway 600 records.db" in told


def test_nginx_of_the_containers_is_good(project: Path, tmp_path: Path) -> None:
    """Given the mounts of the compose file and its setup's commands, then nginx finds its files and likes them."""
    (setup, _) = (runnable(block) for block in blocks("deploying.md", "One machine, with containers"))
    nginx = yaml.safe_load((project / "deploy" / "compose" / "compose.yaml").read_text())["services"]["nginx"]
    here = project / "deploy" / "compose"
    assert "secrets/keys" in setup
    sandbox.run(
        ["sh", "-euc", setup + _CERTIFICATE.format(folder="tls")],
        [*sandbox.as_root(), *sandbox.writable("/project", project), "--chdir", "/project"],
    )
    assert (here / "secrets" / "tokens").stat().st_mode & 0o777 == 0o640
    options = etc(tmp_path / "etc")
    (tmp_path / "etc" / "hosts").write_text("127.0.0.1 localhost gateway-1 gateway-2\n")
    shutil.rmtree(tmp_path / "etc" / "nginx" / "conf.d")
    for volume in nginx["volumes"]:
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            options += ["--ro-bind", str((here / source).resolve()), target]
    for folder in ("log", "lib"):
        (tmp_path / folder).mkdir()
    said = sandbox.run(
        [nginx_binary(), "-t"],
        [
            *(*sandbox.as_root(), "--unshare-net", *options, "--tmpfs", "/run"),
            *sandbox.writable("/var/log/nginx", tmp_path / "log"),
            *sandbox.writable("/var/lib/nginx", tmp_path / "lib"),
        ],
    )
    assert "test is successful" in said
    assert "[warn]" not in said


def test_quick_start_works_as_written(project: Path, tmp_path: Path) -> None:
    """Given the page's blocks, one terminal after the other, then an answer streams and everything is found well."""
    simulate, run, ask, keys, records, client, token = blocks("quick-start.md")
    assert "make run\n" in run
    script = f"""
        {simulate.strip()} &
        ({run.replace("make run", ".venv/bin/gunicorn -c gunicorn.conf.py")}) &
        tries=0
        until curl -fs http://127.0.0.1:9000/_simulator/keys && curl -fs http://127.0.0.1:8080/readyz; do
            tries=$((tries + 1)); [ $tries -lt 300 ]; sleep 0.1
        done
        {ask}
        {keys}
        {records}
        {client}
        {token}
        cat tokens
        test ! -e /tmp/state || echo "the rehearsal has used the usual data folder"
    """
    said = sandbox.run(
        ["sh", "-euc", script],
        [
            *("--unshare-net", "--ro-bind", str(ROOT), str(ROOT)),
            *("--bind", str(project), "/project", "--chdir", "/project"),
        ],
        XDG_STATE_HOME="/tmp/state",
    )
    assert "the rehearsal has used" not in said
    assert "event: message_stop" in said
    assert "all is well with http://127.0.0.1:8080" in said
    assert 'gateway_key_state{key="limited",state="temporary"} 1.0' in said
    assert re.search(r"^revoked .* retired ", said, re.MULTILINE)
    assert re.search(r"^claude-simulated +good ", said, re.MULTILINE)
    assert "  what     GET /v1/models" in said
    assert re.search(r"key good: answered \(200\)", said)
    assert re.search(r"^gwt_\S+$", said, re.MULTILINE)
    assert re.search(r"^alice sha256:", said, re.MULTILINE)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name
)
def test_links_lead_somewhere(page: Path) -> None:
    """Given the links of a page to others of the project, then the file is there, and so is the heading."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), target
        headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}
