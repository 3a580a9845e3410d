"""Native messages over HTTP, where no WebSocket gets through (docs/http.md, "Native messages over HTTP").

One response carries what the server says, one POST after another what the client says. Behind it is the same
`Dialogue`; only the `Line` is another. A connection is its response: who closes that, closes the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wsstream.config import Config
from wsstream.errors import Capacity, CloseCode, MalformedMessage, RateLimited, UnknownStream
from wsstream.frames import payloads
from wsstream.messages import encode, explain
from wsstream.rejections import Reason
from wsstream.wires.base import StreamsLike, counted_address
from wsstream.wires.http import (
    HEARTBEAT,
    STREAM_HEADERS,
    Call,
    Endpoint,
    TooMuch,
    patience_of,
    read_json,
    refuse,
    visitor,
    watched,
    write,
)
from wsstream.wires.hub import Hub
from wsstream.wires.line import DialogueLine
from wsstream.wires.native import Dialogue

logger = logging.getLogger(__name__)

HIGH = 32 * 1024
"""Bytes that wait for a client which does not read, before chunks wait in their logs instead."""
BUFFER_CHECK = 2.0
"""Seconds within which a client must have said something more. It answers the first heartbeat as soon as it sees that:
silence means that something on the way keeps the events back.
"""
HELD_BACK = "a proxy holds the events back: see docs/http.md, Buffering proxies"


class NoSuchConnection(UnknownStream):
    """There is no such connection"""


class EventLine(DialogueLine, Response):
    """One connection: the response that carries its messages, and the `Line` of its dialogue."""

    def __init__(self, hub: Hub, streams: StreamsLike, request: Request, first: list[bytes]) -> None:
        DialogueLine.__init__(self)
        Response.__init__(self, None, 200, STREAM_HEADERS, "text/event-stream")
        del self.headers["content-length"]
        self.paused = False
        self.opened_by = streams.user
        """Whoever posts to a connection must be who has opened it."""
        self._hub = hub
        self._remote = request.client.host if request.client else "local"
        self._first = first
        self._out: list[bytes] = []
        self._held = 0
        self._something = asyncio.Event()
        self._over = False
        self._heard = False
        self._dialogue: Dialogue | None = Dialogue(hub, self, batch=True, visitor=visitor(request))

    # -- messages in

    def receive(self, messages: list[bytes]) -> None:
        """Act on what the client has sent; behind the end, it is nothing to anybody."""
        dialogue = self._dialogue
        if dialogue is None:
            return
        try:
            for message in messages:
                if len(message) > self._hub.settings.max_message_bytes:
                    self._hub.registry.rejections.count(Reason.SIZE)
                    self.close(CloseCode.MESSAGE_TOO_BIG, "message too big")
                    break
                dialogue.receive(message)
        except Exception:
            logger.exception("connection %s: failed unexpectedly", self.connection_id)
            dialogue.on_broken()
        dialogue.carry_out()

    def on_post(self, messages: list[bytes]) -> None:
        """A later POST has come."""
        self._heard = True
        self.receive(messages)

    # -- the line

    def write(self, data: bytes) -> None:
        """Send frames: they become events."""
        self._out += events(data)
        self._held += len(data)
        self.paused = self._held > HIGH
        self._something.set()

    def keep_short(self, short: bool) -> None:
        """What is under way is the HTTP server's to know."""

    def write_anyway(self, data: bytes) -> None:
        """Send frames of control messages; a client that provokes too many of them is cut off."""
        if self._held > HIGH + self._hub.settings.max_control_bytes:
            self._hub.registry.rejections.count(Reason.SLOW)
            self._end()
        else:
            self.write(data)

    def say_close(self, code: int, reason: str) -> None:
        """Say why, and end the response."""
        self._out.append(b"event: close\ndata: %b\n\n" % encode({"code": int(code), "reason": reason}))
        self._end()

    def _abort(self) -> None:
        self._end()

    def _end(self) -> None:
        self._over = True
        self._something.set()

    # -- the response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry messages until one side closes."""
        checking = self._hub.loop.call_later(BUFFER_CHECK, self._check_buffering)
        try:
            async with watched(scope, receive, self._end):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                self.receive(self._first)
                await self._carry(send, patience_of(scope).stall)
        finally:
            checking.cancel()
            self._hub.registry.remove(self)
            self.let_go()

    def let_go(self) -> None:
        """The connection is gone, or never came about."""
        dialogue, self._dialogue = self._dialogue, None  # it refers to this
        if dialogue is not None:
            dialogue.end()

    async def _carry(self, send: Send, stall: float) -> None:
        while not self._over:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await self._something.wait()
            except TimeoutError:
                self._out.append(b":\n\n")
            await self._write_out(send, stall)
        with contextlib.suppress(ClientDisconnect):
            await write(send, b"".join(self._out), stall, more=False)

    async def _write_out(self, send: Send, stall: float) -> None:
        self._something.clear()
        out, self._out = self._out, []
        if out:
            await write(send, b"".join(out), stall)
        self._held = sum(map(len, self._out))
        if self.paused and self._held <= HIGH:
            self.paused = False
            if self._dialogue is not None:
                self._dialogue.on_unpaused()

    def _check_buffering(self) -> None:
        if not self._heard and not self._over:
            logger.warning("connection %s from %s: %s", self.connection_id, self._remote, HELD_BACK)
            self.close(CloseCode.TRY_AGAIN_LATER, HELD_BACK)

    def _where(self) -> str:
        return self._remote


