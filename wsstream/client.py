"""The asyncio client: answers as async iterators that survive lost connections.

>>> async with connect("ws://127.0.0.1:8765/ws") as client:            # doctest: +SKIP
...     async for text in await client.chat("Why is the sky blue?"):
...         print(text, end="", flush=True)

What is said on the wire, and when, is `wsstream.client_protocol`'s; this module owns the socket, the one timer and the
back-off. A client has one task, which connects, reads and connects again, and beside it one writer for as long as a
connection lasts. Everything belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import random as random_module
import re
import secrets
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from os import strerror
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit
from weakref import WeakValueDictionary, finalize

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException
from websockets.protocol import State
from websockets.typing import Subprotocol

from wsstream import client_protocol as core
from wsstream import errors
from wsstream import messages as m
from wsstream.chunks import ChatMessage, Outcome, StreamState
from wsstream.client_protocol import ClientProtocol, ClientSettings, Piece, View
from wsstream.errors import FINAL_CLOSE_CODES, CloseCode, ConnectionFailed, ErrorType, LocalError, WsstreamError
from wsstream.protocol import SUBPROTOCOL
from wsstream.states import ConnectionState, ViewState

logger = logging.getLogger(__name__)

TRIES = 5
BACKOFF_FIRST = 1.0
BACKOFF_LIMIT = 30.0
STEADY = 10.0
"""Seconds after which a connection counts as progress, though no chunk came over it."""
OPEN_TIMEOUT = 10.0
CLOSE_TIMEOUT = 1.0
"""Seconds that leaving may take: what waits to be sent, and the closing handshake."""
MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of the largest message read: the history of one very long answer is one."""

TOKEN_TIMEOUT = 10.0
"""Seconds that a function may take to give a token."""

Prompt = str | Sequence[ChatMessage | Mapping[str, Any]]
Token = str | Callable[[], str | Awaitable[str]]


class ClientState(StrEnum):
    """Where a client stands."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    """For the next try."""
    STOPPED = "stopped"
    """It has given up. The next question makes it try anew, unless the server said to stay away."""
    CLOSED = "closed"


class Lost(NamedTuple):
    """The connection is gone, or could not be made; the next try, the ``attempt``-th in a row, begins in ``delay``
    seconds."""

    reason: str
    code: int | None
    attempt: int
    delay: float


class Stopped(NamedTuple):
    """There will be no further try by itself."""

    failure: ConnectionFailed


class TokenFailed(NamedTuple):
    """The function that gives tokens has failed; it is asked again."""

    error: Exception


ClientEvent = core.Event | Lost | Stopped | TokenFailed
"""What ``on_event`` is called with. `Received` is left out: it would come for every chunk."""


class ClientStatistics(NamedTuple):
    """Counts of one client, at one moment."""

    state: ClientState
    connections: int
    """Connections that the server has greeted."""
    failures: int
    """Losses in a row, without progress between them."""
    messages_received: int
    messages_ignored: int
    """Messages that could not be understood."""
    streams: int
    """Streams followed that have not ended."""
    unprocessed: int
    """Chunks received whose text nobody has taken. No stream has more than its window, and its snapshot."""


def connect(
    url: str,
    *,
    token: Token | None = None,
    session_id: str | None = None,
    window: int | None = None,
    window_bytes: int | None = None,
    adaptive: bool = True,
    tries: int = TRIES,
    on_event: Callable[[ClientEvent], None] | None = None,
    random: Callable[[], float] = random_module.random,
) -> Client:
    """A client of the server at ``url``, to be entered with ``async with``, which returns when the server has greeted.

    Args:
        url: where the WebSocket is; of the page's ``http://`` address, the ``ws://…/ws`` beside it is taken.
        token: a credential; or a function, synchronous or not, that gives one. It is asked for every connection, and
            again before a token runs out; a connection that was closed for its token (3000) is then made anew.
        session_id: continues a conversation; the server gives a new one otherwise.
        window: chunks that may be received and not yet processed, where it is not the server's default.
        window_bytes: the same in bytes.
        adaptive: whether the window is widened, as far as the server allows, while pieces are taken so fast that it
            would otherwise have to be acknowledged more than 20 times a second. Without, it stays as it is.
        tries: connections to try in a row, after a loss or a first failure, before giving up. Every received chunk,
            and every connection that lasts, starts the count anew.
        on_event: told what happens, in the event loop; it must not block. What it raises is logged.
        random: a number in [0, 1) for the jitter of the back-off.

    Raises:
        ConnectionFailed: ``url`` is not an address.
    """
    try:
        url = native_url(url)
    except ValueError as error:
        raise ConnectionFailed(f"{url!r} is not an address: {error}") from None
    settings = ClientSettings(
        window=window,
        window_bytes=window_bytes,
        adaptive=adaptive,
        refusals=tries,
        renews=callable(token),
        jitter=random(),
    )
    return Client(url, ClientProtocol(settings, session_id), tries, on_event, random, token)


def native_url(url: str) -> str:
    """``url``, or for a page's address the native wire beside it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return url
    path = parts.path.rstrip("/")
    path = path if path.endswith("/ws") else path + "/ws"
    return urlunsplit(("wss" if parts.scheme == "https" else "ws", parts.netloc, path, parts.query, ""))


