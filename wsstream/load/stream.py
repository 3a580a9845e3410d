"""One stream of the load client, and what all streams count together."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Protocol

import msgspec

from wsstream import messages as m
from wsstream.chunks import ChatMessage
from wsstream.load.checker import Checker, Garbled
from wsstream.load.histogram import Histogram

if TYPE_CHECKING:
    from wsstream.load.client import Client

ACK_DELAY = 0.19
ACK_TICK = 0.01
"""An ack goes out `ACK_DELAY` to `ACK_DELAY + ACK_TICK` seconds after the chunk."""


class Measures:
    """What is measured of a kind of clients. Microseconds."""

    __slots__ = ("gap", "latency", "resume", "ttft")

    def __init__(self) -> None:
        self.ttft = Histogram()
        self.latency = Histogram()
        self.gap = Histogram()
        self.resume = Histogram()


class Watcher(Protocol):
    """Who wants to know how streams fare."""

    def on_first_token(self) -> None:
        """A stream has its first token, or will never have one."""

    def on_ended(self) -> None:
        """A stream has ended, well or badly."""


class Tally:
    """What all clients of a run count together."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.measures = Measures()
        self.slow_measures = Measures()
        self.tokens = 0
        self.slow_tokens = 0
        self.complete = 0
        self.failed = 0
        self.drops = 0
        self.errors: Counter[str] = Counter()


