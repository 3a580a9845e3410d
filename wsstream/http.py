"""uvicorn's HTTP protocol with what an open port needs and it does not have.

A silent or endless request is cut off, and bytes that come right behind an upgrade request reach the WebSocket.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from wsstream.registry import Registry
from wsstream.rejections import Reason, Rejections
from wsstream.ticks import TimerWheel

WRITE_HIGH = 32 * 1024
SEND_BUFFER = 64 * 1024
NOTSENT_LOWAT = 16 * 1024
"""What a client that does not read can hold of a streamed response, in the transport and in the kernel."""
TCP_NOTSENT_LOWAT = 25  # Linux's; socket has no name for it in Python 3.11


class HeadLimits(NamedTuple):
    """What a request's head may take."""

    size: int = 16 * 1024
    seconds: float = 10.0
    """From its first byte or the connection's beginning; and once more for its body."""
    rejections: Rejections = Rejections()
    """Counts those that took more."""


class Sockets:
    """What the HTTP connections of one server share."""

    __slots__ = ("limits", "registry", "wheel")

    def __init__(self, limits: HeadLimits, registry: Registry, wheel: TimerWheel) -> None:
        """``registry`` counts those that have gone."""
        self.limits = limits
        self.registry = registry
        self.wheel = wheel


class Porch(asyncio.Protocol):
    """A socket that has said nothing yet: it costs next to nothing until it does."""

    __slots__ = ("_connections", "_make", "_sockets", "_transport", "_until", "slot")

    def __init__(self, sockets: Sockets, make: Callable[[], GuardedHttp], connections: set[Any]) -> None:
        """``make`` makes who speaks HTTP; ``connections`` are those that uvicorn closes when it ends."""
        self._sockets = sockets
        self._make = make
        self._connections = connections
        self._transport: asyncio.Transport
        self.slot = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first byte."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none
        self._connections.add(self)
        self._until = time.monotonic() + self._sockets.limits.seconds
        self._sockets.wheel.schedule(self, self._until)

    def data_received(self, data: bytes) -> None:
        """Let the client in, with the time that it has left."""
        self._leave()
        http = self._make()
        self._transport.set_protocol(http)
        http.connection_made(self._transport)
        self._sockets.wheel.schedule(http, self._until)
        http.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has left."""
        self._leave()
        self._sockets.registry.gone += 1

    def _leave(self) -> None:
        self._sockets.wheel.remove(self)
        connections = self._connections
        connections.discard(self)
        if not connections:
            connections.clear()  # one that has become empty still has the room for all who were in it

    def on_timer(self, now: float) -> None:
        """It has said nothing in time."""
        self._sockets.limits.rejections.count(Reason.HEAD)
        self._transport.close()

    def on_broken(self) -> None:
        """Cut it off."""
        self._transport.abort()

    def shutdown(self) -> None:
        """The server ends."""
        self._transport.close()


class Porches:
    """Makes porches, as uvicorn makes protocols."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets
        self._make: Callable[[], GuardedHttp] | None = None

    def __call__(self, *, server_state: Any, **given: Any) -> Porch:
        """One more socket; what a server gives is the same for all of them."""
        if self._make is None:
            self._make = partial(GuardedHttp, sockets=self._sockets, server_state=server_state, **given)
        return Porch(self._sockets, self._make, server_state.connections)


class HeadTooLarge(ValueError):
    """The request's head is longer than it may be."""


class DoubledHeader(ValueError):
    """A header is there twice that may be there once: whoever reads the other one would decide otherwise."""


class NoHost(ValueError):
    """An HTTP/1.1 request needs a Host header (RFC 9112, 3.2)."""


class OtherHost(ValueError):
    """The request's target names another host than its Host header (RFC 9112, 3.2.2)."""


class BodyBeforeFrames(ValueError):
    """A request for a WebSocket has no body: what follows its head are frames."""


_ONCE = frozenset({b"host", b"origin", b"authorization"})


