"""What a client asks is carried out here, once it is known who it is.

A desk is set up for a dialogue when the gate has let its client in. It asks the streams, lets the protocol core answer,
and has the outlet send what is followed.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future
from collections.abc import Callable
from typing import Any

import msgspec

from wsstream import messages as m
from wsstream.chunklog import Attachment, ChunkLog
from wsstream.chunks import PAGE, StreamState
from wsstream.errors import (
    BadRequest,
    Capacity,
    CloseCode,
    QueueFull,
    RateLimited,
    RequestError,
    ResumeAhead,
    StoreError,
    TooManyStreams,
)
from wsstream.flow import SendWindow
from wsstream.frames import FrameBook
from wsstream.protocol import ServerProtocol
from wsstream.rejections import Clamp, Reason
from wsstream.states import ConnectionState
from wsstream.wires.base import TRACEPARENT, StreamLike, StreamsLike
from wsstream.wires.hub import Hub
from wsstream.wires.line import Line
from wsstream.wires.outlet import Outlet

logger = logging.getLogger(__name__)


class Desk:
    """Carries out what one client asks."""

    __slots__ = (
        "_core",
        "_hub",
        "_line",
        "_out",
        "_questions",
        "_queued",
        "_teller",
        "_unpaused",
        "session_id",
        "streams",
        "traceparent",
    )

    def __init__(
        self,
        hub: Hub,
        line: Line,
        core: ServerProtocol,
        out: Outlet,
        streams: StreamsLike,
        session_id: str,
        traceparent: str | None,
    ) -> None:
        self._hub = hub
        self._line = line
        self._core = core
        self._out = out
        self._questions: list[tuple[str, m.GetHistory]] | None = None
        self._teller: asyncio.Task[None] | None = None
        self._unpaused: Future[None] | None = None
        self._queued: dict[str, tuple[StreamLike, Callable[[int], None]]] | None = None
        self.streams = streams
        """As the client may see them; whoever renews their token is given them anew."""
        self.session_id = session_id
        self.traceparent = traceparent
        """The trace that the client's requests belong to, as W3C Trace Context writes it."""

    def act(self, event: m.ClientMessage) -> None:
        """Do what the client asks, or have it told why not."""
        try:
            _HANDLERS[type(event)](self, event)
        except RequestError as error:
            self._count_refusal(event, error)
            self._core.refuse(
                error, request_id=getattr(event, "request_id", None), stream_id=getattr(event, "stream_id", None)
            )

    def _count_refusal(self, event: m.ClientMessage, error: RequestError) -> None:
        tally = self._hub.tally
        tally.refused[error.error_type.value] += 1
        if isinstance(error, TooManyStreams):
            self._hub.registry.rejections.count(Reason.STREAMS)
        if type(event) is m.ResumeStream:
            tally.resumes[error.error_type.value] += 1

    # -- answers

    def _on_chat(self, asked: m.ChatRequested) -> None:
        session_id = asked.session_id or self.session_id
        known = self.streams.is_known(session_id, asked.request_id)
        if self._core.full and not known:
            raise TooManyStreams  # before a provider is asked for an answer that nobody would follow
        try:
            stream = self._start(session_id, asked)
        except (Capacity, QueueFull) as error:
            self._count_refusal(asked, error)
            self._on_capacity(asked, error)
            return
        window = self._core.open_stream(stream.stream_id)
        stream.when_stored(lambda: self._await_turn(asked.request_id, stream, window))
        if not known:
            begun = m.SessionChanged(session_id=session_id, stream_id=stream.stream_id)
            stream.when_stored(lambda: self._tell_others(begun))
        self._follow(stream, window)

    def _start(self, session_id: str, asked: m.ChatRequested) -> StreamLike:
        before = TRACEPARENT.set(self.traceparent)
        try:
            return self.streams.start(session_id, asked)
        finally:
            TRACEPARENT.reset(before)

    def _await_turn(self, request_id: str, stream: StreamLike, window: SendWindow) -> None:
        def tell(place: int) -> None:
            self._tell_place(request_id, stream, place)
            if not place:
                self._say_started(request_id, stream, window)

        self._watch_queue(stream, tell)

    def _watch_queue(self, stream: StreamLike, tell: Callable[[int], None]) -> None:
        if self._out.over:
            return
        queued = self._queued = self._queued or {}
        known = queued.get(stream.stream_id)
        if known is not None:
            known[0].forget_queue(known[1])
        queued[stream.stream_id] = (stream, tell)
        stream.while_queued(tell)

    def _tell_place(self, request_id: str, stream: StreamLike, place: int) -> None:
        if not place:
            (self._queued or {}).pop(stream.stream_id, None)  # it waits no longer, and nobody here for it
        elif self._core.state is not ConnectionState.CLOSED:
            self._core.tell_queued(request_id, stream.stream_id, place)
            self._out.carry_out()

    def _say_started(self, request_id: str, stream: StreamLike, window: SendWindow) -> None:
        if self._out.over or self._core.state is ConnectionState.CLOSED:
            return
        record = stream.record
        self._core.tell_start(
            request_id,
            stream.stream_id,
            session_id=record.session_id,
            epoch=record.epoch,
            model=record.model,
            timestamp=record.created,
            window=window,
        )
        self._out.carry_out()

    def _on_capacity(self, asked: m.ChatRequested, error: Capacity | QueueFull) -> None:
        """Close with 1013, but for a connection that is following other answers: those are not to be disturbed."""
        self._core.refuse(error, request_id=asked.request_id, close=False)
        if all(attachment.log.outcome is not None for attachment in self._out.attachments.values()):
            self._out.close(CloseCode.TRY_AGAIN_LATER, "Server at capacity")

    def _on_resume(self, asked: m.ResumeStream) -> None:
        stream = self._stream_to_resume(asked)
        log = stream.log
        if asked.epoch is not None and asked.epoch != log.epoch:
            raise ResumeAhead("This epoch is not of this stream")
        log.check_position(asked.last_chunk_id)
        window = self._core.resume_stream(asked, stream.stream_id, tail=log.tail, epoch=log.epoch, state=log.state)
        self._hub.tally.resumes["ok"] += 1
        self._follow(stream, window, snapshot_to=log.tail if asked.snapshot and self._core.batch else 0)
        if log.state is StreamState.QUEUED:
            self._watch_queue(stream, lambda place: self._tell_place(stream.record.request_id, stream, place))

    def _stream_to_resume(self, asked: m.ResumeStream) -> StreamLike:
        if asked.stream_id is not None:
            return self.streams.resume(asked.stream_id)
        streams = self.streams.of_session(self.session_id)
        running = [stream for stream in streams if not stream.log.state.final]
        if len(running) == 1 or len(streams) == 1:
            return self.streams.resume((running or streams)[0].stream_id)
        raise BadRequest("stream_id is needed: the session does not have exactly one stream")

    def _on_request_chunks(self, asked: m.RequestChunks) -> None:
        assert asked.stream_id is not None
        if asked.to_chunk_id < asked.from_chunk_id:
            raise BadRequest("to_chunk_id is before from_chunk_id")
        stream = self.streams.get(asked.stream_id)
        window = self._core.window_of(asked.stream_id)
        if asked.from_chunk_id > window.sent:
            raise ResumeAhead(f"Only chunks up to {window.sent} were sent on this connection")
        self._when_loaded(stream, lambda: self._send_again(stream, window, asked))

    def _send_again(self, stream: StreamLike, window: SendWindow, asked: m.RequestChunks) -> None:
        attachment = self._out.attachments.get(stream.stream_id)
        if attachment is None:  # the stream has ended here; its chunks can still be sent again
            attachment = self._attach(stream, window)
            attachment.told = True
        attachment.send_again(asked.from_chunk_id, asked.to_chunk_id)

    def _on_cancel(self, asked: m.CancelStream) -> None:
        assert asked.stream_id is not None
        stream = self.streams.get(asked.stream_id)
        self.streams.cancel(stream)
        if not self._core.follows(asked.stream_id):
            # Whoever follows the stream reads its end in its place; this canceller does not, or has read it already.
            stream.log.when_finished(self._tell_end)

    def _tell_end(self, log: ChunkLog) -> None:
        if not self._out.over:
            assert log.outcome is not None
            self._out.say([m.encode(m.outcome_message(log.stream_id, log.outcome))])

    # -- following

    def _follow(self, stream: StreamLike, window: SendWindow, snapshot_to: int = 0) -> None:
        known = self._out.attachments.get(stream.stream_id)
        if known is not None and known.window is window:
            return
        self._when_loaded(stream, lambda: self._begin_reading(stream, window, snapshot_to))

    def _begin_reading(self, stream: StreamLike, window: SendWindow, snapshot_to: int) -> None:
        if self._core.has_window(stream.stream_id, window):  # else it was replaced while the log was being read
            attachment = self._attach(stream, window)
            attachment.snapshot_to = snapshot_to
            attachment.rouse()

    def _when_loaded(self, stream: StreamLike, act: Callable[[], None]) -> None:
        """Act when the stream's chunks are in memory: at once, or when the store has read them."""
        loading = self.streams.load(stream)
        if loading is None:
            act()
        else:
            loading.add_done_callback(lambda loaded: self._on_loaded(stream, loaded, act))

    def _on_loaded(self, stream: StreamLike, loaded: Future[Any], act: Callable[[], None]) -> None:
        if self._out.over or self._core.state is ConnectionState.CLOSED or loaded.cancelled():
            return
        error = loaded.exception()
        if error is None and stream.log.loaded:
            act()
            return
        logger.error("a stream cannot be read from the store: %s", error, extra={"stream_id": stream.stream_id})
        self._core.end_stream(stream.stream_id)
        self._core.refuse(StoreError("The answer cannot be read from the store"), stream_id=stream.stream_id)
        self._out.carry_out()

    def _attach(self, stream: StreamLike, window: SendWindow) -> Attachment:
        attachment = self.streams.attach(stream, window, self._out.on_roused)
        attachment.frames = FrameBook.of(stream.log)
        stream.when_stored(lambda: attachment.tell_statuses(self._say_status))
        self._out.follow(attachment)
        return attachment

    def _say_status(self, status: m.StreamStatus) -> None:
        if not self._out.over:
            self._core.tell_status(status)
            self._out.carry_out()

    # -- sessions

    def _on_list(self, asked: m.ListStreams) -> None:
        if self._out.unsaid > self._hub.settings.max_list_bytes:  # a small question can have a large answer
            self._hub.registry.rejections.count(Reason.MESSAGES)
            self._out.close(CloseCode.POLICY_VIOLATION, "too many questions at once")
            return
        found = self.streams.of_session(self.session_id)
        self._core.list_streams([stream.info for stream in found if stream.is_stored])
        self._out.carry_out()

    def _on_history(self, asked: m.GetHistory) -> None:
        questions = self._questions = self._questions or []
        most = self._hub.settings.max_history_questions
        if len(questions) >= most:
            raise RateLimited(f"{'One' if most == 1 else most} get_history at a time", retry_after=1.0)
        questions.append((asked.session_id or self.session_id, asked))
        if self._teller is None:
            self._teller = self._hub.loop.create_task(self._answer_questions(questions))

    async def _answer_questions(self, questions: list[tuple[str, m.GetHistory]]) -> None:
        """One after the other, so that answers come in the order of the questions, and one page is in memory."""
        try:
            while questions and self._core.state is not ConnectionState.CLOSED:
                await self._answer_history(*questions[0])
                del questions[0]
                self._out.carry_out()
        finally:
            self._teller = self._questions = None

    async def _answer_history(self, session_id: str, asked: m.GetHistory) -> None:
        try:
            found = await self.streams.page(session_id, asked.before, asked.limit)
            while self._line.paused:  # it may be large, and who reads slowly is not to be cut off for having asked
                self._unpaused = self._hub.loop.create_future()
                await self._unpaused
            if found.more and len(found.messages) < (asked.limit or PAGE):
                self._hub.registry.rejections.clamp(Clamp.PAGE)
            told = m.History(session_id=session_id, messages=found.messages, title=found.title, more=found.more)
            self._core.tell_history(told)
        except (StoreError, BadRequest) as error:
            self._core.refuse(error)
        except Exception:
            logger.exception("a connection failed unexpectedly", extra={"connection_id": self._line.connection_id})
            self._out.on_broken()

    def _on_rename(self, asked: m.RenameSession) -> None:
        session_id = asked.session_id or self.session_id
        change = m.SessionChanged(session_id=session_id, title=asked.title)
        self.streams.rename_session(session_id, asked.title, lambda found: self._on_renamed(change, found))

    def _on_renamed(self, change: m.SessionChanged, found: bool) -> None:
        if found:
            self._change_session(change)
        elif self._core.state is not ConnectionState.CLOSED:
            self._core.refuse(BadRequest("There is no such session yet: one begins with its first message"))
            self._out.carry_out()

    def _on_delete(self, asked: m.DeleteSession) -> None:
        session_id = asked.session_id or self.session_id
        change = m.SessionChanged(session_id=session_id, deleted=True)
        self.streams.delete_session(session_id, lambda: self._change_session(change))

    def _change_session(self, change: m.SessionChanged) -> None:
        """It is stored: tell everybody, also where whoever asked has left."""
        if self._core.state is not ConnectionState.CLOSED:
            self._core.tell_session_changed(change)
            self._out.carry_out()
        self._tell_others(change)

    def _tell_others(self, change: m.SessionChanged) -> None:
        key = self.streams.session_key(change.session_id)
        self._hub.registry.tell_session_changed(key, change, besides=self._line.connection_id)

    # -- the end

    def on_unpaused(self) -> None:
        """The client reads again."""
        if self._unpaused is not None and not self._unpaused.done():
            self._unpaused.set_result(None)

    def end(self) -> None:
        """The connection is gone."""
        for stream, tell in (self._queued or {}).values():
            stream.forget_queue(tell)
        self._queued = None
        if self._teller is not None:
            self._teller.cancel()


_HANDLERS: dict[type[msgspec.Struct], Any] = {
    m.ChatRequested: Desk._on_chat,
    m.ResumeStream: Desk._on_resume,
    m.RequestChunks: Desk._on_request_chunks,
    m.CancelStream: Desk._on_cancel,
    m.ListStreams: Desk._on_list,
    m.GetHistory: Desk._on_history,
    m.RenameSession: Desk._on_rename,
    m.DeleteSession: Desk._on_delete,
}
