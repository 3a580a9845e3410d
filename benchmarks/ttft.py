"""What the server adds to the time to the first token, over asking the upstream directly.

    python benchmarks/ttft.py [--streams 100] [--rate 20] [--probes 400] [--store memory:]

While STREAMS answers run through the server, probes ask for a short answer by turns: from the upstream itself, over a
kept connection, and through the server, over an open WebSocket. Both ways share the machine, the upstream, the moment
and a client that only looks for the first token among the bytes, so that what differs is the server. The figures are
differences of quantiles within one run.
Everything goes over loopback; prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvloop
from drain import connect as connect_raw
from drain import frame
from websockets.asyncio.client import connect

HERE = Path(__file__).parent
PROBE = "load:rate=0,tokens=3"
PAUSE = 0.01
WARM_UP = 20


@contextlib.asynccontextmanager
async def process(*command: str, **environ: str) -> AsyncIterator[str]:
    """A process: the first line that it prints."""
    started = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(HERE.parent), **environ}
    )
    assert started.stdout is not None
    try:
        yield (await started.stdout.readline()).decode().strip()
    finally:
        started.terminate()
        await started.wait()


class Direct:
    """Asks the upstream itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ttft(self) -> float:
        """Seconds from the request to the first token."""
        body = json.dumps(
            {"model": PROBE, "stream": True, "messages": [{"role": "user", "content": "hi"}]}, separators=(",", ":")
        ).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        begun = time.perf_counter()
        self._writer.write(head.encode() + body)
        await self._reader.readuntil(b"@")  # the mark of a token
        took = time.perf_counter() - begun
        await self._reader.readuntil(b"\r\n0\r\n\r\n")
        return took


class Served:
    """Asks the server; no more of a client than the other, so that what differs is not the client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._count = 0

    async def ttft(self) -> float:
        """Seconds from the request to the first token."""
        self._count += 1
        asking = frame(request(f"p{self._count}", PROBE))
        begun = time.perf_counter()
        self._writer.write(asking)
        await self._reader.readuntil(b"@")
        took = time.perf_counter() - begun
        await self._reader.readuntil(b'"stream_complete"')
        return took


async def open_socket(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the server that has greeted and been greeted."""
    sock = connect_raw(port)
    sock.setblocking(False)
    return await asyncio.open_connection(sock=sock)


def request(request_id: str, model: str) -> dict[str, Any]:
    """A chat_request."""
    messages = [{"role": "user", "content": "hi"}]
    return {"type": "chat_request", "request_id": request_id, "messages": messages, "model": model}


async def follow(url: str, rate: float) -> None:
    """One of the answers that run beside the probes, read and acknowledged until the end of the run."""
    async with connect(url, subprotocols=["wsstream.v1"], compression=None, ping_interval=None) as socket:  # type: ignore[list-item]
        await socket.send(json.dumps(request("r", f"load:rate={rate:g},tokens=1000000")))
        async for message in socket:
            fields = json.loads(message)
            if "content" in fields:
                last = fields.get("last_chunk_id", fields.get("chunk_id"))
                await socket.send(json.dumps({"type": "chunk_ack", "stream_id": fields["stream_id"], "chunk_id": last}))


async def measure(streams: int, rate: float, probes: int, store: str) -> dict[str, Any]:
    """The times of both ways, in milliseconds."""
    async with contextlib.AsyncExitStack() as stack:
        line = await stack.enter_async_context(process(sys.executable, str(HERE / "upstream.py")))
        port = line.rpartition(":")[2]
        serve = (sys.executable, "-m", "wsstream", "--port", "0", "--provider", "openai", "--log-level", "error")
        address = ("--base-url", f"http://127.0.0.1:{port}/v1", "--store", store)
        ready = await stack.enter_async_context(process(*serve, *address, OPENAI_API_KEY="none"))
        url = ready.split()[-1].replace("http", "ws") + "ws"
        others = [asyncio.create_task(follow(url, rate)) for _ in range(streams)]
        await asyncio.sleep(2)
        direct = Direct(*await asyncio.open_connection("127.0.0.1", int(port)))
        ways = [direct, Served(*await open_socket(int(url.rpartition(":")[2].partition("/")[0])))]
        times: list[list[float]] = [[], []]
        for number in range(probes + WARM_UP):
            for way, found in zip(ways, times, strict=True):
                await asyncio.sleep(PAUSE)
                took = await way.ttft() * 1000
                if number >= WARM_UP:
                    found.append(took)
        assert not any(task.done() for task in others), "an answer beside the probes has ended"
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    return summary(*times)


def summary(direct: list[float], served: list[float]) -> dict[str, Any]:
    """Quantiles of both, and their differences."""
    result: dict[str, Any] = {"probes": len(direct), "milliseconds": {}}
    for name, index in (("p50", 49), ("p90", 89), ("p99", 98)):
        without, within = (statistics.quantiles(times, n=100)[index] for times in (direct, served))
        result["milliseconds"][name] = {
            "direct": round(without, 3),
            "served": round(within, 3),
            "added": round(within - without, 3),
        }
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--probes", type=int, default=400)
    parser.add_argument("--store", default="memory:")
    given = parser.parse_args()
    found = uvloop.run(measure(given.streams, given.rate, given.probes, given.store))
    found.update(streams=given.streams, rate=given.rate, store=given.store)
    print(f"time to the first token beside {given.streams} answers at {given.rate:g} tokens/s, in ms")
    for name, row in found["milliseconds"].items():
        print(f"  {name}  direct {row['direct']:7.3f}   served {row['served']:7.3f}   added {row['added']:7.3f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