class GuardedHttp(HttpToolsProtocol):
    """One HTTP connection, until it is upgraded."""

    def __init__(self, *args: Any, sockets: Sockets, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sockets = sockets
        self._head_size = 0
        self._seen: set[bytes] = set()
        self._host = b""
        self._has_body = False
        self.slot = 0
        self._watchers: list[Callable[[], None]] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and tell who streams to this client that it has left."""
        self._stop_timer()
        self._sockets.registry.gone += 1
        super().connection_lost(exc)
        # It and these refer to each other, and garbage is looked for seldom: many sockets would stay for long.
        self.parser = self.scope = self.cycle = None  # type: ignore[assignment]
        watchers, self._watchers = self._watchers, []
        for tell in watchers:
            tell()

    # -- the scope's extension `wsstream.line`

    def when_gone(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Have ``tell`` called when the client has left: at once if it has. The answer takes that back."""
        if self.transport.is_closing():
            tell()
            return lambda: None
        self._watchers.append(tell)
        return lambda: self._watchers.remove(tell) if tell in self._watchers else None

    def bound(self) -> None:
        """Hold back in the log, and not in buffers below, what the client does not read."""
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            if sys.platform == "linux":
                sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; as uvicorn's, but that nothing behind an upgrade is dropped."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stop_timer()
            if not self._should_upgrade():
                # Behind an offer that is not taken up the parser reads nothing more: the answer must be the last one.
                self.cycle.keep_alive = False
                return
            transport = self.transport
            self.handle_websocket_upgrade()
            self._let_go()
            rest = data[upgrade.args[0] :]
            if rest:
                transport.get_protocol().data_received(rest)  # type: ignore[attr-defined]
        except httptools.HttpParserError as error:
            self._stop_timer()
            problem = error.__context__
            if isinstance(problem, HeadTooLarge | DoubledHeader | NoHost | OtherHost | BodyBeforeFrames):
                self._sockets.limits.rejections.count(Reason.HEAD)
            explained = isinstance(problem, NoHost | OtherHost | BodyBeforeFrames)
            self.send_400_response((type(problem).__doc__ or "") if explained else "Invalid HTTP request received.")

    def _let_go(self) -> None:
        """This object has had its day. It and its parser refer to each other: without help both would stay a while."""
        self.parser = None  # type: ignore[assignment]
        self.scope = self.cycle = self.headers = None  # type: ignore[assignment]
        self.flow = self.transport = None  # type: ignore[assignment]

    def on_message_begin(self) -> None:
        """A head begins."""
        self._head_size = 0
        self._seen.clear()
        self._host = b""
        self._has_body = False
        self._start_timer()
        super().on_message_begin()
        self.scope["extensions"] = {"wsstream.line": self}  # type: ignore[dict-item]

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(len(name) + len(value) + 4)
        name = name.lower()
        if name in _ONCE:
            if name in self._seen:
                raise DoubledHeader
            self._seen.add(name)
            if name == b"host":
                self._host = value.strip().lower()
        elif name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0"):
            self._has_body = True
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body may follow; not behind a request for a WebSocket, and not where nobody says whom it is for."""
        if b"host" not in self._seen and self.parser.get_http_version() != "1.0":
            raise NoHost
        if self.url[:1] not in (b"/", b"*") and _authority(self.url) != self._host:
            raise OtherHost  # who routes by the one and who decides by the other would not mean the same
        if self._has_body and self.parser.should_upgrade() and self._should_upgrade():
            raise BodyBeforeFrames
        self._stop_timer()
        self._start_timer()
        super().on_headers_complete()

    def _should_upgrade(self) -> bool:
        """Whether this request becomes a WebSocket; in HTTP/1.0 there is no such thing (RFC 9110, 7.8)."""
        return self.parser.get_http_version() != "1.0" and super()._should_upgrade()

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._stop_timer()
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self._sockets.limits.size:
            raise HeadTooLarge

    def _start_timer(self) -> None:
        if not self.slot:
            self._sockets.wheel.schedule(self, time.monotonic() + self._sockets.limits.seconds)

    def on_timer(self, now: float) -> None:
        """The head, or the body, is late."""
        self._sockets.limits.rejections.count(Reason.HEAD)
        self.transport.close()

    def on_broken(self) -> None:
        """Cut it off."""
        self.transport.abort()

    def _stop_timer(self) -> None:
        self._sockets.wheel.remove(self)


def _authority(target: bytes) -> bytes:
    """The host, and port, of a request's target that is a whole address."""
    return re.split(rb"[/?#]", target.partition(b"://")[2], maxsplit=1)[0].lower()
