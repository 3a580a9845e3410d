"""An OpenAI-compatible upstream on loopback that streams time stamps instead of words.

    python upstream.py [--port PORT] [--tick SECONDS]     (no port: any free one; the line it prints names it)

The model name is the load: ``load:rate=50,tokens=500`` sends 500 tokens at 50 a second, ``rate=0`` as fast as the
reader takes them. Every token is ``@``, 16 digits of CLOCK_MONOTONIC microseconds and a space, so any process of
the same machine can tell how long the token was under way. ``tell=NAME`` in the load has a line of JSON printed when a
connection is closed before the end of its stream: the name, the moment, and when its last tokens were written.

It shares a small machine with what is measured, so a token costs one bytes join, one heap operation and one write. It
needs Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import heapq
import json
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import uvloop

UNPACED_BURST = 64  # tokens of one unpaced stream per loop turn, so that other streams get theirs
MAX_REQUEST_BYTES = 4 * 1024 * 1024
GOLDEN_RATIO = 0.6180339887498949
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
REASONS = {400: "Bad Request", 404: "Not Found", 411: "Length Required", 413: "Content Too Large"}


class BadRequest(Exception):
    """The request cannot be answered; carries the HTTP status to say so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Load:
    """What the model name asks for."""

    rate: float
    tokens: int
    tell: str = ""


@dataclass(frozen=True)
class ChatRequest:
    """The parts of a request that change the answer."""

    model: str
    load: Load
    include_usage: bool


def parse_load(model: str) -> Load:
    """``load:rate=50,tokens=500`` -> Load(50.0, 500)."""
    kind, _, rest = model.partition(":")
    if kind != "load":
        raise BadRequest(404, f"unknown model {model!r}: use load:rate=50,tokens=500")
    values = {"rate": "50", "tokens": "500", "tell": ""}
    for part in filter(None, rest.split(",")):
        name, _, value = part.partition("=")
        if name not in values:
            raise BadRequest(404, f"unknown load setting {name!r}")
        values[name] = value
    try:
        load = Load(float(values["rate"]), int(values["tokens"]), values["tell"])
    except ValueError as error:
        raise BadRequest(404, f"not a number in {model!r}") from error
    if load.rate < 0 or load.tokens < 1:
        raise BadRequest(404, f"out of range in {model!r}")
    return load


def parse_body(body: bytes) -> ChatRequest:
    """Read the JSON body of a chat completion request."""
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise BadRequest(400, "the body is not JSON") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("messages"), list):
        raise BadRequest(400, "messages must be a list")
    if fields.get("stream") is not True:
        raise BadRequest(400, "this upstream only streams: set stream to true")
    model = str(fields.get("model", ""))
    options = fields.get("stream_options") or {}
    return ChatRequest(model, parse_load(model), bool(options.get("include_usage")))


