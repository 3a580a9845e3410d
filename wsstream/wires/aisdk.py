"""The AI SDK over WebSocket: the frames of its `WebSocketChatTransport` (npm `ai`, 7.0.135 and later).

Its client says ``send``, ``resume`` and ``abort``; it is told ``start`` (of a resume), ``chunk`` with a ``sequence``
from 0 on, ``end``, ``error`` and ``no-active``. It knows no acks, no heartbeats and no reconnection, and closes at any
message that it does not know: so what goes to it is held back by the socket alone, and its life is seen by pings.
"""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import Future
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from wsstream.chunklog import Attachment
from wsstream.chunks import StreamState
from wsstream.errors import (
    CloseCode,
    Draining,
    Forbidden,
    MalformedMessage,
    RateLimited,
    RequestError,
    StoreError,
    TooManyStreams,
    Unauthorized,
    WsstreamError,
)
from wsstream.flow import SendWindow
from wsstream.frames import text_frame
from wsstream.limits import Bucket
from wsstream.messages import Name, SessionChanged, SessionId, check_names, encode, explain
from wsstream.rejections import Reason
from wsstream.wires.base import Gate, StreamLike, StreamsLike, Visitor
from wsstream.wires.hub import Hub
from wsstream.wires.line import Line
from wsstream.wires.uimessages import Asked, Settings, UiMessage, translate
from wsstream.wires.uistream import UiStream

logger = logging.getLogger(__name__)

PATH = "/ai"
WRITE_SLICE = 16 * 1024
"""Bytes of chunks per write, so that a client that stops reading is noticed soon."""
MAX_TURNS = 16
"""Writes in a row: then others have their turn, however much a client takes at once."""
WINDOW = 200
WINDOW_BYTES = 64 * 1024
"""What may be written to a socket that does not say that it is full."""
SECOND_THOUGHT = 1.0
"""Seconds after a resume within which an abort of it is not taken for a stop if another resume comes.

`useChat` mounted twice (React's strict mode does that) resumes twice, and aborts the first of the two requests.
"""
PING = b"\x89\x00"


class _Send(msgspec.Struct, rename="camel", tag_field="type", tag="send"):
    request_id: Name
    id: SessionId
    trigger: Literal["submit-message", "regenerate-message"]
    messages: list[UiMessage]
    message_id: str | None = None
    headers: dict[str, str] = {}
    body: Settings = Settings()
    metadata: Any = None


class _Resume(msgspec.Struct, rename="camel", tag_field="type", tag="resume"):
    request_id: Name
    id: SessionId
    last_sequence: int | None = None
    headers: dict[str, str] = {}
    body: dict[str, Any] = {}
    metadata: Any = None


class _Abort(msgspec.Struct, rename="camel", tag_field="type", tag="abort"):
    request_id: Name


_Frame = _Send | _Resume | _Abort
_decode = msgspec.json.Decoder(_Frame).decode


def resumable(streams: StreamsLike, session_id: str, *, ended: bool) -> StreamLike | None:
    """The answer of a chat that somebody who comes back wants: the newest that runs, or else the newest.

    One that has ended is given where nobody has read it to its end: its client was away. With ``ended``, one that is
    complete is given in any case. One that its user has stopped never is.
    """
    found = streams.of_session(session_id)
    running = [stream for stream in found if not stream.log.state.final]
    if running:
        return streams.resume(running[-1].stream_id)
    if not found or found[-1].log.state is StreamState.CANCELLED:
        return None
    log = found[-1].log
    if (ended and log.state is StreamState.COMPLETE) or log.delivered < log.tail:
        return streams.resume(found[-1].stream_id)
    return None


def newest(streams: StreamsLike, session_id: str) -> StreamLike | None:
    """The chat's newest answer, however it has ended: for somebody who says how far they have read it.

    What a socket has taken, a lost connection may have lost again; only they know.
    """
    found = streams.of_session(session_id)
    return streams.resume(found[-1].stream_id) if found else None


