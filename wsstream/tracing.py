"""Traces, where the package ``opentelemetry-api`` is installed: one span per answer, in the trace of whoever asked.

Only the API is used: without an SDK and an exporter that the operator sets up, spans cost next to nothing and go
nowhere. The span is made of what is known when the answer has ended; no token passes here.
"""

from __future__ import annotations

import time
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from wsstream.messages import ChatRequested
from wsstream.streams import Stream
from wsstream.wires.base import TRACEPARENT

MAX_TRACEPARENT = 128
"""Characters; version 00 has 55."""


def make_tracer(default_provider: str) -> Tracer | None:
    """The watcher that makes spans; None without the package, and where nobody has set it up to send them anywhere."""
    try:
        import opentelemetry.trace as api
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError:
        return None
    if isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
        return None
    return Tracer(api, TraceContextTextMapPropagator(), default_provider)


class Traced:
    """Tells whoever answers an HTTP request which trace it belongs to."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":  # each request has a context of its own
            TRACEPARENT.set(",".join(Headers(scope=scope).getlist("traceparent")) or None)
        await self._app(scope, receive, send)


class Tracer:
    """Watches `wsstream.streams.Streams`."""

    def __init__(self, api: Any, propagator: Any, default_provider: str) -> None:
        """``api`` is ``opentelemetry.trace``."""
        self._api = api
        self._propagator = propagator
        self._default_provider = default_provider
        self._tracer = api.get_tracer("wsstream")
        self._spans: dict[Stream, tuple[Any, int]] = {}

    def on_started(self, stream: Stream, asked: ChatRequested) -> None:
        """Begin a span."""
        parent = TRACEPARENT.get()
        context = None
        if parent is not None and len(parent) <= MAX_TRACEPARENT:
            context = self._propagator.extract({"traceparent": parent})
        record = stream.record
        provider = (asked.config.provider if asked.config is not None else None) or self._default_provider
        begun = time.time_ns()
        span = self._tracer.start_span(
            f"chat {record.model}" if record.model else "chat",
            context=context,
            kind=self._api.SpanKind.CLIENT,
            start_time=begun,
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": provider,
                "gen_ai.conversation.id": record.session_id,
                "wsstream.stream.id": record.stream_id,
                **({"gen_ai.request.model": record.model} if record.model else {}),
            },
        )
        self._spans[stream] = span, begun

    def on_ended(self, stream: Stream) -> None:
        """End the span; the moment of the first chunk is known from its outcome."""
        span, begun = self._spans.pop(stream, (None, 0))
        outcome = stream.log.outcome
        if span is None or outcome is None:
            return
        if outcome.ttft_ms is not None:
            span.add_event("first_chunk", timestamp=begun + int(outcome.ttft_ms * 1e6))
        span.set_attribute("wsstream.stream.state", outcome.state.value)
        span.set_attribute("wsstream.stream.chunks", outcome.final_chunk_id)
        if outcome.finish_reason is not None:
            span.set_attribute("gen_ai.response.finish_reasons", [outcome.finish_reason])
        if outcome.usage is not None:
            span.set_attribute("gen_ai.usage.input_tokens", outcome.usage.input_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", outcome.usage.output_tokens)
        if outcome.error_type is not None:
            span.set_attribute("error.type", outcome.error_type)
            span.set_status(self._api.Status(self._api.StatusCode.ERROR, outcome.error_type))
        span.end()
