"""A plain client of the native wire for tests.

It shares no code with the server or with the project's own client: what it checks, it checks independently.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

V1 = "wsstream.v1"
PATIENCE = 5.0
"""Seconds for anything that should happen at once."""

Message = dict[str, Any]


class Closed(Exception):
    """The server closed while something else was awaited."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code} {reason!r}")
        self.code = code
        self.reason = reason


class Answer:
    """What has come of one stream. Every chunk is checked to be the next one."""

    def __init__(self, stream_id: str, last: int = 0) -> None:
        self.stream_id = stream_id
        self.last = last
        self.parts: list[str] = []
        self.sizes: list[int] = []
        """How many chunks came together, message by message."""
        self.end: Message | None = None

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def take(self, message: Message) -> None:
        """Take a chunk, a batch or the end. The end may be told again, nothing else may follow it."""
        if self.end is not None:
            assert message == self.end, f"{message['type']} behind the end"
            return
        if message["type"] in ("content_chunk", "chunk_batch"):
            first, last = span(message)
            assert first == self.last + 1, f"chunk {first} after {self.last}"
            self.last = last
            self.parts.append(message["content"])
            self.sizes.append(last - first + 1)
        elif message["type"] == "stream_complete":
            assert message["final_chunk_id"] == self.last
            self.end = message
        elif message["type"] == "stream_error":
            assert message["last_chunk_id"] == self.last
            self.end = message


def span(message: Message) -> tuple[int, int]:
    """The first and last chunk id of a chunk or batch."""
    if message["type"] == "chunk_batch":
        return message["first_chunk_id"], message["last_chunk_id"]
    return message["chunk_id"], message["chunk_id"]


