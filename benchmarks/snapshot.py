"""How long does it take to join a long answer late?

A server runs in this process; a client of the wire in another thread reads an answer of 100,000 tokens that it has
missed, with ``"snapshot": true``. Printed, for each store and for an answer that still runs, one that has ended, and
one that must be read from the store first: messages, their bytes, and milliseconds from the resume to the last missed
token (median and worst).

    python benchmarks/snapshot.py [--tokens 100000] [--rounds 20]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import uvloop
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from wsstream.chunks import ChatRequest, Delta, Finish
from wsstream.config import Config
from wsstream.providers.base import Sink
from wsstream.server import Server

decode = msgspec.json.Decoder().decode


class Join(NamedTuple):
    """One join."""

    seconds: float
    messages: int
    size: int


class LongAnswer:
    """Puts its tokens at once, and ends when it is told."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.end = asyncio.Event()

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        sink.put([Delta(f"tok{n % 1000:03} ") for n in range(self.tokens)])
        await self.end.wait()
        return Finish()

    async def close(self) -> None:
        pass


@contextmanager
def open_socket(port: int) -> Iterator[ClientConnection]:
    """A greeted connection."""
    url = f"ws://127.0.0.1:{port}/ws"
    with connect(url, subprotocols=[Subprotocol("wsstream.v1")], compression=None, max_size=None) as socket:
        tell(socket, type="hello")
        hear(socket, "connection_established")
        yield socket


def tell(socket: ClientConnection, **message: Any) -> None:
    """Send a message."""
    socket.send(json.dumps(message))


def hear(socket: ClientConnection, kind: str) -> Any:
    """The next message of a type."""
    while (message := decode(socket.recv()))["type"] != kind:
        pass
    return message


def ask(port: int) -> str:
    """Begin the answer and leave."""
    with open_socket(port) as socket:
        tell(socket, type="chat_request", request_id=str(time.monotonic_ns()), message="hi")
        return str(hear(socket, "stream_start")["stream_id"])


def join(port: int, stream_id: str, tokens: int) -> Join:
    """Read what was missed."""
    with open_socket(port) as socket:
        started = time.perf_counter()
        tell(socket, type="resume_stream", stream_id=stream_id, last_chunk_id=0, snapshot=True)
        last = messages = size = 0
        while last < tokens:
            data = socket.recv(decode=False)
            message = decode(data)
            if message["type"] == "chunk_batch":
                assert message["first_chunk_id"] == last + 1
                last = message["last_chunk_id"]
                messages += 1
                size += len(data)
        seconds = time.perf_counter() - started
        tell(socket, type="chunk_ack", stream_id=stream_id, chunk_id=last)
    return Join(seconds, messages, size)


class Figures:
    """The lines of the table."""

    def __init__(self, server: Server, provider: LongAnswer, store: str, rounds: int) -> None:
        self._server = server
        self._provider = provider
        self._store = store.partition(":")[0]
        self._rounds = rounds
        self._loop = asyncio.get_running_loop()

    async def print(self) -> None:
        """Measure and print."""
        stream_id = await self._off_loop(ask, self._server.port)
        log = self._server.streams.get(stream_id).log
        while log.tail < self._provider.tokens:  # noqa: ASYNC110 - the log has no event for it
            await asyncio.sleep(0.01)
        await self._line("running", stream_id)
        self._provider.end.set()
        await self._server.streams.wait_idle(10)
        await self._line("ended", stream_id)
        if self._store == "sqlite":
            await self._line("ended, not in memory", stream_id, log.empty)

    async def _line(self, what: str, stream_id: str, before: Callable[[], None] = lambda: None) -> None:
        joins = []
        for _ in range(self._rounds):
            await asyncio.sleep(0.02)  # the one before has left
            before()
            joins.append(await self._off_loop(join, self._server.port, stream_id, self._provider.tokens))
        times = [one.seconds * 1000 for one in joins]
        print(
            f"{self._store:8} {what:22} {joins[0].messages:4} messages {joins[0].size:9,} bytes"
            f"   median {statistics.median(times):6.1f} ms   worst {max(times):6.1f} ms",
            flush=True,
        )

    async def _off_loop(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._loop.run_in_executor(None, function, *arguments)


async def measure(store: str, tokens: int, rounds: int) -> None:
    """The figures of one store."""
    provider = LongAnswer(tokens)
    server = Server(Config(port=0, store=store, provider="demo", on_orphan="continue", listeners=1))
    server.assembly.providers["demo"] = provider
    async with server.running():
        await Figures(server, provider, store, rounds).print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for store in ("memory:", f"sqlite:{folder}/store.db"):
            uvloop.run(measure(store, options.tokens, options.rounds))


if __name__ == "__main__":
    main()