class _Answer:
    """One request under way: an attachment, and what translates for it."""

    __slots__ = ("attachment", "began", "is_resume", "out", "request_id", "sequence", "skip", "stream", "ui")

    def __init__(self, request_id: str, stream: StreamLike, ui: UiStream, *, is_resume: bool, skip: int = 0) -> None:
        self.request_id = request_id
        self.stream = stream
        self.ui = ui
        self.is_resume = is_resume
        self.skip = skip
        self.sequence = 0
        self.began = time.monotonic()
        self.out: list[bytes] = []
        """What precedes the first chunk."""
        self.attachment: Attachment | None = None

    def frames(self, chunks: Sequence[bytes]) -> list[bytes]:
        """The frames of these UI message chunks, without those that the client has already."""
        name = encode(self.request_id)
        frames = []
        for sequence, chunk in enumerate(chunks, self.sequence):
            if sequence >= self.skip:
                frames.append(b'{"type":"chunk","requestId":%b,"sequence":%d,"chunk":%b}' % (name, sequence, chunk))
        self.sequence += len(chunks)
        return [text_frame(frame) for frame in frames]

    def tell(self, type: str, **more: Any) -> bytes:
        """A frame about this request."""
        return _frame(type, self.request_id, **more)


def _frame(type: str, request_id: str, **more: Any) -> bytes:
    return text_frame(encode({"type": type, "requestId": request_id, **more}))


