"""One client of the native wire: what it asks is carried out, what the logs have for it is written.

A `Dialogue` ties one end of the protocol core to the streams. It knows no socket: what it has to say goes to a `Line`,
once per loop tick, control messages first. It has no queue and no timer of its own, and a task only while it waits for
the gate's decision or a session's history: it acts when a message comes, when a log rouses one of its attachments, and
when the shared `Flusher` or `TimerWheel` calls.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from asyncio import Future
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from wsstream import messages as m
from wsstream.chunklog import Attachment, ChunkLog
from wsstream.chunks import StreamState
from wsstream.errors import (
    BadRequest,
    Capacity,
    CloseCode,
    Forbidden,
    QueueFull,
    RateLimited,
    RequestError,
    ResumeAhead,
    StoreError,
    TooManyStreams,
)
from wsstream.flow import SendWindow
from wsstream.frames import FrameBook, text_frame
from wsstream.protocol import ServerProtocol, ServerSettings
from wsstream.registry import Member, Registry
from wsstream.rejections import Reason
from wsstream.said import page
from wsstream.states import ConnectionState
from wsstream.tally import WireTally
from wsstream.ticks import Flusher, TimerWheel
from wsstream.wires.base import TRACEPARENT, Gate, StreamLike, StreamsLike, Visitor

logger = logging.getLogger(__name__)

WRITE_SLICE = 16 * 1024
"""Bytes of chunks per write, so that a client that stops reading is noticed soon."""
MAX_PUSHES = 64
"""Chunks written at once in one millisecond, all connections together, before the loop gets its turn."""
MIN_SHARE = 1024
"""Bytes of a slice that one of many streams gets at least: below that there is more frame than content."""
SHORT_SLICE = 2 * 1024
"""The same where several streams share a connection that is behind: what one has written, the others wait for."""
GATHER = 0.01
MAX_GATHER = 0.04
"""Seconds for which such a connection gathers chunks, at first and at most: many small frames are what fills it."""
CALM = 500
"""So many times in a row it must then get through with what it has gathered, before it counts as quick again."""
MAX_TURN_CONTROL = 1024 * 1024
"""Bytes of lists that one read may provoke: a small question can have a large answer."""
MAX_EARLY = 256 * 1024
"""Bytes of messages that are kept while it is decided who their sender is."""
MAX_PHASE = 0.9
"""A second heartbeat that comes right behind the first would tell nothing new."""
NOWHERE = Visitor({}, "")


class Hub:
    """What the connections of one server share."""

    __slots__ = (
        "flusher",
        "gate",
        "grace",
        "loop",
        "pushes",
        "registry",
        "settings",
        "stall",
        "tally",
        "turn",
        "wheel",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: ServerSettings,
        gate: Gate,
        registry: Registry,
        grace: float = 60.0,
        stall: float | None = None,
    ) -> None:
        """What is shared, and two limits in seconds.

        Args:
            grace: for which a connection goes on when its token has run out.
            stall: for which a viewer may leave everything that it was sent unacknowledged; None for ever.
        """
        self.loop = loop
        self.settings = settings
        self.gate = gate
        """Whoever serves may put another in its place before anybody comes."""
        self.registry = registry
        self.grace = grace
        self.stall = stall
        self.flusher = Flusher(loop)
        self.wheel = TimerWheel(loop)
        self.turn = 0
        """The millisecond of the loop's clock in which chunks were last written at once."""
        self.pushes = 0
        """How many were, in it."""
        self.tally = WireTally()


class Line(Member, Protocol):
    """Where a dialogue's messages go: a connection. Nothing here ever blocks or raises."""

    paused: bool
    """Whether the client does not read: chunks wait in their logs meanwhile."""

    def write(self, data: bytes) -> None:
        """Send frames."""

    def write_anyway(self, data: bytes) -> None:
        """Send frames that do not wait for a client that does not read; one that provokes too many is cut off."""

    def keep_short(self, short: bool) -> None:
        """Because several streams wait for each other, count as `paused` when little is under way; or when much is.

        What was written cannot be taken back, and nothing can pass it. A line that cannot tell how much is under way
        may ignore this.
        """

    def say_close(self, code: int, reason: str) -> None:
        """Close; nothing is written any more."""


