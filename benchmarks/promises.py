"""Measures what docs/protocol.md and the README promise, each as a ratio or a bound within one run.

    python benchmarks/promises.py [silent] [starvation] [history] [memory] [paced] [cancel]

Without names, all of them. Every server it starts is ended with the run; everything goes over loopback.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import uvloop
from drain import connect as connect_raw
from drain import frame
from websockets.asyncio.client import ClientConnection, connect

from wsstream.chunklog import ChunkLog
from wsstream.chunks import Delta
from wsstream.flow import SendWindow
from wsstream.frames import FrameBook
from wsstream.stores.memory import MemoryStore

HERE = Path(__file__).parent
SILENT = 1000
ROUNDS = 15
CANCELS, CANCELLERS = 240, 6


@asynccontextmanager
async def server(*flags: str, **variables: str) -> AsyncIterator[tuple[str, int]]:
    """A server process: its WebSocket address and its process id."""
    command = [sys.executable, "-m", "wsstream", "--port", "0", "--log-level", "error", *flags]
    environ = {**os.environ, "WSSTREAM_STORE": "memory:", **variables}
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, env=environ)
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    try:
        yield line.split()[-1].replace("http", "ws") + "ws", process.pid
    finally:
        process.terminate()
        await process.wait()


async def run(*command: str) -> str:
    """What a command prints."""
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    return output.decode()


async def bench(url: str, streams: int, rate: int, seconds: int) -> dict[str, Any]:
    """One run of the load tester that ships with the package."""
    command = [sys.executable, "-m", "wsstream", "bench", "--url", url, "--json", "--quiet"]
    command += ["--streams", str(streams), "--rate", str(rate)]
    command += ["--seconds", str(seconds)] if rate else ["--tokens", "60000"]
    report: dict[str, Any] = json.loads(await run(*command))
    return report


async def ask(url: str, model: str, **options: Any) -> ClientConnection:
    """A connection that has asked for an answer."""
    socket = await connect(url, compression=None, ping_interval=None, max_queue=None, proxy=None, **options)
    request = {"type": "chat_request", "request_id": os.urandom(8).hex(), "message": "hi", "config": {"model": model}}
    await socket.send(json.dumps(request))
    return socket


def silent_clients(url: str) -> list[socket.socket]:
    """Clients that ask for an answer and then neither read, acknowledge nor use any CPU."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    sockets = [connect_raw(port) for _ in range(SILENT)]
    for sock in sockets:
        config = {"model": "demo:rate=0,tokens=100000"}
        asking = {"type": "chat_request", "request_id": os.urandom(8).hex(), "message": "hi", "config": config}
        sock.sendall(frame(asking))
    return sockets


class Phase(NamedTuple):
    """One run of the load tester beside a server's other clients."""

    p50: float
    p99: float
    user: float
    system: float
    """CPU of the server, microseconds per token."""


async def measure_phase(url: str, pid: int) -> Phase:
    """Three seconds of 100 answers."""
    process = psutil.Process(pid)
    before = process.cpu_times()
    report = await bench(url, 100, 50, 3)
    after = process.cpu_times()
    tokens = 100 * 50 * 3
    cpu = (after.user - before.user) / tokens * 1e6, (after.system - before.system) / tokens * 1e6
    return Phase(report["latency_ms"]["p50"], report["latency_ms"]["p99"], *cpu)


async def measure_silent() -> None:
    """Others' p99 with a thousand clients that never acknowledge, against without.

    Three servers take turns, in another order each round: two without such clients, one with. What the two differ by is
    the machine's noise; more than that is the clients' doing.
    """
    flags = ("--max-running-streams", "3000", "--heartbeat-timeout", "600", "--max-connections", "3000")
    rounds: dict[str, list[Phase]] = {"alone": [], "again": [], "beside": []}
    async with AsyncExitStack() as stack:
        servers = {name: await stack.enter_async_context(server(*flags)) for name in rounds}
        sockets = await asyncio.to_thread(silent_clients, servers["beside"][0])
        await asyncio.sleep(2.0)
        for _ in range(ROUNDS):
            for name in random.sample(sorted(rounds), 3):
                rounds[name].append(await measure_phase(*servers[name]))
        for sock in sockets:
            sock.close()
    print(f"{SILENT} clients that never acknowledge, beside 100 streams x 50/s: medians of {ROUNDS} rounds")
    for name, phases in rounds.items():
        p50, p99, user, system = (statistics.median(values) for values in zip(*phases, strict=True))
        print(f"  {name:6s} p50 {p50:.2f} p99 {p99:.2f} ms, CPU user {user:.1f} + sys {system:.1f} us per token")
    for name in ("again", "beside"):
        pairs = zip(rounds["alone"], rounds[name], strict=True)
        low, middle, high = statistics.quantiles([other.p99 / alone.p99 for alone, other in pairs], n=4)
        print(f"  p99 {name:6s} / alone: median {middle:.2f}, half of the rounds {low:.2f} - {high:.2f} (bound 1.1)")