class AiDialogue:
    """One client of ``/ai``."""

    __slots__ = (
        "_answers",
        "_bucket",
        "_closing",
        "_control",
        "_draining",
        "_entering",
        "_gate",
        "_hub",
        "_line",
        "_marked",
        "_over",
        "_patience",
        "_pings",
        "_ready",
        "_said_close",
        "_shown",
        "_stops",
        "_streams",
        "_visitor",
        "_waiting",
        "bytes_sent",
        "last_heard",
        "messages_received",
        "slot",
        "user_id",
    )

    def __init__(self, hub: Hub, line: Line, gate: Gate, visitor: Visitor, *, pings: bool = True) -> None:
        """``pings``: whether the line hears pongs; otherwise whoever owns the socket watches over it."""
        self._hub = hub
        self._line = line
        self._pings = pings
        self._answers: dict[str, _Answer] = {}
        self._stops: dict[str, asyncio.TimerHandle] = {}
        self._ready: list[_Answer] = []
        self._control: list[bytes] = []
        self._waiting: list[bytes] = []
        self._streams: StreamsLike | None = None
        self._gate = gate
        self._visitor = visitor
        self._shown: str | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._closing: tuple[int, str] | None = None
        self._said_close = self._marked = self._over = self._draining = False
        self.bytes_sent = 0
        self.messages_received = 0
        self.user_id: str | None = None
        self.last_heard = time.monotonic()
        settings = hub.settings
        burst = settings.message_burst + 4 * settings.max_streams
        self._bucket = Bucket(settings.message_rate, burst) if settings.message_rate else None
        self.slot = 0
        self._entering: asyncio.Task[None] | None = None
        if "authorization" in visitor.headers:
            self._begin_entering(visitor)
        else:
            self._patience = hub.loop.call_later(settings.hello_timeout, self._lose_patience)
        if pings:
            hub.wheel.schedule(self, self.last_heard + hub.settings.heartbeat_interval)

    # -- coming in

    def _begin_entering(self, visitor: Visitor, request_id: str | None = None) -> None:
        """Have the gate decide; what comes meanwhile waits."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._entering = self._hub.loop.create_task(self._enter(visitor, request_id))

    def _lose_patience(self) -> None:
        self._begin_entering(self._visitor)

    async def _enter(self, visitor: Visitor, request_id: str | None) -> None:
        """``request_id``: of the frame that shows a token, the first of those that wait."""
        try:
            self._let_in(await self._gate.enter(visitor))
            self._shown = visitor.token
        except RequestError as error:
            if request_id is not None:
                del self._waiting[0]
                self._tell_error(request_id, error)
            if self._streams is None:
                self.close(_close_code(error), str(error))
        except Exception:
            logger.exception("connection %s: failed unexpectedly", self._line.connection_id)
            self.on_broken()
        self._read_waiting()

    def _read_waiting(self) -> None:
        self._entering = None
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            self._read(data)

    def _let_in(self, streams: StreamsLike) -> None:
        """What somebody may see from now on.

        Raises:
            Forbidden: the connection is somebody else's already.
            RateLimited: they have too many connections.
        """
        if self.closing:
            return
        if self._streams is None:
            self._hub.registry.join(self._line, streams.user)
        elif self._streams.user != streams.user:
            raise Forbidden("The new token is somebody else's")
        self._visitor = self._visitor.settled()
        self._streams = streams
        self.user_id = streams.user or None

    # -- messages in

    def receive(self, data: bytes) -> None:
        """Act on one message, the bytes of a text frame."""
        if self.closing:
            return
        self.receive_life()
        if self._closing is not None:
            return
        self._read(data)

    def _read(self, data: bytes) -> None:
        if self.closing:
            return
        if self._entering is not None:
            self._hold(data)
            return
        frame = _try_decode(data, self._hub.settings.max_name_chars)
        token, request_id = _shown_by(frame)
        if self._streams is None or (token is not None and token != self._shown):
            self._hold(data)
            self._begin_entering(self._visitor._replace(token=token), request_id)
            return
        self.messages_received += 1
        if isinstance(frame, Exception):
            self._refuse_frame(data, frame)
            return
        try:
            self._act(self._streams, frame)
        except RequestError as error:
            self._tell_error(frame.request_id, error)

    def _hold(self, data: bytes) -> None:
        self._waiting.append(data)
        settings = self._hub.settings
        many = len(self._waiting) > settings.max_early_messages
        if many or sum(map(len, self._waiting)) > settings.max_ui_message_bytes:
            self._hub.registry.rejections.count(Reason.MESSAGES)
            self.close(CloseCode.POLICY_VIOLATION, "too much before anybody was let in")

    def _refuse_frame(self, data: bytes, error: Exception) -> None:
        """A request that is only wrong is told so; what is no request at all ends the connection."""
        self._hub.registry.rejections.count(Reason.MALFORMED)
        try:
            request = msgspec.json.decode(data, type=_AnyRequest)
            check_names(self._hub.settings.max_name_chars, requestId=request.request_id)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, MalformedMessage):
            self.close(CloseCode.POLICY_VIOLATION, "Invalid frame")
            return
        text = str(error) if isinstance(error, MalformedMessage) else explain(error, data)
        self._tell(_frame("error", request.request_id, errorText=text))

    def _act(self, streams: StreamsLike, frame: _Frame) -> None:
        if type(frame) is _Abort:
            self._on_abort(streams, frame)
        elif frame.request_id in self._answers:
            raise TooManyStreams("This requestId is in use")
        elif len(self._answers) >= self._hub.settings.max_streams:
            self._hub.registry.rejections.count(Reason.STREAMS)
            raise TooManyStreams
        elif type(frame) is _Send:
            self._on_send(streams, frame)
        elif type(frame) is _Resume:
            self._on_resume(streams, frame)

    def _on_send(self, streams: StreamsLike, frame: _Send) -> None:
        if self._draining:
            raise Draining
        body = frame.body
        asked = Asked(frame.id, frame.messages, frame.trigger, frame.message_id, body.model, body.config)
        turn = translate(asked, frame.request_id)
        known = streams.is_known(turn.session_id, turn.asked.request_id)
        stream = streams.start(turn.session_id, turn.asked, client_id=turn.client_id)
        if not known:
            begun = SessionChanged(session_id=turn.session_id, stream_id=stream.stream_id)
            key = streams.session_key(turn.session_id)
            stream.when_stored(lambda: self._hub.registry.tell_session_changed(key, begun, besides=""))
        answer = _Answer(frame.request_id, stream, UiStream(stream, turn.continues), is_resume=False)
        self._follow(streams, answer)

    def _on_resume(self, streams: StreamsLike, frame: _Resume) -> None:
        self._keep(frame.id)
        skip = 0 if frame.last_sequence is None else frame.last_sequence + 1
        stream = resumable(streams, frame.id, ended=True) or (newest(streams, frame.id) if skip else None)
        if stream is None:
            self._tell(_frame("no-active", frame.request_id))
            return
        answer = _Answer(frame.request_id, stream, UiStream(stream), is_resume=True, skip=skip)
        answer.out.append(answer.tell("start"))
        self._follow(streams, answer)

    def _on_abort(self, streams: StreamsLike, frame: _Abort) -> None:
        answer = self._answers.get(frame.request_id)
        if answer is None:
            return
        age = time.monotonic() - answer.began
        if answer.is_resume and age < SECOND_THOUGHT:
            session_id = answer.stream.record.session_id
            self._keep(session_id)
            stop = self._hub.loop.call_later(SECOND_THOUGHT - age, self._stop, streams, session_id, answer.stream)
            self._stops[session_id] = stop
        else:
            streams.cancel(answer.stream)
        self._drop(answer)

    def _keep(self, session_id: str) -> None:
        """The stop of a chat that was thought of is not meant."""
        stop = self._stops.pop(session_id, None)
        if stop is not None:
            stop.cancel()

    def _stop(self, streams: StreamsLike, session_id: str, stream: StreamLike) -> None:
        del self._stops[session_id]
        streams.cancel(stream)

    def receive_life(self) -> None:
        """Something has come, if only a pong."""
        self.last_heard = time.monotonic()
        if self._bucket is None or self.closing:
            return
        if self._bucket.wait() > 0:
            self._hub.registry.rejections.count(Reason.MESSAGES)
            self.close(CloseCode.TOO_SLOW, "Too many messages")
        self._bucket.take()

    # -- following

    def _follow(self, streams: StreamsLike, answer: _Answer) -> None:
        self._answers[answer.request_id] = answer
        loading = streams.load(answer.stream)
        if loading is None:
            self._attach(streams, answer)
        else:
            loading.add_done_callback(lambda loaded: self._on_loaded(streams, answer, loaded))

    def _on_loaded(self, streams: StreamsLike, answer: _Answer, loaded: Future[Any]) -> None:
        if self._answers.get(answer.request_id) is not answer or loaded.cancelled():
            return
        if loaded.exception() is None and answer.stream.log.loaded:
            self._attach(streams, answer)
        else:
            self._drop(answer)
            self._tell_error(answer.request_id, StoreError("The answer cannot be read from the store"))

    def _attach(self, streams: StreamsLike, answer: _Answer) -> None:
        answer.attachment = streams.attach(answer.stream, SendWindow(WINDOW, WINDOW_BYTES), self._on_roused)
        answer.attachment.frames = answer
        answer.stream.when_stored(lambda: self._begin(answer))

    def _begin(self, answer: _Answer) -> None:
        """Nobody is told of a stream that a crash could still undo."""
        if answer.attachment is not None and not self._over:
            answer.out += answer.frames(answer.ui.begin())
            answer.attachment.rouse()

    def _on_roused(self, attachment: Attachment) -> None:
        self._ready.append(attachment.frames)
        self._mark()

    def _mark(self) -> None:
        if not self._marked and not self._over:
            self._marked = True
            self._hub.flusher.mark(self)

    def _drop(self, answer: _Answer) -> None:
        self._answers.pop(answer.request_id, None)
        attachment, answer.attachment = answer.attachment, None
        if attachment is not None:
            attachment.log.detach(attachment)
        if answer in self._ready:
            self._ready.remove(answer)

    # -- bytes out

    def flush(self) -> None:
        """Write what this tick has brought: control messages first, then each answer in its turn."""
        self._marked = False
        if self._over:
            return
        if self._control:
            control, self._control = b"".join(self._control), []
            self.bytes_sent += len(control)
            self._line.write_anyway(control)
        turns = MAX_TURNS
        while self._ready and not self._line.paused and turns:
            turns -= 1
            part = self._take(self._ready.pop(0))
            if part:
                self.bytes_sent += len(part)
                self._line.write(part)
        if self._ready and not self._line.paused:
            self._mark()
        if self._closing is not None and not self._said_close:
            self._say_close(*self._closing)

    def _take(self, answer: _Answer) -> bytes:
        attachment = answer.attachment
        assert attachment is not None
        window = attachment.window
        window.on_ack(window.sent)  # the socket has taken it, or there would be no turn for this answer now
        attachment.log.on_floor_moved()
        span = attachment.take(WRITE_SLICE)
        out, answer.out = answer.out, []
        if span is not None:
            out += answer.frames(_translated(answer, *span))
        if not attachment.waiting or window.limited:
            attachment.waiting = False
            self._ready.append(answer)
        elif attachment.take_outcome() is not None:
            assert attachment.log.outcome is not None
            out += [*answer.frames(answer.ui.end(attachment.log.outcome)), answer.tell("end")]
            window.on_ack(window.sent)
            self._drop(answer)
        return b"".join(out)

    def _tell_error(self, request_id: str, error: WsstreamError) -> None:
        self._tell(_frame("error", request_id, errorText=str(error)))

    def _tell(self, frame: bytes) -> None:
        self._control.append(frame)
        self._mark()

    def carry_out(self) -> None:
        """Everything that is to be said is marked already."""

    def on_unpaused(self) -> None:
        """The client reads again."""
        if self._ready or self._control:
            self._mark()

    # -- the end

    @property
    def closing(self) -> bool:
        """Whether nothing that comes counts any more."""
        return self._closing is not None or self._over

    def close(self, code: int, reason: str) -> None:
        """Close the connection after what is pending was written."""
        if not self.closing:
            self._closing = (code, reason)
            self._mark()

    def on_broken(self) -> None:
        """A mistake of ours must end this connection only."""
        self._ready.clear()
        self.close(CloseCode.INTERNAL_ERROR, "internal error")

    def _say_close(self, code: int, reason: str) -> None:
        self._said_close = True
        self._line.say_close(code, reason)
        self._let_go()

    def end(self) -> None:
        """The connection is gone: let go of everything. The answers live on, but for those that were stopped."""
        self._over = True
        self._hub.wheel.remove(self)
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None  # it refers to this
        if self._entering is not None:
            self._entering.cancel()
            self._entering = None
        self._let_go()

    def _let_go(self) -> None:
        for answer in list(self._answers.values()):
            self._drop(answer)

    def go_away(self, deadline_ms: int, reconnect_after_ms: int) -> None:
        """This server ends soon. The protocol has no word for it; what runs is told to its end."""
        self._draining = True

    def tell_session_changed(self, change: SessionChanged) -> None:
        """The protocol has no word for it."""

    # -- time

    def on_timer(self, now: float) -> None:
        """Ping; a client that has not answered for long is gone."""
        if self.closing:
            return
        settings = self._hub.settings
        if now - self.last_heard > settings.heartbeat_timeout:
            self.close(CloseCode.TIMEOUT, "no sign of life")
            return
        until = None if self._streams is None else self._streams.valid_until
        if until is not None and now > until + self._hub.grace:
            self._hub.registry.rejections.count(Reason.EXPIRED)
            self.close(CloseCode.UNAUTHORIZED, "The token has run out")
            return
        self._line.write_anyway(PING)
        self._hub.wheel.schedule(self, now + settings.heartbeat_interval)

    # -- what is known of it

    @property
    def session_id(self) -> str | None:
        """It has as many as it has chats."""
        return None

    @property
    def session_key(self) -> str | None:
        """So it has not one to be told of."""
        return None

    @property
    def access(self) -> StreamsLike | None:
        """What the gate has handed out; None before that."""
        return self._streams

    @property
    def attachments(self) -> dict[str, _Answer]:
        """What it follows."""
        return self._answers

    @property
    def round_trip(self) -> float | None:
        """Is not measured."""
        return None


class _AnyRequest(msgspec.Struct, rename="camel"):
    """As much of a frame as it takes to answer it."""

    type: Literal["send", "resume", "abort"]
    request_id: Name


def _translated(answer: _Answer, first: int, last: int) -> list[bytes]:
    log = answer.stream.log
    chunks: list[bytes] = []
    for chunk_id, (kind, body) in enumerate(zip(log.kinds(first, last), log.bodies(first, last), strict=True), first):
        chunks += answer.ui.take(chunk_id, kind, body)
    return chunks


def _try_decode(data: bytes, longest: int) -> _Frame | Exception:
    try:
        frame: _Frame = _decode(data)
        check_names(longest, id=getattr(frame, "id", None), requestId=frame.request_id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, MalformedMessage) as error:
        return error.with_traceback(None)  # whose frames would hold it, and with it this connection
    return frame


def _shown_by(frame: _Frame | Exception) -> tuple[str | None, str | None]:
    """The bearer token that a frame shows, and its request.

    A page can put no header on a WebSocket: the transport's ``headers`` come in its frames.
    """
    if isinstance(frame, Exception):
        return None, None
    if isinstance(frame, _Abort):
        return None, frame.request_id
    found = next((value for name, value in frame.headers.items() if name.lower() == "authorization"), "")
    scheme, _, token = found.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None, frame.request_id


def _close_code(error: RequestError) -> CloseCode:
    if isinstance(error, Unauthorized):
        return CloseCode.UNAUTHORIZED
    if isinstance(error, Forbidden):
        return CloseCode.FORBIDDEN
    if isinstance(error, RateLimited):
        return CloseCode.TRY_AGAIN_LATER
    return CloseCode.POLICY_VIOLATION
