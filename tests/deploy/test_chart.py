"""The chart as helm renders it: Kubernetes takes what comes out, and the server what is in it."""

from __future__ import annotations

import itertools
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.tools import CHART, DEPLOY, MARKS, attempt, run, tool
from wsstream.config import Config, load_config

yaml = pytest.importorskip("yaml")
pytestmark = MARKS

OPEN = ("--set", "config.allow_anonymous=true")
EVERYTHING = """
config: {allow_anonymous: true, model: 'a"<b>', window: 5, max_retained_bytes: 10737418240, retention: 0.5,
  adaptive_window: true, store: "memory:", log_format: text}
existingSecret: keys
service: {type: LoadBalancer, port: 443}
persistence: {enabled: true, size: 1Gi, storageClass: fast}
metrics: {serviceMonitor: true}
networkPolicy:
  enabled: true
  clientsFrom: [{ipBlock: {cidr: 10.0.0.0/8}}]
  metricsFrom: [{namespaceSelector: {matchLabels: {team: monitoring}}}]
nodeSelector: {disk: ssd}
tolerations: [{key: llm, operator: Exists}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions:
  [{key: disk, operator: In, values: [ssd]}]}]}}}
"""
NAME = 63
"""Characters that Kubernetes allows a service's name."""
HASH = 11
"""Characters that a StatefulSet adds to its name in a label of its pods."""


Rendered = list[tuple[dict[str, Any], list[dict[str, Any]]]]


def render(*values: str | Path, name: str = "t") -> list[dict[str, Any]]:
    """The chart's documents."""
    return list(yaml.safe_load_all(run(tool("helm"), "template", name, CHART, *values)))


