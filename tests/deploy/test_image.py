"""The image of deploy/docker: as the user it names, on a root that nobody can write to, it serves."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest

from tests.deploy import sandbox
from tests.deploy.dockerfile import DOCKERFILE, Image, only, stages
from tests.e2e.talk import token_line
from tests.harness import ROOT

# The image is built in the first test's time: a score of packages comes over the network.
pytestmark = pytest.mark.timeout(400)

TOKEN = "gateway-token-of-alice-0123456789"


def test_gateway_of_the_image_runs_as_nobody_on_a_read_only_root(image: Image, tmp_path: Path) -> None:
    """Given what the steps installed, when it is started as the image starts it, then it serves, writes nowhere but to
    its data folder, is found healthy by the image's own check, and ends well on SIGTERM.
    """
    final = stages()[1]
    settings = dict(pair.split("=", 1) for pair in shlex.split(only(final, "ENV")))
    user, group = only(final, "USER").split(":")
    health = json.loads(only(final, "HEALTHCHECK").partition("CMD ")[2])
    command = json.loads(only(final, "CMD"))
    (tmp_path / "tokens").write_text(token_line("alice", TOKEN))
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(tmp_path, int(user), int(group))
    become = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    script = f"""
        gateway simulate --bind 127.0.0.1:9000 --key sk-sim-only=ok &
        {shlex.join(command)} &
        gateway=$!
        tries=0
        until {shlex.join(health)} 2>/dev/null && curl -fs -o /dev/null http://127.0.0.1:9000/_simulator/keys; do
            tries=$((tries + 1)); kill -0 $gateway; [ $tries -lt 200 ]; sleep 0.1
        done
        id -u
        touch /written /opt/messages-gateway/written /tmp/written 2>/dev/null && exit 1
        TMPDIR=/dev/shm /deploy/smoke.sh http://127.0.0.1:8080 {TOKEN}
        kill -TERM $gateway
        wait $gateway
        {shlex.join(health)} 2>/dev/null && exit 1
        echo ended well
    """
    said = sandbox.run(
        [*(become if is_root else []), "sh", "-euc", script],
        [
            *("--unshare-net", "--ro-bind", str(image.shims), "/shims"),
            *("--tmpfs", "/opt", "--ro-bind", str(image.folder), "/opt/messages-gateway"),
            *sandbox.writable(settings["GATEWAY_DATA_DIR"], tmp_path),
            *("--ro-bind", str(ROOT / "deploy"), "/deploy", "--remount-ro", "/tmp", "--remount-ro", "/"),
            *("--chdir", only(final, "WORKDIR")),
        ],
        first=settings["PATH"].replace("$PATH", "/shims"),
        **{name: value for name, value in settings.items() if name != "PATH"},
        GATEWAY_API_KEYS="only=sk-sim-only",
        GATEWAY_CLIENT_TOKENS_FILE=f"{settings['GATEWAY_DATA_DIR']}/tokens",
        GATEWAY_UPSTREAM_URL="http://127.0.0.1:9000",
    ).splitlines()
    assert "ended well" in said
    assert "all is well with http://127.0.0.1:8080" in said
    assert str(int(user) if is_root else os.geteuid()) in said


def test_image_holds_what_the_gateway_needs_and_no_installer(image: Image) -> None:
    """Given what the steps installed, then the package's files are all there, and neither pip nor tests are."""
    packages = next((image.folder / "lib").glob("python3.*/site-packages"))
    wanted = {path.relative_to(ROOT) for path in (ROOT / "gateway").rglob("*") if path.is_file()}
    missing = {str(path) for path in wanted if "__pycache__" not in path.parts and not (packages / path).exists()}
    assert missing == set()
    assert not list(packages.glob("pip*")) + list(packages.glob("tests")) + list(packages.glob("pytest*"))


def test_image_starts_nothing_as_root_and_holds_no_secret() -> None:
    """Given the Dockerfile, then its user is a number other than 0, and no instruction names a key or a token."""
    user, group = only(stages()[1], "USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    named = DOCKERFILE.read_text()
    assert "sk-ant-" not in named
    assert not {"GATEWAY_API_KEYS", "GATEWAY_API_KEYS_FILE"} & {word.split("=")[0] for word in named.split()}
    assert {word for stage in stages() for word, _ in stage} <= {
        *("FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "CMD"),
    }