class AckTimer:
    """The delayed acks of all streams. They all wait equally long, so first in is first due."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, Stream]] = deque()

    def add(self, stream: Stream) -> float:
        """Have ``stream`` acknowledge in time; returns when that is."""
        if not self._waiting:
            self._loop.call_later(ACK_TICK, self._tick)
        due = time.monotonic() + ACK_DELAY
        self._waiting.append((due, stream))
        return due

    def _tick(self) -> None:
        now = time.monotonic()
        waiting = self._waiting
        while waiting and waiting[0][0] <= now:
            due, stream = waiting.popleft()
            if due == stream.ack_due:  # else it acknowledged early, and a later entry counts
                stream.acknowledge()
        if waiting:
            self._loop.call_later(ACK_TICK, self._tick)


class Stream:
    """One answer: asked for, checked chunk by chunk, acknowledged, measured."""

    __slots__ = (
        "_ack_head",
        "_acked",
        "_asked_at",
        "_client",
        "_complete",
        "_half_window",
        "_last_at",
        "_measures",
        "_replay_until",
        "_tally",
        "ack_due",
        "checker",
        "drop_at",
        "ended",
        "epoch",
        "queued_id",
        "request_id",
        "stream_id",
    )

    def __init__(self, client: Client, request_id: str, expected: int) -> None:
        self._client = client
        self._tally = client.tally
        self._measures = client.measures
        self._asked_at = 0
        self._complete = False
        self._last_at = 0
        self._replay_until = 0
        self._half_window = 25
        self._acked = 0
        self._ack_head = b""
        self.ack_due = 0.0
        """When the delayed ack has to go; 0 where none waits."""
        self.checker = Checker(expected)
        self.drop_at: int | None = None
        """The chunk after which the connection is to break."""
        self.ended = False
        self.epoch: str | None = None
        self.request_id = request_id
        self.stream_id = ""
        self.queued_id = ""
        """Its id from where it waits for its turn on: enough to cancel it."""

    # -- asking

    def start(self) -> None:
        """Ask for the answer, or find that there is nobody to ask."""
        if not self.ended:
            self._client.send(self.ask())  # where the connection is just down, the new one asks again

    def ask(self) -> bytes:
        """The request; the same again after a loss."""
        if not self._asked_at:
            self._asked_at = time.monotonic_ns() // 1000
        config = m.ChatConfig(provider="demo", model=self._client.settings.model)
        return m.encode(
            m.ChatRequested(request_id=self.request_id, messages=[ChatMessage("user", "Go.")], config=config)
        )

    @property
    def wanted(self) -> bool:
        """It was asked for and has not ended."""
        return bool(self._asked_at) and not self.ended

    def on_dropped(self) -> None:
        """The connection is gone. What is not acknowledged will be by the resume, and must not be before."""
        self.ack_due = 0.0
        self._acked = self.checker.seen
        self._last_at = 0  # a gap across a loss is the resume time, not the server's pace

    def ask_on(self) -> bytes:
        """What to say on a new connection."""
        if not self.stream_id:
            return self.ask()
        return m.encode(m.ResumeStream(last_chunk_id=self.checker.seen, stream_id=self.stream_id, epoch=self.epoch))

    def on_start(self, message: m.StreamStart, now: int) -> None:
        """The server has begun."""
        if not self.stream_id:
            self.stream_id, self.epoch = message.stream_id, message.epoch
            self._ack_head = b'{"type":"chunk_ack","stream_id":%b,"chunk_id":' % msgspec.json.encode(self.stream_id)
        self._half_window = max(1, message.window // 2)

    def on_resumed(self, message: m.StreamResumed, now: int) -> None:
        """The server goes on. What was made meanwhile would only measure how long the connection was down."""
        if message.last_chunk_id != self.checker.seen or message.epoch != self.epoch:
            self.fail("stream_resumed does not fit the stream")
        self._replay_until = message.tail_chunk_id
        self._half_window = max(1, message.window // 2)

    # -- chunks

    def on_content(self, message: m.ContentChunk, now: int) -> None:
        """One chunk."""
        self._take(message.chunk_id, message.chunk_id, message.content, now)

    def on_batch(self, message: m.ChunkBatch, now: int) -> None:
        """Several chunks in one."""
        self._take(message.first_chunk_id, message.last_chunk_id, message.content, now)

    def on_rewind(self, message: m.StreamRewind, now: int) -> None:
        """Text is withdrawn."""
        self.fail("stream_rewind, which this load never causes")

    def _take(self, first: int, last: int, content: str, now: int) -> None:
        """Check, measure and acknowledge; the hot path."""
        if self.ended:
            self._tally.errors["chunk after the end"] += self._complete
            return
        try:
            stamps = self.checker.take(first, last, content)
        except Garbled:
            self.fail("garbled content")
            return
        if stamps:
            self._count(len(stamps))
            self._measure(last, stamps, now)
        if self.checker.seen - self._acked >= self._half_window:
            self.acknowledge()
        elif not self.ack_due:
            self.ack_due = self._client.acks.add(self)
        if self.drop_at is not None and last >= self.drop_at:
            self.drop_at = None
            self._client.drop_soon()

    def _count(self, tokens: int) -> None:
        self._tally.tokens += tokens
        if self._client.slow:
            self._tally.slow_tokens += tokens

    def _measure(self, last: int, stamps: list[int], now: int) -> None:
        measures = self._measures
        if last > self._replay_until:
            measures.latency.add_ages(now, stamps)
        if self._last_at:
            measures.gap.add(now - self._last_at)
        elif self.checker.tokens == len(stamps):
            measures.ttft.add(now - self._asked_at)
            self._tally.watcher.on_first_token()
        if len(stamps) > 1:
            measures.gap.add(0, len(stamps) - 1)
        self._last_at = now
        if self._client.reconnecting_since:
            self._client.on_resumed(now)

    def acknowledge(self) -> None:
        """Acknowledge all there is, if that is news and the client is not stalling."""
        if self._client.stalled:
            return  # and is called again when the client reads on
        self.ack_due = 0.0
        seen = self.checker.seen
        if seen > self._acked:
            self._acked = seen
            self._client.send(b"%b%d}" % (self._ack_head, seen))

    # -- the end

    def on_complete(self, message: m.StreamComplete, now: int) -> None:
        """The server says that was all: was it?"""
        if self.ended:
            self._tally.errors["stream_complete after the end"] += self._complete
            return
        wrong = self.checker.finish(message.final_chunk_id)
        if wrong is None and message.finish_reason != "stop":
            wrong = f"finish_reason {message.finish_reason}"
        if wrong is not None:
            self.fail(wrong)
            return
        self.acknowledge()
        self._complete = True
        self._tally.complete += 1
        self._end()

    def on_failed(self, message: m.StreamFailed, now: int) -> None:
        """The server says it went wrong."""
        self.fail(f"stream_error {message.error_type}: {message.message}")

    def fail(self, reason: str) -> None:
        """Count the first failure of this stream."""
        if self.ended:
            return
        self._tally.errors[reason] += 1
        self._tally.failed += 1
        self.checker.abandon()
        self._client.cancel(self)
        self._end()

    def _end(self) -> None:
        self.ended = True
        if not self.checker.tokens:
            self._tally.watcher.on_first_token()
        self._tally.watcher.on_ended()
