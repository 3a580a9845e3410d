"""The load client: opens N connections to one gateway, runs one stream on each, measures every token.

    python clients.py --url ws://127.0.0.1:8080/ws --dialect wsstream --streams 200 --rate 50 --tokens 750

Prints one JSON object. ``--gateway-pid`` (and ``--upstream-pid``) make it read their CPU time at the very moments at
which the measured window opens and closes, so that tokens and CPU belong to the same span.

The window opens half a second after the last stream's first token and closes when the first stream ends: every
stream runs all the time in between. A load without such a span (unpaced streams) is measured from start to end.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from array import array
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import psutil
import uvloop
from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.speedups import apply_mask
from websockets.uri import parse_uri

TOKEN_LENGTH = 18  # "@", 16 digits, a space
SETTLE_SECONDS = 0.5
SHORTEST_WINDOW = 1.0
ACK_DELAY = 0.2
ACK_TICK = 0.01
SUBPROTOCOL = "wsstream.v1"
TEXT, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x0, 0x8, 0x9, 0xA
FIN = 0x80
WHOLE_TEXT = FIN | TEXT


class Message(msgspec.Struct, gc=False):
    """Any message of either dialect; one typed decode is cheaper than looking first and decoding then."""

    type: str
    content: str = ""
    stream_id: str = ""
    chunk_id: int = 0
    first_chunk_id: int = 0
    last_chunk_id: int = 0
    final_chunk_id: int = 0
    window: int = 0
    error_type: str = ""
    message: str = ""
    timestamp: msgspec.Raw = msgspec.Raw(b"null")


decode = msgspec.json.Decoder(Message).decode


def client_frame(opcode: int, payload: bytes) -> bytes:
    """One masked frame, as clients have to send them."""
    size = len(payload)
    if size < 126:
        head = bytes((FIN | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((FIN | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((FIN | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    mask = os.urandom(4)
    return head + mask + apply_mask(payload, mask)


def split_frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Cut whole server frames off ``data``: [(first byte, payload)], and what is left over."""
    frames = []
    at, end = 0, len(data)
    while end - at >= 2:
        size = data[at + 1]
        start = at + 2
        if size == 126:
            start += 2
            size = int.from_bytes(data[at + 2 : start], "big")
        elif size == 127:
            start += 8
            size = int.from_bytes(data[at + 2 : start], "big")
        elif size > 127:
            raise ValueError("a server frame is masked")
        stop = start + size
        if stop > end or start > end:
            break
        frames.append((data[at], data[start:stop]))
        at = stop
    return frames, data[at:]


@dataclass
class Usage:
    """What some processes used up to now."""

    at: float
    tokens: int
    frames: int
    cpu: dict[str, tuple[float, float]]
    busy: float
    rss: int


class Meter:
    """Reads CPU time of the watched processes. Children are looked up once: a look through /proc takes long."""

    def __init__(self, watched: dict[str, int]) -> None:
        self._processes = {name: self._family(pid) for name, pid in watched.items()}

    @staticmethod
    def _family(pid: int) -> list[psutil.Process]:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]

    def read(self, tokens: int, frames: int) -> Usage:
        cpu = {name: self._cpu(family) for name, family in self._processes.items()}
        rss = sum(process.memory_info().rss for process in self._processes.get("gateway", []))
        machine = psutil.cpu_times()
        busy = sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice
        return Usage(time.monotonic(), tokens, frames, cpu, busy, rss)

    @staticmethod
    def _cpu(family: list[psutil.Process]) -> tuple[float, float]:
        user = system = 0.0
        for process in family:
            times = process.cpu_times()
            user += times.user + times.children_user
            system += times.system + times.children_system
        return user, system


class Run:
    """What all streams of one run share: the figures and the measured window."""

    def __init__(self, streams: int, tokens: int, meter: Meter) -> None:
        self.loop = asyncio.get_running_loop()
        self.expected = tokens
        self.latencies = array("q")  # microseconds, in the order of arrival
        self.ttft: list[float] = []
        self.frames = 0
        self.errors: Counter[str] = Counter()
        self.complete = 0
        self.finished = asyncio.Event()
        self.begin: Usage | None = None
        self.opened: Usage | None = None
        self.closed: Usage | None = None
        self.end: Usage | None = None
        self._meter = meter
        self._starting = streams
        self._running = streams
        self._streams = streams

    def read_meter(self) -> Usage:
        return self._meter.read(len(self.latencies), self.frames)

    def stream_started(self) -> None:
        """A stream got its first token, or never will."""
        self._starting -= 1
        if not self._starting:
            self.loop.call_later(SETTLE_SECONDS, self._open_window)

    def stream_ended(self, complete: bool) -> None:
        """A stream is over. The first one that is ends the steady part."""
        if self.opened and not self.closed:
            self.closed = self.read_meter()
        self.complete += complete
        self._running -= 1
        if not self._running:
            self.end = self.read_meter()
            self.finished.set()

    def _open_window(self) -> None:
        if self._running == self._streams:  # else the steady part is over before it began
            self.opened = self.read_meter()


