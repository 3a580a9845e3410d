"""Where each microsecond of a token goes, inside the process: the real code from the upstream's bytes to the viewer's
frame, with the kernel left out (the sockets do nothing).

    python benchmarks/token_path.py

The figures are for warm caches. On the way through a kernel, with a hundred streams taking turns, the same code
takes about twice as long; see docs/benchmarks.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import uvloop

from wsstream.chunks import ChatRequest, Delta, Finish
from wsstream.config import Config
from wsstream.connection import NativeConnection
from wsstream.providers.base import Sink
from wsstream.providers.openai import _ChatReading
from wsstream.providers.sse import SseParser
from wsstream.registry import Registry
from wsstream.stores.memory import MemoryStore
from wsstream.streams import Streams
from wsstream.wires.base import OpenGate
from wsstream.wires.hub import Hub

ROUNDS = 5
TOKENS = 20_000
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: wsstream.v1\r\n\r\n"
)
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":"@0000001234567890 "},"finish_reason":null}]}\n\n'
)


class Nowhere:
    """A transport that takes everything and does nothing."""

    def __getattr__(self, _name: str) -> Callable[..., Any]:
        return lambda *_arguments, **_options: None

    def get_write_buffer_size(self) -> int:
        return 0


class Waiting:
    """A provider that hands its sink out and waits to be told the end."""

    sink: Sink

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        self.sink = sink
        await asyncio.get_running_loop().create_future()
        return Finish()

    async def close(self) -> None:
        """Nothing is shared."""


class Silent:
    """A sink that keeps nothing."""

    def put(self, deltas: Any) -> bool:
        return True

    def has_room(self) -> bool:
        return True

    async def wait_room(self) -> None: ...

    async def give_way(self) -> None: ...


def masked(payload: bytes) -> bytes:
    """A client's text frame, under a mask of zeros."""
    size = len(payload)
    head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    return head + b"\0\0\0\0" + payload


def cost(step: Callable[[], object]) -> float:
    """Microseconds of one step, the best of a few rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for _ in range(TOKENS):
            step()
        best = min(best, time.perf_counter() - begun)
    return best / TOKENS * 1e6


async def main() -> None:
    loop = asyncio.get_running_loop()
    provider = Waiting()
    config = Config(
        store="memory:", high_water=10_000_000, low_water=1, max_window=10_000_000, window=10_000_000, message_rate=0
    )
    streams = Streams(config, MemoryStore(), lambda _name: provider)
    hub = Hub(loop, config.protocol(), OpenGate(streams), Registry(10))
    connection = NativeConnection(hub)
    connection.connection_made(Nowhere())  # type: ignore[arg-type]
    connection.data_received(HANDSHAKE)
    connection.data_received(masked(msgspec.json.encode({"type": "chat_request", "request_id": "r", "message": "hi"})))
    await asyncio.sleep(0.05)
    out = connection._dialogue._out
    (attachment,) = out.attachments.values()
    log, sink, delta = attachment.log, provider.sink, [Delta("@0000001234567890 ")]
    ack = masked(b'{"type":"chunk_ack","stream_id":"%b","chunk_id":1}' % log.stream_id.encode())

    def read_on() -> None:
        attachment.waiting = False  # nobody to wake
        sink.put(delta)

    def flush() -> None:
        attachment.window.sent -= 1
        out._ready.append(attachment)
        out.flush()

    parser, reading = SseParser(), _ChatReading(Silent())
    parser.feed(b"data: x\n\n")
    rows = [
        ("one event of server-sent events", lambda: parser.feed(EVENT)),
        ("the same, its JSON read, its delta made", lambda: reading.take(EVENT)),
        ("producer and log: escaped, numbered, weighed", read_on),
        ("window, frame, one write to nowhere", flush),
        ("one ack, from its bytes to the window", lambda: connection.data_received(ack)),
    ]
    for name, step in rows:
        print(f"{name:48s}{cost(step):6.2f} us")


if __name__ == "__main__":
    uvloop.run(main())