class Dialogue:
    """One connection's end of ``wsstream.v1``."""

    __slots__ = (
        "_batch",
        "_behind",
        "_calm",
        "_control",
        "_deciding",
        "_early",
        "_early_events",
        "_gather",
        "_gathering",
        "_hub",
        "_line",
        "_marked",
        "_measured",
        "_measuring",
        "_over",
        "_pushed",
        "_question",
        "_queued",
        "_ready",
        "_stalled",
        "_streams",
        "_unpaused",
        "_visitor",
        "access",
        "attachments",
        "bytes_sent",
        "core",
        "messages_received",
        "session_id",
        "slot",
        "traceparent",
        "user_id",
    )

    def __init__(self, hub: Hub, line: Line, *, batch: bool, visitor: Visitor = NOWHERE) -> None:
        """One more client.

        Args:
            batch: whether the client has shown that it knows `chunk_batch`.
            visitor: what is known of it before it says hello.
        """
        self._hub = hub
        self._line = line
        self._visitor = visitor
        self._streams: StreamsLike  # once it is known who asks
        self.access: StreamsLike | None = None
        self._deciding: asyncio.Task[None] | None = None
        self._early: list[bytes] | None = None
        self._early_events: list[m.ClientMessage] | None = None
        self._batch = batch
        self._behind = False
        self._calm = 0
        self._gather = 0.0
        self._gathering: asyncio.TimerHandle | None = None
        self._ready: list[Attachment] = []
        self._control: list[bytes] = []
        self._marked = False
        self._over = False
        self._pushed = 0
        self._measuring = False
        self._measured: tuple[SendWindow, int, float] | None = None
        self._question: asyncio.Task[None] | None = None
        self._unpaused: Future[None] | None = None
        self._stalled: dict[str, tuple[int, float]] | None = None
        self._queued: dict[str, tuple[StreamLike, Callable[[int], None]]] | None = None
        phase = random.uniform(0.0, MAX_PHASE)
        self.core = ServerProtocol(hub.settings, time.monotonic(), batch=batch, phase=phase)
        self.attachments: dict[str, Attachment] = {}
        self.bytes_sent = 0
        self.messages_received = 0
        self.session_id: str | None = None
        self.user_id: str | None = None
        self.slot = 0
        self.traceparent: str | None = None
        """The trace that this client's requests belong to, as W3C Trace Context writes it."""
        self._schedule()

    @property
    def closing(self) -> bool:
        """Whether nothing that comes counts any more."""
        return self.core.close is not None

    @property
    def round_trip(self) -> float | None:
        """Seconds, once measured."""
        return self.core.round_trip

    # -- messages in

    def receive(self, data: bytes) -> None:
        """Act on one message, the bytes of a text frame."""
        core = self.core
        if core.close is not None:
            return
        self.messages_received += 1
        if self._deciding is not None:
            self._keep_early(data)
            return
        if not data.isascii() and not _is_utf8(data):
            self.close(CloseCode.INVALID_DATA, "not UTF-8")
            return
        core.receive_message(data, time.monotonic())
        for event in core.events_received():
            self._on_event(event)
        self._count_misbehaviour()

    def receive_life(self) -> None:
        """Something else has come: a ping, a pong."""
        core = self.core
        if core.close is None:
            core.receive_life(time.monotonic())
            self._count_misbehaviour()

    def _count_misbehaviour(self) -> None:
        close = self.core.close
        reason = None if close is None else _MISBEHAVIOUR.get(close.code)
        if reason is not None:
            self._hub.registry.rejections.count(reason)

    def _on_event(self, event: m.ClientMessage) -> None:
        if type(event) is m.ChunkAck:
            attachment = self.attachments.get(event.stream_id or "")
            if attachment is not None:
                attachment.on_acked()
            if self._measured is not None:
                self._end_measure(*self._measured)
            return
        if self._deciding is not None:  # what came in one message with the hello
            self._early_events = [*(self._early_events or ()), event]
            return
        try:
            _HANDLERS[type(event)](self, self.core, event)
        except RequestError as error:
            self._count_refusal(event, error)
            self.core.refuse(
                error, request_id=getattr(event, "request_id", None), stream_id=getattr(event, "stream_id", None)
            )

    def _count_refusal(self, event: m.ClientMessage, error: RequestError) -> None:
        tally = self._hub.tally
        tally.refused[error.error_type.value] += 1
        if isinstance(error, TooManyStreams):
            self._hub.registry.rejections.count(Reason.STREAMS)
        if type(event) is m.ResumeStream:
            tally.resumes[error.error_type.value] += 1

    def _end_measure(self, window: SendWindow, chunk_id: int, since: float) -> None:
        """An ack came: perhaps that of the chunk whose round trip is measured."""
        if window.acked >= chunk_id:
            self._measured = None
            self._hub.tally.ack_seconds.observe(time.monotonic() - since)

    # -- who it is

    def _on_hello(self, core: ServerProtocol, hello: m.Hello) -> None:
        self.traceparent = _traceparent(hello) or self.traceparent
        self._batch = core.batch
        self._decide(lambda: self._enter(core, hello))

    def _decide(self, decision: Callable[[], Awaitable[None]]) -> None:
        """Wait for the gate; whatever comes meanwhile is read afterwards."""
        self._deciding = self._hub.loop.create_task(self._await_decision(decision))

    async def _await_decision(self, decision: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(self._hub.settings.hello_timeout):
                await decision()
        except TimeoutError:
            self._hub.registry.rejections.count(Reason.SILENT)
            self.close(CloseCode.TIMEOUT, "no decision in time")
        except RequestError as error:
            self.core.refuse(error)
            self.close(error.close_code or CloseCode.TOO_SLOW, str(error))
        except Exception:
            logger.exception("connection %s: failed unexpectedly", self._line.connection_id)
            self.on_broken()
        self._deciding = None
        if not self._over:
            self._read_early()
            self._schedule()
            self.carry_out()

    async def _enter(self, core: ServerProtocol, hello: m.Hello) -> None:
        self._streams = self.access = streams = await self._hub.gate.enter(self._visitor._replace(token=hello.token))
        if self._over or core.close is not None:
            return
        self._visitor = self._visitor.settled()
        self.session_id = hello.session_id or "ses_" + secrets.token_urlsafe(16)
        self.user_id = streams.user or hello.user_id
        self._hub.registry.join(self._line, streams.user)
        core.establish(
            self._line.connection_id,
            self.session_id,
            streams.running_in(self.session_id),
            expires_in=self._note_expiry(core, streams),
        )

    def _note_expiry(self, core: ServerProtocol, streams: StreamsLike) -> float | None:
        until = streams.valid_until
        core.valid_until = None if until is None else until + self._hub.grace
        return None if until is None else round(max(0.0, until - time.monotonic()), 3)

    def _on_renew(self, core: ServerProtocol, asked: m.RenewToken) -> None:
        self._decide(lambda: self._renew(core, asked.token))

    async def _renew(self, core: ServerProtocol, token: str) -> None:
        try:
            streams = await self._hub.gate.enter(self._visitor._replace(token=token))
            if streams.user != self._streams.user:
                raise Forbidden("The new token is somebody else's")
        except RequestError as error:
            core.refuse(error, close=False)  # the old one is still good
            return
        if core.state is not ConnectionState.CLOSED:
            self._streams = self.access = streams
            core.tell_renewed(self._note_expiry(core, streams))

    def _keep_early(self, data: bytes) -> None:
        early = self._early = self._early or []
        early.append(data)
        if sum(map(len, early)) > MAX_EARLY or len(early) > self._hub.settings.message_burst:
            self._hub.registry.rejections.count(Reason.MESSAGES)
            self.close(CloseCode.TOO_SLOW, "too many messages before an answer")

    def _read_early(self) -> None:
        """What came meanwhile, in its order; another decision may have to be waited for in between."""
        events, self._early_events = self._early_events or (), None
        for event in events:
            self._on_event(event)
        early, self._early = self._early or (), None
        for data in early:
            self.messages_received -= 1
            self.receive(data)

    # -- what clients ask for

    def _on_chat(self, core: ServerProtocol, asked: m.ChatRequested) -> None:
        assert self.session_id is not None
        session_id = asked.session_id or self.session_id
        known = self._streams.is_known(session_id, asked.request_id)
        if core.full and not known:
            raise TooManyStreams  # before a provider is asked for an answer that nobody would follow
        try:
            stream = self._start(session_id, asked)
        except (Capacity, QueueFull) as error:
            self._count_refusal(asked, error)
            self._on_capacity(core, asked, error)
            return
        window = core.open_stream(stream.stream_id)
        stream.when_stored(lambda: self._await_turn(core, asked.request_id, stream, window))
        if not known:
            begun = m.SessionChanged(session_id=session_id, stream_id=stream.stream_id)
            stream.when_stored(lambda: self._tell_others(begun))
        self._follow(stream, window)

    def _start(self, session_id: str, asked: m.ChatRequested) -> StreamLike:
        before = TRACEPARENT.set(self.traceparent)
        try:
            return self._streams.start(session_id, asked)
        finally:
            TRACEPARENT.reset(before)

    def _await_turn(self, core: ServerProtocol, request_id: str, stream: StreamLike, window: SendWindow) -> None:
        def tell(place: int) -> None:
            if place:
                self._say_queued(core, request_id, stream, place)
            else:
                (self._queued or {}).pop(stream.stream_id, None)
                self._say_started(core, request_id, stream, window)

        self._watch_queue(stream, tell)

    def _watch_queue(self, stream: StreamLike, tell: Callable[[int], None]) -> None:
        if self._over:
            return
        queued = self._queued = self._queued or {}
        known = queued.get(stream.stream_id)
        if known is not None:
            known[0].forget_queue(known[1])
        queued[stream.stream_id] = (stream, tell)
        stream.while_queued(tell)

    def _say_queued(self, core: ServerProtocol, request_id: str, stream: StreamLike, place: int) -> None:
        if place and core.state is not ConnectionState.CLOSED:
            core.tell_queued(request_id, stream.stream_id, place)
            self.carry_out()

    def _say_started(self, core: ServerProtocol, request_id: str, stream: StreamLike, window: SendWindow) -> None:
        if self._over or core.state is ConnectionState.CLOSED:
            return
        record = stream.record
        core.tell_start(
            request_id,
            stream.stream_id,
            session_id=record.session_id,
            epoch=record.epoch,
            model=record.model,
            timestamp=record.created,
            window=window,
        )
        self.carry_out()

    def _on_capacity(self, core: ServerProtocol, asked: m.ChatRequested, error: Capacity | QueueFull) -> None:
        """Close with 1013, but for a connection that is following other answers: those are not to be disturbed."""
        core.refuse(error, request_id=asked.request_id, close=False)
        if all(attachment.log.outcome is not None for attachment in self.attachments.values()):
            self.close(CloseCode.TRY_AGAIN_LATER, "Server at capacity")

    def _on_resume(self, core: ServerProtocol, asked: m.ResumeStream) -> None:
        stream = self._stream_to_resume(asked)
        log = stream.log
        if asked.epoch is not None and asked.epoch != log.epoch:
            raise ResumeAhead("This epoch is not of this stream")
        log.check_position(asked.last_chunk_id)
        window = core.resume_stream(asked, stream.stream_id, tail=log.tail, epoch=log.epoch, state=log.state)
        self._hub.tally.resumes["ok"] += 1
        self._follow(stream, window, snapshot_to=log.tail if asked.snapshot and core.batch else 0)
        if log.state is StreamState.QUEUED:
            self._watch_queue(stream, lambda place: self._say_queued(core, stream.record.request_id, stream, place))

    def _stream_to_resume(self, asked: m.ResumeStream) -> StreamLike:
        if asked.stream_id is not None:
            return self._streams.resume(asked.stream_id)
        assert self.session_id is not None
        streams = self._streams.of_session(self.session_id)
        running = [stream for stream in streams if not stream.log.state.final]
        if len(running) == 1 or len(streams) == 1:
            return self._streams.resume((running or streams)[0].stream_id)
        raise BadRequest("stream_id is needed: the session does not have exactly one stream")

    def _on_request_chunks(self, core: ServerProtocol, asked: m.RequestChunks) -> None:
        assert asked.stream_id is not None
        if asked.to_chunk_id < asked.from_chunk_id:
            raise BadRequest("to_chunk_id is before from_chunk_id")
        stream = self._streams.get(asked.stream_id)
        window = core.window_of(asked.stream_id)
        if asked.from_chunk_id > window.sent:
            raise ResumeAhead(f"Only chunks up to {window.sent} were sent on this connection")
        self._when_loaded(stream, lambda: self._send_again(stream, window, asked))

    def _send_again(self, stream: StreamLike, window: SendWindow, asked: m.RequestChunks) -> None:
        attachment = self.attachments.get(stream.stream_id)
        if attachment is None:  # the stream has ended here; its chunks can still be sent again
            attachment = self._attach(stream, window)
            attachment.told = True
        attachment.send_again(asked.from_chunk_id, asked.to_chunk_id)

    def _on_cancel(self, core: ServerProtocol, asked: m.CancelStream) -> None:
        assert asked.stream_id is not None
        stream = self._streams.get(asked.stream_id)
        self._streams.cancel(stream)
        if not core.follows(asked.stream_id):
            # Whoever follows the stream reads its end in its place; this canceller does not, or has read it already.
            stream.log.when_finished(self._tell_end)

    def _tell_end(self, log: ChunkLog) -> None:
        if not self._over:
            assert log.outcome is not None
            self._control.append(m.encode(m.outcome_message(log.stream_id, log.outcome)))
            self._mark()

    def _on_list(self, core: ServerProtocol, asked: m.ListStreams) -> None:
        assert self.session_id is not None
        if sum(map(len, self._control)) > MAX_TURN_CONTROL:
            self.close(CloseCode.POLICY_VIOLATION, "too many questions at once")
            return
        core.list_streams([stream.info for stream in self._streams.of_session(self.session_id)])
        self.carry_out()

    def _on_history(self, core: ServerProtocol, asked: m.GetHistory) -> None:
        if self._question is not None:
            raise RateLimited("One get_history at a time", retry_after=1.0)
        session_id = asked.session_id or self.session_id
        assert session_id is not None
        self._question = self._hub.loop.create_task(self._answer_history(core, session_id, asked))

    async def _answer_history(self, core: ServerProtocol, session_id: str, asked: m.GetHistory) -> None:
        try:
            messages, title = await self._streams.history(session_id)
            messages, more = page(messages, asked.before, asked.limit)
            while (
                self._line.paused
            ):  # it may be large, and a client that reads slowly is not to be cut off for having asked
                self._unpaused = self._hub.loop.create_future()
                await self._unpaused
            core.tell_history(m.History(session_id=session_id, messages=messages, title=title, more=more))
        except (StoreError, BadRequest) as error:
            core.refuse(error)
        except Exception:
            logger.exception("a connection failed unexpectedly", extra={"connection_id": self._line.connection_id})
            self.on_broken()
        finally:
            self._question = None
        self.carry_out()

    def _on_rename(self, core: ServerProtocol, asked: m.RenameSession) -> None:
        session_id = asked.session_id or self.session_id
        assert session_id is not None
        self._streams.rename_session(session_id, asked.title)
        self._change_session(core, m.SessionChanged(session_id=session_id, title=asked.title))

    def _on_delete(self, core: ServerProtocol, asked: m.DeleteSession) -> None:
        session_id = asked.session_id or self.session_id
        assert session_id is not None
        self._streams.delete_session(session_id)
        self._change_session(core, m.SessionChanged(session_id=session_id, deleted=True))

    def _change_session(self, core: ServerProtocol, change: m.SessionChanged) -> None:
        core.tell_session_changed(change)
        self._tell_others(change)

    def _tell_others(self, change: m.SessionChanged) -> None:
        key = self._streams.session_key(change.session_id)
        self._hub.registry.tell_session_changed(key, change, besides=self._line.connection_id)

    def tell_session_changed(self, change: m.SessionChanged) -> None:
        """Somebody else has changed this connection's session."""
        if self.core.state is not ConnectionState.CLOSED:
            self.core.tell_session_changed(change)
            self.carry_out()

    @property
    def session_key(self) -> str | None:
        """The name of its session among everybody's."""
        return None if self.session_id is None else self._streams.session_key(self.session_id)

    # -- attachments

    def _follow(self, stream: StreamLike, window: SendWindow, snapshot_to: int = 0) -> None:
        known = self.attachments.get(stream.stream_id)
        if known is not None and known.window is window:
            return
        self._when_loaded(stream, lambda: self._begin_reading(stream, window, snapshot_to))

    def _begin_reading(self, stream: StreamLike, window: SendWindow, snapshot_to: int) -> None:
        if self.core.has_window(stream.stream_id, window):  # else it was replaced while the log was being read
            attachment = self._attach(stream, window)
            attachment.snapshot_to = snapshot_to
            attachment.rouse()

    def _when_loaded(self, stream: StreamLike, act: Callable[[], None]) -> None:
        """Act when the stream's chunks are in memory: at once, or when the store has read them."""
        loading = self._streams.load(stream)
        if loading is None:
            act()
        else:
            loading.add_done_callback(lambda loaded: self._on_loaded(stream, loaded, act))

    def _on_loaded(self, stream: StreamLike, loaded: Future[Any], act: Callable[[], None]) -> None:
        core = self.core
        if self._over or core.state is ConnectionState.CLOSED or loaded.cancelled():
            return
        error = loaded.exception()
        if error is None and stream.log.loaded:
            act()
            return
        logger.error("a stream cannot be read from the store: %s", error, extra={"stream_id": stream.stream_id})
        core.end_stream(stream.stream_id)
        core.refuse(StoreError("The answer cannot be read from the store"), stream_id=stream.stream_id)
        self.carry_out()

    def _attach(self, stream: StreamLike, window: SendWindow) -> Attachment:
        known = self.attachments.get(stream.stream_id)
        attachment = self._streams.attach(stream, window, self._on_roused)
        attachment.frames = FrameBook.of(stream.log)
        stream.when_stored(lambda: attachment.tell_statuses(self._say_status))
        self.attachments[stream.stream_id] = attachment
        self._wire_up()
        if known is None and len(self.attachments) == 2:
            self._line.keep_short(True)
        if known is not None:  # only now: the answer was deserted at no moment
            self._detach(known)
        return attachment

    def _say_status(self, status: m.StreamStatus) -> None:
        if not self._over:
            self.core.tell_status(status)
            self.carry_out()

    def _detach(self, attachment: Attachment) -> None:
        if self.attachments.get(attachment.log.stream_id) is attachment:
            del self.attachments[attachment.log.stream_id]
            if len(self.attachments) == 1:
                self._line.keep_short(False)
                self._on_caught_up()
        attachment.log.detach(attachment)
        if attachment in self._ready:
            self._ready.remove(attachment)

    def _on_roused(self, attachment: Attachment) -> None:
        self._ready.append(attachment)
        if not self._marked and not self._over:
            self._marked = True
            self._hub.flusher.mark(self)

    def _on_pushed(self, attachment: Attachment) -> None:
        """Write a chunk that comes alone at once: waiting for the end of the turn costs a turn of the loop.

        What follows within the same millisecond is gathered; so is what would keep others waiting.
        """
        hub = self._hub
        turn = int(hub.loop.time() * 1000)
        if turn != hub.turn:
            hub.turn = turn
            hub.pushes = 0
        if self._marked or self._pushed == turn or hub.pushes == MAX_PUSHES or self._line.paused or self._over:
            self._on_roused(attachment)
            return
        self._pushed = turn
        hub.pushes += 1
        try:
            self._push(attachment)
        except Exception:
            logger.exception("a connection failed unexpectedly", extra={"connection_id": self._line.connection_id})
            self.on_broken()

    def _push(self, attachment: Attachment) -> None:
        log = attachment.log
        if not self._measuring and attachment.window.send_next(log.tail, log.totals):
            attachment.waiting = True
            part = attachment.frames.one(log.tail)
        else:
            part = self._take(attachment)
        if part:
            self.bytes_sent += len(part)
            self._line.write(part)
        if self._ready:
            self._mark()

    def _on_behind(self) -> None:
        """The socket did not keep up with several streams: they take short turns now, and gather more for each."""
        self._calm = CALM
        self._gather = min(MAX_GATHER, 2 * self._gather) or GATHER
        if not self._behind:
            self._behind = True
            self._wire_up()

    def _on_caught_up(self) -> None:
        self._behind = False
        self._gather = 0.0
        self._wire_up()

    def _wire_up(self) -> None:
        """Choose who is called for a chunk, so that it costs those who keep up nothing that others do not."""
        for attachment in self.attachments.values():
            attachment.wake = self._on_gathering if self._behind else self._on_roused
            attachment.push = self._on_gathering if self._behind else self._on_pushed

    def _on_gathering(self, attachment: Attachment) -> None:
        self._ready.append(attachment)
        if self._gathering is None and not self._marked and not self._over:
            self._gathering = self._hub.loop.call_later(self._gather, self._on_gathered)

    def _on_gathered(self) -> None:
        self._gathering = None
        self._calm -= 1
        if self._ready:
            self._mark()
        if self._behind and self._calm <= 0:
            self._on_caught_up()

    def _mark(self) -> None:
        if not self._marked and not self._over:
            self._marked = True
            self._hub.flusher.mark(self)

    # -- bytes out

    def flush(self) -> None:
        """Write what this tick has brought: control messages first, then chunks."""
        self._marked = False
        if self._over:
            return
        if self._control:
            self._write_control()
        line = self._line
        while self._ready and not line.paused:
            # Nearly always one connection follows one stream.
            alone = len(self._ready) == 1 and not self._behind
            part = self._take(self._ready.pop()) if alone else self._take_turns()
            if part:
                self.bytes_sent += len(part)
                line.write(part)
        if self.core.close is not None:
            self._say_close(self.core.close.code, self.core.close.reason)

    def _write_control(self) -> None:
        control, self._control = self._control, []
        data = b"".join([text_frame(message) for message in control])
        self.bytes_sent += len(data)
        self._line.write_anyway(data)

    def _take_turns(self) -> bytes:
        """At most about a slice, the same number of bytes for each attachment that is ready.

        Who took more, because a chunk is never cut, is passed over until it is even; who found no room in this slice is
        the first in the next. (Deficit round robin: Shreedhar and Varghese, SIGCOMM 1995.)
        """
        ready, self._ready = self._ready, []
        whole = SHORT_SLICE if self._behind else WRITE_SLICE
        share = max(MIN_SHARE, whole // len(ready))
        parts: list[bytes] = []
        size = turns = 0
        for attachment in ready:
            if size >= whole:
                break
            turns += 1
            attachment.credit += share
            if attachment.credit <= 0:
                self._ready.append(attachment)
                continue
            part = self._take(attachment, attachment.credit, self._behind and self._batch)
            attachment.credit = 0 if attachment.waiting else attachment.credit - len(part)
            parts.append(part)
            size += len(part)
        self._ready = [*ready[turns:], *self._ready]
        return b"".join(parts)

    def _take(self, attachment: Attachment, most: int = WRITE_SLICE, joined: bool = False) -> bytes:
        span = attachment.take(most, joined)
        if span is None:
            part = b""
        else:
            first, last = span
            part = attachment.frames.span(first, last, batch=self._batch)
            if first != last and self._batch:
                self._hub.tally.conflated += last - first + 1
            if self._measuring:
                self._measuring = False
                self._measured = (attachment.window, last, time.monotonic())
        if not attachment.waiting:
            self._ready.append(attachment)
        elif attachment.log.outcome is not None:
            if attachment.take_outcome() is not None:
                part += attachment.frames.outcome()
            if attachment.told:
                self._on_told(attachment)
        return part

    def _on_told(self, attachment: Attachment) -> None:
        self.core.end_stream(attachment.log.stream_id)
        self._detach(attachment)

    def carry_out(self) -> None:
        """After the core was given something: have sent what it has to say."""
        core = self.core
        out = core.messages_to_send()
        if out:
            self._control += out
        if out or core.close is not None:
            self._mark()

    def on_unpaused(self) -> None:
        """The client reads again."""
        if self._unpaused is not None and not self._unpaused.done():
            self._unpaused.set_result(None)
        if len(self.attachments) > 1:
            self._on_behind()
        if self._ready or self._control:
            self._mark()

    # -- the end

    def close(self, code: int, reason: str) -> None:
        """Close the connection after what is pending was written."""
        if self.core.state is not ConnectionState.CLOSED:
            self.core.fail(code, reason)
            self.carry_out()

    def on_broken(self) -> None:
        """A mistake of ours must end this connection only, and say so: the client comes back and resumes."""
        self._ready.clear()
        self.close(CloseCode.INTERNAL_ERROR, "internal error")

    def _say_close(self, code: int, reason: str) -> None:
        self._over = True
        self._hub.tally.closes[int(code)] += 1
        self._line.say_close(code, reason)
        self._let_go()

    def end(self) -> None:
        """The connection is gone: let go of everything. The streams live on."""
        self._over = True
        self._hub.wheel.remove(self)
        self._let_go()
        self._ready.clear()
        self._control.clear()
        self._early = None
        for task in (self._question, self._deciding):
            if task is not None:
                task.cancel()

    def _let_go(self) -> None:
        for attachment in list(self.attachments.values()):
            self._detach(attachment)
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        for stream, tell in (self._queued or {}).values():
            stream.forget_queue(tell)
        self._queued = None

    def go_away(self, deadline_ms: int, reconnect_after_ms: int) -> None:
        """Announce the end of this server."""
        self.core.go_away(deadline_ms, reconnect_after_ms)
        self.carry_out()

    # -- time

    def _schedule(self) -> None:
        if not self._over:
            self._hub.wheel.schedule(self, self.core.get_timer())

    def on_timer(self, now: float) -> None:
        """The core's timer."""
        if not self._over and self.core.close is None:
            if self._deciding is None:  # which has a deadline of its own
                self.core.handle_timer(now)
                self._count_silence()
                self._count_misbehaviour()
                if self._hub.stall is not None:
                    self._check_stalls(now, self._hub.stall)
                self._measuring = True  # the next chunk's way, and its ack's back
                self.carry_out()
            self._schedule()

    def _count_silence(self) -> None:
        close = self.core.close
        if close is not None and close.code == CloseCode.TIMEOUT:
            self._hub.tally.timeouts += 1
            if self.access is None:
                self._hub.registry.rejections.count(Reason.SILENT)

    def _check_stalls(self, now: float, patience: float) -> None:
        """Close where a viewer renders nothing of what it was sent: heartbeats prove a browser, not a reader."""
        before = self._stalled or {}
        stalled = self._stalled = {}
        for stream_id, attachment in self.attachments.items():
            window = attachment.window
            acked, since = before.get(stream_id, (-1, now))
            if acked != window.acked or not window.in_flight:
                since = now
            stalled[stream_id] = (window.acked, since)
            if now - since >= patience:
                self._hub.registry.rejections.count(Reason.SLOW)
                self.close(CloseCode.TOO_SLOW, "nothing was acknowledged in time")
                return


_HANDLERS: dict[type[msgspec.Struct], Any] = {
    m.Hello: Dialogue._on_hello,
    m.ChatRequested: Dialogue._on_chat,
    m.ResumeStream: Dialogue._on_resume,
    m.RequestChunks: Dialogue._on_request_chunks,
    m.CancelStream: Dialogue._on_cancel,
    m.ListStreams: Dialogue._on_list,
    m.GetHistory: Dialogue._on_history,
    m.RenameSession: Dialogue._on_rename,
    m.DeleteSession: Dialogue._on_delete,
    m.RenewToken: Dialogue._on_renew,
}
_MISBEHAVIOUR: dict[int, Reason] = {
    CloseCode.TOO_SLOW: Reason.MESSAGES,
    CloseCode.POLICY_VIOLATION: Reason.MALFORMED,
    CloseCode.BROKEN_MESSAGE: Reason.MALFORMED,
    CloseCode.UNAUTHORIZED: Reason.EXPIRED,  # a bad hello is refused elsewhere
}


def _traceparent(hello: m.Hello) -> str | None:
    found = hello.client.get("traceparent") if isinstance(hello.client, dict) else None
    return found if isinstance(found, str) else None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
