"""What `/metrics` says: everything that the documentation, the dashboard and the alerts name, and nothing private."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT, SCRIPTED, Operators, Serve
from tests.data.scripted import Scripted
from tests.native import connected
from tests.test_web import Response, get
from wsstream.server import PortTaken, Server

OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
DEPLOY = ROOT / "deploy"
NAME = re.compile(r"\b((?:wsstream|gen_ai|process|python)_[a-z_]+[a-z])\b")
OTHERS = ("process_", "python_")
LABELS = {"gen_ai_provider_name", "gen_ai_token_type", "gen_ai_operation_name"}


def operators(server: Server) -> Operators:
    """Where a server's metrics are."""
    return Operators(server.metrics_port)


async def scrape(server: Server) -> dict[str, Any]:
    """Metric families by name."""
    text = (await get(operators(server), "/metrics")).body.decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: dict[str, Any], name: str, **labels: str) -> float:
    """One sample; 0 where there is none."""
    for family in families.values():
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return 0.0


def _samples(families: dict[str, Any]) -> set[str]:
    """Every name that can be asked for."""
    names = set()
    for family in families.values():
        names.add(family.name)
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


async def test_an_answer_shows(serve: Serve, scripted: Scripted) -> None:
    """Connections, streams, chunks, bytes, the first chunk's time and tokens are counted as they happen."""
    server = await serve(provider=SCRIPTED, metrics_port=None)
    async with connected(server) as native:
        stream_id = await native.ask()
        await native.round_trip()
        scripted.last.put("a", "b", "c")
        await native.read(stream_id, to=3)
        now = await scrape(server)
        assert value(now, "wsstream_streams_running") == 1
        assert value(now, "wsstream_connections") == 1
        assert value(now, "wsstream_chunks_total") == 3
        assert value(now, "wsstream_sent_bytes_total") > 100
        scripted.last.finish()
        await native.read(stream_id)
        await native.resume(stream_id, 1)
        await native.read(stream_id)
        await native.send("resume_stream", stream_id="s_none", last_chunk_id=0)
        await native.until("error")
    sent = value(now, "wsstream_sent_bytes_total")
    now = await scrape(server)
    assert value(now, "wsstream_streams_ended_total", state="complete") == 1
    assert value(now, "gen_ai_client_operation_time_to_first_chunk_seconds_count") == 1
    assert value(now, "gen_ai_client_operation_duration_seconds_count") == 1
    assert value(now, "wsstream_resumes_total", result="ok") == 1
    assert value(now, "wsstream_resumes_total", result="unknown_stream") == 1
    assert value(now, "wsstream_refused_messages_total", error_type="unknown_stream") == 1
    assert value(now, "wsstream_conflated_chunks_total") == 5  # three at once, and two of the resume
    assert value(now, "wsstream_wasted_chunks_total") == 0
    assert value(now, "wsstream_sent_bytes_total") > sent


async def test_what_is_turned_away_shows(serve: Serve) -> None:
    """Each reason has its count, those that never occurred too."""
    server = await serve(metrics_port=None, max_connections=1)
    async with connected(server):
        with pytest.raises(Exception, match="503"):
            async with connected(server):
                pass
        now = await scrape(server)
    assert value(now, "wsstream_rejected_total", reason="connections") == 1
    assert {s.labels["reason"] for s in now["wsstream_rejected"].samples} >= {"memory", "draining", "connections"}


async def test_peers_that_fall_silent_show(serve: Serve) -> None:
    """A connection that is given up for its silence is counted, and so is the close code."""
    server = await serve(metrics_port=None, heartbeat_interval=0.1, heartbeat_timeout=0.2)
    async with connected(server) as native:
        assert (await native.closed())[0] == 3008
    now = await scrape(server)
    assert value(now, "wsstream_heartbeat_timeouts_total") == 1
    assert value(now, "wsstream_closes_total", code="3008") == 1


async def test_acks_are_measured_in_samples(serve: Serve, scripted: Scripted) -> None:
    """After each heartbeat one chunk's way there and its ack's way back is timed."""
    server = await serve(provider=SCRIPTED, metrics_port=None, heartbeat_interval=0.1, heartbeat_timeout=50.0)
    async with connected(server) as native:
        stream_id = await native.ask()
        await native.until("heartbeat")
        for number in range(3):
            scripted.last.put("x")
            await native.read(stream_id, to=number + 1)
        await native.round_trip()
        assert value(await scrape(server), "wsstream_ack_seconds_count") == 1


async def test_commits_are_timed(serve: Serve, sqlite: str) -> None:
    """A durable store's commits show with their seconds."""
    server = await serve(store=sqlite, metrics_port=None)
    async with connected(server) as native:
        await native.read(await native.ask("demo:rate=0,tokens=10"))
    now = await scrape(server)
    assert value(now, "wsstream_store_commit_seconds_count") >= 1
    assert value(now, "wsstream_store_trouble") == 0
    assert value(now, "gen_ai_client_token_usage_sum", gen_ai_token_type="output") == 10


async def test_no_label_is_chosen_by_a_client(serve: Serve) -> None:
    """Session, user, request and model names are in no label, so that there are as many series tomorrow as today."""
    server = await serve(metrics_port=None)
    async with connected(server, session_id="canary-session", user_id="canary-user") as native:
        stream_id = await native.ask("demo:rate=0,tokens=1,seed=77", request_id="canary-request")
        await native.read(stream_id)
        text = (await get(operators(server), "/metrics")).body.decode()
    for name in ("canary", "seed=77", stream_id, "127.0.0.1"):
        assert name not in text


