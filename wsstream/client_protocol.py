"""The client end of ``wsstream.v1``: the mirror of `wsstream.protocol.ServerProtocol`, with the same four duties for
whoever owns the socket.

It outlives connections: its owner calls `connect` for every new socket and `connection_lost` when one is gone, and the
views of all unfinished streams are resumed where their consumers stand. A chunk counts as processed when its text has
been *taken* (`ClientProtocol.take`); what was received but not taken is dropped with its connection and comes again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from wsstream import messages as m
from wsstream.chunks import ChatMessage, Outcome, StreamState
from wsstream.errors import BadRequest, ErrorType, MalformedMessage, MessageTooLarge, RequestError, UnknownMessage
from wsstream.flow import ACK_GAP, CHUNK_OVERHEAD, AckPacer, Pace, WishedWindow
from wsstream.states import CONNECTION, VIEW, ConnectionInput, ConnectionState, ViewInput, ViewState, step

INFINITE = float("inf")

MIN_INTERVAL = 0.05
"""Seconds between heartbeats at the least, whatever a server asks for."""

MAX_GAPS = 3
"""Resumes of one view because of a gap, one after another without a chunk between them."""

LONGEST_TRIP = 1.0
"""Seconds that a greeting's way there and back counts for at the most: it may have waited for somebody's approval."""

RENEW_DEADLINE = 10.0
"""Seconds that a new token, and the server's answer to it, may take before one is wanted again."""

RENEW_LEAST, RENEW_LIMIT = 1.0, 30.0
"""Seconds until a token is wanted again that was not to be had: that long, and a random time of which the limit doubles
with every failure.
"""


class Piece(NamedTuple):
    """Text as it came: the chunks ``first`` to ``last`` of one kind.

    A rewind has the id it goes back to in ``to``, and in ``withdrawn`` the code points of text behind that, which end
    the text so far.
    """

    first: int
    last: int
    content: str
    kind: str = "text"
    to: int | None = None
    withdrawn: int | None = None


class ClientSettings(msgspec.Struct, frozen=True):
    """What a client end is configured with."""

    window: int | None = None
    window_bytes: int | None = None
    adaptive: bool = True
    """Whether a window that is too narrow for its reader may be widened, as far as the server allows."""
    batch: bool = True
    ack_delay: float = 0.2
    greeting_timeout: float = 10.0
    """Seconds the server may take to answer the hello."""
    refusals: int = 5
    """How often a request is made again that the server has no capacity for."""
    renews: bool = False
    """Whether a new token can be had, so that one is wanted in time (`TokenWanted`)."""
    jitter: float = 0.5
    """In [0, 1): who was greeted together does not renew together."""
    client: str = "wsstream-python"


class View:
    """A client's view of one stream, from its request to its end, across connections."""

    __slots__ = (
        "_ask_again",
        "_batches",
        "_gaps",
        "_pacer",
        "_pieces",
        "_refusals",
        "_seam",
        "_sent",
        "_wished",
        "cancelled",
        "epoch",
        "model",
        "outcome",
        "received",
        "request",
        "resumes",
        "session_id",
        "snapshot",
        "state",
        "stream_id",
    )

    def __init__(
        self, request: m.ChatRequested | None, stream_id: str | None, start: int = 0, *, snapshot: bool = False
    ) -> None:
        self.request = request
        self.stream_id = stream_id
        self.snapshot = snapshot
        """Whether what was missed is to come at once, whatever the window."""
        self.state = ViewState.REQUESTED if stream_id is None else ViewState.LOST
        self.received = start
        self.session_id: str | None = None
        self.epoch: str | None = None
        self.model: str | None = None
        self.outcome: Outcome | None = None
        self.resumes = 0
        self.cancelled = False
        """Whether the application wants it stopped; said again on every connection until it has ended."""
        self._ask_again: float | None = None
        self._refusals = 0
        self._pacer = AckPacer(Pace(), start)
        self._wished: WishedWindow | None = None
        """None where the window stays as it is."""
        self._gaps = 0
        self._pieces: deque[Piece] = deque()
        self._sent = False
        """Whether the server may know of the request."""
        self._batches: list[tuple[int, int]] = []
        """First and last chunk of each batch received, which nobody can cut."""
        self._seam = 0
        """The chunk a batch is to end at, so that a rewind can withdraw what is behind it; 0 for none."""

    def __repr__(self) -> str:
        return f"<View {self.stream_id} {self.state.name} received={self.received} processed={self.processed}>"

    @property
    def processed(self) -> int:
        """The last chunk whose text was taken."""
        return self._pacer.processed

    @property
    def acked(self) -> int:
        """The last chunk that was acknowledged."""
        return self._pacer.acked

    @property
    def waiting(self) -> int:
        """Pieces received and not yet taken."""
        return len(self._pieces)