def of_kind(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The only document of its kind, or the first."""
    return next(document for document in documents if document["kind"] == kind)


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """Values that use every branch of every template."""
    path = tmp_path / "values.yaml"
    path.write_text(EVERYTHING)
    return path


def test_helm_finds_nothing_wrong() -> None:
    """The strictest lint has no warning."""
    assert "0 chart(s) failed" in run(tool("helm"), "lint", "--strict", CHART, *OPEN)
    assert "WARNING" not in run(tool("helm"), "lint", "--strict", CHART, *OPEN)


USERS: list[dict[str, Any]] = [
    {"config": {"allow_anonymous": True}},
    {"existingSecret": "keys"},
    {"existingSecret": "keys", "config": {"allow_anonymous": True, "allowed_origins": "https://chat.example"}},
    {"config": {"identity_hook": "shop.users:Hook"}},
    {"config": {"jwt_key_file": "/data/key", "jwt_algorithm": "EdDSA"}},
]
VOLUMES: list[dict[str, Any]] = [{}, {"persistence": {"enabled": False}}, {"persistence": {"storageClass": "fast"}}]
SERVICES: list[dict[str, Any]] = [{"service": {"type": kind}} for kind in ("ClusterIP", "NodePort", "LoadBalancer")]
WATCHED: list[dict[str, Any]] = [{}, {"metrics": {"serviceMonitor": True}}]
LOCKED: list[dict[str, Any]] = [
    {},
    {"networkPolicy": {"enabled": True, "metricsFrom": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]}},
]


def combinations() -> Iterator[dict[str, Any]]:
    """Everything that the values offer, with everything else that they offer."""
    for parts in itertools.product(USERS, VOLUMES, SERVICES, WATCHED, LOCKED):
        yield {name: value for part in parts for name, value in part.items()}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """Each combination, and what helm makes of it."""
    path = tmp_path_factory.mktemp("values") / "values.yaml"
    found = []
    for values in combinations():
        path.write_text(yaml.safe_dump(values))
        found.append((values, render("-f", path)))
    assert len(found) == 180
    return found


def test_each_value_does_what_it_says(rendered: Rendered) -> None:
    """In every combination there is what was asked for and nothing else, and the server takes the settings."""
    for values, documents in rendered:
        kinds = Counter(document["kind"] for document in documents)
        watched, locked = "metrics" in values, "networkPolicy" in values
        wanted = Counter(StatefulSet=1, Service=2, ConfigMap=1)
        assert kinds == wanted + Counter(ServiceMonitor=watched, NetworkPolicy=locked)
        spec = of_kind(documents, "StatefulSet")["spec"]
        kept = values.get("persistence", {}).get("enabled", True)
        assert kept == ("volumeClaimTemplates" in spec)
        pod = spec["template"]["spec"]
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]} | ({"data"} if kept else set())
        assert ("envFrom" in pod["containers"][0]) == ("existingSecret" in values)
        assert of_kind(documents, "Service")["spec"]["type"] == values["service"]["type"]
        settings = tomllib.loads(of_kind(documents, "ConfigMap")["data"]["wsstream.toml"])
        assert settings == values.get("config", {})
        assert load_config(settings, {}) == Config(**settings)


def test_the_policy_lets_in_who_should(everything: Path) -> None:
    """Its ports are the pod's, its pods are the chart's, and nobody unnamed comes to the metrics."""
    documents = render("-f", everything)
    template = of_kind(documents, "StatefulSet")["spec"]["template"]
    policy = of_kind(documents, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    assert [rule["ports"][0]["port"] for rule in policy["ingress"]] == ["http", "metrics"]
    assert {"http", "metrics"} == ports
    assert [bool(rule["from"]) for rule in policy["ingress"]] == [True, True]
    alone = of_kind(render(*OPEN, "--set", "networkPolicy.enabled=true"), "NetworkPolicy")["spec"]["ingress"]
    assert alone == [{"ports": [{"port": "http"}]}]


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_kubernetes_takes_it(rendered: Rendered, everything: Path, tmp_path: Path, version: str) -> None:
    """What comes out of every combination, and of everything at once, is valid by Kubernetes' own schemas."""
    validate = tool("kubernetes-validate")
    different = {yaml.safe_dump(one) for _, documents in rendered for one in documents}
    different |= {yaml.safe_dump(one) for one in render("-f", everything)}
    path = tmp_path / "all.yaml"
    # The schema of these is the operator's, which is not at hand.
    path.write_text("---\n".join(one for one in sorted(different) if "kind: ServiceMonitor" not in one))
    said = run(validate, "--strict", "-k", version, path)
    assert [line for line in said.splitlines() if "passed" not in line] == []


NOTES = """apiVersion: v1
kind: ConfigMap
metadata: {name: notes}
data: {notes: {{ include (print .Template.BasePath "/NOTES.txt") . | toJson }}}
"""


def test_the_notes_tell_how_to_reach_it(tmp_path: Path) -> None:
    """Each service's notes have the command that leads to it, and names and port that the release has."""
    shutil.copytree(CHART, tmp_path / "chart")
    (tmp_path / "chart" / "templates" / "notes.yaml").write_text(NOTES)
    path = tmp_path / "values.yaml"
    ways = {
        "ClusterIP": "port-forward service/t-wsstream 8765:80",
        "NodePort": ".nodePort",
        "LoadBalancer": ".ingress[0]",
    }
    for values in combinations():
        if values.keys() & {"metrics", "networkPolicy"}:  # which the notes do not speak of
            continue
        path.write_text(yaml.safe_dump(values))
        command = ("template", "t", tmp_path / "chart", "-f", path, "--namespace", "ns", "-s", "templates/notes.yaml")
        text: str = yaml.safe_load(run(tool("helm"), *command))["data"]["notes"]
        for way, words in ways.items():
            assert (words in text) == (way == values["service"]["type"])
        assert "ws://t-wsstream.ns.svc.cluster.local:80/ws" in text
        assert ("get secret keys" in text) == ("existingSecret" in values)
        assert ("Anybody who reaches it" in text) == values.get("config", {}).get("allow_anonymous", False)
        assert ("gone with the pod" in text) == (values.get("persistence") == {"enabled": False})
        assert "<no value>" not in text


def test_the_server_reads_its_settings(everything: Path) -> None:
    """File and variables, as the chart writes them, are settings that the server takes with their values."""
    documents = render("-f", everything)
    container = of_kind(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    file = everything.with_name("wsstream.toml")
    file.write_text(of_kind(documents, "ConfigMap")["data"]["wsstream.toml"])
    environ = {entry["name"]: entry["value"] for entry in container["env"]}
    config = load_config({}, environ, str(file))
    assert (config.model, config.window, config.retention) == ('a"<b>', 5, 0.5)
    assert (config.max_retained_bytes, config.adaptive_window) == (10 << 30, True)
    assert (config.store, config.log_format) == ("memory:", "text")
    assert tomllib.loads(file.read_text()).keys() == {
        *("allow_anonymous", "model", "window", "max_retained_bytes", "retention", "adaptive_window")
    }


def test_nobody_installs_what_does_not_start() -> None:
    """Without a word on users, or with what cannot work, the chart says what is wrong and installs nothing."""
    helm = tool("helm")
    unseen = ("--set", "networkPolicy.enabled=true,metrics.serviceMonitor=true")
    wrong = {"existingSecret": (), "service.port": (*OPEN, "--set", "config.port=1"), "metricsFrom": (*OPEN, *unseen)}
    wrong |= {word: (*OPEN, "--set", f"{word}=1") for word in ("persistance", "networkPolicy.enable", "image.tags")}
    wrong["service.type"] = (*OPEN, "--set", "service.type=Headless")
    for word, values in wrong.items():
        done = attempt(helm, "template", "t", CHART, *values)
        assert done.returncode != 0
        assert word.rpartition(".")[2] in done.stdout, word


@pytest.mark.parametrize("name", ["wsstream", "chat", "a-very-long-name-of-a-release-that-helm-still-allows"])
def test_names_fit(name: str) -> None:
    """However a release is called, its names are as short as Kubernetes wants them, and no variable is in the way."""
    documents = render(*OPEN, name=name)
    assert all(len(document["metadata"]["name"]) <= NAME for document in documents)
    stateful = of_kind(documents, "StatefulSet")
    assert len(stateful["metadata"]["name"]) + HASH <= NAME
    assert stateful["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_services_find_their_pods(everything: Path) -> None:
    """Selectors are those of the pods' labels, ports those that the container has, and the job is the alerts' own."""
    documents = render("-f", everything)
    template = of_kind(documents, "StatefulSet")["spec"]["template"]
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    services = [document for document in documents if document["kind"] == "Service"]
    assert len(services) == 2
    for service in services:
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    monitor = of_kind(documents, "ServiceMonitor")["spec"]
    found = [one for one in services if monitor["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()]
    assert len(found) == 1
    alerts = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    assert f'job="{found[0]["metadata"]["labels"][monitor["jobLabel"]]}"' in alerts
