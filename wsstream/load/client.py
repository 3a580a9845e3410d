"""A load client: its connection and streams, and how it stalls, breaks off and comes back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec

from wsstream import messages as m
from wsstream.errors import MalformedMessage, UnknownMessage
from wsstream.load.link import Link, open_link
from wsstream.load.settings import Settings, Target
from wsstream.load.stream import AckTimer, Stream, Tally

DROP_JITTER = 0.05
"""Seconds within which a connection breaks after the chunk drawn for it, so that it does not always break on one."""

ESTABLISH_TIMEOUT = 15.0

_decode = msgspec.json.Decoder(m.ServerMessage).decode


class Client:
    """One reader with its streams, over one connection after another."""

    def __init__(
        self,
        settings: Settings,
        target: Target,
        tally: Tally,
        acks: AckTimer,
        spawn: Callable[[Any], None],
        *,
        slow: bool,
    ) -> None:
        """``spawn`` runs a coroutine and keeps hold of it. ``slow``: it stalls at times."""
        self.settings = settings
        self.tally = tally
        self.acks = acks
        self.slow = slow
        self.measures = tally.slow_measures if slow else tally.measures
        self.stalled = False
        self.reconnecting_since = 0
        """When the reconnect began, until its first new chunk; 0 otherwise. Microseconds."""
        self.streams: list[Stream] = []
        self.max_streams = 0
        """How many streams the server lets one connection follow; 0 before it said so."""
        self.address = ""
        self._target = target
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._session_id: str | None = None
        self._established: asyncio.Future[None]
        self._by_id: dict[str, Stream] = {}
        self._stalls_until = 0.0

    # -- connecting

    async def connect(self, address: str) -> None:
        """Connect and greet.

        Raises:
            OSError: it did not work.
        """
        self.address = address
        self._established = self._loop.create_future()
        link = await open_link(self._target, address, self)
        self._link = link
        settings = self.settings
        hello = m.Hello(
            token=settings.token, session_id=self._session_id, window=settings.window, client="wsstream-bench"
        )
        self.send(m.encode(hello))
        try:
            async with asyncio.timeout(ESTABLISH_TIMEOUT):
                await self._established
        except TimeoutError:
            raise ConnectionError("no answer to the hello in time") from None

    def cancel(self, stream: Stream) -> None:
        """Nobody will read this stream any more."""
        stream_id = stream.stream_id or stream.queued_id
        if stream_id:
            self.send(m.encode(m.CancelStream(stream_id=stream_id)))

    def send(self, payload: bytes) -> None:
        """Send one message, if there is anywhere to send it to."""
        if self._link is not None:
            self._link.send(payload)

    def close(self) -> None:
        """Leave; what still runs is cancelled, because nobody will ever read it."""
        for stream in self._unfinished():
            self.cancel(stream)
        if self._link is not None:
            self._link.close()

    async def wait_gone(self) -> None:
        """Wait until the connection is gone."""
        if self._link is not None:
            await asyncio.shield(self._link.gone)

    # -- breaking off and coming back

    def drop_soon(self) -> None:
        """Break the connection at a random moment very soon."""
        self._loop.call_later(random.uniform(0, DROP_JITTER), self._drop)

    def _drop(self) -> None:
        if self._link is None or not self._unfinished():
            return
        self._link.abort()
        self._link = None
        self.stalled = False
        self.tally.drops += 1
        for stream in self.streams:
            stream.on_dropped()
        self._spawn(self._reconnect())

    async def _reconnect(self) -> None:
        self.reconnecting_since = time.monotonic_ns() // 1000
        try:
            await self.connect(self.address)
        except OSError as error:
            self.fail(f"cannot reconnect: {describe(error)}")
            return
        for stream in self.streams:
            if stream.wanted:
                self.send(stream.ask_on())

    def on_resumed(self, now: int) -> None:
        """The first new chunk after a reconnect is here."""
        self.measures.resume.add(now - self.reconnecting_since)
        self.reconnecting_since = 0

    def _unfinished(self) -> list[Stream]:
        return [stream for stream in self.streams if not stream.ended]

    def fail(self, reason: str) -> None:
        """Nothing will come of any of its streams."""
        for stream in self._unfinished():
            stream.fail(reason)

    # -- stalling

    def stall_at_times(self, seconds: float) -> None:
        """Stall for random stretches during the next ``seconds``."""
        self._stalls_until = time.monotonic() + seconds
        self._loop.call_later(self._stretch(), self._stall)

    def _stretch(self) -> float:
        return min(3.0, random.uniform(0.05, 0.25) * self.settings.seconds)

    def _stall(self) -> None:
        left = self._stalls_until - time.monotonic()
        if left <= 0 or not self._unfinished():
            return
        if self._link is not None:
            self.stalled = True
            self._link.pause()
        self._loop.call_later(min(left, self._stretch()), self._read_on)

    def _read_on(self) -> None:
        self._loop.call_later(self._stretch(), self._stall)
        if not self.stalled:
            return  # the connection broke meanwhile; the new one reads
        self.stalled = False
        if self._link is not None:
            self._link.resume()
        for stream in self.streams:
            stream.acknowledge()

    # -- what comes in

    def on_text(self, payload: bytes, now: int) -> None:
        """Read one message."""
        try:
            message = _decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._on_unreadable(payload)
            return
        handler = _OF_STREAMS.get(type(message))
        if handler is None:
            other = _OF_CLIENTS.get(type(message))
            if other is not None:
                other(self, message, now)
            return
        stream = self._by_id.get(message.stream_id)
        if stream is None:
            self.tally.errors[f"{type(message).__name__} of an unknown stream"] += 1
        else:
            handler(stream, message, now)

    def on_closed(self, link: Link, reason: str) -> None:
        """The server has left."""
        if link is self._link:
            self._link = None
        if not self._established.done():
            self._established.set_exception(ConnectionError(reason))
        elif self._unfinished():
            self.fail(reason)
        else:
            self.tally.errors[reason] += 1

    def _on_unreadable(self, payload: bytes) -> None:
        try:
            m.decode_server(payload)
        except UnknownMessage:
            return  # of a newer server; clients leave it alone
        except MalformedMessage:
            self.tally.errors["unreadable message"] += 1

    def _on_established(self, message: m.ConnectionEstablished, now: int) -> None:
        self._session_id = message.session_id
        self.max_streams = message.limits.max_streams
        if not self._established.done():
            self._established.set_result(None)

    def _on_start(self, message: m.StreamStart, now: int) -> None:
        for stream in self.streams:
            if stream.request_id == message.request_id:
                self._by_id[message.stream_id] = stream
                stream.on_start(message, now)

    def _on_queued(self, message: m.StreamQueued, now: int) -> None:
        for stream in self.streams:
            if stream.request_id == message.request_id:
                stream.queued_id = message.stream_id

    def _on_error(self, message: m.Error, now: int) -> None:
        reason = f"error {message.error_type}: {message.message}"
        for stream in self.streams:
            if stream.request_id == message.request_id or stream.stream_id == message.stream_id:
                stream.fail(reason)
                return
        self.tally.errors[reason] += 1

    def _on_heartbeat(self, message: m.Heartbeat, now: int) -> None:
        self.send(m.encode(m.HeartbeatAck(timestamp=message.timestamp)))

    def _on_going_away(self, message: m.GoingAway, now: int) -> None:
        self.tally.errors["going_away"] += 1


_OF_STREAMS: dict[type[msgspec.Struct], Callable[[Stream, Any, int], None]] = {
    m.ContentChunk: Stream.on_content,
    m.ChunkBatch: Stream.on_batch,
    m.StreamRewind: Stream.on_rewind,
    m.StreamResumed: Stream.on_resumed,
    m.StreamComplete: Stream.on_complete,
    m.StreamFailed: Stream.on_failed,
}
_OF_CLIENTS: dict[type[msgspec.Struct], Callable[[Client, Any, int], None]] = {
    m.ConnectionEstablished: Client._on_established,
    m.StreamStart: Client._on_start,
    m.StreamQueued: Client._on_queued,
    m.Error: Client._on_error,
    m.Heartbeat: Client._on_heartbeat,
    m.GoingAway: Client._on_going_away,
}


def describe(error: OSError) -> str:
    """Why there is no connection, in a few words."""
    return error.strerror or str(error)
