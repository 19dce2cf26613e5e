"""deploy/helm, rendered by Helm itself: it says what deploy/kubernetes says, in every form what Kubernetes knows."""

from __future__ import annotations

import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness import ROOT

CHART = ROOT / "deploy" / "helm" / "messages-gateway"
PROGRAMS = ROOT / "tests" / "deploy" / "tools" / "node_modules" / "programs"
# What Helm adds so that releases are told apart.
_HELM_LABELS = {"app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart"}


def output(program: str, *arguments: str) -> str:
    """What it prints. Raises AssertionError if it fails."""
    binary = PROGRAMS / program
    assert binary.exists(), "these tests need helm and kubectl: sh tests/deploy/tools/setup.sh"
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rendered(*options: str, release: str = "messages-gateway") -> list[dict[str, Any]]:
    """The chart's documents, with these options."""
    text = output("helm", "template", release, str(CHART), "--namespace", "messages-gateway", *options)
    return [document for document in yaml.safe_load_all(text) if document]


def without_names_of_releases(value: Any) -> Any:
    """A document, or a part of one, without what Helm adds, and with the manifests' names."""
    if isinstance(value, dict):
        return {key: without_names_of_releases(each) for key, each in value.items() if key not in _HELM_LABELS}
    if isinstance(value, list):
        return [without_names_of_releases(each) for each in value]
    return value.replace("messages-gateway-redis", "redis") if isinstance(value, str) else value


def by_name(documents: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Documents by kind and name; without their own labels, which are for people, and without the namespace."""
    found = {}
    for document in documents:
        metadata = {key: each for key, each in document["metadata"].items() if key not in ("labels", "namespace")}
        found[document["kind"], metadata["name"]] = document | {"metadata": metadata}
    return found


def test_chart_says_what_the_manifests_say() -> None:
    """Given the chart's own values and a PodMonitor, then what Helm makes is what kubectl makes of the manifests, but
    for the namespace itself and what tells releases apart.
    """
    manifests = by_name(list(yaml.safe_load_all(output("kubectl", "kustomize", str(ROOT / "deploy" / "kubernetes")))))
    del manifests["Namespace", "messages-gateway"]
    charted = by_name([without_names_of_releases(it) for it in rendered("--set", "podMonitor.enabled=true")])
    annotations = charted["Deployment", "messages-gateway"]["spec"]["template"]["metadata"].pop("annotations")
    assert set(annotations) == {"checksum/settings"}
    rules = [it["Ingress", "messages-gateway"]["spec"]["rules"][0]["http"]["paths"] for it in (manifests, charted)]
    for paths in rules:
        paths.sort(key=lambda path: path["path"])
    assert charted == manifests


_FORMS = {
    "as it is": [],
    "another redis": ["--set", "redis.enabled=false,settings.GATEWAY_STATE_URL=redis://redis.example.com:6379/0"],
    "bare": ["--set", "ingress.enabled=false,networkPolicies.enabled=false,redis.enabled=false"],
    "everything": [
        *("--set", "image.tag=2.0.0,imagePullSecrets[0].name=pull,podAnnotations.team=ai,nodeSelector.disk=ssd"),
        *("--set", "tolerations[0].key=ai,tolerations[0].operator=Exists,redis.storageClassName=fast"),
        *("--set", "ingress.annotations.more=yes,networkPolicies.extraEgress[0].ports[0].port=5432"),
        *("--set", "extraEnv[0].name=GATEWAY_STATE_URL,extraEnv[0].valueFrom.secretKeyRef.name=redis"),
        *("--set", "extraEnv[0].valueFrom.secretKeyRef.key=url"),
        *("--set-json", 'affinity={"nodeAffinity": {}}'),
    ],
}


@pytest.mark.parametrize("options", _FORMS.values(), ids=_FORMS)
@pytest.mark.parametrize("release", ["messages-gateway", "a-release-with-the-longest-name-that-helm-puts-up-with"[:53]])
def test_every_form_is_what_kubernetes_knows(options: list[str], release: str, tmp_path: Path) -> None:
    """Given the chart with these values, then Kubernetes' own schemas, in strict mode, have nothing against it; names
    are short enough, and what refers to another is led to one that is there.
    """
    documents = rendered(*options, release=release)
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(documents))
    validate = [str(Path(sys.executable).parent / "kubernetes-validate"), "--strict", str(tmp_path / "all.yaml")]
    done = subprocess.run(validate, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    names = by_name(documents)
    assert all(len(name) <= 52 for _, name in names)
    (deployment,) = [it for (kind, _), it in names.items() if kind == "Deployment"]
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    settings = names["ConfigMap", container["envFrom"][0]["configMapRef"]["name"]]["data"]
    for (kind, name), document in names.items():
        if kind == "Service" and not name.endswith("-redis"):
            assert document["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        if kind == "StatefulSet":
            assert settings["GATEWAY_STATE_URL"] == f"redis://{name}:6379/0"
            assert ("Service", name) in names


def test_a_longer_drain_gives_pods_longer_to_stop() -> None:
    """Given another drain time, then Kubernetes waits for the wait before it, the drain, and the last words."""
    (deployment,) = [
        it for it in rendered("--set-string", "settings.GATEWAY_DRAIN_SECONDS=600") if it["kind"] == "Deployment"
    ]
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 15 + 600 + 10


def test_releases_beside_each_other_share_nothing() -> None:
    """Given two releases in a namespace, then no two documents have a name in common, and no pod is of both."""
    one, other = by_name(rendered(release="one")), by_name(rendered(release="other"))
    assert not set(one) & set(other)
    for (kind, _), document in one.items():
        if kind in ("Deployment", "StatefulSet"):
            labels = document["spec"]["template"]["metadata"]["labels"]
            selectors = [it["spec"]["selector"] for (kind, _), it in other.items() if kind == "Service"]
            assert not any(selector.items() <= labels.items() for selector in selectors)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("replica=5", "replica"),
        ("settings.GATEWAY_API_KEYS=sk-ant-x", "GATEWAY_API_KEYS"),
        ("settings.GATEWAY_THREADS=512", "GATEWAY_THREADS"),
        ("settings.THREADS=many", "THREADS"),
        ("secret=", "secret"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(option: str, words: str) -> None:
    """Given a value that is unknown, a secret among the settings, or a number that is no text, then Helm says so."""
    with pytest.raises(AssertionError, match=words):
        rendered("--set", option)


def test_chart_has_the_version_of_the_gateway() -> None:
    """Given the package's version, then the chart's image has it."""
    package = ConfigParser()
    package.read(ROOT / "setup.cfg")
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == package["metadata"]["version"]
