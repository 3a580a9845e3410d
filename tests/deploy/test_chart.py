"""The chart as helm renders it: Kubernetes takes what comes out, and the server what is in it."""

from __future__ import annotations

import itertools
import json
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.tools import BIN, CHART, DEPLOY, MARKS, attempt, run, tool
from wsstream.config import Config, load_config
from wsstream.origins import Origins

yaml = pytest.importorskip("yaml")
pytestmark = MARKS

OPEN = ("--set", "config.allow_anonymous=true")
EVERYTHING = """
config: {allow_anonymous: true, model: 'a"<b>', window: 5, max_retained_bytes: 10737418240, retention: 0.5,
  adaptive_window: true, store: "memory:", log_format: text}
existingSecret: keys
auth: {existingSecret: auth, tokensKey: users.toml, jwtKey: new.pem, jwtPreviousKey: old.pem}
tls: {existingSecret: chat-tls}
podAnnotations: {reloader/auto: "true"}
extraEnv: [{name: PYTHONPATH, value: /hooks}]
extraVolumes: [{name: hooks, configMap: {name: hooks}}]
extraVolumeMounts: [{name: hooks, mountPath: /hooks}]
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
    {"auth": {"existingSecret": "auth"}, "tls": {"existingSecret": "chat-tls"}},
    {"auth": {"existingSecret": "auth", "tokensKey": "", "jwtKey": "jwt.pem"}, "config": {"jwt_algorithm": "RS256"}},
    {"existingConfigMap": "mine", "tls": {"existingSecret": "chat-tls", "certKey": "chain.pem"}},
]
AUTH = "/etc/wsstream-auth/"
TLS = "/etc/wsstream-tls/"
NAMES = "t-wsstream-metrics.default,t-wsstream-metrics.default.svc"
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
    assert len(found) == 288
    return found


def test_each_value_does_what_it_says(rendered: Rendered) -> None:
    """In every combination there is what was asked for and nothing else, and the server takes the settings."""
    for values, documents in rendered:
        kinds = Counter(document["kind"] for document in documents)
        watched, locked = "metrics" in values, "networkPolicy" in values
        own = "existingConfigMap" not in values
        wanted = Counter(StatefulSet=1, Service=2, ConfigMap=own)
        assert kinds == wanted + Counter(ServiceMonitor=watched, NetworkPolicy=locked)
        spec = of_kind(documents, "StatefulSet")["spec"]
        kept = values.get("persistence", {}).get("enabled", True)
        assert kept == ("volumeClaimTemplates" in spec)
        pod = spec["template"]["spec"]
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]} | ({"data"} if kept else set())
        assert ("envFrom" in pod["containers"][0]) == ("existingSecret" in values)
        assert of_kind(documents, "Service")["spec"]["type"] == values["service"]["type"]
        environ = {entry["name"]: entry["value"] for entry in pod["containers"][0].get("env", [])}
        assert environ == files_of(values)
        settings = settings_of(documents) if own else {}
        assert settings == {**values.get("config", {}), **({"metrics_names": NAMES} if own else {})}
        assert load_config(settings, {}) == Config(**settings)


def settings_of(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """What is in the chart's own configuration."""
    return tomllib.loads(of_kind(documents, "ConfigMap")["data"]["wsstream.toml"])


def files_of(values: dict[str, Any]) -> dict[str, str]:
    """The variables that say where the files of secrets are."""
    auth, tls = values.get("auth", {}), values.get("tls", {})
    found = {}
    if auth:
        keys = {"TOKENS": auth.get("tokensKey", "tokens.toml"), "JWT_KEY": auth.get("jwtKey", "")}
        found |= {f"WSSTREAM_{name}_FILE": AUTH + key for name, key in keys.items() if key}
    if tls:
        found |= {"WSSTREAM_TLS_CERT": TLS + tls.get("certKey", "tls.crt"), "WSSTREAM_TLS_KEY": TLS + "tls.key"}
    return found


def test_secrets_are_files_that_only_the_server_reads(everything: Path) -> None:
    """What a variable names lies in a volume of the secret of that name, read-only, whole, for the pod's group alone;
    no secret's content is in what is rendered."""
    documents = render("-f", everything)
    pod = of_kind(documents, "StatefulSet")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    environ = {entry["name"]: entry["value"] for entry in container["env"]}
    where = {
        "WSSTREAM_TOKENS_FILE": ("auth", AUTH + "users.toml"),
        "WSSTREAM_JWT_KEY_FILE": ("auth", AUTH + "new.pem"),
        "WSSTREAM_JWT_PREVIOUS_KEY_FILE": ("auth", AUTH + "old.pem"),
        "WSSTREAM_TLS_CERT": ("chat-tls", TLS + "tls.crt"),
        "WSSTREAM_TLS_KEY": ("chat-tls", TLS + "tls.key"),
    }
    for variable, (secret, path) in where.items():
        mount = mounts[str(Path(path).parent)]
        assert environ[variable] == path
        assert volumes[mount["name"]]["secret"] == {"secretName": secret, "defaultMode": 0o440}
        assert mount["readOnly"]
        assert "subPath" not in mount  # a file alone would never be renewed
    assert container["args"] == ["--config", "/etc/wsstream/wsstream.toml"]
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    template = of_kind(documents, "StatefulSet")["spec"]["template"]
    assert template["metadata"]["annotations"]["reloader/auto"] == "true"
    assert (environ["PYTHONPATH"], mounts["/hooks"]["name"]) == ("/hooks", "hooks")
    assert of_kind(documents, "Service")["spec"]["ports"][0]["appProtocol"] == "https"


