"""What is shipped for deployment: files that say what they should, and agree with the server."""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import ROOT
from wsstream import __version__
from wsstream.access import check_exposure
from wsstream.assembly import CLOSE_GRACE
from wsstream.config import OTHER_VARIABLES, Config, load_config, settings
from wsstream.errors import ConfigError
from wsstream.server import METRICS_BESIDE

yaml = pytest.importorskip("yaml")

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "wsstream"
DRAIN = Config().drain_timeout + 2 * CLOSE_GRACE
"""Seconds that a drain may take."""
VARIABLES = {setting.variable for setting in settings()}


def load(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text())


def test_the_image() -> None:
    """It runs as nobody in particular, is asked whether it is well, and gets its signals itself."""
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    last = text.split("FROM")[-1]
    assert re.search(r"^USER \d{4,}:\d{4,}$", last, re.MULTILINE)
    assert "HEALTHCHECK" in last
    assert re.search(r'^ENTRYPOINT \["python", "-m", "wsstream"\]$', last, re.MULTILINE)
    assert set(re.findall(r"WSSTREAM_\w+", text)) <= VARIABLES
    assert f"EXPOSE {Config().port} {Config().port + METRICS_BESIDE}" in last
    assert not re.search(r"_KEY|_TOKEN|SECRET", text)


def test_the_build_copies_what_there_is() -> None:
    """Each file that the image is made of exists, and is not ignored."""
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    let_in = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists(), name
            assert name in let_in, name


