"""What a run found: one structure, as JSON or as a table."""

from __future__ import annotations

import msgspec

from wsstream.load.histogram import Histogram
from wsstream.load.settings import Settings

MIB = 2**20
KIB = 2**10


class Spread(msgspec.Struct, frozen=True):
    """How durations are spread. Milliseconds."""

    count: int
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, histogram: Histogram) -> Spread | None:
        """The spread of what ``histogram`` has counted; None where that is nothing."""
        if not histogram.count:
            return None
        p50, p95, p99 = (round(histogram.percentile(percent) / 1000, 3) for percent in (50, 95, 99))
        return cls(histogram.count, p50, p95, p99, round(histogram.largest / 1000, 3))


class Streams(msgspec.Struct, frozen=True):
    """How the streams fared. ``unfinished`` ones were cut off by the end of the time, or by Ctrl-C."""

    asked: int
    complete: int
    failed: int
    unfinished: int


class Chunks(msgspec.Struct, frozen=True):
    """What went wrong with chunks; each of these is to be 0."""

    lost: int
    duplicated: int
    reordered: int


class SlowReaders(msgspec.Struct, frozen=True):
    """The clients that stalled at times. Their figures are in no other spread."""

    clients: int
    tokens: int
    latency_ms: Spread | None


class Server(msgspec.Struct, frozen=True):
    """What the server's processes used up.

    CPU is that of the measured span, per token delivered in it. Memory is that before the first connection, with all
    connections idle, with all streams running, and the most seen. The two ``per_connection`` figures are differences
    to the first.
    """

    pids: list[int]
    cpu_us_per_token: float | None
    cpu_us_per_token_user: float | None
    cpu_us_per_token_system: float | None
    tokens_per_cpu_second: float | None
    rss_mib_before: float
    rss_mib_idle: float | None
    rss_mib_running: float | None
    rss_mib_peak: float
    rss_kib_per_connection_idle: float | None
    rss_kib_per_connection_running: float | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. The names of the fields are the keys of the JSON object."""

    settings: Settings
    elapsed_seconds: float
    """From the first request to the last answer's end."""
    interrupted: bool
    """Ctrl-C cut the run short."""
    streams: Streams
    chunks: Chunks
    tokens: int
    """Tokens delivered, each counted once."""
    tokens_expected: int
    steady: bool
    """The measured span is that in which all streams ran; otherwise it is the whole run."""
    measured_seconds: float
    tokens_per_second: float
    """In the measured span."""
    ttft_ms: Spread | None
    """From the request to the first token."""
    latency_ms: Spread | None
    """From a token's making to its arrival; without what was replayed after a resume. None for a remote server."""
    gap_ms: Spread | None
    """From one token of a stream to its next; tokens that arrive together have none between them."""
    resume_ms: Spread | None
    """From the start of a reconnect to the first chunk that was new."""
    drops: int
    """Connections broken off on purpose."""
    slow_readers: SlowReaders | None
    server: Server | None
    client_cpu_share: float
    """Of one core, taken by this load tester itself. Near 1, its own slowness is in the figures."""
    notes: list[str]
    """What could not be measured, and why."""
    errors: dict[str, int]

    @property
    def exit_status(self) -> int:
        """0 all is well, 1 something went wrong, 130 nothing did until Ctrl-C."""
        chunks = self.chunks
        if self.errors or chunks.lost or chunks.duplicated or chunks.reordered:
            return 1
        return 130 if self.interrupted else 0


def as_json(report: Report) -> str:
    """The report as one JSON object."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()


def as_table(report: Report) -> str:
    """The report for a person."""
    lines = [_headline(report), ""]
    lines += [f"{name:<15}{text}" for name, text in [*_counts(report), *_usage(report)]]
    spreads = _spreads(report)
    if spreads:
        lines += ["", "milliseconds" + "".join(f"{name:>12}" for name in ("p50", "p95", "p99", "max"))]
        lines += [f"{name:<12}" + "".join(f"{value:>12,.2f}" for value in values) for name, values in spreads]
    lines += [""] + [f"note: {text}" for text in report.notes]
    lines += [f"error: {text} ({count:,} times)" for text, count in report.errors.items()]
    lines.append(_verdict(report))
    return "\n".join(lines)


def _headline(report: Report) -> str:
    s = report.settings
    pace = f"{s.rate:g} tokens/s for {s.seconds:g} s" if s.rate else f"{s.tokens:,} tokens unpaced"
    return f"{s.url}: {s.streams:,} streams on {s.connections:,} connections, {pace} each"


def _counts(report: Report) -> list[tuple[str, str]]:
    streams, chunks = report.streams, report.chunks
    span = "while all streams ran" if report.steady else "the whole run"
    rows = [
        ("streams", f"{streams.complete:,} complete, {streams.failed:,} failed, {streams.unfinished:,} unfinished"),
        ("chunks", f"{chunks.lost:,} lost, {chunks.duplicated:,} duplicated, {chunks.reordered:,} reordered"),
        ("tokens", f"{report.tokens:,} of {report.tokens_expected:,} in {report.elapsed_seconds:.1f} s"),
        ("throughput", f"{report.tokens_per_second:,.0f} tokens/s ({span}, {report.measured_seconds:.1f} s)"),
    ]
    if report.drops:
        rows.append(("dropped", f"{report.drops:,} connections"))
    if report.slow_readers is not None:
        rows.append(("slow readers", f"{report.slow_readers.clients:,}, {report.slow_readers.tokens:,} tokens"))
    return rows


def _usage(report: Report) -> list[tuple[str, str]]:
    rows = []
    server = report.server
    if server is not None:
        if server.tokens_per_cpu_second is not None:
            parts = f"{server.cpu_us_per_token_user:.2f} user, {server.cpu_us_per_token_system:.2f} system"
            share = f"{server.tokens_per_cpu_second:,.0f} tokens a CPU second"
            rows.append(("server CPU", f"{server.cpu_us_per_token:.2f} µs a token ({parts}); {share}"))
        rows.append(("server memory", _memory(server)))
    rows.append(("load tester", f"{report.client_cpu_share:.0%} of a core"))
    return rows


def _memory(server: Server) -> str:
    text = f"{server.rss_mib_before:.1f} MiB before"
    if server.rss_mib_idle is not None:
        text += f", {server.rss_mib_idle:.1f} connected ({server.rss_kib_per_connection_idle:.1f} KiB a connection)"
    if server.rss_mib_running is not None:
        text += f", {server.rss_mib_running:.1f} streaming ({server.rss_kib_per_connection_running:.1f} KiB)"
    return f"{text}, {server.rss_mib_peak:.1f} at most"


def _spreads(report: Report) -> list[tuple[str, tuple[float, ...]]]:
    slow = report.slow_readers.latency_ms if report.slow_readers is not None else None
    named = (
        ("first token", report.ttft_ms),
        ("delivery", report.latency_ms),
        ("token gap", report.gap_ms),
        ("resume", report.resume_ms),
        ("slow readers", slow),
    )
    return [(name, (s.p50, s.p95, s.p99, s.max)) for name, s in named if s is not None]


def _verdict(report: Report) -> str:
    verdict = {0: "all is well", 1: "something went wrong"}.get(report.exit_status, "all is well so far")
    return verdict + (" (interrupted)" if report.interrupted else "")