def events(frames: bytes) -> list[bytes]:
    """The messages of frames as server-sent events."""
    return [b"data: %b\n\n" % payload for payload in payloads(frames)]


class NativeHttp:
    """The endpoints."""

    def __init__(self, hub: Hub, config: Config) -> None:
        self._hub = hub
        self._max_body = config.max_body_bytes
        self._max_messages = config.max_posted_messages

    async def open(self, call: Call) -> Response:
        """``POST /api/native``: a new connection. The body is its first message, or messages."""
        first = await self._messages(call.request)
        line = EventLine(self._hub, call.streams, call.request, first)
        try:
            if self._hub.registry.admit(line, counted_address(visitor(call.request).remote)):
                return line
        except RateLimited:
            line.let_go()
            raise
        line.let_go()
        raise Capacity(retry_after=1.0)

    async def post(self, call: Call) -> Response:
        """``POST /api/native/{connection_id}``: further messages of the client."""
        self._line(call)
        messages = await self._messages(call.request)
        self._line(call).on_post(messages)  # it may have ended while the body came
        return Response(status_code=204)

    def _line(self, call: Call) -> EventLine:
        """The connection that is posted to, if it is the caller's.

        Raises:
            NoSuchConnection: it is not, or there is none.
        """
        line = self._hub.registry.get(call.request.path_params["connection_id"])
        if not isinstance(line, EventLine) or line.opened_by != call.streams.user:
            raise NoSuchConnection
        return line

    async def _messages(self, request: Request) -> list[bytes]:
        body = await read_json(request, msgspec.Raw, self._max_body)
        data = bytes(body).strip()
        if not data.startswith(b"["):
            return [data]
        try:
            messages = [bytes(raw) for raw in msgspec.json.decode(data, type=list[msgspec.Raw])]
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise MalformedMessage(explain(error)) from None
        if not messages or len(messages) > self._max_messages:
            raise TooMuch(f"An array of messages holds 1 to {self._max_messages}")
        return messages


def endpoints(hub: Hub, config: Config) -> list[Endpoint]:
    """The wire's addresses."""
    native = NativeHttp(hub, config)
    return [
        Endpoint("POST", "/api/native", native.open, refuse),
        Endpoint("POST", "/api/native/{connection_id}", native.post, refuse),
    ]
