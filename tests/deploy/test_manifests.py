"""What the files of deploy/ promise each other and the gateway: names that exist, times that fit together."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.settings import Settings, setting_specs
from gateway.server.master import graceful_timeout
from tests.harness import ROOT, GatewayProcess

DEPLOY = ROOT / "deploy"
SETTINGS = {f"GATEWAY_{name.upper()}" for name, _ in setting_specs()} | {"GATEWAY_CONFIG"}
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
SYSTEMD = (DEPLOY / "systemd" / "messages-gateway@.service").read_text()
GATEWAYS = ("gateway-1", "gateway-2")


def manifests() -> list[dict[str, Any]]:
    """Every document of the Kubernetes manifests."""
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def manifest(kind: str, name: str = "messages-gateway") -> dict[str, Any]:
    """The only manifest of that kind and name."""
    (found,) = [it for it in manifests() if it["kind"] == kind and it.get("metadata", {}).get("name") == name]
    return found


POD = manifest("Deployment")["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
DRAIN_ENDS = graceful_timeout(Settings())


@pytest.mark.parametrize("file", [path for path in DEPLOY.rglob("*") if path.is_file()], ids=str)
def test_every_setting_that_is_named_exists(file: Path) -> None:
    """Given a file of deploy/, then each GATEWAY_ name in it is a setting, or one of the script's own."""
    named = set(re.findall(r"\bGATEWAY_[A-Z_]*[A-Z]\b", file.read_text()))
    assert named - SETTINGS <= {"GATEWAY_TOKEN", "GATEWAY_PORT"}


def seconds(text: str) -> int:
    """What `330s` says."""
    return int(text.removesuffix("s"))


def test_nobody_kills_a_gateway_that_drains() -> None:
    """Given the drain time of each deployment, then what stops the gateway waits until it has had its last word."""
    for name in GATEWAYS:
        service = COMPOSE["services"][name]
        drain = int(service["environment"]["GATEWAY_DRAIN_SECONDS"])
        assert seconds(service["stop_grace_period"]) > drain + 10
    assert seconds(COMPOSE["services"]["nginx"]["stop_grace_period"]) > DRAIN_ENDS
    drain = int(manifest("ConfigMap")["data"]["GATEWAY_DRAIN_SECONDS"])
    waits = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] > waits + drain + 10
    environment = (DEPLOY / "systemd" / "gateway.env").read_text()
    (drain_text,) = re.findall(r"^GATEWAY_DRAIN_SECONDS=(\d+)$", environment, re.MULTILINE)
    (stop_text,) = re.findall(r"^TimeoutStopSec=(\d+)$", SYSTEMD, re.MULTILINE)
    assert int(stop_text) > int(drain_text) + 10