async def measure_starvation() -> None:
    """The first token of a second connection while an unpaced stream runs."""
    async with server() as (url, _pid), await ask(url, "demo:rate=0,tokens=3000000") as greedy:
        reader = asyncio.create_task(_read_and_ack(greedy))
        await asyncio.sleep(0.5)
        times = []
        for _ in range(50):
            begun = time.monotonic()
            async with await ask(url, "demo:rate=50,tokens=3") as socket:
                while "chunk" not in json.loads(await socket.recv())["type"]:
                    pass
                times.append((time.monotonic() - begun) * 1000)
        reader.cancel()
    times.sort()
    print(f"connect to first token beside an unpaced stream, ms: p50 {times[25]:.1f}, max {times[-1]:.1f} (bound 50)")


async def _read_and_ack(socket: ClientConnection, until: str | None = None) -> None:
    async for text in socket:
        if until is not None and until in str(text):
            return
        found = re.search(r'"(?:last_)?chunk_id":(\d+),"content"', str(text))
        if found:
            await socket.send(json.dumps({"type": "chunk_ack", "chunk_id": int(found[1])}))


async def measure_history() -> None:
    """What a token costs at a hundred thousand chunks of history, against at a hundred."""
    print("CPU per token through log, window and frames, in microseconds")
    short, long = [], []
    for _ in range(7):
        short.append(_cost_at(100))
        long.append(_cost_at(100_000))
    a, b = statistics.median(short), statistics.median(long)
    print(f"  at 100 chunks {a:.2f}, at 100,000 {b:.2f}: ratio {b / a:.3f} (bound 1.1)")


def _cost_at(history: int, tokens: int = 20_000) -> float:
    log = ChunkLog("s_" + "x" * 22, "e", MemoryStore(), overhead=100)
    for _ in range(history // 100):
        log.append([Delta("word ")] * 100)
    attachment = log.attach(SendWindow(50, 262_144, log.tail), lambda _: None)
    book = FrameBook.of(log)
    delta = [Delta("word ")]
    begun = time.process_time()
    for _ in range(tokens):
        log.append(delta)
        span = attachment.take(16_384)
        assert span is not None
        book.span(*span, batch=True)
        attachment.window.on_ack(span[1])
        attachment.on_acked()
        attachment.waiting = True
    return (time.process_time() - begun) / tokens * 1e6


async def measure_memory() -> None:
    """Resident memory of an idle connection and of one with a running stream."""
    for name, model in (("idle connection", None), ("connection with a running stream", "demo:rate=1,tokens=1000")):
        async with server("--hello-timeout", "600", "--max-running-streams", "3000") as (url, pid):
            warm = await asyncio.gather(*[ask(url, "demo:rate=100,tokens=5") for _ in range(20)])
            await asyncio.gather(*[socket.close() for socket in warm])
            await asyncio.sleep(0.5)
            before = psutil.Process(pid).memory_info().rss
            sockets = []
            for _ in range(20):
                sockets += await asyncio.gather(*[_visitor(url, model) for _ in range(100)])
            await asyncio.sleep(2.0)
            grown = psutil.Process(pid).memory_info().rss - before
            print(f"{name}: {grown / 2000 / 1024:.1f} KiB")
            await asyncio.gather(*[socket.close() for socket in sockets])


async def _visitor(url: str, model: str | None) -> ClientConnection:
    if model is not None:
        return await ask(url, model)
    socket = await connect(url, compression=None, ping_interval=None, proxy=None)
    await socket.send('{"type":"hello"}')
    return socket


async def measure_paced() -> None:
    """Demo streams, paced and not, against one bare send() in C, in the same run."""
    binary = HERE / "bare_send"
    await run("cc", "-O2", "-o", str(binary), str(HERE / "bare_send.c"))
    for _ in range(3):
        send = float((await run(str(binary))).split()[0])
        async with server() as (url, _pid):
            paced = await bench(url, 1000, 50, 8)
        async with server() as (url, _pid):
            unpaced = await bench(url, 50, 0, 5)
        for name, report in (("1,000 x 50/s", paced), ("50 unpaced", unpaced)):
            cost = report["server"]["cpu_us_per_token"]
            print(
                f"  {name:13s} {cost:6.2f} us a token, {1e6 / cost:9,.0f} tokens a CPU second, "
                f"{cost / send:.2f} x a bare send ({send:.2f}); delivery p50 {report['latency_ms']['p50']:.2f} "
                f"p99 {report['latency_ms']['p99']:.2f} ms"
            )


async def measure_cancel() -> None:
    """From a client's cancel to the close of the provider's connection, as the provider sees it."""
    command = (sys.executable, str(HERE / "upstream.py"))
    upstream = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, limit=1024 * 1024)
    assert upstream.stdout is not None
    port = (await upstream.stdout.readline()).decode().strip().rpartition(":")[2]
    closes = Closes(upstream.stdout)
    address = ("--provider", "openai", "--base-url", f"http://127.0.0.1:{port}/v1")
    try:
        async with server(*address, OPENAI_API_KEY="none") as (url, _pid):
            # In a process of its own: what it takes to read them must not look like the time a cancel takes.
            load = (str(HERE / "clients.py"), "--dialect", "wsstream", "--url", url, "--streams", "100", "--rate", "50")
            others = await asyncio.create_subprocess_exec(
                sys.executable, *load, "--tokens", "1000000", "--timeout", "900", stdout=subprocess.DEVNULL
            )
            await asyncio.sleep(2.0)
            for rate in (50, 500):
                gather = [_cancel_some(url, closes, rate, worker) for worker in range(CANCELLERS)]
                _tell_cancels(rate, [found for some in await asyncio.gather(*gather) for found in some])
            assert others.returncode is None, "the answers beside the cancels have ended"
            others.kill()
            await others.wait()
    finally:
        closes.end()
        upstream.terminate()
        await upstream.wait()


