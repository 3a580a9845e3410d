"""What `/metrics` says, in Prometheus' text format: made when somebody asks, from counts that are there anyway.

Names of OpenTelemetry's conventions for generative AI are used where they exist, in Prometheus' spelling; the others
begin with ``wsstream_``. No label holds an id, an address or anything else that a client chooses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from wsstream import __version__, logs
from wsstream.ledger import Ledger
from wsstream.monitor import Monitor
from wsstream.pressure import Level
from wsstream.registry import Registry
from wsstream.stores.base import Store
from wsstream.streams import Streams
from wsstream.tally import Histogram, WireTally

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SLICE = 256
"""Connections looked at in a row, before the loop gets its turn."""

PROVIDER = "gen_ai_provider_name"
OPERATION = ("gen_ai_operation_name", "chat")


class Sources:
    """Where the figures come from."""

    def __init__(
        self,
        *,
        streams: Streams,
        registry: Registry,
        store: Store,
        wire: WireTally,
        ledger: Ledger,
        monitor: Monitor,
        rejected: Callable[[], Mapping[str, int]],
        clamped: Callable[[], Mapping[str, int]],
        is_ready: Callable[[], bool],
    ) -> None:
        """``rejected``: what was turned away, by reason; ``clamped``: what was only cut, by what it is."""
        self.clamped = clamped
        self.streams = streams
        self.registry = registry
        self.store = store
        self.wire = wire
        self.ledger = ledger
        self.monitor = monitor
        self.rejected = rejected
        self.is_ready = is_ready


class Traffic:
    """What all connections have received and sent since the start, gone or not."""

    def __init__(self) -> None:
        self.messages_received = 0
        self.bytes_sent = 0

    async def gather(self, registry: Registry) -> None:
        """Add up; in slices, because there may be ten thousand."""
        messages = size = 0
        for number, member in enumerate(registry):
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            info = member.statistics()
            messages += info.messages_received
            size += info.bytes_sent
        left = registry.statistics()
        # Whoever left while this was counted may be missing or be in twice; a counter never goes back.
        self.messages_received = max(self.messages_received, left.messages_received + messages)
        self.bytes_sent = max(self.bytes_sent, left.bytes_sent + size)


class Metrics(Collector):
    """Everything, for one server."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._traffic = Traffic()
        self._highest: dict[str, float] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    async def render(self) -> bytes:
        """All metrics as text."""
        await self._traffic.gather(self._sources.registry)
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing is known before it is asked for."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now."""
        yield from self._server()
        yield from self._answers()
        yield from self._feeds()
        yield from self._viewers()
        yield from self._wire()
        yield from self._store()
        yield from self._memory()

    # -- how the server is

    def _server(self) -> Iterator[Metric]:
        sources = self._sources
        registry = sources.registry.statistics()
        info = GaugeMetricFamily("wsstream_info", "The version that runs", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield _gauge("wsstream_ready", "1 while new work is taken", float(sources.is_ready()))
        yield _gauge("wsstream_draining", "1 while the server is about to leave", float(sources.registry.draining))
        yield _gauge("wsstream_connections", "WebSockets open now", registry.connections)
        yield _counter("wsstream_connections_opened", "WebSockets opened", registry.total)
        lines = logs.statistics()
        yield _counter("wsstream_log_lines", "Log lines written", lines.written)
        yield _counter("wsstream_log_lines_dropped", "Log lines dropped, as nobody read them", lines.dropped)
        yield _counter("wsstream_log_lines_sampled", "Log lines left out, as they repeated themselves", lines.sampled)
        yield _counters("wsstream_rejected", "What was turned away", "reason", sources.rejected())
        yield _counters("wsstream_clamped", "What was cut to a limit", "what", sources.clamped())
        yield _histogram("wsstream_loop_lag_seconds", "How late the event loop's timers came", sources.monitor.lag)

    # -- answers

    def _answers(self) -> Iterator[Metric]:
        ledger, streams = self._sources.ledger, self._sources.streams.statistics()
        yield _gauge("wsstream_streams_running", "Answers running now", streams.running)
        yield _gauge("wsstream_streams_quiet", "Of these, without a chunk for two seconds", ledger.quiet)
        yield _gauge("wsstream_streams_retained", "Ended answers that can be resumed", streams.retained)
        yield _gauge("wsstream_retained_bytes", "Their bytes", streams.retained_bytes)
        yield _gauge("wsstream_retained_memory_bytes", "Of these, in memory", streams.memory_bytes)
        yield _counters("wsstream_streams_started", "Answers begun", PROVIDER, ledger.started)
        ended = CounterMetricFamily("wsstream_streams_ended", "Answers ended", labels=[PROVIDER, "state"])
        for (provider, state), count in ledger.ended.items():
            ended.add_metric([provider, state], count)
        yield ended
        yield _counters("wsstream_stream_errors", "Answers that ended badly", "error_type", ledger.errors)
        yield _counter("wsstream_chunks", "Chunks generated and stored", self._rising("chunks", ledger.chunks))
        yield _counter("wsstream_chunk_bytes", "Their bytes as windows weigh them", self._rising("bytes", ledger.bytes))
        wasted = self._rising("wasted", streams.wasted)
        yield _counter("wsstream_wasted_chunks", "Chunks generated and sent to nobody", wasted)
        yield _counter("wsstream_retries", "Tries of providers after the first of an answer", streams.retries)
        yield from self._model_calls()

    def _feeds(self) -> Iterator[Metric]:
        feeds = self._sources.streams.feeds
        yield _gauge("wsstream_feeds", "Durable streams of clients", len(feeds))
        yield _gauge("wsstream_feeds_bytes", "Their bytes", feeds.size)

    def _model_calls(self) -> Iterator[Metric]:
        ledger = self._sources.ledger
        yield _histograms(
            "gen_ai_client_operation_time_to_first_chunk_seconds",
            "From the request to the provider's first chunk",
            ledger.first_chunk,
        )
        pace = HistogramMetricFamily(
            "gen_ai_client_operation_time_per_output_chunk_seconds",
            "Between a provider's chunks, averaged over at most a second",
            labels=[OPERATION[0]],
        )
        pace.add_metric([OPERATION[1]], _buckets(ledger.pace), ledger.pace.total)
        yield pace
        yield _histograms(
            "gen_ai_client_operation_duration_seconds", "From the request to the answer's end", ledger.durations
        )
        usage = HistogramMetricFamily(
            "gen_ai_client_token_usage",
            "Tokens of an answer, as the provider counts them",
            labels=[OPERATION[0], PROVIDER, "gen_ai_token_type"],
        )
        for kind, table in (("input", ledger.input_tokens), ("output", ledger.output_tokens)):
            for provider, histogram in table.items():
                usage.add_metric([OPERATION[1], provider, kind], _buckets(histogram), histogram.total)
        yield usage

    # -- viewers

    def _viewers(self) -> Iterator[Metric]:
        ledger, wire = self._sources.ledger, self._sources.wire
        viewers = ledger.viewers
        yield _gauge("wsstream_viewers", "Viewers of running answers", viewers.following)
        yield _gauge("wsstream_viewers_stalled", "Of these, with a full window and more to send", viewers.stalled)
        yield _gauge("wsstream_viewer_lag_max_chunks", "Chunks that the slowest has not acknowledged", viewers.max_lag)
        yield _histogram("wsstream_viewer_lag_chunks", "The same of every viewer, once a second", ledger.lag)
        yield _counter("wsstream_window_stalls", "Windows found full that were not a second before", ledger.stalls)
        yield _histogram("wsstream_ack_seconds", "From the write of a chunk to its ack, in samples", wire.ack_seconds)
        yield _counters("wsstream_resumes", "Resumes", "result", wire.resumes or {"ok": 0})

    def _wire(self) -> Iterator[Metric]:
        wire = self._sources.wire
        yield _counter("wsstream_received_messages", "Messages from clients", self._traffic.messages_received)
        yield _counter("wsstream_sent_bytes", "Bytes of frames to clients", self._traffic.bytes_sent)
        yield _counter("wsstream_conflated_chunks", "Chunks sent inside a batch instead of alone", wire.conflated)
        yield _counter("wsstream_heartbeat_timeouts", "Peers given up because they were silent", wire.timeouts)
        yield _counters("wsstream_refused_messages", "Messages answered with an error", "error_type", wire.refused)
        closes = {str(code): count for code, count in wire.closes.items()}
        yield _counters("wsstream_closes", "Connections that the server closed", "code", closes)

    # -- what is underneath

    def _store(self) -> Iterator[Metric]:
        store = self._sources.store
        statistics = store.statistics()
        yield _gauge("wsstream_store_trouble", "1 while the store fails", float(store.trouble() is not None))
        yield _histogram("wsstream_store_commit_seconds", "From a commit's start to its end", statistics.commits)
        yield _counter("wsstream_store_commit_failures", "Commits that failed", statistics.failures)
        yield _gauge("wsstream_store_pending_operations", "Writes that wait for a commit", statistics.pending)
        yield _gauge("wsstream_uncommitted_chunks", "Chunks that wait for a commit", self._sources.ledger.uncommitted)

    def _memory(self) -> Iterator[Metric]:
        monitor = self._sources.monitor
        memory = monitor.memory
        yield _gauge("wsstream_memory_rss_bytes", "Resident memory of the process", memory.rss)
        yield _gauge("wsstream_kernel_tcp_bytes", "The kernel's memory for TCP, of the whole machine", memory.tcp)
        yield _gauge("wsstream_memory_used_bytes", "Taken of the nearest limit", memory.used)
        yield _gauge("wsstream_memory_limit_bytes", "The nearest limit", memory.limit)
        level = GaugeMetricFamily("wsstream_memory_pressure", "1 for the level that holds", labels=["level"])
        for each in Level:
            level.add_metric([each.name.lower()], float(each is monitor.level))
        yield level
        yield _counter("wsstream_shed_connections", "Connections closed for want of memory", monitor.shed)

    def _rising(self, name: str, value: float) -> float:
        """A total that never falls, though a store that fails takes back what nobody has seen."""
        self._highest[name] = value = max(value, self._highest.get(name, 0.0))
        return value


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, text, buckets=_buckets(histogram), sum_value=histogram.total)


def _histograms(name: str, text: str, table: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=[OPERATION[0], PROVIDER])
    for provider, histogram in table.items():
        family.add_metric([OPERATION[1], provider], _buckets(histogram), histogram.total)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*[str(float(bound)) for bound in histogram.bounds], "+Inf"]
    return list(zip(bounds, map(float, histogram.cumulative()), strict=True))
