"""The socket of one connection: what comes is waited for, and one writer sends what is to go."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State
from websockets.typing import Subprotocol

from wsstream.client.addresses import is_loopback
from wsstream.errors import CloseCode
from wsstream.protocol import SUBPROTOCOL

OPEN_TIMEOUT = 10.0
CLOSE_TIMEOUT = 1.0
"""Seconds that leaving may take: what waits to be sent, and the closing handshake."""
MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of the largest message read: the history of one very long answer is one."""


class Link:
    """One connection, from its handshake to its end."""

    def __init__(self, websocket: ClientConnection) -> None:
        """``websocket`` is open."""
        self._websocket = websocket
        self._outbox: deque[bytes] = deque()
        self._to_write = asyncio.Event()
        self._writer = asyncio.get_running_loop().create_task(self._write())
        self.is_dead = False
        """Whether it was given up."""

    @classmethod
    async def open(cls, url: str) -> Link:
        """Connect to ``url``.

        Raises:
            OSError, WebSocketException, ImportError, ValueError: as `websockets` does.
        """
        return cls(
            await open_websocket(
                url,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                ping_interval=None,  # heartbeats are messages of the protocol
                open_timeout=OPEN_TIMEOUT,
                close_timeout=CLOSE_TIMEOUT,
                max_size=MAX_MESSAGE,
                proxy=None if is_loopback(url) else True,
            )
        )

    @property
    def close_code(self) -> int:
        """With which it was closed."""
        return self._websocket.close_code or CloseCode.ABNORMAL

    @property
    def close_reason(self) -> str:
        """What was said then."""
        return self._websocket.close_reason or ""

    async def receive(self) -> bytes:
        """The next message.

        Raises:
            ConnectionClosed: there is none any more.
        """
        return await self._websocket.recv(decode=False)

    def send(self, messages: Sequence[bytes]) -> None:
        """Send these as soon as it can be."""
        self._outbox += messages
        self._to_write.set()

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionClosed):  # the reader sees it too, and says what it means
            while True:
                await self._to_write.wait()
                self._to_write.clear()
                await self._empty()

    async def _empty(self) -> None:
        while self._outbox:
            await self._websocket.send(self._outbox.popleft(), text=True)

    def give_up(self) -> None:
        """Nothing is heard of the other side: end at once."""
        self.is_dead = True
        self._websocket.transport.abort()

    async def close(self) -> None:
        """Send what still is to go, if it is open, and leave."""
        self._writer.cancel()
        await asyncio.wait([self._writer])
        if self._websocket.state is State.OPEN:
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._empty()
                    await self._websocket.close()
        self._websocket.transport.abort()