class Established(NamedTuple):
    """The server has answered the hello."""

    message: m.ConnectionEstablished


class Started(NamedTuple):
    """The server has a stream for the view's request (again, perhaps)."""

    view: View


class Resumed(NamedTuple):
    """The view goes on after a loss."""

    view: View
    message: m.StreamResumed


class Received(NamedTuple):
    """The view has pieces to take."""

    view: View


class Gap(NamedTuple):
    """Chunks are missing; the view resumes by itself."""

    view: View
    expected: int
    received: int


class Ended(NamedTuple):
    """The view has its outcome; pieces may still wait to be taken."""

    view: View


class Answered(NamedTuple):
    """The oldest `ClientProtocol.get_history` that waits has its answer, or is refused."""

    message: m.History | m.Error


class Told(NamedTuple):
    """Something else worth knowing: stream_status, going_away, stream_list, session_changed, error, stream_queued,
    token_renewed."""

    message: m.ServerMessage


class TokenWanted(NamedTuple):
    """The token will run out: call `ClientProtocol.renew` with another one, or `ClientProtocol.renewal_failed`."""


class Dead(NamedTuple):
    """Nothing was heard from the server for too long: close the socket and connect anew."""


Event = Established | Started | Resumed | Received | Gap | Ended | Answered | Told | TokenWanted | Dead


