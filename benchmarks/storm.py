"""A storm of reconnects: many clients follow answers, all lose their connection in the same moment, all come back.

    python benchmarks/storm.py --clients 5000

Starts a server of its own, as any other program would be. Clients behave as docs/protocol.md ("Close codes") asks of
them: full jitter before each try, `Retry-After` where the server names one, resume behind the last chunk. Every chunk
is checked to be the next one. The loop's lag is the server's own figure, from its `/metrics`.

Exit status: 0 all came back within 15 seconds, nothing was lost or came twice, the 99th percentile of the loop's lag
was at most 100 ms, and nobody was refused without being told when to come back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import msgspec

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 15.0
MAX_LAG = 0.1
CONNECTING = 200
"""Connections being made at once before the storm; in it, all are."""
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: storm\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: wsstream.v1\r\n\r\n"
)


class Result(NamedTuple):
    """What a storm was like. Times are seconds."""

    clients: int
    back: int
    slowest: float
    median: float
    tries: int
    refused: int
    refused_without_time: int
    wrong: list[str]
    lag_p99: float
    """A bound of the server's histogram: infinity where it was beyond them all."""

    @property
    def passed(self) -> bool:
        """Whether it is what is promised."""
        return (
            self.back == self.clients
            and self.slowest <= PATIENCE
            and not self.wrong
            and not self.refused_without_time
            and self.lag_p99 <= MAX_LAG
        )


class Head(msgspec.Struct):
    """What is read of each message."""

    type: str
    stream_id: str | None = None
    chunk_id: int = 0
    first_chunk_id: int = 0
    last_chunk_id: int = 0
    error_type: str | None = None


_decode = msgspec.json.Decoder(Head).decode


def _frame(message: dict[str, Any]) -> bytes:
    payload = msgspec.json.encode(message)
    size = len(payload)
    head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    return head + b"\0\0\0\0" + payload