class Stream(ABC):
    """One stream over one connection; the dialects say what its messages mean."""

    subprotocol: str | None = None

    def __init__(self, run: Run, number: int, model: str) -> None:
        self.run = run
        self.number = number
        self.model = model
        self.connection: Connection
        self.tokens = 0
        self.ended = False
        self._sent_at = 0.0
        self._rest = ""

    def start(self) -> None:
        """Ask for the answer; from here on the time to the first token counts."""
        self._sent_at = time.monotonic()
        self.send(self.request())

    @abstractmethod
    def request(self) -> dict[str, Any]:
        """What asks for the answer, in the peer's dialect."""

    @abstractmethod
    def on_message(self, message: Message, now: int) -> None:
        """Act on what came at ``now``."""

    def send(self, message: dict[str, Any]) -> None:
        self.connection.send_text(msgspec.json.encode(message))

    def take(self, content: str, now: int) -> None:
        """Measure the tokens in ``content``. A gateway may cut the text anywhere, so a token may come in parts."""
        if self.ended:
            if self.tokens == self.run.expected:
                self.run.errors["token after the end"] += 1
            return
        if self._rest:
            content = self._rest + content
        at, end = 0, len(content) - TOKEN_LENGTH
        while at <= end:
            if content[at] != "@" or content[at + TOKEN_LENGTH - 1] != " ":
                self.fail("garbled token")
                return
            self.run.latencies.append(now - int(content[at + 1 : at + TOKEN_LENGTH - 1]))
            at += TOKEN_LENGTH
        self._rest = content[at:]
        if not self.tokens and at:
            self.run.ttft.append(time.monotonic() - self._sent_at)
            self.run.stream_started()
        self.tokens += at // TOKEN_LENGTH

    def finish(self) -> None:
        """The gateway says the answer is complete: is it?"""
        if self._rest or self.tokens != self.run.expected:
            self.fail("wrong number of tokens")
        elif not self.ended:
            self.ended = True
            self.run.stream_ended(complete=True)

    def fail(self, reason: str) -> None:
        """Count the first failure of this stream."""
        if self.ended:
            return
        self.ended = True
        self.run.errors[reason] += 1
        if not self.tokens:
            self.run.stream_started()
        self.run.stream_ended(complete=False)


class PeerStream(Stream):
    """The bare gateways: a request, a message per token, done."""

    def request(self) -> dict[str, Any]:
        return {"model": self.model, "messages": [{"role": "user", "content": "Go."}]}

    def on_message(self, message: Message, now: int) -> None:
        if message.type == "token":
            self.take(message.content, now)
        elif message.type == "done":
            self.finish()
        elif message.type == "error":
            self.fail(f"error: {message.message[:80]}")


