"""All answers: started once each, attached to, cancelled, deserted, kept for a while, forgotten.

The only maker of producers. A stream's life: RUNNING while its producer drains a provider, then one final state; its
log is kept for the retention time so that viewers can still read it to its end.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from wsstream.chunklog import Attachment, ChunkLog
from wsstream.chunks import ChatMessage, ChatRequest, StreamInfo, StreamState
from wsstream.config import Config
from wsstream.errors import BadRequest, Capacity, Interrupted, LogTrimmed, UnknownStream
from wsstream.flow import SendWindow
from wsstream.messages import ChatConfig, ChatRequested, ChunkWriter
from wsstream.producer import Limits, Producer
from wsstream.providers.base import Provider
from wsstream.stores.base import Store, StreamRecord

logger = logging.getLogger(__name__)

TOMBSTONES = 10_000
"""Forgotten streams whose ids are remembered, to say "no longer kept" instead of "never was"."""


class Stream:
    """One answer."""

    __slots__ = ("log", "orphan_timer", "producer", "record", "task")

    def __init__(self, record: StreamRecord, log: ChunkLog) -> None:
        self.record = record
        self.log = log
        self.producer: Producer | None = None
        self.task: asyncio.Task[None] | None = None
        self.orphan_timer: asyncio.TimerHandle | None = None

    @property
    def stream_id(self) -> str:
        return self.record.stream_id

    @property
    def info(self) -> StreamInfo:
        """As lists of streams show it."""
        return StreamInfo(self.stream_id, self.log.tail, self.log.state)


class StreamsStatistics(NamedTuple):
    """Counts, for health and metrics."""

    running: int
    retained: int
    retained_bytes: int
    started: int


class Streams:
    """Every stream of this process."""

    def __init__(self, config: Config, store: Store, provider: Callable[[str | None], Provider]) -> None:
        """``provider`` gives the provider of a name, or the default one for None; it raises BadRequest for others."""
        self._config = config
        self._store = store
        self._provider = provider
        self._loop = asyncio.get_running_loop()
        self._streams: dict[str, Stream] = {}
        self._requests: dict[tuple[str, str], str] = {}
        self._sessions: dict[str, list[str]] = {}
        self._running: set[Stream] = set()
        self._ended: OrderedDict[str, float] = OrderedDict()
        self._ended_bytes = 0
        self._forgotten: OrderedDict[str, None] = OrderedDict()
        self._expiry: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._started = 0
        self._limits = Limits(
            config.first_token_timeout, config.chunk_timeout, config.max_stream_chunks, config.max_stream_bytes
        )

    # -- starting

    def start(self, session_id: str, asked: ChatRequested) -> Stream:
        """The stream that answers ``asked``: a new one, or the one that the same request began before.

        Raises:
            BadRequest: the request names a provider or setting that there is not.
            Capacity: too many answers are running.
        """
        key = (session_id, asked.request_id)
        known = self._requests.get(key)
        if known is not None:
            return self._streams[known]
        if len(self._running) >= self._config.max_running_streams:
            raise Capacity(retry_after=1.0)
        request = self._request(asked)
        provider = self._provider(asked.config.provider if asked.config else None)
        stream = self._create(session_id, asked.request_id, request)
        self._requests[key] = stream.stream_id
        self._run(stream, provider, request)
        return stream

    def _request(self, asked: ChatRequested) -> ChatRequest:
        config = asked.config or ChatConfig()
        _check_supported(config)
        return ChatRequest(
            messages=asked.messages or [ChatMessage("user", asked.message or "")],
            model=config.model or asked.model or self._config.model,
            temperature=config.temperature,
            max_tokens=config.max_tokens,
            response_format=config.response_format,
        )

    def _create(self, session_id: str, request_id: str, request: ChatRequest) -> Stream:
        record = StreamRecord(
            stream_id="s_" + secrets.token_urlsafe(16),
            session_id=session_id,
            request_id=request_id,
            epoch=secrets.token_urlsafe(8),
            model=request.model,
            created=time.time(),
        )
        log = ChunkLog(
            record.stream_id,
            record.epoch,
            self._store,
            overhead=ChunkWriter(record.stream_id).overhead,
            high=self._config.high_water,
            low=self._config.low_water,
            on_deserted=lambda: self._on_deserted(stream),
        )
        stream = Stream(record, log)
        self._store.create(record)
        self._streams[record.stream_id] = stream
        self._sessions.setdefault(session_id, []).append(record.stream_id)
        return stream

    def _run(self, stream: Stream, provider: Provider, request: ChatRequest) -> None:
        self._started += 1
        self._running.add(stream)
        self._idle.clear()
        stream.producer = Producer(provider, request, stream.log, self._limits)
        stream.task = stream.producer.start()
        stream.task.add_done_callback(lambda _: self._on_ended(stream))

    # -- finding

    def is_known(self, session_id: str, request_id: str) -> bool:
        """Whether `start` would begin nothing new for this request."""
        return (session_id, request_id) in self._requests

    def get(self, stream_id: str) -> Stream:
        """The stream of that id.

        Raises:
            UnknownStream: there never was one.
            LogTrimmed: there was, but it is no longer kept.
        """
        stream = self._streams.get(stream_id)
        if stream is not None:
            return stream
        raise LogTrimmed if stream_id in self._forgotten else UnknownStream

    def of_session(self, session_id: str) -> list[Stream]:
        """The session's streams, oldest first."""
        return [self._streams[stream_id] for stream_id in self._sessions.get(session_id, ())]

    def running_in(self, session_id: str) -> list[StreamInfo]:
        """The session's running streams, as `connection_established` lists them."""
        return [stream.info for stream in self.of_session(session_id) if not stream.log.state.final]

    # -- following

    def attach(self, stream: Stream, window: SendWindow, wake: Callable[[Attachment], None]) -> Attachment:
        """A new viewer of ``stream``, from behind ``window.sent``."""
        if stream.orphan_timer is not None:
            stream.orphan_timer.cancel()
            stream.orphan_timer = None
        return stream.log.attach(window, wake)

    def cancel(self, stream: Stream) -> None:
        """Stop the answer for everybody. Idempotent; how it ended is in its log."""
        if stream.producer is not None:
            stream.producer.cancel()

    def _on_deserted(self, stream: Stream) -> None:
        if stream in self._running and stream.orphan_timer is None:
            stream.orphan_timer = self._loop.call_later(self._config.orphan_grace, self._stop_orphan, stream)

    def _stop_orphan(self, stream: Stream) -> None:
        stream.orphan_timer = None
        if stream.producer is not None and not stream.log.attachments:
            logger.info("stream %s has had no viewer for %g s: stopped", stream.stream_id, self._config.orphan_grace)
            stream.producer.cancel(Interrupted("Nobody was following the answer any more"))

    # -- ending

    def _on_ended(self, stream: Stream) -> None:
        self._running.discard(stream)
        stream.producer = stream.task = None
        if stream.orphan_timer is not None:
            stream.orphan_timer.cancel()
            stream.orphan_timer = None
        if not self._running:
            self._idle.set()
        self._ended[stream.stream_id] = self._loop.time() + self._config.retention
        self._ended_bytes += stream.log.weight
        self._expire()

    def _expire(self) -> None:
        """Forget what is over its time or over the caps, oldest first; one timer waits for the next."""
        now = self._loop.time()
        while self._ended and (
            next(iter(self._ended.values())) <= now
            or len(self._ended) > self._config.max_retained
            or self._ended_bytes > self._config.max_retained_bytes
        ):
            self._forget(self._ended.popitem(last=False)[0])
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if self._ended:
            self._expiry = self._loop.call_at(next(iter(self._ended.values())), self._expire)

    def _forget(self, stream_id: str) -> None:
        stream = self._streams.pop(stream_id)
        self._ended_bytes -= stream.log.weight
        self._store.delete(stream_id)
        record = stream.record
        self._requests.pop((record.session_id, record.request_id), None)
        siblings = self._sessions[record.session_id]
        siblings.remove(stream_id)
        if not siblings:
            del self._sessions[record.session_id]
        self._forgotten[stream_id] = None
        if len(self._forgotten) > TOMBSTONES:
            self._forgotten.popitem(last=False)

    # -- the end of the process

    async def wait_idle(self, patience: float) -> bool:
        """Wait until nothing runs; False where something still does after ``patience`` seconds."""
        try:
            async with asyncio.timeout(patience):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Stop what still runs, as interrupted, and wait for it."""
        tasks = [stream.task for stream in self._running if stream.task is not None]
        for stream in list(self._running):
            if stream.producer is not None:
                stream.producer.cancel(Interrupted("The server was restarted"))
        if tasks:
            await asyncio.wait(tasks, timeout=2.0)
        if self._expiry is not None:
            self._expiry.cancel()

    def statistics(self) -> StreamsStatistics:
        """Counts, for health and metrics."""
        return StreamsStatistics(len(self._running), len(self._ended), self._ended_bytes, self._started)


def _check_supported(config: ChatConfig) -> None:
    """Say honestly what this version does not do yet, rather than to ignore a wish.

    Raises:
        BadRequest: the request wants it.
    """
    if config.buffer_size != 1:
        raise BadRequest("config.buffer_size other than 1 is not supported")
    if config.boundary != "token":
        raise BadRequest("config.boundary other than token is not supported")
    if config.on_orphan is not None:
        raise BadRequest("config.on_orphan is not supported")


__all__ = ["Stream", "StreamState", "Streams", "StreamsStatistics"]
