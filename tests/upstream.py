"""A scripted upstream: a server on loopback that plays, for every connection, a list of bytes, waits and ends.

A script is a list of steps. Bytes are written, with backpressure, so that `Seen.written` stays small where the client
does not read; a number is seconds to wait; an `asyncio.Event` is waited for; `Step` names the rest. It begins anew with
every request on a connection (`Step.REQUEST` waits for one), and what follows the last step is a plain close.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any


class Step(Enum):
    """What is neither bytes nor a wait."""

    REQUEST = "read one request, head and body"
    HALF_CLOSE = "send the end, go on reading"
    RESET = "close with RST"
    HOLD = "wait until the client closes"


Script = Sequence[bytes | float | asyncio.Event | Step]


class Seen:
    """What one connection has brought."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.written = 0
        """Bytes that left for the client."""
        self.closed = asyncio.Event()
        self.closed_at: float | None = None
        """When the client's close was noticed; of ``time.monotonic()``."""

    @property
    def body(self) -> Any:
        """The last request's JSON."""
        return json.loads(self.requests[-1].partition(b"\r\n\r\n")[2])


class Upstream:
    """The server. ``script`` is asked for every connection, with its number from 0."""

    def __init__(self, script: Callable[[int], Script]) -> None:
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.seen: list[Seen] = []
        """One for each connection, in the order they came."""

    @property
    def url(self) -> str:
        """As an SDK wants it."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        seen = Seen()
        self.seen.append(seen)
        writer.transport.set_write_buffer_limits(0)
        try:
            for step in self._script(len(self.seen) - 1):
                await _play(step, seen, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            _note_close(seen)
        finally:
            writer.close()

    async def close(self) -> None:
        """Stop what still plays."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _play(
    step: bytes | float | asyncio.Event | Step, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    if isinstance(step, bytes):
        for start in range(0, len(step), 65536):
            part = step[start : start + 65536]
            writer.write(part)
            await writer.drain()
            seen.written += len(part)
    elif isinstance(step, asyncio.Event):
        await step.wait()
    elif isinstance(step, Step):
        await _play_step(step, seen, reader, writer)
    else:
        await asyncio.sleep(step)


async def _play_step(step: Step, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if step is Step.REQUEST:
        seen.requests.append(await _read_request(reader))
    elif step is Step.HALF_CLOSE:
        writer.write_eof()
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
    server = await asyncio.start_server(upstream._serve, "127.0.0.1", 0, backlog=1024)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
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


# -- what OpenAI and those who copy it say


def event(fields: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n\n"


def chunk(text: str | None = None, finish: str | None = None, **delta: Any) -> bytes:
    """A piece of an answer."""
    content = {} if text is None else {"content": text}
    return event({"id": "c", "choices": [{"index": 0, "delta": {**content, **delta}, "finish_reason": finish}]})


def usage(prompt: int, completion: int) -> bytes:
    """The event that follows the last choice."""
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}})


def done() -> bytes:
    """The end marker."""
    return b"data: [DONE]\n\n"


def failure(status: str, body: Any, **headers: str) -> bytes:
    """An answer that is an error; the SDK is told not to try again by itself."""
    return whole(json.dumps(body).encode(), status, X_Should_Retry="false", **headers)
