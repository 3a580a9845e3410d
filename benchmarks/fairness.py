"""A fast stream and a slow one over one slow socket: does the fast one make the slow one stutter?

    python benchmarks/fairness.py

A server in a process of its own; a client that reads so many bytes a second through a small receive buffer, and
acknowledges what it has read. The slow stream alone over the same socket and both of them take turns, some rounds of
each. Printed are the 99th percentiles of the pauses between arrivals of the slow stream, the medians of all rounds, the
median of the rounds' ratios with its spread, and the longest that a cancel of the fast one took, sent over the full
socket and seen on another one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from websockets.asyncio.client import connect  # noqa: E402
from websockets.client import ClientProtocol  # noqa: E402
from websockets.frames import Frame  # noqa: E402
from websockets.typing import Subprotocol  # noqa: E402
from websockets.uri import parse_uri  # noqa: E402

SUBPROTOCOL = Subprotocol("wsstream.v1")
FAST, SLOW = "demo:rate=2000,tokens=1000000", "demo:rate=30,tokens=1000000"
READ = 2048
WARM_UP = 2.0


class SlowClient:
    """A client of the native wire that reads ``rate`` bytes a second."""

    def __init__(self, port: int, rate: int, window: int | None) -> None:
        self._port = port
        self._rate = rate
        self._window = window
        self._protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/ws"), subprotocols=[SUBPROTOCOL])
        self._socket = socket.socket()
        self.ids: dict[str, str] = {}
        self.arrivals: dict[str, list[float]] = {}
        self.bytes = 0

    async def open(self) -> None:
        """Connect and greet."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.setblocking(False)
        await asyncio.get_running_loop().sock_connect(self._socket, ("127.0.0.1", self._port))
        self._protocol.send_request(self._protocol.connect())
        await self._flush()
        while self._protocol.state.name == "CONNECTING":
            await self._read_once()
        hello: dict[str, Any] = {"type": "hello"}
        if self._window is not None:
            hello["window"] = self._window
        await self.send(hello)

    async def send(self, message: dict[str, Any]) -> None:
        """Send one message."""
        self._protocol.send_text(json.dumps(message).encode())
        await self._flush()

    async def ask(self, name: str, model: str) -> None:
        """Ask for an answer, and wait until it begins."""
        await self.send({"type": "chat_request", "request_id": name, "message": "hi", "model": model})
        while name not in self.ids:
            await self._read_once()

    async def read(self, seconds: float) -> None:
        """Read on for a while."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            await self._read_once()

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def _read_once(self) -> None:
        begun = time.perf_counter()
        data = await asyncio.get_running_loop().sock_recv(self._socket, READ)
        self.bytes += len(data)
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                await self._take(json.loads(bytes(event.data)))
        await asyncio.sleep(max(0.0, begun + len(data) / self._rate - time.perf_counter()))

    async def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "stream_start":
            self.ids[message["request_id"]] = message["stream_id"]
        elif message["type"] in ("content_chunk", "chunk_batch"):
            self.arrivals.setdefault(message["stream_id"], []).append(time.perf_counter())
            last = message.get("last_chunk_id", message.get("chunk_id"))
            await self.send({"type": "chunk_ack", "stream_id": message["stream_id"], "chunk_id": last})

    def gaps(self, name: str) -> list[float]:
        """Milliseconds between arrivals, the first seconds left out, in order of size."""
        times = self.arrivals[self.ids[name]]
        settled = [moment for moment in times if moment > times[0] + WARM_UP]
        return sorted((after - before) * 1000 for before, after in pairwise(settled))

    def close(self) -> None:
        """Leave."""
        self._socket.close()


def percentile(values: list[float], share: float) -> float:
    """Of sorted values."""
    return values[min(len(values) - 1, int(len(values) * share))]


async def alone(port: int, rate: int, window: int | None, seconds: float) -> list[float]:
    """The slow stream by itself."""
    client = SlowClient(port, rate, window)
    await client.open()
    await client.ask("slow", SLOW)
    await client.read(seconds)
    client.close()
    return client.gaps("slow")


async def together(port: int, rate: int, window: int | None, seconds: float) -> tuple[list[float], float, float]:
    """Both; the gaps, the milliseconds of the cancel, and the bytes a second that were read."""
    client = SlowClient(port, rate, window)
    await client.open()
    await client.ask("fast", FAST)
    await client.ask("slow", SLOW)
    before = client.bytes
    await client.read(seconds)
    pace = (client.bytes - before) / seconds
    cancelled = await time_cancel(port, client)
    client.close()
    return client.gaps("slow"), cancelled, pace


async def time_cancel(port: int, client: SlowClient) -> float:
    """Milliseconds from a cancel over the slow socket until a quick one, which is up to date, is told the end."""
    stream_id = client.ids["fast"]
    async with connect(f"ws://127.0.0.1:{port}/ws", subprotocols=[SUBPROTOCOL]) as quick:
        await quick.send(json.dumps({"type": "resume_stream", "stream_id": stream_id, "last_chunk_id": 0}))
        tail, begun = sys.maxsize, 0.0
        async for text in quick:
            message = json.loads(text)
            if message["type"] == "stream_complete":
                return (time.perf_counter() - begun) * 1000
            if message["type"] == "stream_resumed":
                tail = message["tail_chunk_id"]
            if message["type"] in ("content_chunk", "chunk_batch"):
                last = message.get("last_chunk_id", message.get("chunk_id"))
                await quick.send(json.dumps({"type": "chunk_ack", "stream_id": stream_id, "chunk_id": last}))
                if last >= tail and not begun:
                    begun = time.perf_counter()
                    await client.send({"type": "cancel_stream", "stream_id": stream_id})
    raise RuntimeError("the server has closed")


class Round(NamedTuple):
    """One measurement of each kind. Times are milliseconds."""

    alone: float
    both: float
    cancel: float
    pace: float


async def one_round(port: int, rate: int, window: int | None, seconds: float) -> Round:
    """The slow stream alone, then both."""
    control = await alone(port, rate, window, seconds)
    gaps, cancelled, pace = await together(port, rate, window, seconds)
    return Round(percentile(control, 0.99), percentile(gaps, 0.99), cancelled, pace)


def summary(rounds: list[Round]) -> str:
    """Their line in the table."""
    alone_p99, both_p99, _, pace = (statistics.median(values) for values in zip(*rounds, strict=True))
    ratios = sorted(each.both / each.alone for each in rounds)
    spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
    worst = max(each.cancel for each in rounds)
    return f"{alone_p99:>10.1f}ms{both_p99:>10.1f}ms{spread:>20}{worst:>8.1f}ms{pace / 1000:>11.1f}"


async def measure(rates: list[int], seconds: float, windows: list[int | None], rounds: int) -> None:
    """One server, every rate and window."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wsstream", "--port", "0", "--store", "memory:", "--provider", "demo"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=ROOT,
    )
    assert process.stdout is not None
    port = int((await process.stdout.readline()).decode().strip().rstrip("/").rpartition(":")[2])
    try:
        print(f"{'KB/s':>6}{'window':>8}{'alone p99':>12}{'both p99':>12}{'ratio':>20}{'cancel':>10}{'read KB/s':>11}")
        for window in windows:
            for rate in rates:
                found = [await one_round(port, rate, window, seconds) for _ in range(rounds)]
                print(f"{rate // 1000:>6}{window or 50:>8}{summary(found)}", flush=True)
    finally:
        process.terminate()
        await process.wait()


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rates", type=int, nargs="+", default=[20_000, 50_000, 200_000], help="bytes read a second")
    parser.add_argument("--windows", type=int, nargs="+", default=[50, 1000], help="chunks in flight")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of both kinds, for each rate and window")
    given = parser.parse_args()
    asyncio.run(measure(given.rates, given.seconds, given.windows, given.rounds))


if __name__ == "__main__":
    main()
