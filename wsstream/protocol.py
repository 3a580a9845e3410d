"""The server end of ``wsstream.v1``: messages in, events out, messages out (docs/protocol.md).

Neither this class nor its mirror, `wsstream.client_protocol.ClientProtocol`, does I/O or looks at a clock: whoever owns
the socket passes ``now`` (seconds of one monotonic clock) and keeps one timer. After every call of a method that takes
messages or ``now``, the owner must

1. read `events_received`,
2. send `messages_to_send`, in order,
3. look at `close`, and when it is set send what is left and close the socket with it,
4. re-arm its timer to `get_timer`, and call `handle_timer` when it fires.

Chunks do not pass through here one by one: the server end hands out a `SendWindow` for each attachment, and the owner
sends the chunks it grants. So the core decides in integers, and the token path holds no message objects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from wsstream import messages as m
from wsstream.chunks import MAX_NAME_CHARS, MAX_PAGE, MAX_TITLE_CHARS, StreamInfo, StreamState
from wsstream.errors import (
    BadRequest,
    CloseCode,
    Draining,
    Flood,
    LocalError,
    MalformedMessage,
    RequestError,
    TooManyStreams,
    Unauthorized,
    UnknownStream,
    WsstreamError,
)
from wsstream.flow import AdaptiveWindow, SendWindow, WindowPolicy
from wsstream.states import CONNECTION, ConnectionInput, ConnectionState, step

SUBPROTOCOL = "wsstream.v1"

LATE = 1.0
"""Seconds a timer may fire late before the owner, not the peer, is taken to have slept."""


class Close(NamedTuple):
    """How to close the WebSocket."""

    code: int
    reason: str


class ServerSettings(msgspec.Struct, frozen=True):
    """What a server end is configured with. Sizes are bytes, times seconds."""

    window: int = 50
    window_bytes: int = 256 * 1024
    max_window: int = 1000
    max_window_bytes: int = 1024 * 1024
    adaptive_window: bool = False
    max_streams: int = 16
    max_message_bytes: int = 64 * 1024
    max_malformed: int = 3
    max_fragments: int = 64
    message_rate: float = 50.0
    message_burst: int = 100
    max_early_bytes: int = 256 * 1024
    max_early_messages: int = 32
    max_control_bytes: int = 64 * 1024
    max_list_bytes: int = 1024 * 1024
    max_history_questions: int = 1
    max_history_messages: int = MAX_PAGE
    max_name_chars: int = MAX_NAME_CHARS
    max_title_chars: int = MAX_TITLE_CHARS
    max_ui_message_bytes: int = 4 * 1024 * 1024
    hello_timeout: float = 10.0
    heartbeat_interval: float = 10.0
    heartbeat_timeout: float = 25.0


class ServerProtocol:
    """The server end of one connection."""

    __slots__ = (
        "_beat_at",
        "_budget",
        "_burst",
        "_ended",
        "_established",
        "_events",
        "_limit_asked",
        "_malformed",
        "_next_beat",
        "_out",
        "_phase",
        "_policies",
        "_settings",
        "_spent_at",
        "_state",
        "_windows",
        "batch",
        "close",
        "last_heard",
        "limit",
        "limit_bytes",
        "round_trip",
        "valid_until",
    )

    ENDED_KEPT = 16
    """Ended streams whose windows are remembered at least, so that a late ack is not mistaken for a forged one; twice
    as many as may run at once are, where that is more: all of them can end before the first ack comes."""

    def __init__(self, settings: ServerSettings, now: float, *, batch: bool = False, phase: float = 0.0) -> None:
        """A connection whose WebSocket has just opened.

        Args:
            batch: the client offered the subprotocol.
            phase: share of the interval by which the second heartbeat is early, 0 to 1. The others keep that distance,
                so that those who came in one moment do not beat in one moment for ever.
        """
        self._settings = settings
        self._state = ConnectionState.GREETING
        self._established = False
        self._events: list[m.ClientMessage] = []
        self._out: list[bytes] = []
        self._windows: dict[str, SendWindow] = {}
        self._ended: dict[str, SendWindow] | None = None
        self._policies: dict[str, WindowPolicy] | None = {} if settings.adaptive_window else None
        self._malformed = 0
        # Many streams bring many requests and cancels at once.
        self._burst = self._budget = float(settings.message_burst + 4 * settings.max_streams)
        self._spent_at = now
        self._limit_asked = False
        self._beat_at = now
        # The first heartbeat goes out early: it measures the round trip and shows that they flow at all.
        self._next_beat = now + min(1.0, settings.heartbeat_interval)
        self._phase = phase
        self.batch = batch
        self.limit = settings.window
        self.limit_bytes = settings.window_bytes
        self.last_heard = now
        self.round_trip: float | None = None
        self.valid_until: float | None = None
        """When the client's credential stops to count, in the clock of ``now``; the owner sets it."""
        self.close: Close | None = None

    def __repr__(self) -> str:
        return f"<ServerProtocol {self._state.name} windows={self._windows}>"

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        return self._state

    # -- messages in

    def receive_message(self, data: bytes, now: float) -> None:
        """Take one text message. Never raises: what is wrong with it is answered on the wire."""
        self.last_heard = now
        if self._state is ConnectionState.CLOSED:
            return
        try:
            try:
                message = m.decode_client(data, first=self._state is ConnectionState.GREETING)
            except RequestError:
                self._spend(now)
                raise
            if type(message) is m.ChunkAck and self._state is not ConnectionState.GREETING:
                self._malformed = 0
                self._on_ack(message, now)
            else:
                self._spend(now)
                self._check_limits(message)
                self._malformed = 0
                self._dispatch(message, now)
        except RequestError as error:
            self._on_refused(error, data)

    def _check_limits(self, message: m.ClientMessage) -> None:
        """The decoder holds what the protocol allows; a server may be set to less.

        Raises:
            MalformedMessage: a name or a title is longer than that, or a page is to be.
        """
        if type(message) is m.RenameSession:
            m.check_names(self._settings.max_title_chars, title=message.title)
        elif type(message) is m.GetHistory:
            m.check_page(self._settings.max_history_messages, message.limit)
        longest = self._settings.max_name_chars
        if longest < MAX_NAME_CHARS:
            names = {field: getattr(message, field, None) for field in ("session_id", "request_id")}
            m.check_names(longest, **names)

    def receive_life(self, now: float) -> None:
        """Something came that was not a message, such as a WebSocket ping: the peer is alive."""
        self.last_heard = now
        if self._state is not ConnectionState.CLOSED:
            try:
                self._spend(now)
            except RequestError as error:
                self._on_refused(error, b"")

    def _spend(self, now: float) -> None:
        """Count what costs the server something and may come without end. An ack that moves a window is not among it:
        there is at most one for every chunk that was sent.

        Raises:
            Flood: it came too often.
        """
        rate = self._settings.message_rate
        if not rate:
            return
        self._budget = min(self._burst, self._budget + (now - self._spent_at) * rate) - 1.0
        self._spent_at = now
        if self._budget < 0:
            raise Flood(retry_after=1.0)

    def events_received(self) -> list[m.ClientMessage]:
        """What the owner must act on, in order; each is returned once. Stream ids are filled in."""
        events, self._events = self._events, []
        return events

    def _dispatch(self, message: m.ClientMessage, now: float) -> None:
        if self._state is ConnectionState.GREETING:
            self._greet(message if isinstance(message, m.Hello) else m.Hello())
        elif isinstance(message, m.Hello):
            raise BadRequest("Only the first message may be a hello")
        handler = _SERVER_HANDLERS.get(type(message))
        if handler is not None:
            handler(self, message, now)

    def _greet(self, hello: m.Hello) -> None:
        self._step(ConnectionInput.GREETED)
        self._move_limits(hello.window, hello.window_bytes)
        if hello.batch is not None:
            self.batch = hello.batch
        self._events.append(hello)

    def _on_ack(self, message: m.ChunkAck, now: float) -> None:
        stream_id = message.stream_id or self._only_stream(ended_too=True)
        window = self._windows.get(stream_id)
        if window is None:
            if not self._ended_window(stream_id).on_ack(message.chunk_id):
                self._spend(now)
            return
        moved = window.on_ack(message.chunk_id)
        if not moved:
            self._spend(now)
        if message.window is not None and message.chunk_id == window.acked:  # an older ack's wish is out of date
            self._set_limit(stream_id, window, message.window)
            moved = True
        if moved:
            if self._policies is not None:
                self._policies[stream_id].on_ack(window, now, self.round_trip)
            self._events.append(message if message.stream_id else msgspec.structs.replace(message, stream_id=stream_id))

    def _on_chat(self, message: m.ChatRequested, now: float) -> None:
        try:
            self._step(ConnectionInput.REQUEST)
        except LocalError:
            raise Draining from None
        if (message.messages is None) == (message.message is None):
            raise BadRequest("chat_request takes either messages or message")
        if message.messages is not None and not message.messages:
            raise BadRequest("chat_request.messages is empty")
        self._events.append(message)

    def _on_resume(self, message: m.ResumeStream, now: float) -> None:
        # Which stream is meant where none is named depends on the session's, which the owner knows.
        if message.stream_id is None and len(self._windows) == 1:
            message = msgspec.structs.replace(message, stream_id=self._only_stream())
        self._events.append(message)

    def _on_stream_message(self, message: m.CancelStream | m.RequestChunks, now: float) -> None:
        if message.stream_id is None:
            message = msgspec.structs.replace(message, stream_id=self._only_stream(ended_too=True))
        self._events.append(message)

    def _on_question(
        self, message: m.ListStreams | m.GetHistory | m.RenameSession | m.DeleteSession | m.RenewToken, now: float
    ) -> None:
        self._events.append(message)

    def _on_heartbeat(self, message: m.Heartbeat, now: float) -> None:
        self._send(m.HeartbeatAck(timestamp=message.timestamp))

    def _on_heartbeat_ack(self, message: m.HeartbeatAck, now: float) -> None:
        if message.timestamp == self._beat_at:
            sample = now - self._beat_at
            # The smallest recent one: it may creep up by a quarter per heartbeat, and drops at once.
            self.round_trip = sample if self.round_trip is None else min(sample, self.round_trip * 1.25)

    def _on_refused(self, error: RequestError, data: bytes) -> None:
        self._send(m.error_message(error, request_id=_request_id(data, self._settings.max_name_chars)))
        if error.close_code is not None:
            self.fail(error.close_code, str(error))
        elif isinstance(error, MalformedMessage):
            self._malformed += 1
            if self._state is ConnectionState.GREETING:
                self.fail(CloseCode.BROKEN_MESSAGE, "malformed hello")
            elif self._malformed >= self._settings.max_malformed:
                self.fail(CloseCode.POLICY_VIOLATION, "repeated malformed messages")

    # -- messages out

    def messages_to_send(self) -> list[bytes]:
        """Control messages to send now, ahead of any chunk; each is returned once."""
        out, self._out = self._out, []
        return out

    def establish(
        self,
        connection_id: str,
        session_id: str,
        active_streams: list[StreamInfo],
        *,
        expires_in: float | None = None,
    ) -> None:
        """Answer the hello. ``expires_in``: seconds for which its token is good. Until then nothing but an error is
        sent: a client takes `connection_established` for the first message.
        """
        s = self._settings
        self._established = True
        self._send(
            m.ConnectionEstablished(
                connection_id=connection_id,
                session_id=session_id,
                heartbeat_interval=s.heartbeat_interval,
                heartbeat_timeout=s.heartbeat_timeout,
                window=self.limit,
                window_bytes=self.limit_bytes,
                limits=m.Limits(s.max_message_bytes, s.max_streams, s.max_window),
                active_streams=active_streams,
                expires_in=expires_in,
            )
        )

    def tell_renewed(self, expires_in: float | None) -> None:
        """Answer a renew_token. ``expires_in``: seconds for which the new one is good."""
        self._send(m.TokenRenewed(expires_in=expires_in))

    def tell_queued(self, request_id: str, stream_id: str, position: int) -> None:
        """The request waits for its turn, at this place."""
        self._send(m.StreamQueued(request_id=request_id, stream_id=stream_id, position=position))

    def start_stream(
        self, request_id: str, stream_id: str, *, session_id: str, epoch: str, model: str | None, timestamp: float
    ) -> SendWindow:
        """Answer a chat_request and open a window; a stream that has one here already keeps it.

        Raises:
            TooManyStreams: the connection follows as many running streams as it may.
        """
        window = self.open_stream(stream_id)
        self.tell_start(
            request_id, stream_id, session_id=session_id, epoch=epoch, model=model, timestamp=timestamp, window=window
        )
        return window

    def open_stream(self, stream_id: str) -> SendWindow:
        """The first half of `start_stream`: the window.

        Raises:
            TooManyStreams: the connection follows as many running streams as it may.
        """
        return self._windows.get(stream_id) or self._open_window(stream_id, 0)

    def tell_start(
        self,
        request_id: str,
        stream_id: str,
        *,
        session_id: str,
        epoch: str,
        model: str | None,
        timestamp: float,
        window: SendWindow,
    ) -> None:
        """The second half: the message. No chunk may go before it."""
        self._send(
            m.StreamStart(
                request_id=request_id,
                stream_id=stream_id,
                session_id=session_id,
                epoch=epoch,
                model=model,
                window=window.limit,
                timestamp=timestamp,
            )
        )

    def resume_stream(
        self, asked: m.ResumeStream, stream_id: str, *, tail: int, epoch: str, state: StreamState
    ) -> SendWindow:
        """Answer a resume_stream with a new window behind ``asked.last_chunk_id``.

        Raises:
            TooManyStreams: the connection follows as many running streams as it may.
        """
        window = self._open_window(stream_id, asked.last_chunk_id)
        if asked.window is not None:
            self._set_limit(stream_id, window, asked.window)
        self._send(
            m.StreamResumed(
                stream_id=stream_id,
                last_chunk_id=asked.last_chunk_id,
                tail_chunk_id=tail,
                epoch=epoch,
                state=state,
                window=window.limit,
            )
        )
        return window

    def end_stream(self, stream_id: str) -> None:
        """The terminal message has been sent: the stream no longer counts, late acks are still understood."""
        window = self._windows.pop(stream_id, None)
        if window is None:
            return
        self._budget += 1.0  # who asks, reads to the end and asks again is no flood
        if self._policies is not None:
            self._policies.pop(stream_id, None)
        if self._ended is None:
            self._ended = {}
        self._ended[stream_id] = window
        while len(self._ended) > max(self.ENDED_KEPT, 2 * self._settings.max_streams):
            del self._ended[next(iter(self._ended))]

    @property
    def full(self) -> bool:
        """Whether as many running streams are followed as may be."""
        return len(self._windows) >= self._settings.max_streams

    def follows(self, stream_id: str) -> bool:
        """Whether the end of a stream is still to come here, in its place."""
        return stream_id in self._windows

    def has_window(self, stream_id: str, window: SendWindow) -> bool:
        """Whether ``window`` is (still) the one of this stream."""
        return self._windows.get(stream_id) is window

    def window_of(self, stream_id: str) -> SendWindow:
        """The window of a stream that is or was followed here.

        Raises:
            UnknownStream: it never was, or that was long ago.
        """
        return self._windows.get(stream_id) or self._ended_window(stream_id)

    def refuse(
        self,
        error: WsstreamError,
        *,
        request_id: str | None = None,
        stream_id: str | None = None,
        close: bool = True,
    ) -> None:
        """Answer a message that cannot be served. With ``close``, errors that end the connection close it."""
        self._send(m.error_message(error, request_id=request_id, stream_id=stream_id))
        if close and error.close_code is not None:
            self.fail(error.close_code, str(error))

    def list_streams(self, streams: list[StreamInfo]) -> None:
        """Answer a list_streams."""
        self._send(m.StreamList(streams=streams))

    def tell_history(self, history: m.History) -> None:
        """Answer a get_history."""
        self._send(history)

    def tell_session_changed(self, change: m.SessionChanged) -> None:
        """The session was renamed or deleted, or an answer has begun in it."""
        self._send(change)

    def tell_status(self, status: m.StreamStatus) -> None:
        """Say why the viewer of a stream waits."""
        if self._state is not ConnectionState.CLOSED:
            self._send(status)

    def go_away(self, deadline_ms: int, reconnect_after_ms: int) -> None:
        """Announce the end of this server: nothing new is begun from now on."""
        if not self._established:
            self.fail(CloseCode.SERVICE_RESTART, "service restart")  # nothing was begun that could be finished
        elif self._state is ConnectionState.OPEN:
            self._step(ConnectionInput.DRAIN)
            self._send(m.GoingAway(deadline_ms=deadline_ms, reconnect_after_ms=reconnect_after_ms))

    def fail(self, code: int, reason: str) -> None:
        """Close the connection; the first reason given stands."""
        self._step(ConnectionInput.CLOSE)
        if self.close is None:
            self.close = Close(code, reason)

    # -- time

    def get_timer(self) -> float:
        """When `handle_timer` wants to be called."""
        if self._state is ConnectionState.GREETING:
            return self._beat_at + self._settings.hello_timeout
        due = min(self._next_beat, self.last_heard + self._settings.heartbeat_timeout)
        return due if self.valid_until is None else min(due, self.valid_until)

    def handle_timer(self, now: float) -> None:
        """Act on what is due at ``now``; early calls do nothing."""
        late = now - self.get_timer()
        if late < 0 or self._state is ConnectionState.CLOSED:
            return
        if late > LATE:
            self._forgive(late, now)
        if self._state is ConnectionState.GREETING:
            if now >= self._beat_at + self._settings.hello_timeout:
                self.fail(CloseCode.TIMEOUT, "no hello in time")
        elif self.valid_until is not None and now >= self.valid_until:
            self.refuse(Unauthorized("The token has run out"))
        elif now >= self.last_heard + self._settings.heartbeat_timeout:
            self.fail(CloseCode.TIMEOUT, "nothing heard in time")
        elif now >= self._next_beat:
            self._beat_at = now
            self._next_beat = now + self._settings.heartbeat_interval * (1.0 - self._phase)
            self._phase = 0.0
            if self._established:
                self._send(m.Heartbeat(timestamp=now))

    def _forgive(self, late: float, now: float) -> None:
        """This process slept: what the peer sent meanwhile is still unread, and gets a moment to be read."""
        self.last_heard = min(now, self.last_heard + late + LATE)
        if self._state is ConnectionState.GREETING:
            self._beat_at = min(now, self._beat_at + late + LATE)

    # -- helpers

    def _step(self, happened: ConnectionInput) -> None:
        self._state = step(CONNECTION, self._state, happened)

    def _send(self, message: m.ServerMessage) -> None:
        self._out.append(m.encode(message))

    def _move_limits(self, window: int | None, window_bytes: int | None) -> None:
        if window is not None:
            self.limit = min(window, self._settings.max_window)
            self._limit_asked = True
        if window_bytes is not None:
            self.limit_bytes = min(window_bytes, self._settings.max_window_bytes)

    def _open_window(self, stream_id: str, start: int) -> SendWindow:
        if stream_id not in self._windows and self.full:
            raise TooManyStreams
        before = self._windows.get(stream_id) or (self._ended.pop(stream_id, None) if self._ended else None)
        window = self._windows[stream_id] = SendWindow(self.limit, self.limit_bytes, start)
        if before is not None:
            window.known = max(before.sent, before.known)
        if self._policies is not None:
            ceiling = self.limit if self._limit_asked else self._settings.max_window
            self._policies[stream_id] = AdaptiveWindow(ceiling=ceiling)
        return window

    def _set_limit(self, stream_id: str, window: SendWindow, limit: int) -> None:
        """The client's own wish. An adaptive window may be narrower than that, never wider."""
        window.limit = min(limit, self._settings.max_window)
        if self._policies is not None:
            self._policies[stream_id] = AdaptiveWindow(ceiling=window.limit)

    def _ended_window(self, stream_id: str) -> SendWindow:
        window = self._ended.get(stream_id) if self._ended is not None else None
        if window is None:
            raise UnknownStream
        return window

    def _only_stream(self, *, ended_too: bool = False) -> str:
        if len(self._windows) == 1:
            return next(iter(self._windows))
        if ended_too and not self._windows and self._ended:
            return next(reversed(self._ended))
        raise BadRequest("stream_id is needed: this connection does not follow exactly one stream")