def test_compose() -> None:
    """The server is published to its own machine only, has no rights, and gets its time to leave."""
    services = load(DEPLOY / "docker" / "compose.yml")["services"]
    server = services["wsstream"]
    assert set(services) == {"wsstream", "prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", ()))
    assert server["cap_drop"] == ["ALL"]
    assert float(server["stop_grace_period"].rstrip("s")) > DRAIN
    given = server["environment"]
    assert given.keys() <= VARIABLES | OTHER_VARIABLES | {"OPENAI_API_KEY", "OPENAI_BASE_URL"}
    keys = {value for name, value in given.items() if re.search(r"_KEY|_TOKENS|_URL|_ORIGINS", name)}
    assert keys == {None}, "keys come from the environment of whoever starts it"
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (DEPLOY / "docker" / source).exists()
    scrape = load(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"][0]
    assert scrape["job_name"] == "wsstream"
    assert scrape["static_configs"][0]["targets"] == [f"wsstream:{Config().port + METRICS_BESIDE}"]


def environment() -> dict[str, str]:
    """The variables that the image and compose set."""
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    given = load(DEPLOY / "docker" / "compose.yml")["services"]["wsstream"]["environment"]
    return dict(re.findall(r"(WSSTREAM_\w+)=(\S+)", text)) | {k: v for k, v in given.items() if v is not None}


def test_what_is_shipped_lets_somebody_in() -> None:
    """With the variables of image and compose, the server does start; an image alone wants to know who may come in."""
    config = load_config({}, environment())
    check_exposure(config, identifies=False)
    assert not config.is_private
    with pytest.raises(ConfigError, match="nobody is asked"):
        check_exposure(msgspec.structs.replace(config, allow_anonymous=False), identifies=False)


def test_no_service_gives_a_pod_its_port() -> None:
    """Kubernetes' variables for services are off: of one named wsstream they would be read as settings."""
    assert "enableServiceLinks: false" in (CHART / "templates" / "statefulset.yaml").read_text()


def test_each_alert_is_tried() -> None:
    """Each alert has its case in the unit tests of the rules, and a runbook entry where it says it has."""
    groups = load(DEPLOY / "prometheus" / "alerts.yml")["groups"]
    alerts = {rule["alert"]: rule["annotations"]["runbook"] for group in groups for rule in group["rules"]}
    cases = load(ROOT / "tests" / "deploy" / "alerts_test.yml")["tests"]
    fired = {one["alertname"] for case in cases for one in case.get("alert_rule_test", ()) if one.get("exp_alerts")}
    assert fired == set(alerts)
    for alert, runbook in alerts.items():
        path, _, anchor = runbook.partition("#")
        assert f'<a id="{anchor}"></a>' in (ROOT / path).read_text(), alert


def test_the_dashboard_asks_the_chosen_server() -> None:
    """Every metric in a query of the dashboard is asked of the instance that is chosen."""
    dashboard = json.loads((DEPLOY / "grafana" / "wsstream.json").read_bytes())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            metrics = re.findall(r"\b(?:wsstream|gen_ai_client|process)_[a-z_]+", expression)
            assert len(metrics) == expression.count('instance=~"$instance"'), panel["title"]


def test_systemd() -> None:
    """The unit leaves a drain its time, renews the certificate on reload, and takes the rights away."""
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "wsstream.service")
    service = unit["Service"]
    assert float(service["TimeoutStopSec"]) > DRAIN
    assert service["ExecReload"] == "/bin/sh -c 'kill -HUP ${MAINPID}'"
    assert service["RestartPreventExitStatus"] == "2"
    assert service["NoNewPrivileges"] == service["ProtectHome"] == service["DynamicUser"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert int(service["LimitNOFILE"]) > Config().max_connections
    flags = re.findall(r"--[a-z-]+", service["ExecStart"])
    assert set(flags) <= {"--config", *[setting.flag for setting in settings()]}


# -- the chart as text. What helm makes of it: tests/deploy/test_chart.py.


def test_the_charts_versions() -> None:
    """It is a chart for this version."""
    chart = load(CHART / "Chart.yaml")
    assert chart["apiVersion"] == "v2"
    assert chart["appVersion"] == __version__


def _templates() -> str:
    return "\n".join(path.read_text() for path in sorted((CHART / "templates").iterdir()))


def test_every_value_is_used_and_every_used_one_exists() -> None:
    """Templates and ``values.yaml`` agree."""

    def paths(values: dict[str, Any], prefix: str = "") -> set[str]:
        found = set()
        for key, value in values.items():
            found |= paths(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key}
        return found

    used = set(re.findall(r"\.Values\.([A-Za-z.]+)", _templates()))
    given = paths(load(CHART / "values.yaml"))
    assert {u for u in used if not any(g == u or g.startswith(f"{u}.") for g in given)} == set()
    assert {g for g in given if not any(g == u or g.startswith(f"{u}.") for u in used)} == set()


def test_every_value_may_be_given() -> None:
    """What helm checks values by knows those of ``values.yaml``, one by one, and no others."""
    schema = json.loads((CHART / "values.schema.json").read_bytes())

    def agree(schema: dict[str, Any], values: dict[str, Any]) -> None:
        assert schema["properties"].keys() == values.keys()
        for key, within in schema["properties"].items():
            if "properties" in within:
                assert within["additionalProperties"] is False
                agree(within, values[key])

    del schema["properties"]["global"]  # which helm gives to charts within charts
    agree(schema, load(CHART / "values.yaml"))


def test_every_helper_is_defined() -> None:
    """No template includes what there is not, and every block is closed."""
    text = _templates()
    assert set(re.findall(r'include "([^"]+)"', text)) == set(re.findall(r'define "([^"]+)"', text))
    opened = re.findall(r"\{\{-? (?:if|with|range|define)\b", text)
    assert len(opened) == len(re.findall(r"\{\{-? end -?\}\}", text))


@pytest.mark.parametrize("name", ["config", "networkpolicy", "service", "statefulset", "servicemonitor"])
def test_templates_are_yaml_around_their_holes(name: str) -> None:
    """With each hole filled by something harmless, a template is YAML of the expected kind."""
    text = (CHART / "templates" / f"{name}.yaml").read_text()
    text = re.sub(r"^\s*\{\{-? (?!include|toYaml).*\}\}$\n?", "", text, flags=re.MULTILINE)
    text = re.sub(r"\{\{-? (?:include|toYaml) .*n?indent (\d+) \}\}", " {filled: x}", text)
    text = re.sub(r"^(\s*)\{filled: x\}$", r"\1filled: x", text, flags=re.MULTILINE)
    text = re.sub(r"\{\{[^}]*\}\}", "x", text)
    text = re.sub(r" \{filled: x\}(\n +wsstream/)", r"\1", text)
    for document in yaml.safe_load_all(text):
        assert {"apiVersion", "kind", "metadata"} <= set(document)


def test_a_pod_leaves_in_peace() -> None:
    """It gets longer than the sleep before the drain and the drain together; liveness does not ask for readiness."""
    values = load(CHART / "values.yaml")
    assert values["terminationGracePeriodSeconds"] > values["preStopSleep"] + DRAIN
    text = _templates()
    assert re.search(r"livenessProbe:\n\s+httpGet: \{path: /healthz", text)
    assert re.search(r"readinessProbe:\n\s+httpGet: \{path: /readyz", text)
    assert "runAsNonRoot: true" in text


def test_settings_of_the_chart_are_read_as_toml() -> None:
    """Values as the chart writes them, as JSON, are TOML: text, numbers and truths."""
    assert tomllib.loads('model = "a \\"b\\""\nwindow = 5\nadaptive_window = true\n')["window"] == 5
