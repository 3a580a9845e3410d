"""One run from the first connection to the report. Bounded in time, whatever the server does."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from wsstream.errors import ConfigError, ConnectionFailed
from wsstream.load.client import Client, describe
from wsstream.load.meter import Meter, Usage, find_meter
from wsstream.load.report import KIB, MIB, Chunks, Report, Server, SlowReaders, Spread, Streams
from wsstream.load.settings import GRACE, Settings, Target, find_target
from wsstream.load.stream import AckTimer, Stream, Tally

HANDSHAKES = 200
"""Connections being made at once."""

CLOSING = 4.0
"""Seconds of the grace that are kept for closing."""

SETTLE = 0.25
"""Seconds after the last stream's first token, and after the last connection, before something is read."""

SHORTEST_SPAN = 1.0
BUSY = 0.9


class Mark(NamedTuple):
    """Where everything stood at one moment."""

    at: float
    tokens: int
    own_cpu: float
    usage: Usage | None


class Progress(NamedTuple):
    """What the progress line tells."""

    running: int
    tokens: int
    p99_ms: float


class Run:
    """One run. It is its clients' watcher."""

    def __init__(self, settings: Settings, target: Target, meter: Meter) -> None:
        self._settings = settings
        self._target = target
        self._meter = meter
        self._loop = asyncio.get_running_loop()
        self._tally = Tally(self)
        self._clients: list[Client] = []
        self._streams: list[Stream] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._finished = asyncio.Event()
        self._starting = self._running = settings.streams
        self._peak = 0
        self._before = self._mark()
        self._idle: Mark | None = None
        self._begin: Mark | None = None
        self._opened: Mark | None = None
        self._closed: Mark | None = None
        self._end: Mark | None = None

    # -- what the streams tell

    def on_first_token(self) -> None:
        """All streams have begun: soon the steady part begins."""
        self._starting -= 1
        if not self._starting:
            self._loop.call_later(SETTLE, self._open_span)

    def _open_span(self) -> None:
        if self._running == len(self._streams):  # else the steady part is over before it began
            self._opened = self._mark()

    def on_ended(self) -> None:
        """The first stream that ends, ends the steady part; the last one, the run."""
        if self._opened is not None and self._closed is None:
            self._closed = self._mark()
        self._running -= 1
        if not self._running:
            self._finished.set()

    # -- the run

    async def work(self) -> None:
        """Connect, let everything settle, run all streams to their end.

        Raises:
            ConnectionFailed: there is no connection at all.
            ConfigError: the server does not let a connection follow that many streams.
        """
        self._make_clients()
        await self._connect()
        await asyncio.sleep(SETTLE)
        self._idle = self._mark()
        self._plan_drops()
        self._begin = self._mark()
        await self._start()
        await self._finished.wait()

    def _make_clients(self) -> None:
        settings = self._settings
        acks = AckTimer()
        slow = _sample(settings.connections, settings.slow_readers)
        for number in range(settings.connections):
            client = Client(settings, self._target, self._tally, acks, self._spawn, slow=number in slow)
            self._clients.append(client)
        prefix = f"bench-{random.getrandbits(64):016x}"
        for number in range(settings.streams):
            client = self._clients[number % settings.connections]
            stream = Stream(client, f"{prefix}-{number}", settings.tokens)
            client.streams.append(stream)
            self._streams.append(stream)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        first = self._clients[0]
        address = await self._connect_first(first)
        follow = max(len(client.streams) for client in self._clients)
        if follow > first.max_streams:
            raise ConfigError(
                f"--connections {len(self._clients)}: each would follow {follow} streams, "
                f"and the server lets it follow {first.max_streams}"
            )
        waiting = iter(self._clients[1:])

        async def connect_some() -> None:
            for client in waiting:
                try:
                    await client.connect(address)
                except OSError as error:
                    client.fail(f"cannot connect: {describe(error)}")

        async with asyncio.TaskGroup() as group:
            for _ in range(HANDSHAKES):
                group.create_task(connect_some())

    async def _connect_first(self, client: Client) -> str:
        problem = ""
        for address in self._target.addresses:
            try:
                await client.connect(address)
            except OSError as error:
                problem = describe(error)
            else:
                return address
        raise ConnectionFailed(f"cannot connect to {self._settings.url}: {problem}")

    def _plan_drops(self) -> None:
        tokens = self._settings.tokens
        for number in _sample(len(self._clients), self._settings.drop):
            streams = self._clients[number].streams
            if streams:
                random.choice(streams).drop_at = random.randint(1, max(1, tokens * 9 // 10))

    async def _start(self) -> None:
        """Paced streams start spread over a second, so that their tokens are not all due at the same moments."""
        ramp = min(1.0, self._settings.seconds / 4) if self._settings.rate else 0.0
        begin = time.monotonic()
        for client in self._clients:
            if client.slow:
                client.stall_at_times(ramp + self._settings.seconds)
        for number, stream in enumerate(self._streams):
            due = begin + ramp * number / len(self._streams)
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            stream.start()

    async def close(self) -> None:
        """Read the meter a last time, cancel what still runs, close all connections."""
        self._end = self._mark()
        for task in list(self._tasks):
            task.cancel()
        for client in self._clients:
            client.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING / 2):
                for client in self._clients:
                    await client.wait_gone()

    # -- what there is to tell

    def _mark(self) -> Mark:
        return Mark(time.monotonic(), self._tally.tokens, time.process_time(), self._read())

    def _read(self) -> Usage | None:
        usage = self._meter.read()
        if usage is not None:
            self._peak = max(self._peak, usage.rss)
        return usage

    def progress(self) -> Progress:
        """How it stands."""
        self._read()
        running = self._running - self._starting
        return Progress(running, self._tally.tokens, self._tally.measures.latency.percentile(99) / 1000)

    def report(self, interrupted: bool) -> Report:
        """What there is to tell, at the end or before."""
        tally, settings = self._tally, self._settings
        opened, closed, steady = self._span()
        seconds = max(closed.at - opened.at, 1e-6)
        unfinished = settings.streams - tally.complete - tally.failed
        errors = dict(tally.errors)
        if unfinished and not interrupted:
            errors["stream not finished in time"] = unfinished
        checkers = [stream.checker for stream in self._streams]
        share = (closed.own_cpu - opened.own_cpu) / seconds
        return Report(
            settings=settings,
            elapsed_seconds=round(self._last().at - (self._begin or self._before).at, 3),
            interrupted=interrupted,
            streams=Streams(settings.streams, tally.complete, tally.failed, unfinished),
            chunks=Chunks(
                sum(checker.lost for checker in checkers),
                sum(checker.duplicated for checker in checkers),
                sum(checker.reordered for checker in checkers),
            ),
            tokens=tally.tokens,
            tokens_expected=settings.streams * settings.tokens,
            steady=steady,
            measured_seconds=round(seconds, 3),
            tokens_per_second=round((closed.tokens - opened.tokens) / seconds, 1),
            ttft_ms=Spread.of(tally.measures.ttft),
            latency_ms=Spread.of(tally.measures.latency) if self._target.loopback else None,
            gap_ms=Spread.of(tally.measures.gap),
            resume_ms=Spread.of(tally.measures.resume),
            drops=tally.drops,
            slow_readers=self._slow_readers(),
            server=self._server(opened, closed),
            client_cpu_share=round(share, 3),
            notes=self._notes(share),
            errors=errors,
        )

    def _last(self) -> Mark:
        return self._end or self._mark()

    def _span(self) -> tuple[Mark, Mark, bool]:
        closed = self._closed or self._last()
        if self._opened is not None and closed.at - self._opened.at >= SHORTEST_SPAN:
            return self._opened, closed, True
        return self._begin or self._before, self._last(), False

    def _slow_readers(self) -> SlowReaders | None:
        clients = sum(client.slow for client in self._clients)
        if not clients:
            return None
        latency = Spread.of(self._tally.slow_measures.latency) if self._target.loopback else None
        return SlowReaders(clients, self._tally.slow_tokens, latency)

    def _server(self, opened: Mark, closed: Mark) -> Server | None:
        before, first, last = self._before.usage, opened.usage, closed.usage
        if before is None or first is None or last is None:
            return None
        tokens = closed.tokens - opened.tokens
        user, system = last.user - first.user, last.system - first.system

        def per_token(seconds: float) -> float | None:
            return round(seconds * 1e6 / tokens, 3) if tokens else None

        connections = len(self._clients)

        def memory(mark: Mark | None) -> tuple[float | None, float | None]:
            if mark is None or mark.usage is None:
                return None, None
            return round(mark.usage.rss / MIB, 1), round((mark.usage.rss - before.rss) / KIB / connections, 1)

        idle, idle_each = memory(self._idle)
        running, running_each = memory(self._opened)
        return Server(
            pids=self._meter.pids,
            cpu_us_per_token=per_token(user + system),
            cpu_us_per_token_user=per_token(user),
            cpu_us_per_token_system=per_token(system),
            tokens_per_cpu_second=round(tokens / (user + system), 1) if tokens and user + system else None,
            rss_mib_before=round(before.rss / MIB, 1),
            rss_mib_idle=idle,
            rss_mib_running=running,
            rss_mib_peak=round(self._peak / MIB, 1),
            rss_kib_per_connection_idle=idle_each,
            rss_kib_per_connection_running=running_each,
        )

    def _notes(self, share: float) -> list[str]:
        notes = []
        if self._meter.missing is not None:
            notes.append(f"the server's CPU and memory are left out: {self._meter.missing}")
        if not self._target.loopback:
            notes.append("the delivery latency is left out: it takes the clock of the machine that the server is on")
        if share > BUSY:
            notes.append("this load tester was at its limit, so the latencies are partly its own")
        return notes


def _sample(count: int, share: float) -> set[int]:
    """That share of the numbers below ``count``, at least one of them where the share is not 0."""
    return set(random.sample(range(count), max(1, round(count * share)))) if share else set()


async def run_load(
    settings: Settings,
    stop: asyncio.Event | None = None,
    watch: Callable[[Run], Coroutine[Any, Any, None]] | None = None,
) -> Report:
    """Load the server and report, within ``settings.seconds + GRACE`` seconds.

    Args:
        stop: set it to end the run at once; the report tells of what there is so far.
        watch: runs beside it, to show the progress.

    Raises:
        ConfigError: the settings do not fit the server, or it is not ours to load.
        ConnectionFailed: there is no connection at all.
    """
    target = find_target(settings)
    run = Run(settings, target, find_meter(settings.pid, target.uri.port, target.loopback))
    stop = stop or asyncio.Event()
    work = asyncio.create_task(run.work())
    others: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait())]
    if watch is not None:
        others.append(asyncio.create_task(watch(run)))
    try:
        await asyncio.wait(
            {work, others[0]}, timeout=settings.seconds + GRACE - CLOSING, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        for task in (*others, work):
            task.cancel()
        await asyncio.gather(*others, work, return_exceptions=True)
        await run.close()
    if not work.cancelled():
        work.result()
    return run.report(interrupted=stop.is_set())