class Native:
    """One connection. Everything received is kept in `seen`."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[Message] = []
        self.answers: dict[str, Answer] = {}
        self._requests = 0

    # -- out

    async def send(self, type: str | None = None, **fields: Any) -> None:
        """Send one message."""
        await self.send_text(json.dumps(fields if type is None else {"type": type, **fields}))

    async def send_text(self, text: str | bytes) -> None:
        """Send a text message as it is, valid or not."""
        await self.socket.send(text.encode() if isinstance(text, str) else text, text=True)

    def send_frame(self, opcode: int, data: bytes, *, fin: bool = True) -> None:
        """Send one frame as it is."""
        self.send_bytes(frame(opcode, data, fin=fin))

    def send_bytes(self, data: bytes) -> None:
        """Send bytes past the WebSocket library."""
        self.socket.transport.write(data)

    async def hello(self, **fields: Any) -> Message:
        """Greet; the server's answer."""
        await self.send("hello", **fields)
        return await self.until("connection_established")

    async def ask(self, model: str | None = None, **fields: Any) -> str:
        """Ask for an answer; the new stream's id."""
        self._requests += 1
        request_id = fields.setdefault("request_id", f"r{self._requests}")
        fields.setdefault("message", "hi")
        if model is not None:
            fields["model"] = model
        await self.send("chat_request", **fields)
        started = await self.until("stream_start", request_id=request_id)
        stream_id: str = started["stream_id"]
        return stream_id

    async def resume(self, stream_id: str, last_chunk_id: int, **fields: Any) -> Message:
        """Follow a stream from behind a chunk; the server's answer."""
        self.answers[stream_id] = Answer(stream_id, last_chunk_id)
        await self.send("resume_stream", stream_id=stream_id, last_chunk_id=last_chunk_id, **fields)
        return await self.until("stream_resumed", stream_id=stream_id)

    async def ack(self, stream_id: str | None = None, chunk_id: int | None = None, **fields: Any) -> None:
        """Acknowledge everything received, or what is given. A server that has closed meanwhile needs no ack."""
        if chunk_id is None:
            assert stream_id is not None
            chunk_id = self.answer(stream_id).last
        if stream_id is not None:
            fields["stream_id"] = stream_id
        with contextlib.suppress(ConnectionClosed):
            await self.send("chunk_ack", chunk_id=chunk_id, **fields)

    # -- in

    async def receive(self, patience: float = PATIENCE) -> Message:
        """The next message.

        Raises:
            Closed: there is none.
        """
        try:
            async with asyncio.timeout(patience):
                data = await self.socket.recv(decode=True)
        except ConnectionClosed:
            raise Closed(self.socket.close_code or 0, self.socket.close_reason or "") from None
        message: Message = json.loads(data)
        assert next(iter(message)) == "type"
        self.seen.append(message)
        if "stream_id" in message and message["type"] not in (
            "stream_start",
            "stream_resumed",
            "error",
            "session_changed",
        ):
            self.answer(message["stream_id"]).take(message)
        return message

    async def until(self, type: str, **fields: Any) -> Message:
        """Read until a message of this type, with these fields, comes."""
        return await self.until_that(lambda m: m["type"] == type and fields.items() <= m.items())

    async def until_that(self, wanted: Callable[[Message], object]) -> Message:
        """Read until such a message comes."""
        async with asyncio.timeout(PATIENCE):
            while not wanted(message := await self.receive()):
                pass
        return message

    async def read(self, stream_id: str, *, to: int | None = None, ack: bool = True) -> Answer:
        """Read a stream, acknowledging each message, until chunk ``to`` or the end."""
        answer = self.answer(stream_id)
        async with asyncio.timeout(PATIENCE):
            while answer.end is None and (to is None or answer.last < to):
                before = answer.last
                await self.receive()
                if ack and answer.last > before:
                    await self.ack(stream_id)
        return answer

    async def quiet(self, seconds: float = 0.1) -> list[Message]:
        """What comes within a while."""
        before = len(self.seen)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    await self.receive()
        except (TimeoutError, Closed):
            return self.seen[before:]

    async def round_trip(self) -> None:
        """Wait until everything sent so far has been read by the server, and all that it caused has come.

        Twice, because the first answer goes ahead of chunks that are sent in the same turn.
        """
        for _ in range(2):
            stamp = f"mark {len(self.seen)}"
            await self.send("heartbeat", timestamp=stamp)
            await self.until("heartbeat_ack", timestamp=stamp)

    def answer(self, stream_id: str) -> Answer:
        """What has come of a stream."""
        return self.answers.setdefault(stream_id, Answer(stream_id))

    def types(self) -> list[str]:
        """The types of everything received, heartbeats left out."""
        return [message["type"] for message in self.seen if message["type"] != "heartbeat"]

    # -- the end

    async def closed(self) -> tuple[int, str]:
        """Read to the end; its code and reason. 1006: the server went without a word."""
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    await self.receive()
        except Closed as closed:
            return closed.code, closed.reason

    def drop(self) -> None:
        """Reset the connection."""
        self.socket.transport.abort()


def frame(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
    """A client's frame."""
    return Frame(Opcode(opcode), data, fin).serialize(mask=True)


class HasPort(Protocol):
    """A server, in this process or another, or a proxy before one."""

    port: int


@asynccontextmanager
async def connected(
    server: HasPort,
    *,
    path: str = "/ws",
    subprotocol: str | None = V1,
    greet: bool = True,
    max_queue: int | None = None,
    headers: dict[str, str] | None = None,
    **hello: Any,
) -> AsyncIterator[Native]:
    """Connect, and greet with what is given in ``hello``."""
    async with open_socket(
        f"ws://127.0.0.1:{server.port}{path}",
        subprotocols=None if subprotocol is None else [Subprotocol(subprotocol)],
        compression=None,
        ping_interval=None,
        close_timeout=1,
        max_queue=max_queue,
        max_size=None,
        proxy=None,
        additional_headers=headers,
    ) as socket:
        native = Native(socket)
        if greet:
            await native.hello(**hello)
        yield native


async def fetch(server: HasPort, data: bytes) -> bytes:
    """Send raw bytes; everything that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(data)
        async with asyncio.timeout(PATIENCE):
            return await reader.read()
    finally:
        writer.close()


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: wsstream.v1\r\n\r\n"
)
