"""The socket of the native wire: bytes in, the protocol core's events carried out, one write per loop tick.

`websockets`' Sans-I/O protocol does the handshake and the frames that come in; frames that go out are ready-made
(`wsstream.frames`). A connection has no queue and no timer of its own, and a task only while it waits for a session's
history: it acts when bytes come, when a log rouses one of its attachments, and when the shared `Flusher` or
`TimerWheel` calls. It ends with its transport.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import sys
import time
from asyncio import Future
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import msgspec
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol as WebSocket
from websockets.typing import Subprotocol

from wsstream import messages as m
from wsstream.chunklog import Attachment, ChunkLog
from wsstream.chunks import StreamInfo
from wsstream.errors import (
    BadRequest,
    Capacity,
    CloseCode,
    RateLimited,
    RequestError,
    ResumeAhead,
    StoreError,
    TooManyStreams,
)
from wsstream.flow import SendWindow
from wsstream.frames import FrameBook, text_frame
from wsstream.inbound import Alignment, short_text
from wsstream.protocol import SUBPROTOCOL, ServerProtocol, ServerSettings
from wsstream.registry import ConnectionInfo, Registry
from wsstream.states import ConnectionState
from wsstream.ticks import Flusher, TimerWheel

logger = logging.getLogger(__name__)
# What a hostile peer sends must not fill the log: the library would write a record for every broken handshake.
frames_logger = logging.getLogger("wsstream.websocket")
frames_logger.setLevel(logging.CRITICAL)

PATHS = ("/ws", "/")
WRITE_HIGH = 32 * 1024
"""Bytes the transport may hold back before chunks wait in their log instead."""
WRITE_SLICE = 16 * 1024
"""Bytes of chunks per write, so that a client that stops reading is noticed soon."""
SEND_BUFFER = 64 * 1024
NOTSENT_LOWAT = 16 * 1024
"""Kernel memory that a client which does not read can hold (tcp(7), socket(7))."""
MAX_HELD_CONTROL = 64 * 1024
"""Bytes of control messages kept for a client that does not read; one that provokes more is closed."""
MAX_TURN_CONTROL = 1024 * 1024
"""Bytes of lists that one read may provoke: a small question can have a large answer."""
MAX_FRAGMENTS = 64
CLOSE_TIMEOUT = 2.0
"""Seconds between our close frame and the end of patience."""
TCP_NOTSENT_LOWAT = 25  # Linux's; socket has no name for it in Python 3.11


class StreamLike(Protocol):
    """A stream as a connection sees it."""

    @property
    def stream_id(self) -> str: ...

    @property
    def info(self) -> StreamInfo: ...

    log: ChunkLog
    record: Any

    def when_stored(self, tell: Callable[[], None]) -> None: ...


class StreamsLike(Protocol):
    """All streams, as a connection sees them: `wsstream.streams.Streams`."""

    def start(self, session_id: str, asked: m.ChatRequested) -> StreamLike: ...

    def is_known(self, session_id: str, request_id: str) -> bool: ...

    def get(self, stream_id: str) -> StreamLike: ...

    def of_session(self, session_id: str) -> Sequence[StreamLike]: ...

    def running_in(self, session_id: str) -> list[StreamInfo]: ...

    def attach(self, stream: Any, window: SendWindow, wake: Any) -> Attachment: ...

    def cancel(self, stream: Any) -> None: ...

    def load(self, stream: Any) -> Future[Any] | None: ...

    async def history(self, session_id: str) -> tuple[list[m.HistoryMessage], str | None]: ...

    def rename_session(self, session_id: str, title: str) -> None: ...

    def delete_session(self, session_id: str) -> None: ...


class Hub:
    """What the connections of one server share."""

    __slots__ = ("flusher", "loop", "registry", "settings", "streams", "wheel")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: ServerSettings, streams: StreamsLike, registry: Registry
    ) -> None:
        self.loop = loop
        self.settings = settings
        self.streams = streams
        self.registry = registry
        self.flusher = Flusher(loop)
        self.wheel = TimerWheel(loop)


class NativeConnection(asyncio.Protocol):
    """One socket that speaks ``wsstream.v1``."""

    __slots__ = (
        "_alignment",
        "_attachments",
        "_batch",
        "_bytes_sent",
        "_closing",
        "_connected_at",
        "_control",
        "_core",
        "_fragments",
        "_gone",
        "_held",
        "_hub",
        "_marked",
        "_messages_received",
        "_paused",
        "_question",
        "_ready",
        "_transport",
        "_unpaused",
        "_user_id",
        "_websocket",
        "connection_id",
        "session_id",
        "slot",
    )

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._transport: asyncio.Transport
        self._websocket = WebSocket(
            max_size=hub.settings.max_message_bytes,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            select_subprotocol=_select_subprotocol,
            logger=frames_logger,
        )
        self._core: ServerProtocol | None = None
        self._alignment = Alignment()
        self._attachments: dict[str, Attachment] = {}
        self._ready: list[Attachment] = []
        self._control: list[bytes] = []
        self._fragments: list[bytes] = []
        self._marked = False
        self._paused = False
        self._gone = False
        self._closing = False
        self._batch = False
        self._held = 0
        self._bytes_sent = 0
        self._messages_received = 0
        self._connected_at = time.time()
        self._user_id: str | None = None
        self._question: asyncio.Task[None] | None = None
        self._unpaused: Future[None] | None = None
        self.connection_id = "c_" + secrets.token_urlsafe(16)
        self.session_id: str | None = None
        self.slot = 0

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the socket; the upgrade request is the next data received."""
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=WRITE_HIGH)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            if sys.platform == "linux":
                sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)

    def data_received(self, data: bytes) -> None:
        """Read frames and act on them."""
        if self._alignment.aligned and not self._fragments and not self._closing and self._core is not None:
            payload = short_text(data)
            if payload is not None:
                self._receive_short(payload)
                return
        self._receive_any(data)

    def _receive_short(self, payload: bytes) -> None:
        try:
            self._on_message(payload)
        except Exception:
            logger.exception("connection %s: failed unexpectedly", self.connection_id)
            self.on_broken()
        self._carry_out()

    def _receive_any(self, data: bytes) -> None:
        websocket = self._websocket
        if self._core is not None:  # before that, it is not frames that come
            self._alignment.advance(data)
        websocket.receive_data(data)
        try:
            for event in websocket.events_received():
                if type(event) is Frame:
                    self._on_frame(event)
                elif type(event) is Request:
                    self._on_request(event)
        except Exception:
            logger.exception("connection %s: failed unexpectedly", self.connection_id)
            self.on_broken()
        self._carry_out()
        self._write_websocket()

    def eof_received(self) -> None:
        """The peer will send nothing more; that is an end, as WebSocket has no half-open conversations."""
        self._websocket.receive_eof()
        self._write_websocket()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone: let go of everything. The streams live on."""
        self._gone = True
        self._hub.wheel.remove(self)
        self._hub.registry.remove(self)
        for attachment in list(self._attachments.values()):
            self._detach(attachment)
        self._ready.clear()
        self._control.clear()
        if self._question is not None:
            self._question.cancel()

    def pause_writing(self) -> None:
        """The client does not read: its chunks wait in their logs from now on."""
        self._paused = True

    def resume_writing(self) -> None:
        """It reads again."""
        self._paused = False
        self._held = 0
        if self._unpaused is not None and not self._unpaused.done():
            self._unpaused.set_result(None)
        if self._ready or self._control:
            self._mark()

    # -- the handshake

    def _on_request(self, request: Request) -> None:
        websocket = self._websocket
        if request.path.partition("?")[0] not in PATHS:
            websocket.send_response(websocket.reject(404, "There is nothing here.\n"))
            return
        response = websocket.accept(request)
        if response.status_code == 101 and not self._hub.registry.admit(self):
            response = websocket.reject(503, "Server at capacity, try again later.\n")
            response.headers["Retry-After"] = "1"
        websocket.send_response(response)
        if websocket.state is State.OPEN:
            self._open(request)

    def _open(self, request: Request) -> None:
        offered = self._websocket.subprotocol == SUBPROTOCOL
        self._core = ServerProtocol(self._hub.settings, time.monotonic(), batch=offered)
        if not offered and request.headers.get("Sec-WebSocket-Protocol"):
            self.close(CloseCode.UNKNOWN_VERSION, f"this server speaks {SUBPROTOCOL}")
        self._schedule()

    # -- frames in

    def _on_frame(self, frame: Frame) -> None:
        if self._core is None or self._core.close is not None:
            return
        opcode = frame.opcode
        if opcode is Opcode.TEXT and frame.fin:
            self._on_message(bytes(frame.data))
        elif opcode is Opcode.TEXT or opcode is Opcode.CONT:
            self._on_fragment(frame)
        elif opcode is Opcode.BINARY:
            self.close(CloseCode.UNSUPPORTED_DATA, "messages are text")
        else:
            self._core.receive_life(time.monotonic())

    def _on_fragment(self, frame: Frame) -> None:
        self._fragments.append(bytes(frame.data))
        if len(self._fragments) > MAX_FRAGMENTS:
            self.close(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
        elif frame.fin:
            data = b"".join(self._fragments)
            self._fragments.clear()
            self._on_message(data)

    def _on_message(self, data: bytes) -> None:
        core = self._core
        if core is None or core.close is not None:
            return
        self._messages_received += 1
        if not data.isascii() and not _is_utf8(data):
            self.close(CloseCode.INVALID_DATA, "not UTF-8")
            return
        core.receive_message(data, time.monotonic())
        for event in core.events_received():
            self._on_event(event)

    def _on_event(self, event: m.ClientMessage) -> None:
        if type(event) is m.ChunkAck:
            attachment = self._attachments.get(event.stream_id or "")
            if attachment is not None:
                attachment.on_acked()
            return
        assert self._core is not None
        try:
            _HANDLERS[type(event)](self, self._core, event)
        except RequestError as error:
            self._refuse(event, error)

    def _refuse(self, event: m.ClientMessage, error: RequestError) -> None:
        assert self._core is not None
        self._core.refuse(
            error, request_id=getattr(event, "request_id", None), stream_id=getattr(event, "stream_id", None)
        )

    # -- what clients ask for

    def _on_hello(self, core: ServerProtocol, hello: m.Hello) -> None:
        self.session_id = hello.session_id or "ses_" + secrets.token_urlsafe(16)
        self._user_id = hello.user_id
        self._batch = core.batch
        core.establish(self.connection_id, self.session_id, self._hub.streams.running_in(self.session_id))
        self._schedule()

    def _on_chat(self, core: ServerProtocol, asked: m.ChatRequested) -> None:
        assert self.session_id is not None
        session_id = asked.session_id or self.session_id
        if core.full and not self._hub.streams.is_known(session_id, asked.request_id):
            raise TooManyStreams  # before a provider is asked for an answer that nobody would follow
        try:
            stream = self._hub.streams.start(session_id, asked)
        except Capacity as error:
            self._on_capacity(core, asked, error)
            return
        window = core.open_stream(stream.stream_id)
        stream.when_stored(lambda: self._say_started(core, asked.request_id, stream, window))
        self._follow(stream, window)

    def _say_started(self, core: ServerProtocol, request_id: str, stream: StreamLike, window: SendWindow) -> None:
        if self._gone or core.state is ConnectionState.CLOSED:
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
        self._carry_out()

    def _on_capacity(self, core: ServerProtocol, asked: m.ChatRequested, error: Capacity) -> None:
        """Close with 1013, but for a connection that is following other answers: those are not to be disturbed."""
        if any(attachment.log.outcome is None for attachment in self._attachments.values()):
            core.refuse(error, request_id=asked.request_id, close=False)
        else:
            core.refuse(error, request_id=asked.request_id)

    def _on_resume(self, core: ServerProtocol, asked: m.ResumeStream) -> None:
        stream = self._stream_to_resume(asked)
        log = stream.log
        if asked.epoch is not None and asked.epoch != log.epoch:
            raise ResumeAhead("This epoch is not of this stream")
        log.check_position(asked.last_chunk_id)
        window = core.resume_stream(asked, stream.stream_id, tail=log.tail, epoch=log.epoch, state=log.state)
        self._follow(stream, window, snapshot_to=log.tail if asked.snapshot and core.batch else 0)

    def _stream_to_resume(self, asked: m.ResumeStream) -> StreamLike:
        if asked.stream_id is not None:
            return self._hub.streams.get(asked.stream_id)
        assert self.session_id is not None
        streams = self._hub.streams.of_session(self.session_id)
        running = [stream for stream in streams if not stream.log.state.final]
        if len(running) == 1 or len(streams) == 1:
            return (running or streams)[0]
        raise BadRequest("stream_id is needed: the session does not have exactly one stream")

    def _on_request_chunks(self, core: ServerProtocol, asked: m.RequestChunks) -> None:
        assert asked.stream_id is not None
        if asked.to_chunk_id < asked.from_chunk_id:
            raise BadRequest("to_chunk_id is before from_chunk_id")
        stream = self._hub.streams.get(asked.stream_id)
        window = core.window_of(asked.stream_id)
        if asked.from_chunk_id > window.sent:
            raise ResumeAhead(f"Only chunks up to {window.sent} were sent on this connection")
        self._when_loaded(stream, lambda: self._send_again(stream, window, asked))

    def _send_again(self, stream: StreamLike, window: SendWindow, asked: m.RequestChunks) -> None:
        attachment = self._attachments.get(stream.stream_id)
        if attachment is None:  # the stream has ended here; its chunks can still be sent again
            attachment = self._attach(stream, window)
            attachment.told = True
        attachment.send_again(asked.from_chunk_id, asked.to_chunk_id)

    def _on_cancel(self, core: ServerProtocol, asked: m.CancelStream) -> None:
        assert asked.stream_id is not None
        stream = self._hub.streams.get(asked.stream_id)
        self._hub.streams.cancel(stream)
        if not core.follows(asked.stream_id):
            # Whoever follows the stream reads its end in its place; this canceller does not, or has read it already.
            stream.log.when_finished(self._tell_end)

    def _tell_end(self, log: ChunkLog) -> None:
        if not self._gone:
            assert log.outcome is not None
            self._control.append(m.encode(m.outcome_message(log.stream_id, log.outcome)))
            self._mark()

    def _on_list(self, core: ServerProtocol, asked: m.ListStreams) -> None:
        assert self.session_id is not None
        if sum(map(len, self._control)) > MAX_TURN_CONTROL:
            self.close(CloseCode.POLICY_VIOLATION, "too many questions at once")
            return
        core.list_streams([stream.info for stream in self._hub.streams.of_session(self.session_id)])
        self._carry_out()

    def _on_history(self, core: ServerProtocol, asked: m.GetHistory) -> None:
        if self._question is not None:
            raise RateLimited("One get_history at a time", retry_after=1.0)
        session_id = asked.session_id or self.session_id
        assert session_id is not None
        self._question = self._hub.loop.create_task(self._answer_history(core, session_id))

    async def _answer_history(self, core: ServerProtocol, session_id: str) -> None:
        try:
            messages, title = await self._hub.streams.history(session_id)
            while self._paused:  # it may be large, and a client that reads slowly is not to be cut off for having asked
                self._unpaused = self._hub.loop.create_future()
                await self._unpaused
            core.tell_history(session_id, messages, title)
        except StoreError as error:
            core.refuse(error)
        except Exception:
            logger.exception("connection %s: failed unexpectedly", self.connection_id)
            self.on_broken()
        finally:
            self._question = None
        self._carry_out()

    def _on_rename(self, core: ServerProtocol, asked: m.RenameSession) -> None:
        session_id = asked.session_id or self.session_id
        assert session_id is not None
        self._hub.streams.rename_session(session_id, asked.title)
        self._say_session_changed(core, session_id, title=asked.title)

    def _on_delete(self, core: ServerProtocol, asked: m.DeleteSession) -> None:
        session_id = asked.session_id or self.session_id
        assert session_id is not None
        self._hub.streams.delete_session(session_id)
        self._say_session_changed(core, session_id, deleted=True)

    def _say_session_changed(
        self, core: ServerProtocol, session_id: str, title: str | None = None, deleted: bool = False
    ) -> None:
        self._hub.registry.tell_session_changed(session_id, title, deleted)
        if session_id != self.session_id:
            core.tell_session_changed(session_id, title=title, deleted=deleted)

    def tell_session_changed(self, session_id: str, title: str | None, deleted: bool) -> None:
        """Somebody has renamed or deleted this connection's session."""
        if self._core is not None and self._core.state is not ConnectionState.CLOSED:
            self._core.tell_session_changed(session_id, title=title, deleted=deleted)
            self._carry_out()

    # -- attachments

    def _follow(self, stream: StreamLike, window: SendWindow, snapshot_to: int = 0) -> None:
        known = self._attachments.get(stream.stream_id)
        if known is not None and known.window is window:
            return
        self._when_loaded(stream, lambda: self._begin_reading(stream, window, snapshot_to))

    def _begin_reading(self, stream: StreamLike, window: SendWindow, snapshot_to: int) -> None:
        assert self._core is not None
        if self._core.has_window(stream.stream_id, window):  # else it was replaced while the log was being read
            attachment = self._attach(stream, window)
            attachment.snapshot_to = snapshot_to
            attachment.rouse()

    def _when_loaded(self, stream: StreamLike, act: Callable[[], None]) -> None:
        """Act when the stream's chunks are in memory: at once, or when the store has read them."""
        loading = self._hub.streams.load(stream)
        if loading is None:
            act()
        else:
            loading.add_done_callback(lambda loaded: self._on_loaded(stream, loaded, act))

    def _on_loaded(self, stream: StreamLike, loaded: Future[Any], act: Callable[[], None]) -> None:
        core = self._core
        if self._gone or core is None or core.state is ConnectionState.CLOSED or loaded.cancelled():
            return
        error = loaded.exception()
        if error is None and stream.log.loaded:
            act()
            return
        logger.error("stream %s cannot be read from the store: %s", stream.stream_id, error)
        core.end_stream(stream.stream_id)
        core.refuse(StoreError("The answer cannot be read from the store"), stream_id=stream.stream_id)
        self._carry_out()

    def _attach(self, stream: StreamLike, window: SendWindow) -> Attachment:
        known = self._attachments.get(stream.stream_id)
        attachment = self._hub.streams.attach(stream, window, self._on_roused)
        attachment.frames = FrameBook.of(stream.log)
        self._attachments[stream.stream_id] = attachment
        if known is not None:  # only now: the answer was deserted at no moment
            self._detach(known)
        return attachment

    def _detach(self, attachment: Attachment) -> None:
        if self._attachments.get(attachment.log.stream_id) is attachment:
            del self._attachments[attachment.log.stream_id]
        attachment.log.detach(attachment)
        if attachment in self._ready:
            self._ready.remove(attachment)

    def _on_roused(self, attachment: Attachment) -> None:
        self._ready.append(attachment)
        if not self._marked and not self._gone:
            self._marked = True
            self._hub.flusher.mark(self)

    def _mark(self) -> None:
        if not self._marked and not self._gone:
            self._marked = True
            self._hub.flusher.mark(self)

    # -- bytes out

    def flush(self) -> None:
        """Write what this tick has brought: control messages first, then chunks."""
        self._marked = False
        if self._gone or self._closing:
            return
        if self._control:
            self._write_control()
        while self._ready and not self._paused:
            if len(self._ready) == 1:  # nearly always: one connection, one stream
                part = self._take(self._ready.pop())
                if part:
                    self._bytes_sent += len(part)
                    self._transport.write(part)
            else:
                self._write_chunks()
        if self._core is not None and self._core.close is not None:
            self._say_close(self._core.close.code, self._core.close.reason)

    def _write_control(self) -> None:
        control, self._control = self._control, []
        self._write_anyway(b"".join([text_frame(message) for message in control]))

    def _write_anyway(self, data: bytes) -> None:
        """Write what does not wait for a client that does not read; one that provokes too much of it is cut off."""
        if self._paused:
            self._held += len(data)
        self._write(data)
        if self._held > MAX_HELD_CONTROL:
            self._closing = True
            self._transport.abort()  # it would not read a close frame either

    def _write_chunks(self) -> None:
        """One write of at most about a slice, one turn for each attachment that is ready."""
        ready, self._ready = self._ready, []
        parts: list[bytes] = []
        size = 0
        for attachment in ready:
            if size >= WRITE_SLICE:
                self._ready.append(attachment)
                continue
            part = self._take(attachment)
            parts.append(part)
            size += len(part)
        if size:
            self._write(b"".join(parts))

    def _take(self, attachment: Attachment) -> bytes:
        span = attachment.take(WRITE_SLICE)
        part = b"" if span is None else attachment.frames.span(span[0], span[1], batch=self._batch)
        if not attachment.waiting:
            self._ready.append(attachment)
        elif attachment.log.outcome is not None:
            if attachment.take_outcome() is not None:
                part += attachment.frames.outcome()
            if attachment.told:
                self._on_told(attachment)
        return part

    def _on_told(self, attachment: Attachment) -> None:
        assert self._core is not None
        self._core.end_stream(attachment.log.stream_id)
        self._detach(attachment)

    def _write(self, data: bytes) -> None:
        self._bytes_sent += len(data)
        self._transport.write(data)

    def _carry_out(self) -> None:
        """After the core was given something: what it has to say, and when it wants to be asked again."""
        core = self._core
        if core is None:
            return
        out = core.messages_to_send()
        if out:
            self._control += out
        if out or core.close is not None:
            self._mark()

    def _write_websocket(self) -> None:
        """What the WebSocket itself has to say: the handshake's answer, pongs, close frames, the end."""
        parts = self._websocket.data_to_send()
        if not parts:
            return
        if not self._transport.is_closing():
            self._write_anyway(b"".join(parts))
        if not parts[-1]:  # that is its way to say: the end
            self._closing = True
            self._transport.close()
            if self._transport.get_write_buffer_size():
                self._give_up_soon()

    # -- the end

    def close(self, code: int, reason: str) -> None:
        """Close the connection after what is pending was written."""
        if self._core is None:
            self._transport.close()
        elif self._core.state is not ConnectionState.CLOSED:
            self._core.fail(code, reason)
            self._carry_out()

    def on_broken(self) -> None:
        """A mistake of ours must end this connection only, and say so: the client comes back and resumes."""
        self._ready.clear()
        self.close(CloseCode.INTERNAL_ERROR, "internal error")

    def _say_close(self, code: int, reason: str) -> None:
        self._closing = True
        if self._websocket.state is State.OPEN:
            self._websocket.send_close(code, reason)
            self._write_websocket()
        for attachment in list(self._attachments.values()):
            self._detach(attachment)
        self._give_up_soon()

    def _give_up_soon(self) -> None:
        """What the peer has not read by then, it will never read."""
        self._hub.loop.call_later(CLOSE_TIMEOUT, self._transport.abort)

    def go_away(self, deadline_ms: int, reconnect_after_ms: int) -> None:
        """Announce the end of this server."""
        if self._core is not None:
            self._core.go_away(deadline_ms, reconnect_after_ms)
            self._carry_out()

    # -- time

    def _schedule(self) -> None:
        if self._core is not None and not self._gone:
            self._hub.wheel.schedule(self, self._core.get_timer())

    def on_timer(self, now: float) -> None:
        """The core's timer."""
        if self._core is not None and not self._gone and self._core.close is None:
            self._core.handle_timer(now)
            self._carry_out()
            self._schedule()

    def statistics(self) -> ConnectionInfo:
        """What is known of this connection."""
        peer = self._transport.get_extra_info("peername")
        return ConnectionInfo(
            connection_id=self.connection_id,
            session_id=self.session_id,
            user_id=self._user_id,
            remote=f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "local",
            connected_at=self._connected_at,
            streams=len(self._attachments),
            messages_received=self._messages_received,
            bytes_sent=self._bytes_sent,
            round_trip=None if self._core is None else self._core.round_trip,
        )


_HANDLERS: dict[type[msgspec.Struct], Any] = {
    m.Hello: NativeConnection._on_hello,
    m.ChatRequested: NativeConnection._on_chat,
    m.ResumeStream: NativeConnection._on_resume,
    m.RequestChunks: NativeConnection._on_request_chunks,
    m.CancelStream: NativeConnection._on_cancel,
    m.ListStreams: NativeConnection._on_list,
    m.GetHistory: NativeConnection._on_history,
    m.RenameSession: NativeConnection._on_rename,
    m.DeleteSession: NativeConnection._on_delete,
}


def _select_subprotocol(_websocket: WebSocket, offered: Any) -> Subprotocol | None:
    return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in offered else None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
