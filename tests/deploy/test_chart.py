"""The chart as helm renders it: Kubernetes takes what comes out, and the server what is in it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.tools import CHART, DEPLOY, MARKS, attempt, run, tool
from wsstream.config import load_config

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
nodeSelector: {disk: ssd}
tolerations: [{key: llm, operator: Exists}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions:
  [{key: disk, operator: In, values: [ssd]}]}]}}}
"""
NAME = 63
"""Characters that Kubernetes allows a service's name."""
HASH = 11
"""Characters that a StatefulSet adds to its name in a label of its pods."""


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


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_kubernetes_takes_it(everything: Path, tmp_path: Path, version: str) -> None:
    """What comes out is valid by Kubernetes' own schemas, with defaults, with everything, and without a volume."""
    validate = tool("kubernetes-validate")
    for number, values in enumerate([OPEN, ("-f", everything), (*OPEN, "--set", "persistence.enabled=false")]):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump_all(render(*values)))
        said = run(validate, "--strict", "-k", version, path)
        # Its schema is the operator's, which is not at hand.
        assert [line for line in said.splitlines() if "passed" not in line and "ServiceMonitor" not in line] == []


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
    """Without a word on users, or with an address of its own, the chart says what is wrong and installs nothing."""
    helm = tool("helm")
    for values, word in [((), "existingSecret"), ((*OPEN, "--set", "config.port=1"), "service.port")]:
        done = attempt(helm, "template", "t", CHART, *values)
        assert done.returncode != 0
        assert word in done.stdout


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
