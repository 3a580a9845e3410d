"""Two real ends of the protocol, joined by two lists instead of a socket, in front of a log that is a list.

Nothing moves by itself: a test says what is delivered, when, and what the time is. So it can also lose things.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

from wsstream import messages as m
from wsstream.chunks import ChatMessage, Kind, Outcome, StreamState
from wsstream.client_protocol import ClientProtocol, ClientSettings, Event, Piece, View
from wsstream.errors import BadRequest, RequestError, ResumeAhead, UnknownStream
from wsstream.flow import SendWindow
from wsstream.protocol import ServerProtocol, ServerSettings

QUESTION = [ChatMessage("user", "hi")]


def wire(**fields: Any) -> bytes:
    """The JSON of a message."""
    return json.dumps(fields).encode()


def read(data: list[bytes]) -> list[dict[str, Any]]:
    """What an end has to send, as plain objects."""
    return [json.loads(message) for message in data]


class FakeLog:
    """A stream's chunks and its outcome."""

    def __init__(self, stream_id: str) -> None:
        self.stream_id = stream_id
        self.epoch = "epoch-" + stream_id
        self.chunks: list[tuple[str, Kind]] = []
        self.totals = [0]
        self.outcome: Outcome | None = None
        self.writer = m.ChunkWriter(stream_id)

    @property
    def tail(self) -> int:
        """The last chunk id."""
        return len(self.chunks)

    @property
    def text(self) -> str:
        """Everything written so far."""
        return "".join(content for content, _ in self.chunks)

    def append(self, *contents: str, kind: Kind = Kind.TEXT) -> None:
        """Write chunks."""
        for content in contents:
            self.chunks.append((content, kind))
            self.totals.append(self.totals[-1] + len(m.encode_body(content)))

    def finish(self, state: StreamState = StreamState.COMPLETE) -> None:
        """Write the end."""
        reason = "cancelled" if state is StreamState.CANCELLED else "stop"
        self.outcome = Outcome(state, self.tail, finish_reason=reason)

    def messages(self, first: int, last: int, *, batch: bool) -> list[bytes]:
        """The chunks ``first`` to ``last`` on the wire."""
        bodies = [m.encode_body(content) for content, _ in self.chunks]
        if batch and last > first:
            return [self.writer.batch(first, last, b"".join(bodies[first - 1 : last]), Kind.TEXT)]
        return [self.writer.chunk(n, bodies[n - 1], self.chunks[n - 1][1]) for n in range(first, last + 1)]


