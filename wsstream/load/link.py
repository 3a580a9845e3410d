"""One WebSocket of the load client. The library shakes hands; frames are cut by hand, because this must stay cheap."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from typing import Protocol, cast

from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.typing import Subprotocol

from wsstream.load.frames import (
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    RESERVED,
    TEXT,
    WHOLE_TEXT,
    BadFrame,
    client_frame,
    split_frames,
)
from wsstream.load.settings import Target
from wsstream.protocol import SUBPROTOCOL

OPEN_TIMEOUT = 15.0


class Owner(Protocol):
    """Who a link works for."""

    def on_text(self, payload: bytes, now: int) -> None:
        """A message has come, at ``now`` microseconds of the monotonic clock."""

    def on_closed(self, link: Link, reason: str) -> None:
        """The link is gone, and not because its owner wanted so."""


class Link(asyncio.Protocol):
    """A WebSocket from the TCP connection to its end."""

    def __init__(self, target: Target, owner: Owner) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self._handshake = ClientProtocol(target.uri, subprotocols=[Subprotocol(SUBPROTOCOL)])
        self._owner = owner
        self._transport: asyncio.Transport  # from `connection_made` on
        self._connected = False
        self._rest = b""
        self._parts: list[bytes] = []
        self._shaken = False
        self._over = False

    # -- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is up: ask for the upgrade."""
        self._transport = cast(asyncio.Transport, transport)
        self._connected = True
        self._handshake.send_request(self._handshake.connect())
        self._transport.write(b"".join(self._handshake.data_to_send()))

    def data_received(self, data: bytes) -> None:
        """Hand out the messages in ``data``."""
        now = time.monotonic_ns() // 1000
        if self._over:
            return
        if self._rest:
            data = self._rest + data
        if not self._shaken and not (data := self._shake_hands(data)):
            return
        try:
            frames, self._rest = split_frames(data)
        except BadFrame as error:
            self._break(f"protocol violation: {error}")
            return
        for first, payload in frames:
            if first == WHOLE_TEXT:
                self._owner.on_text(payload, now)
            else:
                self._on_other(first, payload, now)

    def connection_lost(self, exc: Exception | None) -> None:
        """TCP is gone."""
        self._fail("connection lost")
        if not self.gone.done():
            self.gone.set_result(None)

    # -- what the owner does

    def send(self, payload: bytes) -> None:
        """Send one text message."""
        if not self._over:
            self._transport.write(client_frame(TEXT, payload))

    def pause(self) -> None:
        """Read no further."""
        if not self._over:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if not self._over:
            self._transport.resume_reading()

    def close(self) -> None:
        """Say good-bye and leave."""
        if not self._over:
            self._over = True
            self._transport.write(client_frame(CLOSE, (1000).to_bytes(2, "big")))
            self._transport.close()

    def abort(self) -> None:
        """Vanish as a client does whose machine is gone: a reset, no close frame."""
        self._over = True
        sock = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def abort_unless_open(self) -> None:
        """Leave nothing behind where nothing came of it."""
        if self._connected and not self._shaken:
            self._transport.abort()

    # -- helpers

    def _shake_hands(self, data: bytes) -> bytes:
        """Give the library exactly the response; what follows it is returned, and is ours."""
        head, found, rest = data.partition(b"\r\n\r\n")
        self._rest = b"" if found else data
        if not found:
            return b""
        self._handshake.receive_data(head + found)
        if self._handshake.state is not State.OPEN:
            words = head.split(b"\r\n", 1)[0].split(b" ", 2)
            status = words[1].decode("ascii", "replace") if len(words) > 1 else "nothing it understands"
            self._break(f"the server answers the handshake with {status}")
            return b""
        if self._handshake.subprotocol != SUBPROTOCOL:
            self._break(f"the server does not speak {SUBPROTOCOL}")
            return b""
        self._shaken = True
        self.opened.set_result(None)
        return rest

    def _on_other(self, first: int, payload: bytes, now: int) -> None:
        """Control frames, and messages in several frames."""
        opcode = first & 0x0F
        if first & RESERVED or opcode not in (TEXT, CONTINUATION, CLOSE, PING, PONG):
            self._break("protocol violation: an unexpected frame")
        elif opcode == PING:
            self._transport.write(client_frame(PONG, payload))
        elif opcode == CLOSE:
            self._break(f"closed by the server with {int.from_bytes(payload[:2], 'big') or 'no code'}")
        elif opcode != PONG:
            self._parts.append(payload)
            if first & FIN:
                whole = b"".join(self._parts)
                self._parts.clear()
                self._owner.on_text(whole, now)

    def _break(self, reason: str) -> None:
        self._fail(reason)
        self._transport.close()

    def _fail(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        if self._shaken:
            self._owner.on_closed(self, reason)
        elif not self.opened.done():
            self.opened.set_exception(ConnectionError(reason))


async def open_link(target: Target, address: str, owner: Owner) -> Link:
    """A link that has shaken hands.

    Raises:
        OSError: no connection could be made, or the server refused it.
    """
    uri = target.uri
    name = uri.host if uri.secure else None
    loop = asyncio.get_running_loop()
    link = Link(target, owner)
    try:
        async with asyncio.timeout(OPEN_TIMEOUT):
            await loop.create_connection(lambda: link, address, uri.port, ssl=uri.secure or None, server_hostname=name)
            await link.opened
    except TimeoutError:
        raise ConnectionError("no answer to the handshake in time") from None
    finally:
        link.abort_unless_open()
    return link