class NativeStream(Stream):
    """The native wire: numbered chunks, cumulative acknowledgements, heartbeats."""

    subprotocol = SUBPROTOCOL

    def __init__(self, run: Run, number: int, model: str) -> None:
        super().__init__(run, number, model)
        self._stream_id = ""
        self._seen = 0
        self._acked = 0
        self._half_window = 25
        self.ack_due = 0.0  # when the delayed ack has to go; 0 = nothing waits

    def request(self) -> dict[str, Any]:
        return {
            "type": "chat_request",
            "request_id": f"bench-{os.getpid()}-{self.number}",
            "messages": [{"role": "user", "content": "Go."}],
            "config": {"provider": "openai", "model": self.model},
        }

    def on_message(self, message: Message, now: int) -> None:
        match message.type:
            case "content_chunk":
                self._chunk(message.chunk_id, message.chunk_id, message.content, now)
            case "chunk_batch":
                self._chunk(message.first_chunk_id, message.last_chunk_id, message.content, now)
            case "heartbeat":
                self.send({"type": "heartbeat_ack", "timestamp": message.timestamp})
            case "stream_start":
                self._stream_id = message.stream_id
                self._half_window = max(1, min(50, message.window or 50) // 2)
            case "stream_complete":
                self._complete(message.final_chunk_id)
            case "error" | "stream_error":
                self.fail(f"{message.type} {message.error_type}: {message.message[:80]}")
            case "stream_rewind" | "going_away":
                self.fail(message.type)

    def _chunk(self, first: int, last: int, content: str, now: int) -> None:
        if first != self._seen + 1 or last < first:
            self.fail("gap in the chunk ids")
            return
        self._seen = last
        self.take(content, now)
        if last - self._acked >= self._half_window:
            self.ack()
        elif not self.ack_due:
            self.ack_due = self.connection.ack_timer.add(self)

    def _complete(self, final_chunk_id: int) -> None:
        if final_chunk_id != self._seen:
            self.fail("final_chunk_id is not the last chunk")
        self.ack()
        self.finish()

    def ack(self) -> None:
        """Acknowledge everything seen, if that is news."""
        self.ack_due = 0.0
        if self._seen > self._acked:
            self._acked = self._seen
            # Written by hand: ids need no escaping, and this is the one message that is sent often.
            text = f'{{"type":"chunk_ack","stream_id":"{self._stream_id}","chunk_id":{self._acked}}}'
            self.connection.send_text(text.encode())


class AckTimer:
    """One timer for the delayed acks of all streams: the delay is the same for all, so first in is first due."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[float, NativeStream]] = deque()

    def add(self, stream: NativeStream) -> float:
        """Have the stream acknowledge after the delay; returns when that is."""
        if not self._waiting:
            self._loop.call_later(ACK_TICK, self._tick)
        due = self._loop.time() + ACK_DELAY
        self._waiting.append((due, stream))
        return due

    def _tick(self) -> None:
        now = self._loop.time()
        waiting = self._waiting
        while waiting and waiting[0][0] <= now:
            due, stream = waiting.popleft()
            if due == stream.ack_due:  # else it acknowledged early, and a later entry is the valid one
                stream.ack()
        if waiting:
            self._loop.call_later(ACK_TICK, self._tick)


class Connection(asyncio.Protocol):
    """One WebSocket. The library shakes hands; frames are read by hand, because this client must stay cheap."""

    def __init__(self, url: str, stream: Stream, ack_timer: AckTimer) -> None:
        subprotocols = [stream.subprotocol] if stream.subprotocol else None
        self._handshake = ClientProtocol(parse_uri(url), subprotocols=subprotocols)  # type: ignore[arg-type]
        self.stream = stream
        self._buffer = b""
        self._parts: list[bytes] = []
        self._open = False
        self._transport: asyncio.Transport
        self.ack_timer = ack_timer
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stream.connection = self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._handshake.send_request(self._handshake.connect())
        self._transport.write(b"".join(self._handshake.data_to_send()))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionError("closed in the handshake"))
        self.stream.fail("connection lost")

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns() // 1000
        if self._buffer:
            data = self._buffer + data
        if not self._open and not (data := self._shake_hands(data)):
            return
        try:
            frames, self._buffer = split_frames(data)
            for first, payload in frames:
                if first == WHOLE_TEXT:
                    self.stream.run.frames += 1
                    self.stream.on_message(decode(payload), now)
                else:
                    self._other_frame(first, payload, now)
        except (ValueError, msgspec.MsgspecError) as error:
            self._break(f"cannot read: {str(error)[:80]}")

    def send_text(self, payload: bytes) -> None:
        self._transport.write(client_frame(TEXT, payload))

    def close(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(client_frame(CLOSE, (1000).to_bytes(2, "big")))
            self._transport.close()

    def _shake_hands(self, data: bytes) -> bytes:
        """Give the library exactly the response head; what follows it is ours. Returns that."""
        head, found, rest = data.partition(b"\r\n\r\n")
        self._buffer = b"" if found else data
        if not found:
            return b""
        self._handshake.receive_data(head + found)
        if self._handshake.state is not State.OPEN:
            self._break(f"handshake failed: {self._handshake.handshake_exc}")
            return b""
        if self._handshake.subprotocol != self.stream.subprotocol:
            self._break(f"subprotocol {self._handshake.subprotocol!r}")
            return b""
        self._open = True
        self.opened.set_result(None)
        return rest

    def _other_frame(self, first: int, payload: bytes, now: int) -> None:
        """Control frames, and messages in several frames."""
        opcode = first & 0x0F
        if opcode == PING:
            self._transport.write(client_frame(PONG, payload))
        elif opcode == CLOSE:
            self._break(f"closed by the server with {int.from_bytes(payload[:2], 'big')}")
        elif opcode in (TEXT, CONTINUATION) and not first & 0x70:
            self._parts.append(payload)
            if first & FIN:
                whole = b"".join(self._parts)
                self._parts.clear()
                self.stream.run.frames += 1
                self.stream.on_message(decode(whole), now)
        elif opcode != PONG:
            self._break(f"unexpected frame 0x{first:02x}")

    def _break(self, reason: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(reason))
        self.stream.fail(reason)
        self.close()


def percentile(ordered: list[Any], share: float) -> float:
    """The value below which ``share`` of the sorted values lie."""
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * share))]) if ordered else 0.0


def spread(values: list[Any], scale: float) -> dict[str, float]:
    """The usual percentiles, times ``scale``."""
    ordered = sorted(values)
    shares = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(percentile(ordered, share) * scale, 3) for name, share in shares.items()}


def per_token(opened: Usage, closed: Usage, name: str) -> dict[str, float]:
    """Microseconds of CPU per delivered token between two readings."""
    tokens = max(1, closed.tokens - opened.tokens)
    pairs = zip(opened.cpu[name], closed.cpu[name], strict=True)
    user, system = ((after - before) * 1e6 / tokens for before, after in pairs)
    return {"user": round(user, 3), "sys": round(system, 3), "total": round(user + system, 3)}


def report(run: Run) -> dict[str, Any]:
    """Everything measured, as plain data."""
    begin, end = run.begin, run.end or run.read_meter()
    assert begin is not None
    opened, closed, steady = begin, end, False
    if run.opened and run.closed and run.closed.at - run.opened.at >= SHORTEST_WINDOW:
        opened, closed, steady = run.opened, run.closed, True
    seconds = closed.at - opened.at
    tokens = closed.tokens - opened.tokens
    own = sum(sum(closed.cpu[name]) - sum(opened.cpu[name]) for name in closed.cpu)
    return {
        "tokens": len(run.latencies),
        "streams_complete": run.complete,
        "errors": dict(run.errors),
        "ttft_ms": spread(run.ttft, 1000),
        "steady": steady,
        "seconds": round(seconds, 3),
        "tokens_in_window": tokens,
        "tokens_per_second": round(tokens / seconds, 1),
        "tokens_per_frame": round(tokens / max(1, closed.frames - opened.frames), 3),
        "latency_ms": spread(list(run.latencies[opened.tokens : closed.tokens]), 0.001),
        "cpu_us_per_token": {name: per_token(opened, closed, name) for name in closed.cpu},
        "rss_mib": round(closed.rss / 2**20, 1),
        "other_load_cores": round(max(0.0, closed.busy - opened.busy - own) / seconds, 2),
    }


async def connect_all(options: argparse.Namespace, run: Run) -> list[Connection]:
    """Open every connection at once; a refused one counts as a failed stream."""
    address = parse_uri(options.url)
    ack_timer = AckTimer(run.loop)
    kind = NativeStream if options.dialect == "wsstream" else PeerStream
    model = f"load:rate={options.rate:g},tokens={options.tokens}"

    async def connect(number: int) -> Connection | None:
        stream = kind(run, number, model)
        try:
            _, connection = await run.loop.create_connection(
                lambda: Connection(options.url, stream, ack_timer), address.host, address.port
            )
            await connection.opened
        except OSError as error:
            stream.fail(f"cannot connect: {str(error)[:80]}")
            return None
        return connection

    made = await asyncio.gather(*(connect(number) for number in range(options.streams)))
    return [connection for connection in made if connection]


async def start_all(connections: list[Connection], seconds: float) -> None:
    """Start all streams, at once or spread over ``seconds``."""
    for connection in connections:
        connection.stream.start()
        if seconds:
            await asyncio.sleep(seconds / len(connections))


async def run_load(options: argparse.Namespace) -> dict[str, Any]:
    """One whole run, bounded in time."""
    watched = {"gateway": options.gateway_pid, "upstream": options.upstream_pid, "client": os.getpid()}
    run = Run(options.streams, options.tokens, Meter({name: pid for name, pid in watched.items() if pid}))
    connections: list[Connection] = []
    try:
        async with asyncio.timeout(options.timeout):
            connections = await connect_all(options, run)
            run.begin = run.read_meter()
            await start_all(connections, options.spread)
            await run.finished.wait()
    except TimeoutError:
        run.errors["not finished in time"] += options.streams - run.complete
    result = report_or_nothing(run)
    for connection in connections:
        connection.close()
    return result


def report_or_nothing(run: Run) -> dict[str, Any]:
    """The report; without a beginning there is nothing to report but errors."""
    return report(run) if run.begin else {"tokens": 0, "streams_complete": 0, "errors": dict(run.errors)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--dialect", choices=("peer", "wsstream"), required=True)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--rate", type=float, default=50, help="tokens a second of each stream; 0 = unpaced")
    parser.add_argument("--tokens", type=int, default=500, help="tokens of each stream")
    parser.add_argument("--spread", type=float, default=0, help="seconds over which the streams start")
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("--gateway-pid", type=int)
    parser.add_argument("--upstream-pid", type=int)
    gc.disable()  # bounded run without reference cycles on the hot path; a collection would look like latency
    json.dump(uvloop.run(run_load(parser.parse_args())), sys.stdout)
    print()


if __name__ == "__main__":
    main()