def reconnect_delay(attempt: int, jitter: float, *, code: int | None = None, told: float | None = None) -> float:
    """Seconds to wait before try ``attempt`` (0, 1, 2 …) in a row (docs/protocol.md, "Close codes").

    Args:
        jitter: a number in [0, 1).
        code: with which the connection was closed. After a time-out the first try is made at once.
        told: what the server asked for; it wins.
    """
    if told is not None:
        return max(0.0, told)
    if code == CloseCode.TIMEOUT and attempt == 0:
        return 0.0
    return jitter * min(BACKOFF_LIMIT, BACKOFF_FIRST * 2.0 ** min(attempt, 10))


class ChatStream:
    """One answer, as its one consumer reads it: an async iterator of text, in pieces as they came.

    Taking a piece acknowledges its chunks; who does not read makes the server wait once the window is full. Lost
    connections are not seen here, except in `resumes`. At the end the iteration stops, also where the answer was
    cancelled (`outcome` tells), and raises where it failed: a `StreamFailure` for the answer, a `RequestError` where
    the request was refused, `ConnectionFailed` where the server cannot be reached. What came until then is in `text`.

    Where a provider starts over, the server withdraws text. Text that was yielded cannot be taken back, so plain
    iteration just goes on with what comes instead; `text` is right, and `pieces` shows the withdrawal to those who
    render it.

    Dropping a stream, or leaving its iteration and not keeping it, does not cancel the answer: the server finishes
    it for whoever else follows, what still arrives is acknowledged and thrown away. `cancel` stops it.
    """

    def __init__(self, client: Client, view: View) -> None:
        self._client = client
        self._view = view
        self._news = asyncio.Event()
        self._texts: list[Piece] = []
        self._failure: WsstreamError | None = None
        self._parsed: Any = None
        self._parsed_at = -1

    def __repr__(self) -> str:
        return f"<ChatStream {self._view!r}>"

    @property
    def stream_id(self) -> str:
        """The stream's id: with it and `last_chunk_id`, another client can `follow` from here."""
        return self._view.stream_id or ""

    @property
    def session_id(self) -> str | None:
        """The session it belongs to; None where somebody else's request is followed."""
        return self._view.session_id

    @property
    def model(self) -> str | None:
        """The model that answers, where the server said so."""
        return self._view.model

    @property
    def last_chunk_id(self) -> int:
        """The last chunk that was taken."""
        return self._view.processed

    @property
    def resumes(self) -> int:
        """How often the stream was resumed after a loss."""
        return self._view.resumes

    @property
    def text(self) -> str:
        """The text taken so far, without what was withdrawn."""
        return "".join([piece.content for piece in self._texts])

    def partial(self) -> Any:
        """What the text so far holds as JSON, though it has not ended: nested objects and lists as far as they go, the
        last string as much as there is of it. None where there is nothing yet, or no JSON.

        Each call reads the whole text, unless there is none new: ask when you are about
        to show it, not for every piece. The whole object is in `outcome` (``parsed``) at the end.
        """
        size = self._view.processed
        if self._parsed_at != size:
            self._parsed_at = size
            self._parsed = _parse_partial(self.text)
        return self._parsed

    async def partials(self, every: float = 0.1) -> AsyncIterator[Any]:
        """Take the answer in, and yield `partial` whenever it has changed, at most once in ``every`` seconds, and last.

        Raises what iteration raises.
        """
        loop = asyncio.get_running_loop()
        due, shown = loop.time(), None
        async for _ in self:
            if loop.time() >= due and (found := self.partial()) != shown:
                shown = found
                yield shown
                due = loop.time() + every
        if self.partial() != shown:
            yield self.partial()

    @property
    def outcome(self) -> Outcome | None:
        """How the answer ended; None while it runs, or where only the connection failed."""
        return self._view.outcome

    def pieces(self) -> AsyncIterator[Piece]:
        """The same iteration, of everything: other kinds than text too, and rewinds (``kind`` "rewind")."""
        return _Pieces(self)

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        while True:
            piece = await self._next()
            if piece.kind == "text" and piece.content:
                return piece.content

    async def cancel(self) -> None:
        """Have the answer stopped, for everybody. Idempotent; what was sent before the end still comes."""
        self._client._cancel(self._view)

    async def aclose(self) -> None:
        """Follow it no longer. Idempotent; the answer itself goes on."""
        self._failure = self._failure or LocalError("The stream was closed")
        self._client._abandon(self._view)

    # -- for the client

    def _wake(self) -> None:
        self._news.set()

    def _fail(self, failure: WsstreamError) -> None:
        if self._failure is None and self._view.state is not ViewState.ENDED:
            self._failure = failure
        self._news.set()

    async def _until_started(self) -> None:
        """Wait until the server has begun the answer.

        Raises:
            RequestError: it refused to.
            ConnectionFailed: it cannot be reached.
        """
        while self._view.state is ViewState.REQUESTED and self._failure is None:
            await self._until_news()
        if self._failure is not None:
            raise self._failure
        if self._view.outcome is not None and self._view.stream_id is None:
            raise failure_of(self._view.outcome, started=False)

    async def _next(self) -> Piece:
        while True:
            piece = None if self._failure is not None else self._client._take(self._view)
            if piece is not None:
                self._record(piece)
                return piece
            if self._failure is not None:
                raise self._failure
            if self._view.outcome is not None:
                self._end(self._view.outcome)
            await self._until_news()

    async def _until_news(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _record(self, piece: Piece) -> None:
        if piece.kind == "rewind" and piece.to is not None:
            self._rewind(piece.to, piece.withdrawn)
        elif piece.kind == "text":
            self._texts.append(piece)

    def _rewind(self, to: int, withdrawn: int | None) -> None:
        left = withdrawn or 0
        while self._texts and self._texts[-1].first > to:
            left -= len(self._texts.pop().content)
        if self._texts and self._texts[-1].last > to:
            self._cut(self._texts.pop(), to, left)

    def _cut(self, piece: Piece, to: int, size: int) -> None:
        """A merged batch has no seams: its last ``size`` characters are what lies behind ``to``."""
        if not 0 < size <= len(piece.content):
            # To guess where the text is to be cut would be to make an answer up.
            self._failure = errors.InternalFailure("The server took back a part of what it had sent as one")
            self._client._abandon(self._view)
            return
        kept = piece.content[: len(piece.content) - size]
        self._texts.append(piece._replace(last=to, content=kept))

    def _end(self, outcome: Outcome) -> None:
        if outcome.error_type is not None:
            raise failure_of(outcome)
        raise StopAsyncIteration


class _Pieces:
    """The iterator of `ChatStream.pieces`."""

    __slots__ = ("_stream",)

    def __init__(self, stream: ChatStream) -> None:
        self._stream = stream

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> Piece:
        return await self._stream._next()


class Client:
    """One conversation partner of one server; made by `connect`."""

    def __init__(
        self,
        url: str,
        protocol: ClientProtocol,
        tries: int,
        on_event: Callable[[ClientEvent], None] | None,
        random: Callable[[], float],
        token: Token | None = None,
    ) -> None:
        self._url = url
        self._token = token
        self._renewal: asyncio.Task[None] | None = None
        self._token_refused = False
        self._protocol = protocol
        self._tries = tries
        self._tell = on_event
        self._random = random
        self._loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[None] | None = None
        self._state = ClientState.CONNECTING
        self._failure: ConnectionFailed | None = None
        self._final = False
        self._greeted: asyncio.Future[None] | None = None
        self._greeted_at: float | None = None
        self._streams: WeakValueDictionary[View, ChatStream] = WeakValueDictionary()
        self._abandoned: set[View] = set()
        self._questions: deque[asyncio.Future[m.History]] = deque()
        self._websocket: ClientConnection | None = None
        self._outbox: deque[bytes] = deque()
        self._to_write = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._dead = False
        self._told_delay: float | None = None
        self._failures = 0
        self._connections = 0
        self._messages = 0

    def __repr__(self) -> str:
        return f"<Client {_shown(self._url)} {self._state}>"

    # -- what applications use

    @property
    def state(self) -> ClientState:
        """Where the client stands."""
        return self._state

    @property
    def session_id(self) -> str | None:
        """The session, as soon as the server has named it."""
        return self._protocol.session_id

    async def __aenter__(self) -> Client:
        """Connect.

        Raises:
            ConnectionFailed: not even after all tries.
        """
        self._loop = asyncio.get_running_loop()
        self._greeted = self._loop.create_future()
        self._begin()
        try:
            await self._greeted
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def chat(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        session_id: str | None = None,
        config: m.ChatConfig | Mapping[str, Any] | None = None,
    ) -> ChatStream:
        """Ask. Returns when the server has begun the answer, however many connections that takes.

        Args:
            prompt: the next message of the session's conversation, which the server knows; or all the messages of one.
            model: as ``config.model``.
            session_id: where it is not the client's own.
            config: the ``config`` of `chat_request`.

        Raises:
            RequestError: the server refused the request, as the subclass of that ``error_type``.
            ConnectionFailed: the server cannot be reached.
        """
        self._ensure_running()
        view = self._protocol.chat(secrets.token_urlsafe(16), _messages(prompt), _config(config, model), session_id)
        stream = self._watch(view)
        self._act()
        try:
            await stream._until_started()
        except asyncio.CancelledError:
            self._cancel(view)  # nobody will ever hold this answer
            self._abandon(view)
            raise
        return stream

    def follow(self, stream_id: str, last_chunk_id: int = 0, *, snapshot: bool = False) -> ChatStream:
        """Read a stream that exists, from behind ``last_chunk_id``; where it cannot be had, the iteration says why.

        Args:
            snapshot: have what was missed in a few large pieces, whatever the window; after a lost connection too.

        Raises:
            LocalError: this client follows it already.
            ConnectionFailed: the server said to stay away.
        """
        self._ensure_running()
        if any(view.stream_id == stream_id and view.state is not ViewState.ENDED for view in self._streams):
            raise LocalError(f"The stream {stream_id} is followed already")
        self._abandoned = {view for view in self._abandoned if view.stream_id != stream_id}
        stream = self._watch(self._protocol.follow(stream_id, last_chunk_id, snapshot=snapshot))
        self._act()
        return stream

    async def history(
        self, session_id: str | None = None, *, before: str | None = None, limit: int | None = None
    ) -> m.History:
        """The messages of the client's session, or of another one, however many connections it takes to get them.

        The message of an answer that still runs has its text so far: `follow` its ``stream_id`` from its
        ``last_chunk_id`` for the rest.

        Args:
            session_id: another session.
            before: only messages that are older than the one of this id.
            limit: one page of so many, or fewer where they are large; ``more`` says whether there are older ones. All
                messages are read, page by page, where it is None.

        Raises:
            RequestError: the server cannot tell.
            ConnectionFailed: the server cannot be reached.
        """
        answer = await self._page(session_id, before, limit)
        if limit is not None:
            return answer
        pages = [answer.messages]
        while answer.more and pages[-1]:
            answer = await self._page(session_id, pages[-1][0].id, None)
            pages.append(answer.messages)
        return msgspec.structs.replace(answer, messages=[said for page in reversed(pages) for said in page])

    async def _page(self, session_id: str | None, before: str | None, limit: int | None) -> m.History:
        self._ensure_running()
        answer: asyncio.Future[m.History] = self._loop.create_future()
        self._questions.append(answer)
        self._protocol.get_history(session_id, before, limit)
        self._act()
        return await answer

    def statistics(self) -> ClientStatistics:
        """Counts of this moment."""
        views = list(self._streams)
        return ClientStatistics(
            state=self._state,
            connections=self._connections,
            failures=self._failures,
            messages_received=self._messages,
            messages_ignored=self._protocol.ignored,
            streams=sum(view.state is not ViewState.ENDED for view in views),
            unprocessed=sum(view.received - view.processed for view in views),
        )

    async def close(self) -> None:
        """Leave, within about `CLOSE_TIMEOUT`. Idempotent; running answers go on at the server."""
        if self._state is ClientState.CLOSED:
            return
        self._state = ClientState.CLOSED
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=2 * CLOSE_TIMEOUT)
        self._fail_streams(ConnectionFailed("The client was closed"))

    # -- what streams use

    def _take(self, view: View) -> Piece | None:
        piece = self._protocol.take(view, self._loop.time())
        if piece is not None:
            self._act()
        return piece

    def _cancel(self, view: View) -> None:
        self._protocol.cancel(view)
        self._act()

    def _abandon(self, view: View) -> None:
        """Nobody reads ``view`` any more. The server keeps room for it as long as the connection lasts, and knows no
        way to be told; so what comes is thrown away, lest the answer stand still for everybody else."""
        self._streams.pop(view, None)
        if view.state is ViewState.ENDED or self._websocket is None:
            self._protocol.drop(view)
        else:
            self._abandoned.add(view)
            self._throw_away(view)
        self._act()

    def _throw_away(self, view: View) -> None:
        while self._protocol.take(view, self._loop.time()) is not None:
            pass

    def _watch(self, view: View) -> ChatStream:
        stream = self._streams[view] = ChatStream(self, view)
        # Streams may be collected in any thread, and after the loop has ended.
        finalize(stream, _abandon_soon, self._loop, self, view).atexit = False
        return stream

    # -- the one task

    def _ensure_running(self) -> None:
        if self._state is ClientState.CLOSED or self._task is None:
            raise LocalError("The client is not open: use it inside its `async with`")
        if self._task.done():
            if self._final and self._failure is not None:
                raise self._failure
            self._begin()

    def _begin(self) -> None:
        self._failures = 0
        self._failure = None
        self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            while True:
                loss = await self._connection()
                delay = self._delay_after(loss)
                self._state = ClientState.WAITING
                self._emit(Lost(loss.reason, loss.code, self._failures, delay))
                await asyncio.sleep(delay)
        except ConnectionFailed as failure:
            self._stop(failure)
        except Exception:
            logger.exception("the client failed unexpectedly")
            self._stop(ConnectionFailed("The client failed unexpectedly; its log tells more"))

    async def _connection(self) -> _Loss:
        """One connection, from its opening to its loss."""
        self._state = ClientState.CONNECTING
        try:
            token = await self._ask_token()
        except Exception as error:  # noqa: BLE001 - it is the application's function, and told of it
            self._emit(TokenFailed(error))
            return _Loss(f"there is no token: {type(error).__name__}")
        try:
            websocket = await self._open()
        except (OSError, WebSocketException, ImportError, ValueError) as error:
            return _loss_of(error)
        return await self._converse(websocket, token)

    async def _ask_token(self) -> str | None:
        if not callable(self._token):
            return self._token
        async with asyncio.timeout(TOKEN_TIMEOUT):
            given = self._token()
            return await given if inspect.isawaitable(given) else given

    async def _renew(self) -> None:
        """Show the server a new token, on the connection that there is."""
        try:
            token = await self._ask_token()
        except Exception as error:  # noqa: BLE001 - it is the application's function, and told of it
            self._emit(TokenFailed(error))
            self._protocol.renewal_failed(self._loop.time())
        else:
            self._protocol.renew(token or "")
        self._act()

    async def _open(self) -> ClientConnection:
        return await open_websocket(
            self._url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            ping_interval=None,  # heartbeats are messages of the protocol
            open_timeout=OPEN_TIMEOUT,
            close_timeout=CLOSE_TIMEOUT,
            max_size=MAX_MESSAGE,
            proxy=None if _is_loopback(self._url) else True,
        )

    async def _converse(self, websocket: ClientConnection, token: str | None) -> _Loss:
        self._websocket = websocket
        self._dead = False
        self._outbox.clear()
        self._protocol.connect(self._loop.time(), token)
        writer = self._loop.create_task(self._write(websocket))
        try:
            self._act()
            while True:
                data = await websocket.recv(decode=False)
                self._messages += 1
                self._protocol.receive_message(data, self._loop.time())
                self._act()
        except ConnectionClosed:
            return self._loss_of_close(websocket)
        finally:
            await self._hang_up(websocket, writer)

    async def _write(self, websocket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):  # the reader sees it too, and says what it means
            while True:
                await self._to_write.wait()
                self._to_write.clear()
                while self._outbox:
                    await websocket.send(self._outbox.popleft(), text=True)

    async def _hang_up(self, websocket: ClientConnection, writer: asyncio.Task[None]) -> None:
        """After the connection was lost, or when the client leaves it: let go of everything that was its."""
        self._websocket = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        writer.cancel()
        await asyncio.wait([writer])
        if websocket.state is State.OPEN:
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    while self._outbox:
                        await websocket.send(self._outbox.popleft(), text=True)
                    await websocket.close()
        websocket.transport.abort()
        for view in self._abandoned:
            self._protocol.drop(view)
        self._abandoned.clear()
        self._protocol.connection_lost()

    # -- losses

    def _loss_of_close(self, websocket: ClientConnection) -> _Loss:
        if self._dead:
            return _Loss("nothing was heard from the server in time", CloseCode.TIMEOUT)
        code = websocket.close_code or CloseCode.ABNORMAL
        if code == CloseCode.ABNORMAL:
            return _Loss("the connection broke", code)
        reason = websocket.close_reason or ""
        again = code == CloseCode.UNAUTHORIZED and callable(self._token) and not self._token_refused
        self._token_refused = again
        final = code in FINAL_CLOSE_CODES or (code == CloseCode.UNAUTHORIZED and not again)
        told = 0.0 if again else None
        return _Loss(f"closed by the server with {code}{f' ({reason})' if reason else ''}", code, final, told)

    def _delay_after(self, loss: _Loss) -> float:
        """Seconds until the next try.

        Raises:
            ConnectionFailed: there is to be none.
        """
        told = self._told_delay if loss.told is None else loss.told
        if self._greeted_at is not None and self._loop.time() - self._greeted_at >= STEADY:
            self._failures = 0
        self._greeted_at = self._told_delay = None
        self._failures += 1
        if loss.final:
            self._final = True
            raise ConnectionFailed(f"{_shown(self._url)}: {loss.reason}", code=loss.code)
        if self._failures > self._tries:
            raise ConnectionFailed(
                f"cannot reach {_shown(self._url)}: {loss.reason} (tried {self._failures} times)", code=loss.code
            )
        return reconnect_delay(self._failures - 1, self._random(), code=loss.code, told=told)

    def _stop(self, failure: ConnectionFailed) -> None:
        self._state = ClientState.STOPPED
        self._failure = failure
        if self._greeted is not None and not self._greeted.done():
            self._greeted.set_exception(failure)
        self._fail_streams(failure)
        self._emit(Stopped(failure))

    def _fail_streams(self, failure: ConnectionFailed) -> None:
        for view, stream in list(self._streams.items()):
            stream._fail(failure)
            if view.state is not ViewState.ENDED:
                self._protocol.drop(view)
        self._protocol.forget_questions()
        while self._questions:
            _settle(self._questions.popleft(), failure)

    # -- the protocol core's owner (see `wsstream.protocol`)

    def _act(self) -> None:
        """After any call of the core: hear its events, send what it has to say, keep its timer."""
        for event in self._protocol.events_received():
            self._on_event(event)
        out = self._protocol.messages_to_send()
        if self._websocket is not None:
            if out:
                self._outbox += out
                self._to_write.set()
            self._arm()

    def _on_event(self, event: core.Event) -> None:
        match event:
            case core.Received(view):
                self._on_received(view)
                return
            case core.Established():
                self._on_established()
            case core.TokenWanted():
                self._want_token()
            case core.Dead():
                self._dead = True
                if self._websocket is not None:
                    self._websocket.transport.abort()
            case core.Answered(message):
                result = _refusal_of(message) if isinstance(message, m.Error) else message
                _settle(self._questions.popleft(), result)
            case core.Told(message):
                self._on_told(message)
            case core.Started(view) | core.Ended(view):
                self._on_moved(view)
        self._emit(event)

    def _on_received(self, view: View) -> None:
        self._failures = 0
        if self._protocol.state is ConnectionState.OPEN:
            self._told_delay = None  # an error's; what a server said before it goes stands
        if view in self._abandoned:
            self._throw_away(view)
        elif stream := self._streams.get(view):
            stream._wake()

    def _want_token(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()  # it took too long
        self._renewal = self._loop.create_task(self._renew())

    def _on_established(self) -> None:
        self._state = ClientState.CONNECTED
        self._token_refused = False
        self._connections += 1
        self._greeted_at = self._loop.time()
        if self._greeted is not None and not self._greeted.done():
            self._greeted.set_result(None)

    def _on_told(self, message: m.ServerMessage) -> None:
        if isinstance(message, m.GoingAway):
            self._told_delay = message.reconnect_after_ms / 1000
        elif isinstance(message, m.Error) and message.retry_after is not None:
            self._told_delay = message.retry_after

    def _on_moved(self, view: View) -> None:
        if view.state is ViewState.ENDED:
            self._abandoned.discard(view)
        if stream := self._streams.get(view):
            stream._wake()

    def _emit(self, event: ClientEvent) -> None:
        if self._tell is not None:
            try:
                self._tell(event)
            except Exception:
                logger.exception("on_event failed for %r", event)

    def _arm(self) -> None:
        """Keep the timer. One that fires early does nothing, so it is only ever moved forwards."""
        at = self._protocol.get_timer()
        if at is None or (self._timer is not None and self._timer.when() <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._protocol.handle_timer(self._loop.time())
        self._act()


class _Loss(NamedTuple):
    """Why there is no connection (any more)."""

    reason: str
    code: int | None = None
    final: bool = False
    told: float | None = None


def _loss_of(error: Exception) -> _Loss:
    """What a failed attempt means."""
    match error:
        case InvalidStatus(response=response):
            status = response.status_code
            wait = response.headers.get("Retry-After", "")
            # The client's own mistakes (RFC 9110, section 15.5), except the three that pass with time.
            final = 400 <= status < 500 and status not in (408, 425, 429)
            return _Loss(f"HTTP {status}", None, final, float(wait) if wait.isdecimal() else None)
        case InvalidURI() | ValueError() if not isinstance(error, OSError):
            return _Loss("this is not the address of a WebSocket", None, final=True)
        case InvalidHandshake():
            return _Loss("what answers there is not a WebSocket server")
        case ssl.SSLCertVerificationError():
            return _Loss(f"its certificate is not valid: {error.verify_message}", None, final=True)
        case socket.gaierror():
            return _Loss("there is no such host")
        case TimeoutError():
            return _Loss("no answer in time")
        case ImportError():
            return _Loss(str(error), None, final=True)
    number = re.search(r"\[Errno (\d+)\]", str(error))
    return _Loss(strerror(int(number[1])).lower() if number else str(error) or type(error).__name__)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _shown(url: str) -> str:
    """``url`` without what may be secret in it."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _abandon_soon(loop: asyncio.AbstractEventLoop, client: Client, view: View) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and with it all connections
        loop.call_soon_threadsafe(client._abandon, view)


def _settle(answer: asyncio.Future[m.History], result: m.History | WsstreamError) -> None:
    """Answer whoever still waits."""
    if answer.done():
        return
    if isinstance(result, WsstreamError):
        answer.set_exception(result)
    else:
        answer.set_result(result)


def _parse_partial(text: str) -> Any:
    from jiter import from_json  # only for those who ask for it

    try:
        return from_json(text.encode(), partial_mode="trailing-strings")
    except ValueError:
        return None


def _messages(prompt: Prompt) -> str | list[ChatMessage]:
    if isinstance(prompt, str):
        return prompt
    return msgspec.convert([msgspec.to_builtins(message) for message in prompt], list[ChatMessage])


def _config(config: m.ChatConfig | Mapping[str, Any] | None, model: str | None) -> m.ChatConfig | None:
    """The request's settings.

    Raises:
        BadRequest: a setting is of the wrong type.
    """
    if config is None or isinstance(config, Mapping):
        try:
            config = msgspec.convert(dict(config or {}), m.ChatConfig)
        except msgspec.ValidationError as error:
            raise errors.BadRequest(f"config: {error}") from None
    if model is not None:
        config = msgspec.structs.replace(config, model=model)
    return None if config == m.ChatConfig() else config


# -- outcomes as exceptions

_FAILURES: Mapping[str, type[WsstreamError]] = {
    failure.error_type: failure
    for failure in (
        errors.ProviderError,
        errors.ProviderRateLimited,
        errors.ProviderTimeout,
        errors.ChunkTimeout,
        errors.ContentFiltered,
        errors.InvalidOutput,
        errors.Interrupted,
        errors.InternalFailure,
    )
}
_REFUSALS: Mapping[str, type[WsstreamError]] = {
    refusal.error_type: refusal
    for refusal in (
        errors.BadRequest,
        errors.UnknownMessage,
        errors.Unauthorized,
        errors.Forbidden,
        errors.UnknownStream,
        errors.LogTrimmed,
        errors.ResumeAhead,
        errors.AckOutOfRange,
        errors.MessageTooLarge,
        errors.Capacity,
        errors.QueueFull,
        errors.RateLimited,
    )
}


def failure_of(outcome: Outcome, *, started: bool = True) -> WsstreamError:
    """The exception for an answer that ended with ``outcome``.

    ``rate_limit`` is the provider's word in an answer that had ``started``, and the server's own before that.
    """
    tables = {**_REFUSALS, **_FAILURES} if started else {**_FAILURES, **_REFUSALS}
    error_type = outcome.error_type or ErrorType.INTERNAL_ERROR
    kind = tables.get(error_type, errors.StreamFailure)
    return kind(outcome.message or "", retry_after=outcome.retry_after, recoverable=outcome.recoverable)


def _refusal_of(error: m.Error) -> WsstreamError:
    """The exception for a question that was refused."""
    kind = _REFUSALS.get(error.error_type, errors.RequestError)
    return kind(error.message, retry_after=error.retry_after, recoverable=error.recoverable)


__all__ = [
    "ChatStream",
    "Client",
    "ClientEvent",
    "ClientState",
    "ClientStatistics",
    "Lost",
    "Piece",
    "Stopped",
    "StreamState",
    "Token",
    "TokenFailed",
    "connect",
    "failure_of",
    "native_url",
    "reconnect_delay",
]
