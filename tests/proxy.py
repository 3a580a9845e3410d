"""A TCP proxy that breaks connections in the ways networks do."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import cast


class Proxy:
    """Stands between a client and the server at ``target_port``, for as long as its ``async with`` block runs.

    What connections suffer, all at once:

    - `cut`: a reset; new connections are served as before.
    - `freeze`, `thaw`: nothing is read on either side, so buffers fill, and later everything arrives.
    - `blackhole`: everything is read and thrown away, and no end is passed on: each side sees a peer that is silent
      for ever. New connections are served as before.
    - `refuse`, `accept`: new connections are reset as soon as they are made.
    """

    def __init__(self, target_port: int, host: str = "127.0.0.1") -> None:
        self.host = host
        self.target_port = target_port
        self.port = 0
        self.accepted = 0
        """Connections ever taken in."""
        self._pairs: set[_Pair] = set()
        self._refusing = False
        self._cut_after: int | None = None
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The native wire of the server behind this proxy."""
        return f"ws://{self.host}:{self.port}/ws"

    @property
    def open(self) -> int:
        """Connections open now."""
        return len(self._pairs)

    async def __aenter__(self) -> Proxy:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Pair(self).client, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.sleep(0)

    def cut(self) -> None:
        """Reset every connection."""
        for pair in list(self._pairs):
            pair.abort()

    def cut_after(self, size: int | None) -> None:
        """Reset every connection that brings its client ``size`` bytes, just behind the last of them."""
        self._cut_after = size

    def freeze(self) -> None:
        """Let nothing through, and forget nothing."""
        for pair in self._pairs:
            pair.freeze()

    def thaw(self) -> None:
        """Let everything through again."""
        for pair in self._pairs:
            pair.thaw()

    def blackhole(self) -> None:
        """Swallow whatever the present connections bring, their ends included."""
        for pair in self._pairs:
            pair.swallowing = True

    def refuse(self) -> None:
        """Reset new connections."""
        self._refusing = True

    def accept(self) -> None:
        """Serve new connections again."""
        self._refusing = False


class _Pair:
    """One connection: its two ends, and what befalls it."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.swallowing = False
        self.brought = 0
        self.frozen = False
        self.client = _End(self)
        self.server = _End(self)
        self.client.other, self.server.other = self.server, self.client
        self._dialling: asyncio.Task[None] | None = None

    def on_client(self) -> None:
        proxy = self.proxy
        proxy.accepted += 1
        if proxy._refusing:
            self.abort()
            return
        proxy._pairs.add(self)
        assert self.client.transport is not None
        self.client.transport.pause_reading()
        self._dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.server, self.proxy.host, self.proxy.target_port)
        except OSError:
            self.abort()
            return
        if self.client.transport is None:
            self.abort()
        elif not self.frozen:
            self.client.transport.resume_reading()

    def on_data(self, end: _End, data: bytes) -> None:
        if self.swallowing:
            return
        limit = self.proxy._cut_after
        if end is self.server and limit is not None:
            data = data[: max(0, limit - self.brought)]
            self.brought += len(data)
        if end.other.transport is not None:
            end.other.transport.write(data)
        if limit is not None and self.brought >= limit:
            self.end()

    def on_lost(self) -> None:
        if not self.swallowing:
            self.end()
        elif self.client.transport is None and self.server.transport is None:
            self.proxy._pairs.discard(self)

    def end(self) -> None:
        """Close both ends behind what was written."""
        self.proxy._pairs.discard(self)
        for end in (self.client, self.server):
            if end.transport is not None:
                end.transport.close()

    def abort(self) -> None:
        self.proxy._pairs.discard(self)
        for end in (self.client, self.server):
            if end.transport is not None:
                end.transport.abort()

    def freeze(self) -> None:
        self.frozen = True
        for end in (self.client, self.server):
            if end.transport is not None:
                end.transport.pause_reading()

    def thaw(self) -> None:
        self.frozen = False
        for end in (self.client, self.server):
            if end.transport is not None:
                end.transport.resume_reading()


class _End(asyncio.Protocol):
    """One end of a pair; a slow reader at one end stops the reading of the other."""

    def __init__(self, pair: _Pair) -> None:
        self.pair = pair
        self.other: _End
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=4096)
        if self is self.pair.client:
            self.pair.on_client()

    def data_received(self, data: bytes) -> None:
        self.pair.on_data(self, data)

    def eof_received(self) -> bool:
        return self.pair.swallowing

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.pair.on_lost()

    def pause_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport is not None and not self.pair.frozen:
            self.other.transport.resume_reading()