def http_chunk(payload: bytes) -> bytes:
    """One chunk of the chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def event(fields: dict[str, object]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"


def error_response(error: BadRequest) -> bytes:
    """An error as the real API words it; the connection ends, so a half-read body does no harm."""
    kind = "invalid_request_error"
    body = json.dumps({"error": {"message": str(error), "type": kind, "param": None, "code": None}}).encode()
    head = (
        f"HTTP/1.1 {error.status} {REASONS[error.status]}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


class Answer:
    """The ready-made bytes of one stream. Only the stamp differs from token to token."""

    __slots__ = ("head", "prefix", "suffix", "tail")

    def __init__(self, request: ChatRequest, number: int) -> None:
        created = int(time.time())
        base: dict[str, object] = {
            "id": f"chatcmpl-{number:08d}",
            "object": "chat.completion.chunk",
            "created": created,
            "model": request.model,
        }
        self.head = STREAM_HEAD + http_chunk(self._delta(base, request, {"role": "assistant", "content": ""}, None))
        mark = "@0000000000000000 "  # every stamp is this long, so the chunk size is known beforehand
        framed = http_chunk(self._delta(base, request, {"content": mark}, None))
        at = framed.index(mark.encode()) + 1
        self.prefix = framed[:at]
        self.suffix = framed[at + 16 :]
        self.tail = self._tail(base, request)

    @staticmethod
    def _delta(base: dict[str, object], request: ChatRequest, delta: dict[str, object], finish: str | None) -> bytes:
        fields = base | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        if request.include_usage:
            fields["usage"] = None  # the real API does the same on every chunk but the last
        return event(fields)

    def _tail(self, base: dict[str, object], request: ChatRequest) -> bytes:
        parts = [http_chunk(self._delta(base, request, {}, "stop"))]
        if request.include_usage:
            tokens = request.load.tokens
            usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
            parts.append(http_chunk(event(base | {"choices": [], "usage": usage})))
        parts.append(http_chunk(b"data: [DONE]\n\n"))
        parts.append(b"0\r\n\r\n")
        return b"".join(parts)


class Alarm:
    """Calls back at a moment of CLOCK_MONOTONIC, to the microsecond: the event loop's own timers count milliseconds.

    A timer of the kernel's (timerfd_create(2)), which Python knows from 3.13 on.
    """

    NONBLOCK = 0o4000
    ABSOLUTE = 1

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, self.NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._when = (ctypes.c_long * 4)()  # the interval, 0 for none, and the moment: seconds and nanoseconds each
        self._callback = callback
        loop.add_reader(self._fd, self._on_time)

    def set(self, when: float) -> None:
        """Call back at ``when``, and at no other moment that was set before."""
        self._when[2], self._when[3] = divmod(int(when * 1e9), 10**9)
        self._libc.timerfd_settime(self._fd, self.ABSOLUTE, self._when, None)

    def _on_time(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # it was set anew in the same turn
            return
        self._callback()


class Pacer:
    """One alarm for all streams; a heap says which are due.

    Every token goes out at its own moment, as tokens of models do that know nothing of each other. With a ``tick``, in
    seconds, those of a tick go out together: cheaper for whoever reads them, and later.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tick: float) -> None:
        self._alarm = Alarm(loop, self._on_time)
        self._tick = tick
        self._heap: list[tuple[float, int, Stream]] = []
        self._set_for = math.inf

    def add(self, due: float, stream: Stream) -> None:
        """Wake the stream at ``due``. Its number breaks ties, so streams are never compared."""
        heapq.heappush(self._heap, (due, stream.number, stream))
        self._set()

    def _set(self) -> None:
        due = self._heap[0][0] if self._heap else math.inf
        if self._tick:
            due = math.ceil(due / self._tick) * self._tick if self._heap else due
        if due < self._set_for:
            self._set_for = due
            self._alarm.set(due)

    def _on_time(self) -> None:
        heap = self._heap
        now = time.monotonic()
        while heap and heap[0][0] <= now:
            due, number, stream = heap[0]
            if stream.send_token():
                # From the due time, not from now: a late alarm neither lowers the rate nor moves the phase.
                heapq.heapreplace(heap, (due + stream.interval, number, stream))
            else:
                heapq.heappop(heap)
        self._set_for = math.inf
        self._set()


