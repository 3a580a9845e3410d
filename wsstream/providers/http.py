"""The way to an upstream: an SDK's HTTP client on top, and its response bodies pushed past it.

An SDK does what it is good at (credentials, request ids, status errors) up to the response's headers. The body does not
pass through it: every layer of iterators in between costs more per token than all the rest of the way to the viewer
(docs/benchmarks.md, "Reading the provider"). So the SDK's client gets a transport of ours, HTTP/1.1 on httptools'
parser, that hands each read to a callback.

Where a proxy is configured the SDK keeps its own transport, and `pump` reads that: slower, with the same result.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from typing import cast
from urllib.request import getproxies, proxy_bypass

import httptools
import httpx2

_BODY = "wsstream.body"
_PIECES = "wsstream.pieces"

CONNECT_TIMEOUT = 10.0
TIMEOUT = httpx2.Timeout(None, connect=CONNECT_TIMEOUT)
"""Reading has no time limit here: the producer watches for silence, and knows when it is nobody's fault."""
IDLE_TIMEOUT = 15.0
"""Seconds a connection is kept for the next request."""
MAX_IDLE = 100
MAX_HEAD = 64 * 1024
"""Bytes of a response's head, where nothing else is set."""
MAX_HELD = 1024 * 1024
"""Bytes of a body kept while nobody takes them; then the upstream has to wait."""
MAX_ERROR_BYTES = 64 * 1024
ERROR_TIMEOUT = 2.0
"""What an SDK reads of the body of an error, at most, and for how many seconds."""

Take = Callable[[bytes], bool]
"""Takes what one read brought; False to be given no more for now."""
Origin = tuple[str, str, int]


def http_client(base_url: str, max_head: int = MAX_HEAD) -> httpx2.AsyncClient:
    """An HTTP client for an SDK that will talk to ``base_url``. It follows no redirects: they could lead anywhere.

    Args:
        base_url: where to.
        max_head: bytes of a response's head. (Where a proxy is configured, the SDK's own transport has its own limit.)
    """
    host = httpx2.URL(base_url).host
    proxied = getproxies().keys() & {"http", "https", "all"} and not proxy_bypass(host)
    return httpx2.AsyncClient(
        timeout=TIMEOUT,
        transport=None if proxied else _Transport(max_head),
        headers={"Accept-Encoding": "identity"},
        event_hooks={"response": [_bound_error]},
    )


async def _bound_error(response: httpx2.Response) -> None:
    """Keep an SDK from reading an error of any size, for any time, or one that grows as it is unpacked."""
    if response.status_code >= 300:
        response.stream = _Bounded(response.stream)
        response.headers.pop("content-encoding", None)


async def read_whole(response: httpx2.Response, limit: int) -> bytes:
    """The body's first ``limit`` bytes, or all of them where there are fewer.

    Raises:
        httpx2.TransportError: the connection broke.
    """
    body = bytearray()

    def take(data: bytes) -> bool:
        body.extend(data)
        return len(body) < limit

    await pump(response, take)
    return bytes(body[:limit])


async def pump(response: httpx2.Response, take: Take) -> bool:
    """Give ``take`` the body as it comes. True when it wanted no more, False when the body has ended.

    Raises:
        httpx2.TransportError: the connection broke.
    """
    body: _Body | None = response.extensions.get(_BODY)
    if body is not None:
        return await body.pump(take)
    pieces = response.extensions.get(_PIECES)
    if pieces is None:  # a response can be iterated over once
        pieces = response.extensions[_PIECES] = response.aiter_bytes()
    async for data in pieces:
        if not take(data):
            return True
    return False


async def finish(response: httpx2.Response, patience: float) -> None:
    """Read what little may follow, for ``patience`` seconds, so that the connection can serve another request."""
    try:
        async with asyncio.timeout(patience):
            while await pump(response, lambda _: True):
                pass
    except (TimeoutError, httpx2.HTTPError):
        return  # it is closed instead of reused