class Viewer(asyncio.Protocol):
    """One client, over all its connections."""

    def __init__(self, house: Storm, number: int) -> None:
        self._house = house
        self._number = number
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._open = False
        self._tries = 0
        self.stream_id: str | None = None
        self.last = 0
        self.resumed_at: float | None = None
        self.ready = asyncio.get_running_loop().create_future()

    # -- connecting

    async def connect(self) -> None:
        """Try once; what becomes of it is told by callbacks."""
        self._house.tries += 1
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._house.port)
        except OSError as error:
            self._again(f"cannot connect: {error.strerror}")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._buffer.clear()
        self._open = False
        transport.write(HANDSHAKE)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._again(None)

    def _again(self, _why: str | None, wait: float = 0.0) -> None:
        if self._house.over:
            return
        delay = wait + random.uniform(0, min(30.0, 2.0**self._tries))
        self._tries += 1
        asyncio.get_running_loop().call_later(delay, lambda: self._house.spawn(self.connect()))

    def drop(self) -> None:
        """Lose the connection, without a word."""
        if self._transport is not None:
            self._transport.abort()

    # -- what comes

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._open and not self._shake_hands():
            return
        acked = self.last
        while (message := self._next()) is not None:
            self._on_message(message)
        if self.last > acked:
            self._send({"type": "chunk_ack", "stream_id": self.stream_id, "chunk_id": self.last})

    def _shake_hands(self) -> bool:
        head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not end:
            return False
        if not head.startswith(b"HTTP/1.1 101"):
            self._on_refused(head.decode())
            return False
        self._open = True
        self._buffer[:] = rest
        self._send({"type": "hello", "session_id": self._house.session(self._number)})
        if self.stream_id is None:
            self.stream_id = self._house.stream_of(self._number)
        if self.stream_id is None:
            self._send({"type": "chat_request", "request_id": "storm", "message": "?", "model": self._house.model})
        else:
            self._send({"type": "resume_stream", "stream_id": self.stream_id, "last_chunk_id": self.last})
        return True

    def _on_refused(self, head: str) -> None:
        self._house.refused += 1
        found = re.search(r"^retry-after: (\d+)", head, re.IGNORECASE | re.MULTILINE)
        if found is None:
            self._house.refused_without_time += 1
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.set_protocol(asyncio.Protocol())
            transport.abort()
        self._again("refused", float(found[1]) if found else 0.0)

    def _next(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, begin = buffer[1] & 0x7F, 2
        if size == 126:
            size, begin = int.from_bytes(buffer[2:4], "big"), 4
        elif size == 127:
            size, begin = int.from_bytes(buffer[2:10], "big"), 10
        if len(buffer) < begin + size:
            return None
        message = bytes(buffer[begin : begin + size]) if buffer[0] == 0x81 else b'{"type":"close"}'
        del buffer[: begin + size]
        return message

    def _on_message(self, data: bytes) -> None:
        message = _decode(data)
        kind = message.type
        if kind in ("content_chunk", "chunk_batch"):
            self._on_chunk(message.chunk_id or message.first_chunk_id, message.chunk_id or message.last_chunk_id)
        elif kind == "stream_start":
            self.stream_id = message.stream_id
            self._house.on_started(self._number, message.stream_id)
        elif kind == "stream_resumed" and self._house.dropped_at is not None:
            if self.resumed_at is None:
                self.resumed_at = time.monotonic()
                self._house.on_resumed()
        elif kind == "heartbeat":
            self._send({"type": "heartbeat_ack"})
        elif kind in ("error", "stream_error"):
            self._house.wrong.append(f"client {self._number}: {kind} {message.error_type}")

    def _on_chunk(self, first: int, last: int) -> None:
        if first != self.last + 1:
            self._house.wrong.append(f"client {self._number}: chunk {first} after {self.last}")
        self.last = last
        self._tries = 0
        if not self.ready.done():
            self.ready.set_result(None)

    def _send(self, message: dict[str, Any]) -> None:
        if self._transport is not None:
            self._transport.write(_frame(message))


class Storm:
    """Clients, a moment, and what came of it."""

    def __init__(self, port: int, clients: int, streams: int) -> None:
        """``streams`` answers are followed by ``clients`` clients."""
        self.port = port
        self.model = "demo:rate=2,tokens=100000"
        self.over = False
        self.tries = 0
        self.refused = 0
        self.refused_without_time = 0
        self.dropped_at: float | None = None
        self.wrong: list[str] = []
        self._streams: dict[int, str] = {}
        self._count = streams
        self._tasks: set[asyncio.Task[None]] = set()
        self._viewers = [Viewer(self, number) for number in range(clients)]
        self._away = clients
        self._all_back = asyncio.Event()

    def session(self, number: int) -> str:
        return f"storm-{number % self._count}"

    def stream_of(self, number: int) -> str | None:
        """The stream that a client is to follow; None for one that is to begin it."""
        return self._streams.get(number % self._count)

    def on_started(self, number: int, stream_id: str | None) -> None:
        if stream_id is not None:
            self._streams[number % self._count] = stream_id

    def spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def gather(self) -> None:
        """All connect in good order, and have their first chunk."""
        await self._connect(self._viewers[: self._count])
        await self._connect(self._viewers[self._count :])

    async def _connect(self, viewers: list[Viewer]) -> None:
        for begin in range(0, len(viewers), CONNECTING):
            some = viewers[begin : begin + CONNECTING]
            await asyncio.gather(*[viewer.connect() for viewer in some])
            async with asyncio.timeout(60):
                await asyncio.gather(*[viewer.ready for viewer in some])

    async def strike(self) -> None:
        """All connections break at once; wait until all have resumed, or 15 seconds have passed."""
        self.tries = 0
        self.dropped_at = time.monotonic()
        for viewer in self._viewers:
            viewer.drop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._all_back.wait()

    def on_resumed(self) -> None:
        """Somebody is back."""
        self._away -= 1
        if not self._away:
            self._all_back.set()

    def end(self) -> None:
        self.over = True
        for viewer in self._viewers:
            viewer.drop()
        for task in self._tasks:
            task.cancel()

    def result(self, lag_p99: float) -> Result:
        assert self.dropped_at is not None
        times = sorted(v.resumed_at - self.dropped_at for v in self._viewers if v.resumed_at is not None)
        return Result(
            clients=len(self._viewers),
            back=len(times),
            slowest=round(times[-1], 3) if times else float("inf"),
            median=round(times[len(times) // 2], 3) if times else float("inf"),
            tries=self.tries,
            refused=self.refused,
            refused_without_time=self.refused_without_time,
            wrong=self.wrong[:10],
            lag_p99=lag_p99,
        )


def lags(metrics: str) -> dict[float, float]:
    """The buckets of the loop's lag."""
    text = urlopen(metrics, timeout=10).read().decode()
    return {
        float(bound): float(count)
        for bound, count in re.findall(r'wsstream_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', text)
    }


def p99(before: dict[float, float], after: dict[float, float]) -> float:
    """The bound that 99 of 100 timers in between did not exceed."""
    counts = sorted((bound, count - before[bound]) for bound, count in after.items())
    return next(bound for bound, count in counts if count >= 0.99 * counts[-1][1])


async def storm(port: int, metrics: str, clients: int, streams: int) -> Result:
    """Let one break loose over the server on ``port``, whose metrics are at the URL ``metrics``."""
    it = Storm(port, clients, streams)
    try:
        await it.gather()
        await asyncio.sleep(1.0)
        before = await asyncio.to_thread(lags, metrics)
        await it.strike()
        await asyncio.sleep(1.0)
        return it.result(p99(before, await asyncio.to_thread(lags, metrics)))
    finally:
        it.end()
        await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def server(clients: int, streams: int) -> Any:
    """A server process; its port and its metrics' URL."""
    limits = ("--max-connections", str(clients + 100), "--max-running-streams", str(streams))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(
            "-m",
            "wsstream",
            "--port",
            "0",
            "--store",
            "memory:",
            "--provider",
            "demo",
            "--drain-timeout",
            "0.5",
            *limits,
        ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        port = int((await process.stdout.readline()).decode().rstrip("/\n").rpartition(":")[2])
        metrics = ""
        while not metrics:
            found = re.search(r"metrics on (\S+)", (await process.stderr.readline()).decode())
            metrics = found[1] if found else ""
        reading = asyncio.create_task(process.stderr.read())
        yield port, metrics
        process.terminate()
        await process.wait()
        await reading
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def main(clients: int, streams: int) -> Result:
    async with server(clients, streams) as (port, metrics):
        return await storm(port, metrics, clients, streams)


if __name__ == "__main__":
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--streams", type=int, default=500)
    parsed = parser.parse_args()
    found = uvloop.run(main(parsed.clients, parsed.streams))
    print(json.dumps(found._asdict() | {"passed": found.passed}, indent=2))
    sys.exit(0 if found.passed else 1)