class Closes:
    """What the upstream tells of the streams whose connections were closed, by their names."""

    def __init__(self, lines: asyncio.StreamReader) -> None:
        self._told: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read(lines))

    async def _read(self, lines: asyncio.StreamReader) -> None:
        async for line in lines:
            told = json.loads(line)
            self._future(told["name"]).set_result(told)

    def _future(self, name: str) -> asyncio.Future[dict[str, Any]]:
        return self._told.setdefault(name, asyncio.get_running_loop().create_future())

    async def of(self, name: str) -> dict[str, Any]:
        """What it tells of this one."""
        return await asyncio.wait_for(self._future(name), 10)

    def end(self) -> None:
        """Read no more."""
        self._reading.cancel()


async def _cancel_some(url: str, closes: Closes, rate: int, worker: int) -> list[tuple[float, float, int]]:
    """Milliseconds to the close, to the receipt, and tokens written meanwhile, of one client's cancels."""
    found = []
    for number in range(CANCELS // CANCELLERS):
        name = f"r{rate}w{worker}n{number}"
        async with await ask(url, f"load:rate={rate},tokens=1000000,tell={name}") as socket:
            await _read_and_ack(socket, until='"content"')
            reader = asyncio.create_task(_read_and_ack(socket, until='"stream_complete"'))
            await asyncio.sleep(random.uniform(0.0, 1.0))
            sent_us = time.monotonic_ns() // 1000
            await socket.send('{"type":"cancel_stream"}')
            await asyncio.wait_for(reader, 10)
            receipt_us = time.monotonic_ns() // 1000
            told = await closes.of(name)
        after = sum(stamp > sent_us for stamp in told["stamps_us"])
        found.append(((told["closed_us"] - sent_us) / 1000, (receipt_us - sent_us) / 1000, after))
    return found


def _tell_cancels(rate: int, found: list[tuple[float, float, int]]) -> None:
    for name, times in (("close", [close for close, _, _ in found]), ("receipt", [receipt for _, receipt, _ in found])):
        p99 = statistics.quantiles(times, n=100, method="inclusive")[98]
        print(
            f"  {len(times)} cancels of {rate}/s beside 100 x 50/s, to the {name}, ms: "
            f"p50 {statistics.median(times):.2f} p99 {p99:.2f} max {max(times):.2f}"
        )
    tokens = [after for _, _, after in found]
    print(
        f"  tokens that the provider wrote meanwhile: {sum(tokens) / len(tokens):.2f} on average, {max(tokens)} at most"
    )


MEASURES: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    "silent": measure_silent,
    "starvation": measure_starvation,
    "history": measure_history,
    "memory": measure_memory,
    "paced": measure_paced,
    "cancel": measure_cancel,
}


async def main() -> None:
    for name in sys.argv[1:] or MEASURES:
        await MEASURES[name]()


if __name__ == "__main__":
    uvloop.run(main())