class Stream:
    """One answer on one connection."""

    __slots__ = (
        "_answer",
        "_connection",
        "_left",
        "_tell",
        "_waiting",
        "_write",
        "closed",
        "interval",
        "number",
        "stamps",
    )

    def __init__(self, request: ChatRequest, number: int, connection: Connection) -> None:
        self.number = number
        self.interval = 1 / request.load.rate if request.load.rate else 0.0
        self.closed = False
        self._answer = Answer(request, number)
        self._connection = connection
        self._write = connection.transport.write
        self._left = request.load.tokens
        self._tell = request.load.tell
        self.stamps: deque[int] | None = deque(maxlen=100) if self._tell else None
        self._waiting = False

    def start(self) -> None:
        """The first token goes at once, the others in this stream's own beat."""
        self._write(self._answer.head)
        if not self.send_token():
            return
        if self.interval:
            self._pace()
        else:
            self._connection.loop.call_soon(self._burst)

    def send_token(self) -> bool:
        """Send one token. False: nothing more to send for now."""
        if self.closed:
            return False
        if self._connection.paused:
            self._waiting = True
            return False
        answer = self._answer
        now = time.monotonic_ns() // 1000
        if self.stamps is not None:
            self.stamps.append(now)
        self._write(b"%b%016d%b" % (answer.prefix, now, answer.suffix))
        self._left -= 1
        if self._left:
            return True
        self._finish()
        return False

    def close(self) -> None:
        """Its connection is gone; the pacer drops it when it is next due."""
        self.closed = True
        if self.stamps is not None:
            told = {"name": self._tell, "closed_us": time.monotonic_ns() // 1000, "stamps_us": list(self.stamps)}
            print(json.dumps(told), flush=True)

    def resume(self) -> None:
        """The reader takes data again. What it missed in time is not made up for: a model would not either."""
        if not self._waiting or self.closed:
            return
        self._waiting = False
        if self.interval:
            self._pace()
        else:
            self._connection.loop.call_soon(self._burst)

    def _pace(self) -> None:
        """Join the pacer at the next beat.

        The beat is a place on the clock, not a distance from the start: the moments at which a gateway happens to
        start its streams would add up with any distance, and the streams would clump differently in every run.
        """
        now = time.monotonic()
        beat = self.number * GOLDEN_RATIO % 1
        beats_passed = now / self.interval - beat
        self._connection.pacer.add((math.floor(beats_passed) + 1 + beat) * self.interval, self)

    def _burst(self) -> None:
        for _ in range(UNPACED_BURST):
            if not self.send_token():
                return
        self._connection.loop.call_soon(self._burst)

    def _finish(self) -> None:
        self.closed = True
        self._write(self._answer.tail)
        self._connection.stream_done()


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection: a request, its answer, the next request."""

    transport: asyncio.Transport
    streams_started = 0

    def __init__(self, loop: asyncio.AbstractEventLoop, pacer: Pacer) -> None:
        self.loop = loop
        self.pacer = pacer
        self.paused = False
        self._buffer = b""
        self._stream: Stream | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._stream:
            self._stream.close()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._stream:
            self._stream.resume()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > MAX_REQUEST_BYTES:
            self._refuse(BadRequest(413, "request too large"))
        elif not self._stream:
            self._next_request()

    def stream_done(self) -> None:
        """The answer is out; a request that came in meanwhile is next."""
        self._stream = None
        if self._buffer:
            self.loop.call_soon(self._next_request)

    def _next_request(self) -> None:
        if self._stream:
            return
        try:
            body = self._take_request()
            if body is None:
                return
            request = parse_body(body)
        except BadRequest as error:
            self._refuse(error)
            return
        Connection.streams_started += 1
        self._stream = Stream(request, Connection.streams_started, self)
        self._stream.start()

    def _take_request(self) -> bytes | None:
        """Cut one whole request off the buffer and return its body; None while it is incomplete."""
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if first.split(" ")[:2] != ["POST", "/v1/chat/completions"]:
            raise BadRequest(404, "only POST /v1/chat/completions is here")
        length = headers.get("content-length", "")
        if not length.isdigit():
            raise BadRequest(411, "send a Content-Length")
        size = int(length)
        if len(rest) < size:
            return None
        self._buffer = rest[size:]
        return rest[:size]

    def _refuse(self, error: BadRequest) -> None:
        self._buffer = b""
        self.transport.write(error_response(error))
        self.transport.close()


async def serve(port: int, tick: float) -> None:
    """Listen on loopback until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    pacer = Pacer(loop, tick)
    server = await loop.create_server(lambda: Connection(loop, pacer), "127.0.0.1", port, backlog=4096)
    print(f"upstream listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # a collection in the middle of a run would look like latency of the gateway
    await stop.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tick", type=float, default=0.0, help="seconds whose tokens go out together; 0 = none")
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.tick))


if __name__ == "__main__":
    main()
