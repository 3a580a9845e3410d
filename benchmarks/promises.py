"""Measures what docs/protocol.md and the README promise, each as a ratio or a bound within one run.

    python benchmarks/promises.py [silent] [starvation] [history] [memory] [paced]

Without names, all of them. Every server it starts is ended with the run; everything goes over loopback.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import uvloop
from websockets.asyncio.client import ClientConnection, connect

from wsstream.chunklog import ChunkLog
from wsstream.chunks import Delta
from wsstream.flow import SendWindow
from wsstream.frames import FrameBook
from wsstream.stores.memory import MemoryStore

HERE = Path(__file__).parent
SILENT = 1000


@asynccontextmanager
async def server(*flags: str) -> AsyncIterator[tuple[str, int]]:
    """A server process: its WebSocket address and its process id."""
    command = [sys.executable, "-m", "wsstream", "--port", "0", "--log-level", "error", *flags]
    environ = {**os.environ, "WSSTREAM_STORE": "memory:"}
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


async def silent_clients(url: str, count: int) -> list[ClientConnection]:
    """Clients that never acknowledge anything; they answer no heartbeat either."""
    sockets = []
    for _ in range(count // 50):
        sockets += await asyncio.gather(*[ask(url, "demo:rate=0,tokens=100000") for _ in range(50)])
    await asyncio.sleep(1.0)
    return sockets


async def measure_silent() -> None:
    """Others' p99 with a thousand clients that never acknowledge, against without."""
    print(f"{SILENT} clients that never acknowledge, beside 100 streams x 50/s: p99 of the others' delivery, ms")
    ratios = []
    for _ in range(5):
        async with server("--max-running-streams", "3000", "--heartbeat-timeout", "600") as (url, _pid):
            alone = (await bench(url, 100, 50, 8))["latency_ms"]
            sockets = await silent_clients(url, SILENT)
            beside = (await bench(url, 100, 50, 8))["latency_ms"]
            await asyncio.gather(*[socket.close() for socket in sockets])
        ratios.append(beside["p99"] / alone["p99"])
        for name, spread in (("alone", alone), ("beside", beside)):
            print(f"  {name:6s} p50 {spread['p50']:.2f} p99 {spread['p99']:.2f}")
    print(f"  median ratio of p99 {statistics.median(ratios):.2f}")


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


async def _read_and_ack(socket: ClientConnection) -> None:
    async for text in socket:
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


MEASURES: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    "silent": measure_silent,
    "starvation": measure_starvation,
    "history": measure_history,
    "memory": measure_memory,
    "paced": measure_paced,
}


async def main() -> None:
    for name in sys.argv[1:] or MEASURES:
        await MEASURES[name]()


if __name__ == "__main__":
    uvloop.run(main())