_Handler = Callable[[ServerProtocol, Any, float], None]
_SERVER_HANDLERS: dict[type, _Handler] = {
    m.ChatRequested: ServerProtocol._on_chat,
    m.ChunkAck: ServerProtocol._on_ack,
    m.ResumeStream: ServerProtocol._on_resume,
    m.RequestChunks: ServerProtocol._on_stream_message,
    m.CancelStream: ServerProtocol._on_stream_message,
    m.ListStreams: ServerProtocol._on_question,
    m.GetHistory: ServerProtocol._on_question,
    m.RenameSession: ServerProtocol._on_question,
    m.DeleteSession: ServerProtocol._on_question,
    m.RenewToken: ServerProtocol._on_question,
    m.Heartbeat: ServerProtocol._on_heartbeat,
    m.HeartbeatAck: ServerProtocol._on_heartbeat_ack,
}


class _RequestId(msgspec.Struct):
    request_id: m.Name | None = None


_decode_request_id = msgspec.json.Decoder(_RequestId).decode


def _request_id(data: bytes, longest: int) -> str | None:
    """The request_id of a message that could not be read otherwise, so that its sender knows which one failed."""
    try:
        name = _decode_request_id(m.mended(data)).request_id
        return None if name is None or len(name) > longest or "\ufffd" in name else name
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
