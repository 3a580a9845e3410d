"""How fast the SQLite store is: ``python benchmarks/stores.py [--directory DIR] [--durability process|power]``."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from wsstream.chunks import Outcome, StreamState
from wsstream.config import Config
from wsstream.sessions import end_of_interrupted
from wsstream.stores.base import StreamRecord
from wsstream.stores.database import Database
from wsstream.stores.memory import MemoryStore
from wsstream.stores.operations import Create, Finish
from wsstream.stores.sqlite import SqliteStore
from wsstream.streams import Streams

TOKEN = b"x" * 34
OUTCOME = Outcome(StreamState.COMPLETE, 0, finish_reason="stop")


def nothing(*_: Any) -> None:
    """Nobody waits for it."""


def record(number: int) -> StreamRecord:
    """A stream's record."""
    return StreamRecord(f"s_{number:022d}", f"ses_{number % 997}", f"r{number}", "epoch", "a-model", time.time())


async def opened(path: str, durability: Any) -> SqliteStore:
    """An open store."""
    store = SqliteStore(path, durability)
    await store.open(end_of_interrupted)
    return store


def percentile(values: list[float], share: float) -> float:
    """In milliseconds."""
    return 1000 * sorted(values)[min(len(values) - 1, int(len(values) * share))]


def size_of(path: str) -> int:
    """Bytes in the file."""
    return os.path.getsize(path)


async def bulk(path: str, durability: Any, streams: int = 200, tokens: int = 2_000_000, burst: int = 16) -> str:
    """Tokens as fast as the store takes them: every stream has at most 1000 that are not acknowledged."""
    store = await opened(path, durability)
    safe = [0] * streams
    made = [0] * streams
    for number in range(streams):
        store.create(record(number), nothing)
    bodies, kinds = [TOKEN] * burst, bytes(burst)
    begun = time.perf_counter()
    done = 0
    while done < tokens:
        for number in range(streams):
            if made[number] - safe[number] <= 1000 - burst:
                store.append(
                    record_ids[number],
                    made[number] + 1,
                    bodies,
                    kinds,
                    lambda last, n=number: safe.__setitem__(n, last),
                )
                made[number] += burst
                done += burst
        await asyncio.sleep(0)
    await store.history("")
    took = time.perf_counter() - begun
    await store.close()
    return f"bulk append, {streams} streams, bursts of {burst}: {done / took:,.0f} tokens/s"


record_ids = [record(number).stream_id for number in range(1000)]


async def latency(path: str, durability: Any, streams: int = 200, rate: int = 50, seconds: float = 8.0) -> str:
    """From `append` to its acknowledgement, at a steady pace of single tokens."""
    store = await opened(path, durability)
    took: list[float] = []
    for number in range(streams):
        store.create(record(number), nothing)
    begun = time.perf_counter()
    count = 0
    total = int(streams * rate * seconds)
    while count < total:
        due = min(total, int((time.perf_counter() - begun) * streams * rate))
        while count < due:
            now = time.perf_counter()
            store.append(
                record_ids[count % streams],
                count // streams + 1,
                [TOKEN],
                b"\0",
                lambda _, since=now: took.append(time.perf_counter() - since),
            )
            count += 1
        await asyncio.sleep(0.0005)
    await store.history("")
    await store.close()
    figures = " / ".join(f"{percentile(took, share):.2f}" for share in (0.5, 0.99, 0.999, 1.0))
    return f"commit latency, {streams} × {rate}/s: p50 / p99 / p99.9 / max {figures} ms"


async def cost(path: str, durability: Any, streams: int = 200, rate: int = 50, seconds: float = 5.0) -> str:
    """CPU time of a token at a steady pace, without that of the load."""
    used = []
    for store in (MemoryStore(), SqliteStore(path, durability)):
        await store.open(end_of_interrupted)
        for number in range(streams):
            store.create(record(number), nothing)
        begun, cpu, count = time.perf_counter(), time.process_time(), 0
        while count < streams * rate * seconds:
            due = int((time.perf_counter() - begun) * streams * rate)
            while count < due:
                store.append(record_ids[count % streams], count // streams + 1, [TOKEN], b"\0", nothing)
                count += 1
            await asyncio.sleep(0.004)
        used.append((time.process_time() - cpu) / count * 1e6)
        await store.close()
    return f"CPU, {streams} × {rate}/s: {used[1] - used[0]:.1f} µs per token"


async def lone(path: str, durability: Any, count: int = 500) -> str:
    """A single stream, one token after the other."""
    store = await opened(path, durability)
    store.create(record(0), nothing)
    took: list[float] = []
    for number in range(count):
        await asyncio.sleep(0.004)
        safe = asyncio.get_running_loop().create_future()
        begun = time.perf_counter()
        store.append(record_ids[0], number + 1, [TOKEN], b"\0", safe.set_result)
        await safe
        took.append(time.perf_counter() - begun)
    await store.close()
    return f"a lone token: p50 / p99 {percentile(took, 0.5):.2f} / {percentile(took, 0.99):.2f} ms"


async def start_up(path: str, durability: Any, streams: int = 10_000, size: int = 1 << 30) -> str:
    """Opening a file that holds much."""
    database = Database(path)
    bodies = [os.urandom(17).hex().encode() for _ in range(size // streams // 37)]
    for first in range(1, streams + 1, 100):
        group: list[Any] = []
        for number in range(first, first + 100):
            outcome = Outcome(StreamState.COMPLETE, len(bodies))
            group += [Create(number, record(number)), Finish(number, outcome, time.time(), bytes(len(bodies)), bodies)]
        database.commit(group)
    database.close()
    store = SqliteStore(path, durability)
    begun = time.perf_counter()
    living = Streams(Config(max_retained_bytes=2**40), store, nothing)  # type: ignore[arg-type]
    await living.open()
    took = time.perf_counter() - begun
    kept = living.statistics().retained
    await living.close()
    await store.close()
    return f"start-up with {kept:,} ended streams, {size_of(path) / 2**30:.2f} GiB: {took:.2f} s"


async def loading(path: str, durability: Any, chunks: int = 100_000) -> str:
    """Reading a long log back."""
    store = await opened(path, durability)
    store.create(record(0), nothing)
    done = asyncio.Event()
    store.finish(record_ids[0], Outcome(StreamState.COMPLETE, chunks), [TOKEN] * chunks, bytes(chunks), done.set)
    await done.wait()
    took = []
    for _ in range(10):
        begun = time.perf_counter()
        await store.load(record_ids[0])
        took.append(time.perf_counter() - begun)
    await store.close()
    return f"loading a log of {chunks:,} chunks: p50 {percentile(took, 0.5):.1f} ms"


PARTS: dict[str, Callable[..., Awaitable[str]]] = {
    "bulk": bulk,
    "latency": latency,
    "cost": cost,
    "lone": lone,
    "start_up": start_up,
    "loading": loading,
}


def main() -> None:
    """Measure, part by part, each in a file of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar=" | ".join(PARTS))
    parser.add_argument("--directory", help="where the files are made (a temporary directory otherwise)")
    parser.add_argument("--durability", choices=["process", "power"], default="process")
    asked = parser.parse_args()
    for part in asked.parts:
        place = tempfile.mkdtemp(dir=asked.directory)
        try:
            print(uvloop.run(PARTS[part](os.path.join(place, "x.db"), asked.durability)), flush=True)
        finally:
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