async def test_metrics_are_on_a_port_of_their_own(serve: Serve) -> None:
    """The public port has none, and the operators' port serves nothing else, the probes apart."""
    server = await serve(metrics_port=None)
    assert server.metrics_port not in (0, server.port)
    assert (await get(server, "/metrics")).status == 404
    response = await get(operators(server), "/metrics")
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert [(await get(operators(server), path)).status for path in ("/", "/ws", "/healthz", "/readyz")] == [
        404,
        404,
        200,
        200,
    ]
    upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    assert (await get(operators(server), "/ws", headers=upgrade)).status == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9765", 200),
        ("10.1.2.3:9765", 200),
        ("[::1]:9765", 200),
        ("localhost:9765", 200),
        ("wsstream:9765", 200),
        ("chat-wsstream-metrics.default.svc.cluster.local:9765", 200),
        ("chat-wsstream-metrics.default:9765", 200),
        ("CHAT-1.example.com:9765", 200),
        ("chat.example", 200),
        ("evil.example:9765", 403),
        ("chat-wsstream-metrics.evil:9765", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
async def test_no_page_reads_metrics_by_a_name_of_its_own(serve: Serve, host: str, status: int) -> None:
    """Whoever calls the operators' port, metrics or probes, by a name that a page may have given our address gets 403,
    wherever the server listens and whoever may come in; a Prometheus calls it by an address or a name that is ours."""
    server = await serve(
        metrics_port=None,
        metrics_host="0.0.0.0",
        metrics_names="chat-wsstream-metrics.default, chat-1.example.com",
        allowed_origins="https://chat.example",
        trusted_proxies="127.0.0.1",
    )
    for path in ("/metrics", "/healthz", "/readyz", "/"):
        response = await get(operators(server), path, host=host)
        assert response.status == (404 if path == "/" and status == 200 else status)
        if status == 403:
            assert b"--metrics-names" in response.body
            assert "content-security-policy" in response.headers
    assert server.rejections.statistics()["host"] == (4 if status == 403 else 0)


async def test_no_foreign_page_asks_for_metrics(serve: Serve) -> None:
    """A page of another origin is refused before anything is gathered for it."""
    server = await serve(metrics_port=None)
    response = await get(operators(server), "/metrics", headers="Origin: https://evil.example\r\n")
    assert (response.status, server.rejections.statistics()["origin"]) == (403, 1)


async def test_readiness(serve: Serve) -> None:
    """``/readyz`` is 503 with the reasons and a time to ask again while no new work is taken."""
    server = await serve(metrics_port=None)

    async def ready() -> Response:
        return await get(server, "/readyz")

    assert ((await ready()).status, json.loads((await ready()).body)) == (200, {"ready": True, "reasons": []})
    server.registry.draining = True
    response = await ready()
    assert (response.status, response.headers["retry-after"]) == (503, "5")
    assert json.loads(response.body) == {"ready": False, "reasons": ["draining"]}
    assert value(await scrape(server), "wsstream_ready") == 0


async def test_where_the_port_is(serve: Serve) -> None:
    """A port that was asked for must be free, one that was not is done without; 0 is none."""
    first = await serve(metrics_port=None)
    assert (await serve(metrics_port=0)).metrics_port == 0
    with pytest.raises(PortTaken):
        await serve(metrics_port=first.metrics_port)


# -- what others rely on


@pytest.fixture
async def names(serve: Serve, sqlite: str) -> set[str]:
    """Every name of a server that has done something."""
    server = await serve(store=sqlite, metrics_port=None)
    async with connected(server) as native:
        await native.read(await native.ask("demo:rate=0,tokens=5"))
    return _samples(await scrape(server))


async def test_every_metric_is_documented(names: set[str]) -> None:
    """The table of the operations page has each metric of ours, and no other."""
    table = OPERATIONS.split("<!-- metrics -->")[1].split("<!-- /metrics -->")[0]
    documented = set(re.findall(r"^\| `([a-z_]+)", table, re.MULTILINE))
    ours = {name for name in names if not name.startswith(OTHERS)}
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in ours}
    # A counter is documented under the name that is asked for.
    exposed = {name for name in families if f"{name}_total" not in families}
    assert documented == exposed


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("grafana/*.json")), ids=lambda path: path.name)
async def test_the_dashboard_shows_what_there_is(names: set[str], path: Path) -> None:
    """Each query of the dashboard asks for metrics that the server has, and each panel says what it shows."""
    dashboard = json.loads(path.read_bytes())  # noqa: ASYNC240
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    asked = {name for query in queries for name in NAME.findall(query)} - LABELS
    assert len(panels) >= 12
    assert asked - names == set()
    assert all(panel["title"] and panel["description"] for panel in panels)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


async def test_the_alerts_ask_for_what_there_is(names: set[str]) -> None:
    """Each rule asks for metrics that the server has, and is in the runbook."""
    yaml = pytest.importorskip("yaml")
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len(alerts) >= 8
    for rule in alerts:
        assert set(NAME.findall(rule["expr"])) - LABELS - names == set(), rule["alert"]
        assert f"`{rule['alert']}`" in OPERATIONS
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket")
