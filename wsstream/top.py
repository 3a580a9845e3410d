"""``python -m wsstream top``: how a running server is, once a second, read from its `/metrics`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from wsstream.errors import ConfigError, ConnectionFailed

DEFAULT_URL = "http://127.0.0.1:9765/metrics"
MAX_REPLY = 16 * 1024 * 1024
TIMEOUT = 5.0
CLEAR = "\x1b[H\x1b[2J"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
ALTERNATE, ORDINARY = "\x1b[?1049h", "\x1b[?1049l"
LEAVE = ("q", "Q", "\x03", "\x04", "\x1b")

Labels = frozenset[tuple[str, str]]


class Reading(NamedTuple):
    """What a server said at one moment: samples by name."""

    at: float
    samples: Mapping[str, Mapping[Labels, float]]

    def value(self, name: str, **labels: str) -> float:
        """The sum of all samples of a name that have these labels."""
        wanted = labels.items()
        return sum(value for key, value in self.samples.get(name, {}).items() if wanted <= dict(key).items())

    def by(self, name: str, label: str) -> dict[str, float]:
        """The samples of a name, summed by one label."""
        table: dict[str, float] = {}
        for key, value in self.samples.get(name, {}).items():
            each = dict(key).get(label, "")
            table[each] = table.get(each, 0.0) + value
        return table


class Change(NamedTuple):
    """Two readings; what happened in between."""

    before: Reading
    after: Reading

    @property
    def seconds(self) -> float:
        """How long that was."""
        return max(1e-6, self.after.at - self.before.at)

    def rate(self, name: str, **labels: str) -> float:
        """A counter's increase per second."""
        return max(0.0, self.after.value(name, **labels) - self.before.value(name, **labels)) / self.seconds

    def quantile(self, name: str, share: float) -> float | None:
        """A histogram's bound that ``share`` of what was counted in between does not exceed; None where nothing was."""
        old, new = (reading.by(f"{name}_bucket", "le") for reading in self)
        counts = sorted((float(bound), value - old.get(bound, 0.0)) for bound, value in new.items())
        if not counts or counts[-1][1] <= 0:
            return None
        return next(bound for bound, count in counts if count >= share * counts[-1][1])


def parse(text: str, at: float) -> Reading:
    """Read Prometheus' text format."""
    from prometheus_client.parser import text_string_to_metric_families

    samples: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return Reading(at, samples)


