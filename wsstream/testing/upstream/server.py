"""The server: it plays a script to every connection."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any, Union


class Step(Enum):
    """What is neither bytes nor a wait."""

    REQUEST = "read one request, head and body"
    HALF_CLOSE = "send the end, go on reading"
    CLOSE = "close"
    RESET = "close with RST"
    HOLD = "wait until the client closes"


Act = Union[bytes, float, asyncio.Event, Step, "Choose"]
Script = Iterable[Act]


class Seen:
    """What one connection has brought."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.written = 0
        """Bytes that left for the client."""
        self.writes = 0
        """Writes that did."""
        self.closed = asyncio.Event()
        self.closed_at: float | None = None
        """When the client's close was noticed; of ``time.monotonic()``."""

    @property
    def body(self) -> Any:
        """The last request's JSON."""
        return json.loads(self.requests[-1].partition(b"\r\n\r\n")[2])

    @property
    def path(self) -> str:
        """The last request's path."""
        return self.requests[-1].split(b" ", 2)[1].decode("latin-1")


Choose = Callable[[Seen], Script]
"""What goes on as the request wants it."""


class Upstream:
    """The server. ``script`` is asked for every connection, with its number from 0."""

    def __init__(self, script: Callable[[int], Script]) -> None:
        self._script = script
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.seen: list[Seen] = []
        """One for each connection, in the order they came."""

    @property
    def url(self) -> str:
        """As the openai SDK wants it."""
        return f"{self.root}/v1"

    @property
    def root(self) -> str:
        """As the anthropic SDK wants it."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self, port: int = 0) -> None:
        """Listen, on loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        seen = Seen()
        self.seen.append(seen)
        writer.transport.set_write_buffer_limits(0)
        try:
            await _play(self._script(len(self.seen) - 1), seen, reader, writer)
        except (OSError, asyncio.IncompleteReadError, RuntimeError):  # the last is uvloop's, of a closed transport
            _note_close(seen)
        except asyncio.CancelledError:
            return  # by `close`; asyncio's own callback would make a fuss about it
        finally:
            writer.close()

    async def close(self) -> None:
        """Stop what still plays."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _play(script: Script, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for step in script:
        if isinstance(step, bytes):
            await _write(step, seen, writer)
        elif isinstance(step, asyncio.Event):
            await step.wait()
        elif isinstance(step, Step):
            await _play_step(step, seen, reader, writer)
        elif callable(step):
            await _play(step(seen), seen, reader, writer)
        else:
            await asyncio.sleep(step)


async def _write(data: bytes, seen: Seen, writer: asyncio.StreamWriter) -> None:
    for start in range(0, len(data), 65536):
        part = data[start : start + 65536]
        writer.write(part)
        await writer.drain()
        seen.written += len(part)
        seen.writes += 1


async def _play_step(step: Step, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if step is Step.REQUEST:
        seen.requests.append(await _read_request(reader))
    elif step is Step.HALF_CLOSE:
        writer.write_eof()
    elif step is Step.CLOSE:
        writer.close()
    elif step is Step.RESET:
        plain: socket.socket = writer.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        while await reader.read(65536):
            pass
        _note_close(seen)


def _note_close(seen: Seen) -> None:
    seen.closed_at = time.monotonic()
    seen.closed.set()


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return head + await reader.readexactly(int(value))
    return head


@asynccontextmanager
async def playing(*scripts: Script) -> AsyncIterator[Upstream]:
    """An upstream that plays the first script to the first connection, and so on; the last one to all that follow."""
    upstream = Upstream(lambda number: scripts[min(number, len(scripts) - 1)])
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.close()


# -- HTTP


def head(status: str = "200 OK", **headers: str) -> bytes:
    """A response's head."""
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def whole(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A response of known length."""
    return head(status, Content_Length=str(len(body)), **headers) + body


def chunked(*pieces: bytes) -> bytes:
    """Pieces of a chunked body, without its end."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


CHUNKED = head(Transfer_Encoding="chunked", Content_Type="text/event-stream")
LAST = b"0\r\n\r\n"
