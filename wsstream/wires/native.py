"""One client of the native wire: it says who it is to the gate, and what it asks to its desk.

A `Dialogue` ties one end of the protocol core to the streams. It knows no socket: what it has to say goes by its
`Outlet` to a `Line`. It has no queue and no timer of its own, and a task only while it waits for the gate's decision:
it acts when a message comes, and when the shared `TimerWheel` calls.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial

from wsstream import messages as m
from wsstream.errors import CloseCode, Forbidden, RequestError
from wsstream.protocol import ServerProtocol
from wsstream.rejections import Clamp, Reason
from wsstream.states import ConnectionState
from wsstream.wires.base import StreamsLike, Visitor
from wsstream.wires.desk import Desk
from wsstream.wires.hub import Hub
from wsstream.wires.line import Line
from wsstream.wires.outlet import Measured, Outlet

logger = logging.getLogger(__name__)

MAX_PHASE = 0.9
"""A second heartbeat that comes right behind the first would tell nothing new."""
NOWHERE = Visitor({}, "")


class Dialogue:
    """One connection's end of ``wsstream.v1``."""

    __slots__ = (
        "_deciding",
        "_desk",
        "_early",
        "_early_events",
        "_hub",
        "_line",
        "_measured",
        "_out",
        "_stalled",
        "_visitor",
        "access",
        "attachments",
        "core",
        "messages_received",
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
        self._desk: Desk | None = None
        self._deciding: asyncio.Task[None] | None = None
        self._early: list[bytes] | None = None
        self._early_events: list[m.ClientMessage] | None = None
        self._stalled: dict[str, tuple[int, float]] | None = None
        phase = random.uniform(0.0, MAX_PHASE)
        self.core = ServerProtocol(hub.settings, time.monotonic(), batch=batch, phase=phase)
        self._out = Outlet(hub, line, self.core, batch=batch)
        self.attachments = self._out.attachments
        self._measured = self._out.measured
        """The outlet's own, both, to be found without it by every ack."""
        self.access: StreamsLike | None = None
        """What the gate has handed out; None before that."""
        self.messages_received = 0
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

    @property
    def bytes_sent(self) -> int:
        """To its client."""
        return self._out.bytes_sent

    @property
    def session_id(self) -> str | None:
        """The session that its client has named, or was given."""
        return None if self._desk is None else self._desk.session_id

    @property
    def session_key(self) -> str | None:
        """The name of that session among everybody's."""
        return None if self._desk is None else self._desk.streams.session_key(self._desk.session_id)

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
            if self._measured:
                self._end_measure(self._measured[0])
            return
        if self._deciding is not None:  # what came in one message with the hello
            self._early_events = [*(self._early_events or ()), event]
            return
        if type(event) is m.Hello:
            self._on_hello(event)
        elif self._desk is None:
            return  # somebody who was not let in
        elif type(event) is m.RenewToken:
            self._decide(partial(self._renew, self._desk, event.token))
        else:
            self._desk.act(event)

    def _end_measure(self, measured: Measured) -> None:
        """An ack came: perhaps that of the chunk whose round trip is measured."""
        if measured.window.acked >= measured.chunk_id:
            self._measured.clear()
            self._hub.tally.ack_seconds.observe(time.monotonic() - measured.since)

    # -- who it is

    def _on_hello(self, hello: m.Hello) -> None:
        self.traceparent = _traceparent(hello) or self.traceparent
        self._out.batch = self.core.batch
        settings = self._hub.settings
        if (hello.window or 0) > settings.max_window or (hello.window_bytes or 0) > settings.max_window_bytes:
            self._hub.registry.rejections.clamp(Clamp.WINDOW)
        self._decide(partial(self._enter, hello))

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
        if not self._out.over:
            self._read_early()
            self._schedule()
            self.carry_out()

    async def _enter(self, hello: m.Hello) -> None:
        core = self.core
        self.access = streams = await self._hub.gate.enter(self._visitor._replace(token=hello.token))
        if self._out.over or core.close is not None:
            return
        self._visitor = self._visitor.settled()
        session_id = hello.session_id or "ses_" + secrets.token_urlsafe(16)
        self._desk = Desk(self._hub, self._line, core, self._out, streams, session_id, self.traceparent)
        self.user_id = streams.user or hello.user_id
        self._hub.registry.join(self._line, streams.user)
        running = streams.running_in(session_id)
        core.establish(self._line.connection_id, session_id, running, expires_in=self._note_expiry(streams))

    def _note_expiry(self, streams: StreamsLike) -> float | None:
        until = streams.valid_until
        self.core.valid_until = None if until is None else until + self._hub.grace
        return None if until is None else round(max(0.0, until - time.monotonic()), 3)

    async def _renew(self, desk: Desk, token: str) -> None:
        try:
            streams = await self._hub.gate.enter(self._visitor._replace(token=token))
            if streams.user != desk.streams.user:
                raise Forbidden("The new token is somebody else's")
        except RequestError as error:
            self.core.refuse(error, close=False)  # the old one is still good
            return
        if self.core.state is not ConnectionState.CLOSED:
            desk.streams = self.access = streams
            self.core.tell_renewed(self._note_expiry(streams))

    def _keep_early(self, data: bytes) -> None:
        early = self._early = self._early or []
        early.append(data)
        settings = self._hub.settings
        if sum(map(len, early)) > settings.max_early_bytes or len(early) > settings.message_burst:
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

    # -- what it is told

    def carry_out(self) -> None:
        """After the core was given something: have sent what it has to say."""
        core = self.core  # not by the outlet's `carry_out`: nearly always this is an ack, and there is nothing to say
        messages = core.messages_to_send()
        if messages or core.close is not None:
            self._out.say(messages)

    def tell_session_changed(self, change: m.SessionChanged) -> None:
        """Somebody else has changed this connection's session."""
        if self.core.state is not ConnectionState.CLOSED:
            self.core.tell_session_changed(change)
            self.carry_out()

    def go_away(self, deadline_ms: int, reconnect_after_ms: int) -> None:
        """Announce the end of this server."""
        self.core.go_away(deadline_ms, reconnect_after_ms)
        self.carry_out()

    def on_unpaused(self) -> None:
        """The client reads again."""
        if self._desk is not None:
            self._desk.on_unpaused()
        self._out.on_unpaused()

    # -- the end

    def close(self, code: int, reason: str) -> None:
        """Close the connection after what is pending was written."""
        self._out.close(code, reason)

    def on_broken(self) -> None:
        """A mistake of ours must end this connection only, and say so: the client comes back and resumes."""
        self._out.on_broken()

    def end(self) -> None:
        """The connection is gone: let go of everything. The streams live on."""
        self._out.end()
        self._hub.wheel.remove(self)
        self._early = None
        if self._desk is not None:
            self._desk.end()
        if self._deciding is not None:
            self._deciding.cancel()

    # -- time

    def _schedule(self) -> None:
        if not self._out.over:
            self._hub.wheel.schedule(self, self.core.get_timer())

    def on_timer(self, now: float) -> None:
        """The core's timer."""
        if not self._out.over and self.core.close is None:
            if self._deciding is None:  # which has a deadline of its own
                self.core.handle_timer(now)
                self._count_silence()
                self._count_misbehaviour()
                if self._hub.stall is not None:
                    self._check_stalls(now, self._hub.stall)
                self._out.measuring = True  # the next chunk's way, and its ack's back
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
