"""What is fuzzed: functions of bytes that must take anything. Each raises only for a mistake of ours."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsstream.config import Config, load_config
from wsstream.connection import NativeConnection
from wsstream.errors import BadRequest, ConfigError, ProviderError
from wsstream.protocol import ServerProtocol, ServerSettings
from wsstream.providers.sse import SseParser
from wsstream.proxies import TrustedProxies
from wsstream.registry import Registry
from wsstream.stores.memory import MemoryStore
from wsstream.streams import Streams
from wsstream.wires.base import OpenGate
from wsstream.wires.hub import Hub

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: wsstream.v1\r\n\r\n"
)


def messages(data: bytes) -> None:
    """Text messages, one a line, to one end of the protocol: it never raises, and what it says can be sent."""
    core = ServerProtocol(ServerSettings(), 0.0)
    for line in data.split(b"\n"):
        core.receive_message(line, 1.0)
        core.events_received()
        assert all(isinstance(message, bytes) for message in core.messages_to_send())
        if core.close is not None:
            return


def sse(data: bytes) -> None:
    """An upstream's events: cut in two anywhere, they are the same; too large ones are refused."""
    if not data:
        return
    cut = data[0] % len(data)
    body = data[1:]
    with contextlib.suppress(ProviderError):
        whole = SseParser().feed(body)
        parser = SseParser()
        assert [*parser.feed(body[:cut]), *parser.feed(body[cut:])] == whole


def config(data: bytes) -> None:
    """A file of settings: it is read, or refused in words."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        Path(file.name).write_bytes(data)
        with contextlib.suppress(ConfigError):
            assert isinstance(load_config({}, {}, file.name), Config)


def proxies(data: bytes) -> None:
    """Headers of a trusted proxy: whatever they say, an address comes out."""
    text = data.decode("latin-1")
    first, _, second = text.partition("\n")
    for header in ("forwarded", "x-forwarded"):
        trusted = TrustedProxies("10.0.0.0/8", header=header)
        origin = trusted.origin("10.0.0.1", "http", {"forwarded": first, "x-forwarded-for": second}.get)
        assert origin.scheme in ("http", "https")


class _Transport:
    """Takes everything, and remembers being closed."""

    closed = False

    def __getattr__(self, _: str) -> Callable[..., Any]:
        return lambda *_arguments, **_options: None

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0


class Frames:
    """Bytes behind a handshake, in two reads. A loop of its own, because connections need one."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._begin())

    async def _begin(self) -> None:
        settings = Config(store="memory:", provider="demo")

        def none(_: str | None) -> Any:
            raise BadRequest("none")

        self._streams = Streams(settings, MemoryStore(), none)
        self._hub = Hub(self._loop, settings.protocol(), OpenGate(self._streams), Registry(10))

    def __call__(self, data: bytes) -> None:
        self._loop.run_until_complete(self._feed(data))

    async def _feed(self, data: bytes) -> None:
        connection = NativeConnection(self._hub)
        connection.connection_made(_Transport())  # type: ignore[arg-type]
        connection.data_received(HANDSHAKE)
        cut = data[0] % len(data) if data else 0
        for part in (data[1:cut], data[cut:]):
            if part:
                connection.data_received(part)
        await asyncio.sleep(0)
        connection.connection_lost(None)

    def close(self) -> None:
        """End the loop."""
        self._loop.run_until_complete(self._streams.close())
        self._hub.wheel.close()
        self._loop.close()


def unexpected(record: Any) -> bool:
    """Whether a log record tells of a mistake of ours, which a connection survives and a fuzzer must see."""
    return "unexpectedly" in record.getMessage()


SEEDS: dict[str, list[bytes]] = {
    "messages": [
        b'{"type":"hello","session_id":"s","window":5,"client":{"name":"x"}}\n{"type":"heartbeat","timestamp":1}',
        b'{"type":"chat_request","request_id":"r","message":"hi","config":{"provider":"demo","on_orphan":"pause"}}',
        b'{"type":"hello"}\n{"type":"chunk_ack","chunk_id":1,"stream_id":"s"}\n{"type":"resume_stream","last_chunk_id":0}',
        b'{"type":"request_chunks","from_chunk_id":1,"to_chunk_id":2}\n{"type":"get_history"}',
    ],
    "sse": [
        b'\x05data: {"choices":[{"delta":{"content":"x"}}]}\n\ndata: [DONE]\n\n',
        b"\x02\xef\xbb\xbf: comment\r\nevent: e\rid: 1\r\ndata\r\ndata: \xc3\xa9\r\n\r\n",
    ],
    "config": [b"window = 5\nmodel = 'x'\n", b'heartbeat_interval = 1e3\n[a]\nb = 1979-05-27\nstore = "memory:"\n'],
    "proxies": [b'for="[2001:db8::1]:47";proto=https, for=10.0.0.1\n1.2.3.4, 10.0.0.2', b"\n10.0.0.1,,unknown"],
    "frames": [
        b"\x09\x81\x90\x00\x00\x00\x00" + b'{"type":"hello"}' + b"\x89\x80\x00\x00\x00\x00",
        b"\x03\x01\x83\x00\x00\x00\x00abc\x80\x81\x00\x00\x00\x00d\x88\x82\x00\x00\x00\x00\x03\xe8",
        b"\x02\x82\xfe\x00\x7e\x00\x00\x00\x00",
    ],
}