def test_a_config_map_of_ones_own_is_read() -> None:
    """It is mounted where the server looks, and the chart makes none."""
    documents = render("--set", "existingConfigMap=mine")
    volumes = of_kind(documents, "StatefulSet")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "config", "configMap": {"name": "mine"}} in volumes


def test_prometheus_may_call_the_service_by_its_names() -> None:
    """The server knows the names that the metrics' service has, beside those that the values add."""
    documents = render(*OPEN, "--namespace", "chat", "--set", "config.metrics_names=m.example")
    service = next(one for one in documents if one["metadata"]["labels"].get("wsstream/metrics"))
    name = service["metadata"]["name"]
    origins = Origins(names_checked=True, names=settings_of(documents)["metrics_names"])
    for host in (name, f"{name}.chat", f"{name}.chat.svc", f"{name}.chat.svc.cluster.local", "m.example", "10.0.0.7"):
        origins.check_host({"host": f"{host}:9765"})


OPERATOR = """import {{ ServiceMonitor, type IServiceMonitor }} from
  "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";
const monitor: IServiceMonitor = {monitor};
new ServiceMonitor(monitor).validate();
"""


def test_the_operator_takes_it(everything: Path, tmp_path: Path) -> None:
    """The ServiceMonitor is one by the schema of the operator's CRD, in its types and in the names of its fields; a
    misspelt field, or a number for a port's name, is not."""
    node, packages = tool("node"), BIN.parent / "operator" / "node_modules"
    if not packages.exists():
        pytest.skip("no schema of the operator's here")
    (tmp_path / "node_modules").symlink_to(packages)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    source = tmp_path / "monitor.ts"
    options = ("--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022", source)

    def problem(monitor: dict[str, Any]) -> str:
        source.write_text(OPERATOR.format(monitor=json.dumps(monitor)))
        compiled = attempt(node, packages / "typescript" / "bin" / "tsc", *options, cwd=tmp_path)
        if compiled.returncode:
            return compiled.stdout
        done = attempt(node, tmp_path / "monitor.js", cwd=tmp_path)
        return done.stdout if done.returncode else ""

    monitor = of_kind(render("-f", everything), "ServiceMonitor")
    assert problem(monitor) == ""
    spec = monitor["spec"]
    assert "jobLable" in problem({**monitor, "spec": {**spec, "jobLable": "x"}})
    assert "number" in problem({**monitor, "spec": {**spec, "endpoints": [{"port": 9765}]}})
    assert "targetLabels" in problem({**monitor, "spec": {**spec, "endpoints": [{"targetLabels": []}]}})
    assert "pattern" in problem({**monitor, "spec": {**spec, "endpoints": [{"port": "metrics", "interval": "soon"}]}})


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
        scheme = "wss" if "tls" in values else "ws"
        assert f" {scheme}://t-wsstream.ns.svc.cluster.local:80/ws" in text
        assert ("get secret keys" in text) == ("existingSecret" in values)
        assert ("get secret auth" in text) == ("auth" in values)
        assert ("get secret chat-tls" in text) == ("kill -HUP 1" in text) == ("tls" in values)
        assert ("config map mine" in text) == ("existingConfigMap" in values)
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
        *("metrics_names", "allow_anonymous", "model", "window", "max_retained_bytes", "retention", "adaptive_window")
    }


def test_nobody_installs_what_does_not_start() -> None:
    """Without a word on users, or with what cannot work, the chart says what is wrong and installs nothing."""
    helm = tool("helm")
    unseen = ("--set", "networkPolicy.enabled=true,metrics.serviceMonitor=true")
    wrong = {"existingSecret": (), "service.port": (*OPEN, "--set", "config.port=1"), "metricsFrom": (*OPEN, *unseen)}
    wrong |= {word: (*OPEN, "--set", f"{word}=1") for word in ("persistance", "networkPolicy.enable", "image.tags")}
    auth = ("--set", "auth.existingSecret=auth")
    wrong["auth.tokensKey"] = (*auth, "--set", "auth.tokensKey=")
    wrong["config.tokens_file"] = (*auth, "--set", "config.tokens_file=/x")
    wrong["config.tls_cert"] = (*OPEN, "--set", "config.tls_cert=/x,tls.existingSecret=t")
    wrong["existingConfigMap"] = (*OPEN, "--set", "existingConfigMap=mine")
    wrong["tls.keyKey"] = (*OPEN, "--set", "tls.existingSecret=t,tls.keyKey=../key")
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