class Pair:
    """A client that outlives its connections, and a server end for each of them."""

    def __init__(
        self, settings: ServerSettings | None = None, client: ClientSettings | None = None, *, batch: bool = False
    ) -> None:
        self.settings = settings or ServerSettings()
        self.client = ClientProtocol(client or ClientSettings(batch=batch))
        self.logs: dict[str, FakeLog] = {}
        self.requests: dict[str, str] = {}
        self.cancels: list[str] = []
        self.now = 100.0
        self.server: ServerProtocol | None = None
        self.to_server: deque[bytes] = deque()
        self.to_client: deque[bytes] = deque()
        self.sent_to_client: list[bytes] = []
        self.events: list[Event] = []
        self.text: dict[str, str] = {}
        self._windows: dict[str, SendWindow] = {}

    # -- the connection

    def connect(self) -> ServerProtocol:
        """Open a socket; the client greets."""
        self.server = ServerProtocol(self.settings, self.now)
        self.client.connect(self.now)
        return self.server

    def drop(self) -> None:
        """Lose the socket, and all that is on its way."""
        self.server = None
        self.to_server.clear()
        self.to_client.clear()
        self._windows.clear()
        self.client.connection_lost()

    # -- what travels

    def deliver_to_server(self, count: int = 1_000_000) -> None:
        """Hand the oldest messages to the server, which answers."""
        self.to_server.extend(self.client.messages_to_send())
        while self.to_server and count > 0 and self.server is not None:
            count -= 1
            self.server.receive_message(self.to_server.popleft(), self.now)
            for event in self.server.events_received():
                self._on_event(self.server, event)
        self.pump()

    def deliver_to_client(self, count: int = 1_000_000) -> None:
        """Hand the oldest messages to the client."""
        self.pump()
        while self.to_client and count > 0:
            count -= 1
            self.client.receive_message(self.to_client.popleft(), self.now)
        self.events += self.client.events_received()

    def pump(self) -> None:
        """Send what the server has to say, and all chunks that windows let go."""
        if self.server is None:
            return
        self._send(self.server.messages_to_send())
        for stream_id, window in list(self._windows.items()):
            log = self.logs[stream_id]
            last = window.grant(log.tail, log.totals)
            if last > window.sent:
                self._send(log.messages(window.sent + 1, last, batch=self.server.batch))
                window.sent = last
            if log.outcome is not None and window.sent == log.tail:
                self._send([m.encode(m.outcome_message(stream_id, log.outcome))])
                self.server.end_stream(stream_id)
                del self._windows[stream_id]

    def settle(self, *, take: bool = True) -> None:
        """Shuttle until both ends have said everything. With ``take``, the client's views are read."""
        while True:
            self.deliver_to_server()
            self.deliver_to_client()
            if take:
                self.take_all()
            if not (self.to_server or self.to_client or self._unsent()):
                return

    def take_all(self) -> None:
        """Read all that waits at the client."""
        for view in list(self.client._streams.values()):
            while self.take(view) is not None:
                pass

    def take(self, view: View) -> Piece | None:
        """Read one piece of a view."""
        piece = self.client.take(view, self.now)
        if piece is not None and view.stream_id is not None:
            self.text[view.stream_id] = self.text.get(view.stream_id, "") + piece.content
        return piece

    def pass_time(self, seconds: float) -> None:
        """Let time pass; each end's timer fires when it asked for it."""
        until = self.now + seconds
        while True:
            timers: list[tuple[float, Callable[[float], None]]] = []
            due = self.client.get_timer()
            if due is not None:
                timers.append((due, self.client.handle_timer))
            if self.server is not None and self.server.close is None:
                timers.append((self.server.get_timer(), self.server.handle_timer))
            soonest = min(timers, key=lambda timer: timer[0], default=None)
            if soonest is None or soonest[0] > until:
                break
            self.now = max(self.now, soonest[0])
            soonest[1](self.now)
            self.settle()
        self.now = until

    # -- shortcuts

    def ask(self, request_id: str = "r1") -> View:
        """Ask, and bring the answer's start home."""
        view = self.client.chat(request_id, QUESTION)
        self.settle()
        return view

    def log_of(self, view: View) -> FakeLog:
        """The log of a view's stream."""
        assert view.stream_id is not None
        return self.logs[view.stream_id]

    def take_events(self) -> list[Event]:
        """The client's events since the last call."""
        events, self.events = self.events, []
        return events

    # -- a small server

    def _unsent(self) -> bool:
        self.to_server.extend(self.client.messages_to_send())
        return bool(self.to_server)

    def _send(self, messages: list[bytes]) -> None:
        self.to_client.extend(messages)
        self.sent_to_client += messages

    def _on_event(self, server: ServerProtocol, event: m.ClientMessage) -> None:
        try:
            self._serve(server, event)
        except RequestError as error:
            server.refuse(
                error, request_id=getattr(event, "request_id", None), stream_id=getattr(event, "stream_id", None)
            )

    def _serve(self, server: ServerProtocol, event: m.ClientMessage) -> None:
        if isinstance(event, m.Hello):
            server.establish("con", event.session_id or "ses", [])
        elif isinstance(event, m.ChatRequested):
            stream_id = self.requests.setdefault(event.request_id, f"str_{len(self.requests) + 1}")
            log = self.logs.setdefault(stream_id, FakeLog(stream_id))
            self._windows[stream_id] = server.start_stream(
                event.request_id, stream_id, session_id="ses", epoch=log.epoch, model="demo", timestamp=0.0
            )
        elif isinstance(event, m.ResumeStream):
            self._resume(server, event)
        elif isinstance(event, m.CancelStream):
            self._cancel(event)

    def _resume(self, server: ServerProtocol, asked: m.ResumeStream) -> None:
        if asked.stream_id is None:
            raise BadRequest("stream_id is needed")
        log = self.logs.get(asked.stream_id)
        if log is None:
            raise UnknownStream
        if asked.last_chunk_id > log.tail:
            raise ResumeAhead
        state = StreamState.RUNNING if log.outcome is None else log.outcome.state
        self._windows[log.stream_id] = server.resume_stream(
            asked, log.stream_id, tail=log.tail, epoch=log.epoch, state=state
        )

    def _cancel(self, asked: m.CancelStream) -> None:
        assert asked.stream_id is not None
        self.cancels.append(asked.stream_id)
        log = self.logs.get(asked.stream_id)
        if log is not None and log.outcome is None:
            log.finish(StreamState.CANCELLED)