def test_systemd_is_told_when_the_gateway_listens(
    gateway_process: Callable[..., GatewayProcess], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Given the unit's Type=notify, when the gateway starts under a supervisor, then it says that it is ready."""
    assert "Type=notify" in SYSTEMD.splitlines()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        gateway_process("http://127.0.0.1:9", keys=["sk-a"])
        assert "READY=1" in supervisor.recv(4096).decode().splitlines()


def nginx_value(directive: str, file: str = "messages-gateway.conf") -> str:
    """What the nginx configuration sets a directive to, in its last server."""
    text = (DEPLOY / "nginx" / "conf.d" / file).read_text()
    return re.findall(rf"^\s*{directive}\s+([^;]+);", text, re.MULTILINE)[-1]


def test_nginx_leaves_the_last_word_to_the_gateway() -> None:
    """Given the gateway's own limits, then nginx' are wider, and it closes idle connections before the gateway does."""
    settings = Settings()
    assert int(nginx_value("client_max_body_size").removesuffix("m")) << 20 > settings.max_body_bytes
    assert seconds(nginx_value("proxy_read_timeout")) > 2 * settings.read_idle_timeout_seconds
    assert seconds(nginx_value("proxy_connect_timeout")) < settings.connect_timeout_seconds
    (kept,) = re.findall(
        r"^keepalive = (\d+)$", (ROOT / "gateway" / "server/gunicorn_conf.py").read_text(), re.MULTILINE
    )
    assert seconds(nginx_value("keepalive_timeout", "gateways.conf")) < int(kept)


def test_ingress_says_what_nginx_says() -> None:
    """Given the directives that the ingress controller knows by other names, then their values are the same."""
    prefix = "nginx.ingress.kubernetes.io/"
    annotations = manifest("Ingress")["metadata"]["annotations"]
    said = {name.removeprefix(prefix): value for name, value in annotations.items()}
    assert said.pop("ssl-redirect") == "false"
    assert said.pop("proxy-body-size") == nginx_value("client_max_body_size")
    for name, value in said.items():
        wanted = nginx_value(name.replace("-", "_"))
        assert value == (wanted.removesuffix("s") if name.endswith("timeout") else wanted), name


def test_ingress_opens_nothing_that_nginx_closes() -> None:
    """Given the paths that the ingress serves, then neither the metrics nor the status page is among them."""
    (rule,) = manifest("Ingress")["spec"]["rules"]
    served = {path["path"]: path["pathType"] for path in rule["http"]["paths"]}
    assert served == {"/v1/": "Prefix", "/healthz": "Exact", "/readyz": "Exact", "/": "Exact"}


def test_compose_has_the_same_upstream_as_nginx_but_for_the_names() -> None:
    """Given the two files of gateways, then their directives are the same."""

    def directives(file: Path) -> set[str]:
        lines = (line.strip() for line in file.read_text().splitlines())
        return {re.sub(r"server [\w.-]+:\d+", "server", line) for line in lines if line and not line.startswith("#")}

    here = directives(DEPLOY / "compose" / "nginx" / "gateways.conf")
    assert here == directives(DEPLOY / "nginx" / "conf.d" / "gateways.conf")


def test_compose_mounts_what_is_there() -> None:
    """Given the files and folders that containers are given, then each is in the repository, or the operator's."""
    own = {"./tls", "./secrets"}
    for name, service in COMPOSE["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith(".") and source not in own:
                assert (DEPLOY / "compose" / source).exists(), (name, source)
            elif not source.startswith("."):
                assert source in COMPOSE["volumes"], (name, source)


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_container_is_hardened(name: str) -> None:
    """Given a service of the compose file, then its root is read-only and it has no rights that it was not given."""
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "cap_add" not in service or name == "nginx"
    published = [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")]
    assert published == (["80:80", "443:443"] if name == "nginx" else [])


def test_compose_trusts_nginx_alone() -> None:
    """Given nginx' address in the compose file, then it is the one whose word the gateways take."""
    address = COMPOSE["services"]["nginx"]["networks"]["front"]["ipv4_address"]
    assert {COMPOSE["services"][name]["environment"]["GATEWAY_TRUSTED_PROXIES"] for name in GATEWAYS} == {address}


def test_two_gateways_share_a_database_and_never_a_data_folder() -> None:
    """Given the gateways of the compose file and of systemd, then each has a folder of its own, beside one database."""
    folder = "/var/lib/messages-gateway"
    database = f"sqlite:///{folder}/records.db"
    services = [COMPOSE["services"][name] for name in GATEWAYS]
    assert [it["environment"]["GATEWAY_DATA_DIR"] for it in services] == [f"{folder}/1", f"{folder}/2"]
    assert {it["environment"]["GATEWAY_RECORD_URL"] for it in services} == {database}
    assert all(f"gateways:{folder}" in it["volumes"] for it in services)
    assert f"GATEWAY_DATA_DIR={folder}/%i" in SYSTEMD
    assert "StateDirectory=messages-gateway messages-gateway/%i" in SYSTEMD.splitlines()
    assert f"GATEWAY_RECORD_URL={database}" in (DEPLOY / "systemd" / "gateway.env").read_text().splitlines()
    (data,) = [volume for volume in POD["volumes"] if volume["name"] == "data"]
    assert "emptyDir" in data


def test_pods_are_hardened() -> None:
    """Given the pods, then they run as the image's user, on a read-only root, without rights."""
    user = re.findall(r"^USER (\d+):(\d+)$", (DEPLOY / "docker" / "Dockerfile").read_text(), re.MULTILINE)[0]
    context = POD["securityContext"]
    assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user
    for kind, name in (("Deployment", "messages-gateway"), ("StatefulSet", "redis")):
        pod = manifest(kind, name)["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_manifests_find_each_other() -> None:
    """Given labels, ports and names that manifests refer to, then each is there."""
    labels = {"app.kubernetes.io/name": "messages-gateway"}
    ports = {port["name"] for port in CONTAINER["ports"]}
    assert manifest("Deployment")["spec"]["template"]["metadata"]["labels"] == labels
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        assert manifest(kind)["spec"]["selector"]["matchLabels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels
    assert {port["targetPort"] for port in manifest("Service")["spec"]["ports"]} <= ports
    (endpoint,) = manifest("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in ports
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "gateway"}]
    (listed,) = [it for it in manifests() if it["kind"] == "Kustomization"]
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(listed["resources"]) == files
    assert [image["name"] for image in listed["images"]] == [CONTAINER["image"]]
    mounted = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    settings = manifest("ConfigMap")["data"]
    assert settings["GATEWAY_API_KEYS_FILE"] == f"{mounted['secrets']}/keys"
    assert settings["GATEWAY_CLIENT_TOKENS_FILE"] == f"{mounted['secrets']}/tokens"
    assert settings["GATEWAY_STATE_URL"] == f"redis://{manifest('Service', 'redis')['metadata']['name']}:6379/0"


def test_service_does_not_inject_settings() -> None:
    """Given the variables that Kubernetes makes of a Service's name, then none of them is a GATEWAY_ one."""
    for document in manifests():
        if document["kind"] == "Service":
            assert not document["metadata"]["name"].startswith("gateway")