def fetch(url: str) -> Reading:
    """Ask a server.

    Raises:
        ConnectionFailed: it does not answer, or not with metrics.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:
            text = reply.read(MAX_REPLY).decode()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ConnectionFailed(f"cannot read {url}: {reason}") from error
    try:
        return parse(text, time.monotonic())
    except ValueError as error:
        raise ConnectionFailed(f"{url} does not speak of metrics: {error}") from error


# -- what is shown


def render(change: Change, url: str, width: int = 80) -> list[str]:
    """The screen, line by line."""
    now = change.after
    lines = [_headline(now, url), ""]
    lines += [f"{name:<12}{text}" for name, text in _rows(change)]
    for title, table in _tables(change):
        if table:
            lines.append(f"{title:<12}" + ", ".join(f"{name} {count:,.0f}" for name, count in table))
    lines += ["", "q leaves"]
    return [line[:width] for line in lines]


def _headline(now: Reading, url: str) -> str:
    version = next(iter(now.by("wsstream_info", "version")), "?")
    state = "draining" if now.value("wsstream_draining") else "ready" if now.value("wsstream_ready") else "not ready"
    return f"wsstream {version} at {url}: {state}"


def _rows(change: Change) -> Iterator[tuple[str, str]]:
    now, v, rate = change.after, change.after.value, change.rate
    yield (
        "streams",
        f"{v('wsstream_streams_running'):,.0f} running ({v('wsstream_streams_quiet'):,.0f} quiet), "
        f"{rate('wsstream_streams_started_total'):,.1f} begun/s, {rate('wsstream_streams_ended_total'):,.1f} ended/s",
    )
    yield (
        "connections",
        f"{v('wsstream_connections'):,.0f} open, {rate('wsstream_connections_opened_total'):,.1f} opened/s, "
        f"{rate('wsstream_resumes_total'):,.1f} resumes/s",
    )
    yield (
        "chunks",
        f"{rate('wsstream_chunks_total'):,.0f}/s, {_size(rate('wsstream_sent_bytes_total'))}/s sent, "
        f"{v('wsstream_wasted_chunks_total'):,.0f} wasted",
    )
    yield (
        "viewers",
        f"{v('wsstream_viewers'):,.0f} following, {v('wsstream_viewers_stalled'):,.0f} stalled, "
        f"slowest {v('wsstream_viewer_lag_max_chunks'):,.0f} chunks behind",
    )
    yield "first chunk", _spread(change, "gen_ai_client_operation_time_to_first_chunk_seconds")
    yield "chunk gap", _spread(change, "gen_ai_client_operation_time_per_output_chunk_seconds")
    yield "ack", _spread(change, "wsstream_ack_seconds")
    yield "loop lag", _spread(change, "wsstream_loop_lag_seconds")
    trouble = ", TROUBLE" if v("wsstream_store_trouble") else ""
    yield "commit", _spread(change, "wsstream_store_commit_seconds") + trouble
    level = next((name for name, on in now.by("wsstream_memory_pressure", "level").items() if on), "?")
    used, limit = v("wsstream_memory_used_bytes"), v("wsstream_memory_limit_bytes")
    share = f"{used / limit:.0%}" if limit else "?"
    yield (
        "memory",
        f"{_size(v('wsstream_memory_rss_bytes'))} resident, {_size(v('wsstream_kernel_tcp_bytes'))} kernel TCP, "
        f"{share} of {_size(limit)}: {level}",
    )
    yield "CPU", f"{rate('process_cpu_seconds_total'):.0%} of a core"


def _tables(change: Change) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """What went wrong since the start, the most frequent first."""
    for title, name, label in (
        ("rejected", "wsstream_rejected_total", "reason"),
        ("refused", "wsstream_refused_messages_total", "error_type"),
        ("errors", "wsstream_stream_errors_total", "error_type"),
        ("closed", "wsstream_closes_total", "code"),
    ):
        table = change.after.by(name, label)
        yield title, sorted(((k, n) for k, n in table.items() if n), key=lambda pair: -pair[1])[:6]


def _spread(change: Change, name: str) -> str:
    quantiles = [(share, change.quantile(name, share)) for share in (0.5, 0.99)]
    return ", ".join(f"p{share * 100:.0f} {'-' if value is None else _duration(value)}" for share, value in quantiles)


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "beyond all bounds"
    return f"≤ {seconds * 1000:g} ms" if seconds < 1 else f"≤ {seconds:g} s"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


# -- the screen


def top(url: str, interval: float, once: bool = False) -> int:
    """Show ``url`` until q or Ctrl-C; with ``once``, or where stdout is no terminal, one screen. The exit status.

    Raises:
        ConfigError: ``url`` is not one of HTTP.
        ConnectionFailed: there is no server at the beginning.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--url: {url!r} is not an HTTP URL such as {DEFAULT_URL}")
    first = fetch(url)
    if once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        time.sleep(interval)
        print("\n".join(render(Change(first, fetch(url)), url, width=200)[:-2]))
        return 0
    with _raw_terminal():
        return asyncio.run(_watch(url, interval, first))


async def _watch(url: str, interval: float, before: Reading) -> int:
    leaving = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), _on_key, leaving)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leaving.set)
    try:
        while not leaving.is_set():
            before = await _show_next(url, before)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await leaving.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return 0


async def _show_next(url: str, before: Reading) -> Reading:
    """One screen; a server that is gone is waited for."""
    width, height = shutil.get_terminal_size()
    try:
        after = await asyncio.to_thread(fetch, url)
    except ConnectionFailed as error:
        _draw([str(error)[:width], "", "q leaves"])
        return before
    _draw(render(Change(before, after), url, width)[: height - 1])
    return after


def _draw(lines: Sequence[str]) -> None:
    sys.stdout.write(CLEAR + "\r\n".join(lines))
    sys.stdout.flush()


def _on_key(leaving: asyncio.Event) -> None:
    keys = os.read(sys.stdin.fileno(), 64).decode(errors="replace")
    if not keys or any(key in LEAVE for key in keys):
        leaving.set()


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Keys come as they are pressed, on a screen of our own; everything as before afterwards."""
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        sys.stdout.write(ALTERNATE + HIDE)
        yield
    finally:
        sys.stdout.write(SHOW + ORDINARY)
        sys.stdout.flush()
        termios.tcsetattr(number, termios.TCSADRAIN, before)