class _Transport(httpx2.AsyncBaseTransport):
    """httpx2's requests on connections of ours."""

    def __init__(self, max_head: int) -> None:
        self.max_head = max_head
        self._idle: dict[Origin, list[_Connection]] = {}
        self._ssl: ssl.SSLContext | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        content = await request.aread()
        while True:
            connection, reused = await self._connection(request)
            try:
                return await connection.request(request, content)
            except httpx2.RemoteProtocolError:
                # An idle connection may have been closed while our request was under way to it.
                if not reused or connection.heard:
                    raise

    async def _connection(self, request: httpx2.Request) -> tuple[_Connection, bool]:
        url = request.url
        origin = (url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80))
        idle = self._idle.get(origin, [])
        while idle:
            connection = idle.pop()
            if connection.revive():
                return connection, True
        return await self._connect(request, origin), False

    async def _connect(self, request: httpx2.Request, origin: Origin) -> _Connection:
        scheme, host, port = origin
        context = self._context() if scheme == "https" else None
        loop = asyncio.get_running_loop()
        limit = request.extensions.get("timeout", {}).get("connect", CONNECT_TIMEOUT)
        try:
            async with asyncio.timeout(limit):
                _, connection = await loop.create_connection(lambda: _Connection(self, origin), host, port, ssl=context)
        except TimeoutError as error:
            raise httpx2.ConnectTimeout(f"{host}:{port}", request=request) from error
        except OSError as error:
            raise httpx2.ConnectError(str(error), request=request) from error
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._ssl is None:
            self._ssl = httpx2.create_ssl_context()
        return self._ssl

    def keep(self, connection: _Connection, origin: Origin) -> bool:
        """Keep an idle connection for the next request; False where enough are kept."""
        idle = self._idle.setdefault(origin, [])
        if len(idle) >= MAX_IDLE:
            return False
        idle.append(connection)
        return True

    def forget(self, connection: _Connection, origin: Origin) -> None:
        """An idle connection is gone."""
        idle = self._idle.get(origin, [])
        if connection in idle:
            idle.remove(connection)

    async def aclose(self) -> None:
        for idle in self._idle.values():
            for connection in list(idle):
                connection.abort()
        self._idle.clear()


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection: one request at a time."""

    __slots__ = (
        "__weakref__",
        "_alive",
        "_answer",
        "_body",
        "_expiry",
        "_head_size",
        "_headers",
        "_held",
        "_may_stay",
        "_origin",
        "_parser",
        "_pool",
        "_request",
        "_transport",
        "heard",
        "on_body",
    )

    def __init__(self, pool: _Transport, origin: Origin) -> None:
        self._pool = pool
        self._origin = origin
        self._transport: asyncio.Transport
        self._expect_response()
        self._body: _Body | None = None
        self._answer: asyncio.Future[httpx2.Response] | None = None
        self._request: httpx2.Request | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_size = 0
        self._expiry: asyncio.TimerHandle | None = None
        self._alive = False
        self._may_stay = False
        """Whether the upstream keeps the connection open behind the current response."""
        self.heard = False
        """Whether anything of the current response has come."""

    def _expect_response(self) -> None:
        # The parser puts body data straight into the list that the next body is made with.
        self._held: list[bytes] = []
        self.on_body = self._held.append
        self._parser = httptools.HttpResponseParser(self)

    # -- requests

    async def request(self, request: httpx2.Request, content: bytes) -> httpx2.Response:
        """Send ``request``; the response as soon as its head is there."""
        self.heard = False
        self._request = request
        self._headers = []
        self._head_size = 0
        self._may_stay = False
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(_head(request) + content)
        try:
            return await self._answer
        except BaseException:
            self.abort()
            raise
        finally:
            self._answer = None

    def release(self) -> None:
        """The body was read to its end: keep the connection, if both sides agree."""
        self._body = None
        self._request = None  # it holds a whole conversation
        self._headers = []
        self._expect_response()
        if not (self._alive and self._may_stay) or not self._pool.keep(self, self._origin):
            self.abort()
            return
        self.resume()  # whoever had enough may have stopped it
        self._expiry = asyncio.get_running_loop().call_later(IDLE_TIMEOUT, self.abort)

    def revive(self) -> bool:
        """Take an idle connection into use again; False where it has been closed."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        return self._alive

    def abort(self) -> None:
        """Close the socket at once."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self._pool.forget(self, self._origin)
        self._transport.abort()

    def pause(self) -> None:
        """Read no more: the upstream has to wait."""
        if self._alive:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._alive:
            self._transport.resume_reading()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._alive = True

    def data_received(self, data: bytes) -> None:
        try:
            if self._body is None:
                self._feed_head(data)
            else:
                self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(httpx2.RemoteProtocolError(str(error), request=self._request))
            self._transport.abort()
            return
        if self._body is not None:
            self._body.deliver()

    def _feed_head(self, data: bytes) -> None:
        if self._answer is None:
            self.abort()  # an answer that nobody asked for
            return
        self.heard = True
        self._parser.feed_data(data)
        if self._body is None:  # the parser tells of a header only when it is whole
            self._head_size += len(data)
            if self._head_size > self._pool.max_head:
                raise httptools.HttpParserError("the response's head is too large")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._alive = False
        self._pool.forget(self, self._origin)
        if self._body is not None and self._body.ends_with_connection and exc is None:
            self._body.complete()
            return
        self._fail(httpx2.RemoteProtocolError(str(exc or "the connection was closed"), request=self._request))

    def _fail(self, error: httpx2.TransportError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        elif self._body is not None:
            self._body.fail(error)

    # -- the parser's callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an interim response; the real one follows
            self._headers = []
            return
        if self._body is not None:
            raise ValueError("a second response to one request")
        names = {name.lower() for name, _ in self._headers}
        self._body = _Body(self, self._held, ends_with_connection=not names & {b"content-length", b"transfer-encoding"})
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(
                httpx2.Response(
                    status,
                    headers=self._headers,
                    stream=self._body,
                    request=self._request,
                    extensions={_BODY: self._body},
                )
            )

    def on_message_complete(self) -> None:
        if self._body is not None:
            self._may_stay = self._parser.should_keep_alive()  # it knows only here
            self._body.complete()


class _Body(httpx2.AsyncByteStream):
    """The body of one response, pushed to a `Take`, or pulled by the SDK, which reads those of errors."""

    __slots__ = (
        "_closed",
        "_complete",
        "_connection",
        "_error",
        "_pumping",
        "_take",
        "ends_with_connection",
        "held",
    )

    def __init__(self, connection: _Connection, held: list[bytes], *, ends_with_connection: bool) -> None:
        self._connection = connection
        self._take: Take | None = None
        self._pumping: asyncio.Future[bool] | None = None
        self._error: Exception | None = None
        self._complete = False
        self._closed = False
        self.held = held
        self.ends_with_connection = ends_with_connection

    async def pump(self, take: Take) -> bool:
        """See `wsstream.providers.http.pump`."""
        if not self.held:
            if self._error is not None:
                raise self._error
            if self._complete:
                return False
        self._take = take
        self._pumping = asyncio.get_running_loop().create_future()
        self._connection.resume()
        self.deliver()
        try:
            return await self._pumping
        finally:
            self._take = self._pumping = None

    def deliver(self) -> None:
        """Hand on what has come."""
        held = self.held
        take = self._take
        if take is None:
            if sum(map(len, held)) > MAX_HELD:
                self._connection.pause()
            return
        if held:
            data = held[0] if len(held) == 1 else b"".join(held)
            held.clear()
            try:
                more = take(data)
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever waits
                self._settle(error)
                return
            if not more:
                self._connection.pause()
                self._settle(True)
                return
        if self._complete or self._error is not None:
            self._settle(self._error or False)

    def _settle(self, end: bool | Exception) -> None:
        """Let whoever pumps go on; nothing is taken until the next `pump`."""
        self._take = None
        pumping = self._pumping
        if pumping is None or pumping.done():
            return
        if isinstance(end, Exception):
            pumping.set_exception(end)
        else:
            pumping.set_result(end)

    def complete(self) -> None:
        """Nothing follows."""
        self._complete = True
        if self.ends_with_connection:
            self.deliver()

    def fail(self, error: Exception) -> None:
        """The connection broke, or spoke nonsense."""
        if not self._complete:
            self._error = error
        self.deliver()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces: list[bytes] = []

        def take_one(data: bytes) -> bool:
            pieces.append(data)
            return False

        while await self.pump(take_one):
            while pieces:
                yield pieces.pop(0)

    async def aclose(self) -> None:
        """Close the socket at once, unless the body was read to its end."""
        if self._closed:
            return
        self._closed = True
        if self._complete and not self.held and not self.ends_with_connection:
            self._connection.release()
        else:
            self._connection.abort()


class _Bounded(httpx2.AsyncByteStream):
    """The beginning of another body."""

    def __init__(self, body: httpx2.SyncByteStream | httpx2.AsyncByteStream) -> None:
        self._body = cast(httpx2.AsyncByteStream, body)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_ERROR_BYTES
        pieces = aiter(self._body)
        deadline = asyncio.get_running_loop().time() + ERROR_TIMEOUT
        while left > 0:
            try:
                async with asyncio.timeout_at(deadline):
                    piece = await anext(pieces)
            except (StopAsyncIteration, TimeoutError, httpx2.TransportError):
                return  # the status is known, and what came of the body may say more
            yield piece[:left]
            left -= len(piece)

    async def aclose(self) -> None:
        await self._body.aclose()


def _head(request: httpx2.Request) -> bytes:
    lines = [request.method.encode("ascii") + b" " + request.url.raw_path + b" HTTP/1.1"]
    for name, value in request.headers.raw:
        if name.lower() not in (b"accept-encoding", b"connection"):
            lines.append(name + b": " + value)
    # What is compressed cannot be passed on token by token.
    lines.append(b"Accept-Encoding: identity")
    return b"\r\n".join([*lines, b"", b""])
