"""The socket of the native wire: bytes in and out, the WebSocket handshake and its frames.

`websockets`' Sans-I/O protocol does the handshake and the frames that come in; frames that go out are ready-made
(`wsstream.frames`). What the messages mean is `wsstream.wires.native`'s. A connection has no queue, no timer and no
task of its own; it ends with its transport.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from typing import Any, cast

from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol as WebSocket
from websockets.typing import Subprotocol

from wsstream.errors import CloseCode, Forbidden
from wsstream.inbound import Alignment, short_text
from wsstream.protocol import SUBPROTOCOL
from wsstream.proxies import TrustedProxies
from wsstream.rejections import Reason
from wsstream.wires.aisdk import PATH as AI_PATH
from wsstream.wires.aisdk import AiDialogue
from wsstream.wires.base import Visitor, counted_address
from wsstream.wires.hub import Hub
from wsstream.wires.line import DialogueLine
from wsstream.wires.native import Dialogue

logger = logging.getLogger(__name__)
# What a hostile peer sends must not fill the log: the library would write a record for every broken handshake.
frames_logger = logging.getLogger("wsstream.websocket")
frames_logger.setLevel(logging.CRITICAL)

PATHS = ("/ws", "/", AI_PATH)
WRITE_HIGH = 32 * 1024
"""Bytes the transport may hold back before chunks wait in their log instead."""
SEND_BUFFER = 64 * 1024
NOTSENT_LOWAT = 16 * 1024
"""Kernel memory that a client which does not read can hold (tcp(7), socket(7))."""
SHORT_LOWAT = 2 * 1024
"""The same where several streams share the socket."""
CLOSE_TIMEOUT = 2.0
"""Seconds between our close frame and the end of patience."""
TCP_NOTSENT_LOWAT = 25  # Linux's; socket has no name for it in Python 3.11


NO_PROXIES = TrustedProxies()


class NativeConnection(DialogueLine, asyncio.Protocol):
    """One socket that speaks ``wsstream.v1``, or at its own address what the AI SDK speaks."""

    __slots__ = (
        "_alignment",
        "_closing",
        "_fragments",
        "_held",
        "_hub",
        "_proxies",
        "_remote",
        "_transport",
        "_websocket",
        "paused",
        "write",
    )

    def __init__(self, hub: Hub, proxies: TrustedProxies | None = None) -> None:
        """``proxies``: those whose word on where the client is counts."""
        super().__init__()
        self._dialogue: Dialogue | AiDialogue | None
        self._hub = hub
        self._proxies = proxies or NO_PROXIES
        self._remote: str | None = None
        self._transport: asyncio.Transport
        self.write: Callable[[bytes], None]
        """The transport's own: nothing is to stand between it and a token."""
        self._websocket = WebSocket(
            max_size=hub.settings.max_message_bytes,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            select_subprotocol=_select_subprotocol,
            logger=frames_logger,
        )
        self._alignment = Alignment()
        self._fragments: list[bytes] = []
        self._closing = False
        self._held = 0
        self.paused = False

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the socket; the upgrade request is the next data received."""
        self._transport = transport = cast(asyncio.Transport, transport)
        self.write = transport.write
        transport.set_write_buffer_limits(high=WRITE_HIGH)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            self._limit_unsent(NOTSENT_LOWAT)

    def data_received(self, data: bytes) -> None:
        """Read frames and act on them."""
        dialogue = self._dialogue
        if self._alignment.aligned and not self._fragments and not self._closing and dialogue is not None:
            payload = short_text(data)
            if payload is not None:
                try:
                    dialogue.receive(payload)
                except Exception:
                    logger.exception("a connection failed unexpectedly", extra={"connection_id": self.connection_id})
                    dialogue.on_broken()
                dialogue.carry_out()
                self._hub.moderator.note()
                return
        self._receive_any(data)

    def _receive_any(self, data: bytes) -> None:
        websocket = self._websocket
        if self._dialogue is not None:  # before that, it is not frames that come
            self._alignment.advance(data)
        websocket.receive_data(data)
        try:
            for event in websocket.events_received():
                if type(event) is Frame:
                    self._on_frame(event)
                elif type(event) is Request:
                    self._on_request(event)
        except Exception:
            logger.exception("a connection failed unexpectedly", extra={"connection_id": self.connection_id})
            self._on_broken()
        if self._dialogue is not None:
            self._dialogue.carry_out()
        if isinstance(websocket.parser_exc, PayloadTooBig) and not self._closing:
            self._hub.registry.rejections.count(Reason.SIZE)
        self._write_websocket()

    def _on_broken(self) -> None:
        if self._dialogue is None:
            self._transport.close()
        else:
            self._dialogue.on_broken()

    def eof_received(self) -> None:
        """The peer will send nothing more; that is an end, as WebSocket has no half-open conversations."""
        self._websocket.receive_eof()
        self._write_websocket()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._closing = True
        self._hub.registry.remove(self)
        if self._dialogue is not None:
            self._dialogue.end()
            self._dialogue = None  # it refers to this
        # The library's object refers to itself, also through how it has ended. Garbage is looked for seldom: without
        # help, thousands of connections that are gone would stay for long.
        vars(self._websocket).update(parser=iter(()), parser_exc=None, handshake_exc=None, select_subprotocol=None)

    def pause_writing(self) -> None:
        """The client does not read: its chunks wait in their logs from now on."""
        self.paused = True

    def resume_writing(self) -> None:
        """It reads again."""
        self.paused = False
        self._held = 0
        if self._dialogue is not None:
            self._dialogue.on_unpaused()

    # -- the handshake

    def _on_request(self, request: Request) -> None:
        websocket = self._websocket
        if request.path.partition("?")[0] not in PATHS:
            websocket.send_response(websocket.reject(404, "There is nothing here.\n"))
            return
        if request.path.partition("?")[0] == AI_PATH:
            websocket.select_subprotocol = _first_offered  # type: ignore[method-assign, assignment]
        visitor = self._visitor(request)
        response = websocket.accept(request)
        if response.status_code == 101:
            response = self._refusal(visitor) or response
        websocket.send_response(response)
        if websocket.state is State.OPEN:
            self._open(request, visitor)
        # The library's parser keeps the request as long as the socket: kilobytes of headers, some of them secret.
        request.headers.clear()

    def _visitor(self, request: Request) -> Visitor:
        peer = self._transport.get_extra_info("peername")
        headers: dict[str, str] = {}
        for name, value in request.headers.raw_items():
            known = headers.get(name.lower())
            headers[name.lower()] = value if known is None else f"{known}, {value}"
        if self._proxies:
            self._remote = self._origin(request)
        return Visitor(headers, self._remote or (str(peer[0]) if isinstance(peer, tuple) else "local"))

    def _refusal(self, visitor: Visitor) -> Response | None:
        """What to say to somebody who may not come in, before anything is kept of them."""
        try:
            self._hub.gate.look_at(visitor)
        except Forbidden as error:
            return self._websocket.reject(403, f"{error}\n")
        later = self._hub.registry.turn_away(self, counted_address(visitor.remote))
        if later is None:
            return None
        response = self._websocket.reject(later.status, f"{later.text}\n")
        response.headers["Retry-After"] = str(later.seconds)
        return response

    def _open(self, request: Request, visitor: Visitor) -> None:
        if request.path.partition("?")[0] == AI_PATH:
            self._websocket.max_message_size = self._hub.settings.max_ui_message_bytes
            self._dialogue = AiDialogue(self._hub, self, self._hub.gate, visitor)
            return
        offered = self._websocket.subprotocol == SUBPROTOCOL
        dialogue = self._dialogue = Dialogue(self._hub, self, batch=offered, visitor=visitor)
        dialogue.traceparent = ",".join(request.headers.get_all("traceparent")) or None
        if not offered and request.headers.get("Sec-WebSocket-Protocol"):
            self.close(CloseCode.UNKNOWN_VERSION, f"this server speaks {SUBPROTOCOL}")

    # -- frames in

    def _on_frame(self, frame: Frame) -> None:
        dialogue = self._dialogue
        if dialogue is None or dialogue.closing:
            return
        opcode = frame.opcode
        if opcode is Opcode.TEXT and frame.fin:
            dialogue.receive(bytes(frame.data))
        elif opcode is Opcode.TEXT or opcode is Opcode.CONT:
            self._on_fragment(dialogue, frame)
        elif opcode is Opcode.BINARY:
            dialogue.close(CloseCode.UNSUPPORTED_DATA, "messages are text")
        else:
            dialogue.receive_life()

    def _on_fragment(self, dialogue: Dialogue | AiDialogue, frame: Frame) -> None:
        self._fragments.append(bytes(frame.data))
        if len(self._fragments) > self._hub.settings.max_fragments:
            self._hub.registry.rejections.count(Reason.SIZE)
            dialogue.close(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
        elif frame.fin:
            data = b"".join(self._fragments)
            self._fragments.clear()
            dialogue.receive(data)

    # -- bytes out

    def keep_short(self, short: bool) -> None:
        """Have the kernel push back early, and nothing wait in the transport; or as usual."""
        if self._transport.is_closing():
            return
        # Not 0: a transport of uvloop's with TLS would pause for good.
        self._transport.set_write_buffer_limits(high=1 if short else WRITE_HIGH)
        self._limit_unsent(SHORT_LOWAT if short else NOTSENT_LOWAT)

    def _limit_unsent(self, size: int) -> None:
        sock = self._transport.get_extra_info("socket")
        if sys.platform == "linux" and sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, size)

    def write_anyway(self, data: bytes) -> None:
        """Send what does not wait for a client that does not read; one that provokes too much of it is cut off."""
        if self.paused:
            self._held += len(data)
        self._transport.write(data)
        if self._held > self._hub.settings.max_control_bytes:
            if not self._closing:
                self._hub.registry.rejections.count(Reason.SLOW)
            self._closing = True
            self._transport.abort()  # it would not read a close frame either

    def _write_websocket(self) -> None:
        """What the WebSocket itself has to say: the handshake's answer, pongs, close frames, the end."""
        parts = self._websocket.data_to_send()
        if not parts:
            return
        if not self._transport.is_closing():
            self.write_anyway(b"".join(parts))
        if not parts[-1]:  # that is its way to say: the end
            self._closing = True
            self._transport.close()
            if self._transport.get_write_buffer_size():
                self._give_up_soon()

    # -- the end

    def _abort(self) -> None:
        self._transport.close()

    def say_close(self, code: int, reason: str) -> None:
        """Send the close frame now."""
        self._closing = True
        if self._websocket.state is State.OPEN:
            self._websocket.send_close(code, reason)
            self._write_websocket()
        self._give_up_soon()

    def _give_up_soon(self) -> None:
        """What the peer has not read by then, it will never read."""
        self._hub.loop.call_later(CLOSE_TIMEOUT, self._transport.abort)

    # -- what is known of it

    def _peer(self) -> str:
        peer = self._transport.get_extra_info("peername")
        if not isinstance(peer, tuple):
            return "local"
        return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"

    def _origin(self, request: Request) -> str | None:
        """The client behind a trusted proxy; None where the peer is no such proxy."""
        peer = self._transport.get_extra_info("peername")
        if not isinstance(peer, tuple):
            return None
        address = self._proxies.origin(
            peer[0], "http", lambda name: ",".join(request.headers.get_all(name)) or None
        ).address
        return address if address != peer[0] else None

    def _where(self) -> str:
        return self._remote or self._peer()

    def _close_code(self) -> int | None:
        return self._websocket.close_code


def _select_subprotocol(_websocket: WebSocket, offered: Any) -> Subprotocol | None:
    return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in offered else None


def _first_offered(offered: Any) -> Subprotocol | None:
    """A browser closes a socket for which it offered subprotocols and none was taken."""
    return Subprotocol(offered[0]) if offered else None
