"""The alerts, the dashboard and the scrape sample, as Prometheus itself sees them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.conftest import ROOT, clean_environ
from tests.deploy.tools import DEPLOY, MARKS, python, run, tool, wait_for

yaml = pytest.importorskip("yaml")
pytestmark = MARKS

RULES = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "wsstream.json"
WINDOW = 30
"""Seconds that stand for Grafana's rate interval."""
SELECTOR = re.compile(r"\b(?:wsstream|gen_ai_client)_[a-z_]+(?:\{[^}]*\})?(?=[\[)]| ==)")


class Seen(NamedTuple):
    """A Prometheus that has scraped a server under load."""

    url: str

    def ask(self, path: str, **query: str) -> Any:
        """What its API answers."""
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=5) as answer:
            return json.load(answer)["data"]

    def values(self, expression: str) -> list[float]:
        """Of each series, the figure now, unless it is none."""
        found = [float(series["value"][1]) for series in self.ask("query", query=expression)["result"]]
        return [value for value in found if not math.isnan(value)]


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program for as long as the block."""
    environ = {**clean_environ(), "PYTHONPATH": str(ROOT)}
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, env=environ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def free_port() -> int:
    """A port that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def status(url: str, body: dict[str, Any] | None = None, **headers: str) -> int:
    """The status of an HTTP request; 0 where nobody answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


def scrape_sample(path: Path, port: int) -> None:
    """The shipped scrape sample, with another address and less patience."""
    shipped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    shipped["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    shipped["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in shipped["rule_files"]]
    shipped["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    path.write_text(yaml.safe_dump(shipped))


def trouble(page: str) -> None:
    """What a good load does not show: an answer that fails, a page from elsewhere, a lost stream, nonsense."""
    asked = {"model": "nobody", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    assert status(f"{page}/v1/chat/completions", asked) in (200, 502)
    assert status(f"{page}/v1/models", Origin="https://elsewhere.example") == 403
    with connect(f"{page.replace('http', 'ws')}/ws") as wire:
        wire.send('{"type": "hello"}')
        wire.send('{"type": "resume_stream", "stream_id": "s_nobody_has_begun_it", "last_chunk_id": 1}')
        while "unknown_stream" not in str(wire.recv(5)):
            pass
        wire.send(b"\x00")  # only now: it closes the connection whatever waits to be looked at
        with pytest.raises(ConnectionClosed):
            hear(wire)


def hear(wire: ClientConnection) -> None:
    """Read until the server has closed."""
    while True:
        wire.recv(5)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """Prometheus beside a server that is used for a while: slow readers, broken connections, a few failures."""
    prometheus = tool("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    port, metrics, own = free_port(), free_port(), free_port()
    store = f"sqlite:{folder / 'wsstream.db'}"
    scrape_sample(folder / "prometheus.yml", metrics)
    serve = [python(), *f"-m wsstream --port {port} --metrics-port {metrics} --provider demo --store {store}".split()]
    watch = [prometheus, *f"--config.file={folder}/prometheus.yml --storage.tsdb.path={folder}/data".split()]
    watch.append(f"--web.listen-address=127.0.0.1:{own}")
    load = f"-m wsstream bench --url ws://127.0.0.1:{port}/ws --streams 20 --rate 50 --seconds 8 --window 10"
    load += " --slow-readers 0.3 --drop 0.3 --quiet"
    with running(serve, folder / "server.log"), running(watch, folder / "prometheus.log"):
        found = Seen(f"http://127.0.0.1:{own}")
        wait_for(lambda: status(f"http://127.0.0.1:{metrics}/readyz") == 200, 15, (folder / "server.log").read_text)
        wait_for(lambda: status(f"{found.url}/-/ready") == 200, 30, (folder / "prometheus.log").read_text)
        wait_for(lambda: found.values('up{job="wsstream"}') == [1], 15)
        for _ in range(2):  # a rate needs a series that was there before
            trouble(f"http://127.0.0.1:{port}")
            run(python(), *load.split(), environ={**os.environ, "PYTHONPATH": str(ROOT)}, patience=90)
        yield found


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels that show something."""
    return [panel for panel in json.loads(DASHBOARD.read_bytes())["panels"] if panel["type"] != "row"]


def filled(expression: str) -> str:
    """A query as Grafana sends it."""
    return expression.replace("$__rate_interval", f"{WINDOW}s").replace("$instance", ".*")


def test_the_files_are_what_prometheus_reads() -> None:
    """The rules and the scrape sample are taken without a word against them."""
    promtool = tool("promtool")
    assert "SUCCESS" in run(promtool, "check", "rules", RULES)
    assert "SUCCESS" in run(promtool, "check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def test_each_alert_wakes_when_it_should() -> None:
    """Each rule fires for the trouble it is about, with the words it has, and none for a server that is well."""
    assert "SUCCESS" in run(tool("promtool"), "test", "rules", ROOT / "tests" / "deploy" / "alerts_test.yml")


def test_the_dashboard_shows_figures(seen: Seen) -> None:
    """Every query of every panel is answered with figures by a server that was used."""
    empty = []
    for panel in panels():
        for target in panel["targets"]:
            if not seen.values(filled(target["expr"])):
                empty.append(f"{panel['title']}: {target['expr']}")
    assert empty == []


def test_the_instance_is_chosen_everywhere(seen: Seen) -> None:
    """Every query of the dashboard asks the chosen servers alone."""
    elsewhere = [
        target["expr"]
        for panel in panels()
        for target in panel["targets"]
        if seen.values(filled(target["expr"].replace("$instance", "nobody")))
    ]
    assert elsewhere == []


def test_the_rules_are_evaluated(seen: Seen) -> None:
    """Every rule is evaluated without an error, asks for series that exist, and a server that is used wakes nobody."""
    wait_for(lambda: all(rule["health"] == "ok" for rule in rules(seen)), 15, lambda: str(rules(seen)))
    asked = {selector for rule in rules(seen) for selector in SELECTOR.findall(rule["query"])}
    assert len(asked) >= 10
    assert [selector for selector in asked if not seen.values(selector)] == []
    assert [rule["name"] for rule in rules(seen) if rule["state"] == "firing"] == []


def rules(seen: Seen) -> list[dict[str, Any]]:
    """Prometheus' own word on the rules."""
    return [rule for group in seen.ask("rules")["groups"] for rule in group["rules"]]
