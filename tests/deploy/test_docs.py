"""The commands of docs/ work as they are written: those that need no systemd, container engine or cluster are run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.deploy import sandbox
from tests.deploy.dockerfile import Image
from tests.e2e.nginx_deployed import nginx_binary
from tests.harness import ROOT

# As in the image's own tests: whichever comes first builds it.
pytestmark = pytest.mark.timeout(400)

DOCS = ROOT / "docs"
# What a test cannot do here, and what deploy/docker's test does in the same words.
_ELSEWHERE = re.compile(
    r"apt-get |systemctl |journalctl |nginx -t && systemctl |docker |kubectl |\.\./smoke\.sh |deploy/smoke\.sh https"
    r"|python3 -m venv /opt|/opt/messages-gateway(\.new)?/bin/pip |for pod in |cp -a /opt|mv /opt"
)
_CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=gateway.example.com "
    "-keyout {folder}/privkey.pem -out {folder}/fullchain.pem"
)


def blocks(file: str, title: str | None = None) -> list[str]:
    """The shell blocks of a page, or of one of its sections."""
    text = (DOCS / file).read_text()
    if title is not None:
        text = text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def runnable(block: str) -> str:
    """The block's commands that can be run here; a command is a line and those that continue it."""
    commands = re.findall(r"(?:[^\n]*\\\n)*[^\n]*\n", block)
    loops = re.sub(r"^for pod in .*?^done\n", "", "".join(commands), flags=re.DOTALL | re.MULTILINE)
    commands = re.findall(r"(?:[^\n]*\\\n)*[^\n]*\n", loops)
    return "".join(command for command in commands if not _ELSEWHERE.match(command))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project's folder, where its commands may write."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    for name in ("gateway", "gunicorn.conf.py", ".venv", "requirements.lock"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def etc(folder: Path) -> list[str]:
    """Options for an `/etc` that may be written to, with as much in it as these commands look for."""
    folder.mkdir()
    for name in ("passwd", "group", "nsswitch.conf", "ssl", "hosts", "ld.so.cache", "alternatives"):
        source = Path("/etc") / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True)
        elif source.exists():
            shutil.copy(source, folder / name)
    for name in ("sysusers.d", "systemd/system", "nginx/conf.d"):
        (folder / name).mkdir(parents=True)
    return sandbox.writable("/etc", folder)


def test_one_machine_is_set_up_as_written(project: Path, image: Image, tmp_path: Path) -> None:
    """Given step 1's programs, when the other steps' commands are run, then settings, tokens and nginx are good."""
    set_up = "".join(runnable(block) for block in blocks("deploying.md", "One machine"))
    later = "".join(runnable(block) for block in blocks("deploying.md", "Other keys and tokens"))
    made = "install -m 0600 /dev/null /etc/messages-gateway/tokens\n"
    assert set_up.count(made) == 1
    script = "\n".join(
        [
            "redis-server --save '' >/dev/null &",
            # What a person does with an editor; and the one thing that needs the world is left out.
            set_up.replace(made, f"{made}echo only=sk-ant-api03-one > /etc/messages-gateway/keys\n").replace(
                " --upstream", ""
            ),
            _CERTIFICATE.format(folder="/etc/nginx/tls"),
            "nginx -t",
            "grep -c '^    server 127.0.0.1:808[12] ' /etc/nginx/conf.d/gateways.conf",
            "stat -c '%a %U' /etc/messages-gateway/keys /etc/messages-gateway/tokens",
            "grep -c ^messages-gateway: /etc/passwd",
            later,
        ]
    )
    for folder in ("log", "lib"):
        (tmp_path / folder).mkdir()
    said = sandbox.run(
        ["sh", "-euc", script],
        [
            *(*sandbox.as_root(), "--unshare-net", *etc(tmp_path / "etc")),
            *("--ro-bind", str(ROOT), str(ROOT), "--bind", str(project), "/project", "--chdir", "/project"),
            *("--tmpfs", "/opt", *sandbox.writable("/opt/messages-gateway", image.folder)),
            *("--ro-bind", str(image.shims), "/shims", "--tmpfs", "/run"),
            *sandbox.writable("/var/log/nginx", tmp_path / "log"),
            *sandbox.writable("/var/lib/nginx", tmp_path / "lib"),
        ],
    )
    assert "clients   1 tokens" in said
    assert "key 1     only" in said
    assert "test is successful" in said
    assert "[warn]" not in said
    lines = said.splitlines()
    assert lines.count("600 root") == 2
    assert "2" in lines
    assert any(line.startswith("only ") and " valid " in line for line in lines), said


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
    assert re.search(r"^revoked .* permanent ", said, re.MULTILINE)
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
