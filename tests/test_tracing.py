"""Traces: one span per answer, in the trace of whoever asked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.native import connected
from wsstream.chunks import Finish, Usage
from wsstream.errors import ContentFiltered
from wsstream.ledger import Ledger
from wsstream.server import Server
from wsstream.tracing import Tracer, make_tracer

sdk = pytest.importorskip("opentelemetry.sdk.trace")
exports = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What is exported, of servers that are started in the test."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    exporter = exports.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", lambda name: provider.get_tracer(name))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter.get_finished_spans
    provider.shutdown()


async def answered(server: Server, scripted: Scripted, *, end: Any = None, **hello: Any) -> None:
    """One answer from beginning to end."""
    async with connected(server, **hello) as native:
        stream_id = await native.ask("gpt")
        await native.round_trip()
        scripted.last.put("a secret ", "word")
        if isinstance(end, Exception):
            scripted.last.fail(end)
        else:
            scripted.last.finish(end)
        await native.read(stream_id)


async def test_a_span_of_an_answer(serve: Serve, scripted: Scripted, spans: Any) -> None:
    """It has the names of the conventions, when the first chunk came, and no word of what was said."""
    server = await serve(provider=SCRIPTED)
    await answered(server, scripted, end=Finish("length", Usage(7, 2)))
    (span,) = spans()
    assert span.name == "chat gpt"
    assert span.attributes["gen_ai.operation.name"] == "chat"
    assert span.attributes["gen_ai.request.model"] == "gpt"
    assert span.attributes["gen_ai.provider.name"] == SCRIPTED
    assert span.attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert (span.attributes["gen_ai.usage.input_tokens"], span.attributes["gen_ai.usage.output_tokens"]) == (7, 2)
    (event,) = span.events
    assert event.name == "first_chunk"
    assert span.start_time <= event.timestamp <= span.end_time
    assert "secret" not in span.to_json()


@pytest.mark.parametrize(
    ("client", "trace_id"),
    [
        ({"traceparent": PARENT}, TRACE),
        ({"traceparent": "nonsense"}, None),
        ({"traceparent": "00-" + "1" * 100_00}, None),
        ({"traceparent": 7}, None),
        ("a name", None),
        (None, None),
    ],
)
async def test_the_trace_of_whoever_asked(
    serve: Serve, scripted: Scripted, spans: Any, client: Any, trace_id: str | None
) -> None:
    """A page says in its hello which trace it belongs to; what is none begins one of its own."""
    server = await serve(provider=SCRIPTED)
    await answered(server, scripted, client=client)
    (span,) = spans()
    assert (f"{span.context.trace_id:032x}" == TRACE) is (trace_id is not None)


async def test_a_trace_ends_with_its_connection(serve: Serve, scripted: Scripted, spans: Any) -> None:
    """The next client's answer is not in the trace of the last one's."""
    server = await serve(provider=SCRIPTED)
    await answered(server, scripted, client={"traceparent": PARENT})
    await answered(server, scripted)
    first, second = spans()
    assert f"{first.context.trace_id:032x}" == TRACE != f"{second.context.trace_id:032x}"
    assert second.parent is None


async def test_the_trace_of_a_handshake(serve: Serve, scripted: Scripted, spans: Any) -> None:
    """Who can set headers may name the trace there."""
    from websockets.asyncio.client import connect

    from tests.native import Native

    server = await serve(provider=SCRIPTED)
    async with connect(
        f"ws://127.0.0.1:{server.port}/ws", additional_headers={"traceparent": PARENT}, ping_interval=None, proxy=None
    ) as socket:
        native = Native(socket)
        await native.hello()
        stream_id = await native.ask()
        await native.round_trip()
        scripted.last.finish()
        await native.read(stream_id)
    (span,) = spans()
    assert f"{span.context.trace_id:032x}" == TRACE


async def test_a_failed_answer(serve: Serve, scripted: Scripted, spans: Any) -> None:
    """Its span is an error of the same type as on the wire."""
    server = await serve(provider=SCRIPTED)
    await answered(server, scripted, end=ContentFiltered())
    (span,) = spans()
    assert span.attributes["error.type"] == "content_filter"
    assert not span.status.is_ok


@pytest.mark.usefixtures("spans")
def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there are no traces, and nothing is missed."""
    assert isinstance(make_tracer("demo"), Tracer)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    assert make_tracer("demo") is None


async def test_nobody_is_told_where_nobody_listens(serve: Serve) -> None:
    """Where the package is there, but was told of no place to send spans to, none are made."""
    server = await serve(provider=SCRIPTED)
    assert [type(watcher) for watcher in server.streams.watchers] == [Ledger]