class ClientProtocol:
    """The client end: one session with a server, over any number of connections one after another."""

    __slots__ = (
        "_events",
        "_greeted_at",
        "_interval",
        "_last_heard",
        "_max_message",
        "_max_window",
        "_next_beat",
        "_out",
        "_questions",
        "_renew_at",
        "_renew_failures",
        "_renewing",
        "_requested",
        "_round_trip",
        "_settings",
        "_state",
        "_streams",
        "_timeout",
        "_window",
        "_window_bytes",
        "ignored",
        "session_id",
    )

    def __init__(self, settings: ClientSettings | None = None, session_id: str | None = None) -> None:
        self._settings = settings or ClientSettings()
        self._state = ConnectionState.CLOSED
        self._events: list[Event] = []
        self._out: list[bytes] = []
        self._questions: deque[m.GetHistory] = deque()
        self._requested: dict[str, View] = {}
        self._streams: dict[str, View] = {}
        self._window = self._settings.window or 50
        self._window_bytes = INFINITE
        self._max_window: int | None = None
        self._round_trip = 0.0
        self._renew_at = INFINITE
        self._renew_failures = 0
        self._renewing = False
        """Whether the server has a new token to answer for."""
        self._interval = self._timeout = INFINITE
        self._last_heard = self._greeted_at = 0.0
        self._next_beat = INFINITE
        self._max_message: int | None = None
        """Bytes of the largest message that the server reads; not known before it has greeted."""
        self.session_id = session_id
        self.ignored = 0
        """Messages that could not be understood. A newer server may send some."""

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        return self._state

    # -- the connection

    def connect(self, now: float, token: str | None = None) -> None:
        """A new WebSocket is open: greet, and show ``token``."""
        s = self._settings
        self._state = ConnectionState.GREETING
        self._out = []
        self._last_heard = self._greeted_at = now
        self._timeout = s.greeting_timeout
        self._send(
            m.Hello(
                token=token,
                session_id=self.session_id,
                window=s.window,
                window_bytes=s.window_bytes,
                batch=s.batch,
                client=s.client,
            )
        )

    def connection_lost(self) -> None:
        """The WebSocket is gone. What was received and not taken will come again."""
        self._state = ConnectionState.CLOSED
        self._out = []
        self._next_beat = self._interval = self._timeout = self._renew_at = INFINITE
        self._renewing = False
        for view in [*self._requested.values(), *self._streams.values()]:
            view._ask_again = None
            if view.state is ViewState.ENDED:
                self.drop(view)  # no other connection knows of its last acks
            else:
                self._step(view, ViewInput.LOST)
                self._forget_untaken(view)

    # -- what the application wants

    def chat(
        self,
        request_id: str,
        prompt: str | list[ChatMessage],
        config: m.ChatConfig | None = None,
        session_id: str | None = None,
        *,
        again: bool = False,
    ) -> View:
        """Ask for an answer: to the next message of the session's conversation, or to the messages of another one.

        ``request_id`` must be new and hard to guess; it is what makes asking twice harmless. With ``again`` it is one
        that was used before, so that a cancel is told to the server whatever happens.

        Raises:
            BadRequest: it is no text.
            MessageTooLarge: the server would close the connection, with all that runs on it.
        """
        request = m.ChatRequested(request_id=request_id, config=config, session_id=session_id)
        if isinstance(prompt, str):
            request.message = prompt
        else:
            request.messages = prompt
        self._check_request(request)
        view = self._requested[request_id] = View(request, None)
        view._sent = again
        if self._state is ConnectionState.OPEN:
            self._send_request(view)
        return view

    def _check_request(self, request: m.ChatRequested) -> None:
        """One that could not be sent would be tried again, and fail, with every connection."""
        try:
            data = m.encode(request)
        except UnicodeEncodeError:
            raise BadRequest("The request holds half of a surrogate pair, which is no text") from None
        too_large = self._too_large(data)
        if too_large:
            raise MessageTooLarge(too_large)

    def _too_large(self, data: bytes) -> str:
        """Why the server would close the connection for this message; empty where it would not."""
        if self._max_message is None or len(data) <= self._max_message:
            return ""
        return f"The request has {len(data)} bytes, the server reads {self._max_message}"

    def follow(self, stream_id: str, last_chunk_id: int = 0, *, snapshot: bool = False) -> View:
        """Follow a stream that exists, from behind ``last_chunk_id``.

        With ``snapshot``, what was missed comes in a few large pieces, here and after every loss.
        """
        view = self._streams[stream_id] = View(None, stream_id, last_chunk_id, snapshot=snapshot)
        if self._state in (ConnectionState.OPEN, ConnectionState.DRAINING):
            self._resume(view)
        return view

    def take(self, view: View, now: float) -> Piece | None:
        """The view's next piece, which is thereby processed; None where none waits."""
        if not view._pieces:
            return None
        piece = view._pieces.popleft()
        size = len(piece.content.encode()) + CHUNK_OVERHEAD * (piece.last - piece.first + 1)
        due = view._pacer.on_processed(piece.last, now, size)
        if view.state is ViewState.ENDED and not view._pieces:
            due = due or view._pacer.take()  # there is no company to wait for
        self._acknowledge(view, due, now)
        return piece

    def cancel(self, view: View) -> None:
        """Stop the view's answer, as soon as the server knows of it. One that it was never asked for ends at once."""
        view.cancelled = True
        if view.request is not None and not view._sent and view.state is ViewState.REQUESTED:
            self._end(view, Outcome(StreamState.CANCELLED, 0, finish_reason="cancelled"))
        else:
            self._say_cancelled(view)

    def drop(self, view: View) -> None:
        """The application has lost interest: the view is neither resumed nor acknowledged any more."""
        if view.request is not None:
            self._requested.pop(view.request.request_id, None)
        if self._follows(view):
            del self._streams[view.stream_id or ""]

    def list_streams(self) -> None:
        """Ask for the session's streams; the answer is a `Told`."""
        self._send(m.ListStreams())

    def get_history(self, session_id: str | None = None, before: str | None = None, limit: int | None = None) -> None:
        """Ask for a page of a session's messages, on this connection or the next: at most ``limit`` before ``before``.

        The answer is an `Answered`, one per question. Servers take one such question at a time, so the next waits.
        """
        self._questions.append(m.GetHistory(session_id, before, limit))
        if len(self._questions) == 1:
            self._ask_history()

    def forget_questions(self) -> None:
        """Nobody waits for answers any more."""
        self._questions.clear()

    def renew(self, token: str) -> None:
        """Show the server a new token of the same user; its answer is a `Told`."""
        if self._state in (ConnectionState.OPEN, ConnectionState.DRAINING):
            self._renewing = True
            self._send(m.RenewToken(token=token))

    def renewal_failed(self, now: float) -> None:
        """There is no new token to be had: one is wanted again, a little later each time."""
        self._renewing = False
        wait = self._settings.jitter * min(RENEW_LIMIT, RENEW_LEAST * 2.0 ** min(self._renew_failures, 10))
        self._renew_failures += 1
        self._renew_at = now + RENEW_LEAST + wait

    # -- messages in

    def receive_message(self, data: bytes | str, now: float) -> None:
        """Take one text message. Never raises: what cannot be understood is counted and left alone."""
        self._last_heard = now
        try:
            message = m.decode_server(data)
        except (MalformedMessage, UnknownMessage):
            self.ignored += 1
            return
        _CLIENT_HANDLERS.get(type(message), ClientProtocol._on_other)(self, message, now)

    def events_received(self) -> list[Event]:
        """What has happened, in order; each is returned once."""
        events, self._events = self._events, []
        return events

    def _on_established(self, message: m.ConnectionEstablished, now: float) -> None:
        if self._state is ConnectionState.GREETING:
            self._round_trip = min(now - self._greeted_at, LONGEST_TRIP)
        self._state = ConnectionState.OPEN
        self.session_id = message.session_id
        self._max_message = message.limits.max_message_bytes
        self._window = message.window
        self._window_bytes = message.window_bytes
        self._max_window = message.limits.max_window if self._settings.adaptive else None
        self._note_expiry(message.expires_in, now)
        self._interval = max(message.heartbeat_interval, MIN_INTERVAL)
        self._timeout = message.heartbeat_timeout
        self._next_beat = now + self._interval
        self._events.append(Established(message))
        for view in list(self._requested.values()):
            self._send_request(view)
        for view in self._streams.values():
            if view.state is ViewState.LOST:
                self._resume(view)
                self._say_cancelled(view)
        self._ask_history()

    def _on_start(self, message: m.StreamStart, now: float) -> None:
        view = self._requested.pop(message.request_id, None)
        if view is None:
            return
        self._step(view, ViewInput.START)
        view.stream_id = message.stream_id
        view.session_id = message.session_id
        view.epoch = message.epoch
        view.model = message.model
        self._streams[message.stream_id] = view
        self._set_pace(view, message.window)
        self._say_cancelled(view)
        self._events.append(Started(view))

    def _on_resumed(self, message: m.StreamResumed, now: float) -> None:
        view = self._streams.get(message.stream_id)
        if view is None or view.state is ViewState.ENDED or message.last_chunk_id != view.processed:
            return
        self._step(view, ViewInput.RESUMED)
        view.epoch = message.epoch
        view.resumes += 1
        self._set_pace(view, message.window)
        self._events.append(Resumed(view, message))

    def _on_chunk(self, message: m.ContentChunk, now: float) -> None:
        self._take_in(message.stream_id, Piece(message.chunk_id, message.chunk_id, message.content, message.kind))

    def _on_batch(self, message: m.ChunkBatch, now: float) -> None:
        piece = Piece(message.first_chunk_id, message.last_chunk_id, message.content, message.kind)
        if self._take_in(message.stream_id, piece):
            self._streams[message.stream_id]._batches.append((piece.first, piece.last))

    def _on_rewind(self, message: m.StreamRewind, now: float) -> None:
        view = self._streams.get(message.stream_id)
        to, withdrawn = message.to_chunk_id, message.withdrawn
        if view is not None and message.chunk_id == view.received + 1 and view.state is ViewState.STREAMING:
            begin = self._cut_begin(view, to)
            if begin is not None:
                if withdrawn is None:
                    self._fetch_to(view, begin - 1, to)
                    return
                view._batches.append((begin, to))  # it can be cut: how much is withdrawn is known
        piece = Piece(message.chunk_id, message.chunk_id, "", "rewind", to, withdrawn)
        self._take_in(message.stream_id, piece)

    def _cut_begin(self, view: View, to: int) -> int | None:
        """Forget the batches behind ``to``; the first chunk of the one that it lies inside of, if there is one."""
        while view._batches and view._batches[-1][0] > to:
            view._batches.pop()
        return view._batches.pop()[0] if view._batches and view._batches[-1][1] > to else None

    def _fetch_to(self, view: View, kept: int, seam: int) -> None:
        """Go back to before a batch, and fetch the part of it that stays in a window that ends where the part does."""
        view._seam = seam
        if view.processed > kept:
            view._pacer = AckPacer(view._pacer.pace, kept)
            self._forget_untaken(view)
            view._pieces.append(Piece(kept, kept, "", "rewind", kept))
            self._events.append(Received(view))
        else:
            self._forget_untaken(view)
        self._step(view, ViewInput.LOST)
        self._again(view)

    def _take_in(self, stream_id: str, piece: Piece) -> bool:
        view = self._streams.get(stream_id)
        if view is None or view.state is not ViewState.STREAMING or piece.last <= view.received:
            return False  # dropped, waiting for its resume, or a duplicate
        if piece.first != view.received + 1:
            self._on_gap(view, piece.first)
            return False
        view.received = piece.last
        view._gaps = 0
        view._pieces.append(piece)
        self._events.append(Received(view))
        return True

    def _on_gap(self, view: View, received: int) -> None:
        self._events.append(Gap(view, view.received + 1, received))
        self._step(view, ViewInput.LOST)
        self._forget_untaken(view)
        self._again(view)

    def _again(self, view: View) -> None:
        view._gaps += 1
        if view._gaps <= MAX_GAPS:
            self._resume(view)
            return
        # A server that leaves the same hole this often will leave it for ever.
        message = "Part of the answer is missing"
        self._end(view, Outcome(StreamState.FAILED, view.received, error_type="internal_error", message=message))

    def _on_end(self, message: m.StreamComplete | m.StreamFailed, now: float) -> None:
        view = self._streams.get(message.stream_id)
        if view is None or view.state is not ViewState.STREAMING:
            return
        outcome = _outcome(message)
        if outcome.final_chunk_id != view.received:
            self._on_gap(view, outcome.final_chunk_id + 1)
            return
        self._end(view, outcome)

    def _on_error(self, message: m.Error, now: float) -> None:
        view = self._requested.get(message.request_id or "") or self._streams.get(message.stream_id or "")
        if message.request_id is None and message.stream_id is None:
            if self._renewing and message.error_type in (ErrorType.UNAUTHORIZED, ErrorType.FORBIDDEN):
                self.renewal_failed(now)
            elif self._questions:
                self._on_answer(message)
                return
        if view is None or view.state is ViewState.ENDED:
            pass
        elif self._is_passing(view, message):
            view._refusals += 1
            view._ask_again = now + (1.0 if message.retry_after is None else message.retry_after)
        else:
            self._end(
                view,
                Outcome(
                    state=StreamState.FAILED,
                    final_chunk_id=view.received,
                    error_type=message.error_type,
                    message=message.message,
                    recoverable=message.recoverable,
                    retry_after=message.retry_after,
                ),
            )
        self._events.append(Told(message))

    def _on_history(self, message: m.History, now: float) -> None:
        if self._questions:
            self._on_answer(message)

    def _on_answer(self, message: m.History | m.Error) -> None:
        self._questions.popleft()
        self._events.append(Answered(message))
        self._ask_history()

    def _on_renewed(self, message: m.TokenRenewed, now: float) -> None:
        self._renewing = False
        self._renew_failures = 0
        self._note_expiry(message.expires_in, now)
        self._events.append(Told(message))

    def _note_expiry(self, expires_in: float | None, now: float) -> None:
        """With between a fifth and three tenths of its time left a token is renewed; a short one in a second."""
        self._renew_at = INFINITE
        if self._settings.renews and expires_in is not None:
            self._renew_at = now + max(RENEW_LEAST, expires_in * (0.7 + 0.1 * self._settings.jitter))

    def _on_going_away(self, message: m.GoingAway, now: float) -> None:
        if self._state is ConnectionState.OPEN:
            self._state = step(CONNECTION, self._state, ConnectionInput.DRAIN)
        self._events.append(Told(message))

    def _on_heartbeat(self, message: m.Heartbeat, now: float) -> None:
        self._send(m.HeartbeatAck(timestamp=message.timestamp))

    def _on_heartbeat_ack(self, message: m.HeartbeatAck, now: float) -> None:
        """A sign of life, which every message is."""

    def _on_other(self, message: m.ServerMessage, now: float) -> None:
        self._events.append(Told(message))

    # -- messages out, time

    def messages_to_send(self) -> list[bytes]:
        """Messages to send now; each is returned once."""
        out, self._out = self._out, []
        return out

    def get_timer(self) -> float | None:
        """When `handle_timer` wants to be called; None for never."""
        if self._state is ConnectionState.CLOSED:
            return None
        deadlines = [view._pacer.deadline for view in self._streams.values() if view._pacer.deadline is not None]
        if self._requested and self._state is ConnectionState.OPEN:
            deadlines += [view._ask_again for view in self._requested.values() if view._ask_again is not None]
        soonest = min([self._next_beat, self._last_heard + self._timeout, self._renew_at, *deadlines])
        return None if soonest == INFINITE else soonest

    def handle_timer(self, now: float) -> None:
        """Act on what is due at ``now``; early calls do nothing."""
        if self._state is ConnectionState.CLOSED:
            return
        for view in list(self._streams.values()):
            self._acknowledge(view, view._pacer.on_time(now), now)
        if self._state is ConnectionState.OPEN:
            self._ask_again(now)
        if now >= self._renew_at:
            self._renew_at = now + RENEW_DEADLINE
            self._events.append(TokenWanted())
        if now >= self._last_heard + self._timeout:
            self._timeout = INFINITE
            self._events.append(Dead())
        elif now >= self._next_beat:
            self._next_beat = now + self._interval
            self._send(m.Heartbeat(timestamp=now))

    # -- helpers

    def _is_passing(self, view: View, error: m.Error) -> bool:
        """Whether the same request may be served a little later."""
        wanted = error.error_type == ErrorType.CAPACITY and error.recoverable
        return wanted and view.stream_id is None and view._refusals < self._settings.refusals

    def _ask_again(self, now: float) -> None:
        for view in list(self._requested.values()):
            if view._ask_again is not None and now >= view._ask_again:
                view._ask_again = None
                self._send_request(view)

    def _say_cancelled(self, view: View) -> None:
        known = view.stream_id is not None and view.state is not ViewState.ENDED
        if view.cancelled and known and self._state in (ConnectionState.OPEN, ConnectionState.DRAINING):
            self._send(m.CancelStream(stream_id=view.stream_id))

    def _ask_history(self) -> None:
        if self._questions and self._state in (ConnectionState.OPEN, ConnectionState.DRAINING):
            self._send(self._questions[0])

    def _send_request(self, view: View) -> None:
        """Ask for it, unless it is too large: one that was made before the greeting is measured only here."""
        assert view.request is not None
        data = m.encode(view.request)
        too_large = self._too_large(data)
        if too_large:
            self._end(view, Outcome(StreamState.FAILED, 0, error_type=ErrorType.MESSAGE_TOO_LARGE, message=too_large))
            return
        view._sent = True
        self._out.append(data)

    def _send(self, message: m.ClientMessage) -> None:
        self._out.append(m.encode(message))

    def _step(self, view: View, happened: ViewInput) -> None:
        view.state = step(VIEW, view.state, happened)

    def _resume(self, view: View) -> None:
        assert view.stream_id is not None
        cut = view._seam > view.processed
        self._send(
            m.ResumeStream(
                stream_id=view.stream_id,
                last_chunk_id=view.processed,
                epoch=view.epoch,
                window=view._seam - view.processed if cut else None,
                snapshot=view.snapshot and not cut,
            )
        )
        view._pacer.take()  # protocol.md, rule 5: the resume has acknowledged everything processed

    def _forget_untaken(self, view: View) -> None:
        # That the reader has to go back stays true, whatever comes next.
        view._pieces = deque(piece for piece in view._pieces if piece.to == piece.last)
        view.received = view.processed
        while view._batches and view._batches[-1][1] > view.received:
            view._batches.pop()

    def _set_pace(self, view: View, window: int) -> None:
        view._pacer = AckPacer(self._pace(window), view.processed)
        self._set_wish(view, window)

    def _set_wish(self, view: View, window: int) -> None:
        most = self._max_window
        view._wished = None if most is None else WishedWindow(window, most, self._round_trip)

    def _pace(self, window: int) -> Pace:
        return Pace(self._settings.ack_delay, max(1, window // 2), self._window_bytes / 2)

    def _follows(self, view: View) -> bool:
        return self._streams.get(view.stream_id or "") is view

    def _acknowledge(self, view: View, chunk_id: int | None, now: float) -> None:
        if chunk_id is None or not self._follows(view):
            return
        # Not while the view is lost: the coming resume says the same (protocol.md, rule 5).
        if view.state is not ViewState.LOST and self._state is not ConnectionState.CLOSED:
            window = self._reopened(view, chunk_id) if view._seam else self._moved(view, chunk_id, now)
            self._send(m.ChunkAck(chunk_id=chunk_id, stream_id=view.stream_id, window=window))
        if view.state is ViewState.ENDED and not view._pieces:
            self.drop(view)

    def _moved(self, view: View, chunk_id: int, now: float) -> int | None:
        """The window to ask for beside an ack, where the one there is does not fit its reader any more."""
        wished = view._wished
        if wished is None or view.state is ViewState.ENDED:
            return None
        window = wished.on_ack(chunk_id, now)
        if window is not None:
            view._pacer.pace = self._pace(window)
        view._pacer.not_before = now + ACK_GAP if wished.is_widest else now
        return window

    def _reopened(self, view: View, chunk_id: int) -> int | None:
        """The window to go back to, once what a rewind left of a batch has been fetched."""
        if chunk_id < view._seam:
            return None
        view._seam = 0
        window = self._settings.window or self._window
        view._pacer.pace = self._pace(window)
        self._set_wish(view, window)
        return window

    def _end(self, view: View, outcome: Outcome) -> None:
        self._step(view, ViewInput.END)
        view.outcome = outcome
        if view.request is not None:
            self._requested.pop(view.request.request_id, None)
        if view.processed == view.received:
            self._acknowledge(view, view._pacer.take(), now=0.0)  # the end moves no window any more
            self.drop(view)
        self._events.append(Ended(view))


def _outcome(message: m.StreamComplete | m.StreamFailed) -> Outcome:
    if isinstance(message, m.StreamFailed):
        return Outcome(
            state=StreamState.FAILED,
            final_chunk_id=message.last_chunk_id,
            error_type=message.error_type,
            message=message.message,
            recoverable=message.recoverable,
            retry_after=message.retry_after,
            retry_count=message.retry_count,
        )
    return Outcome(
        state=StreamState.CANCELLED if message.finish_reason == "cancelled" else StreamState.COMPLETE,
        final_chunk_id=message.final_chunk_id,
        finish_reason=message.finish_reason,
        usage=message.usage,
        ttft_ms=message.ttft_ms,
        elapsed_seconds=message.elapsed_seconds or 0.0,
        tokens_per_second=message.tokens_per_second or 0.0,
        receipt=message.receipt,
        retry_count=message.retry_count,
        model=message.model,
        parsed=message.parsed,
    )


_CLIENT_HANDLERS: dict[type, Callable[[ClientProtocol, Any, float], None]] = {
    m.ConnectionEstablished: ClientProtocol._on_established,
    m.StreamStart: ClientProtocol._on_start,
    m.StreamResumed: ClientProtocol._on_resumed,
    m.ContentChunk: ClientProtocol._on_chunk,
    m.ChunkBatch: ClientProtocol._on_batch,
    m.StreamRewind: ClientProtocol._on_rewind,
    m.StreamComplete: ClientProtocol._on_end,
    m.StreamFailed: ClientProtocol._on_end,
    m.Error: ClientProtocol._on_error,
    m.History: ClientProtocol._on_history,
    m.TokenRenewed: ClientProtocol._on_renewed,
    m.GoingAway: ClientProtocol._on_going_away,
    m.Heartbeat: ClientProtocol._on_heartbeat,
    m.HeartbeatAck: ClientProtocol._on_heartbeat_ack,
}

__all__ = ["ClientProtocol", "ClientSettings", "Event", "Piece", "RequestError", "View"]
