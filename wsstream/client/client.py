"""One conversation partner of one server.

What is said on the wire, and when, is `wsstream.client_protocol`'s; a client owns the one timer, and the tries. It has
one task, which connects, reads and connects again, and beside it one writer for as long as a connection lasts.
Everything belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any
from weakref import WeakValueDictionary, finalize

import msgspec
from websockets.exceptions import ConnectionClosed, WebSocketException

from wsstream import client_protocol as core
from wsstream import messages as m
from wsstream.client.addresses import shown
from wsstream.client.events import ClientEvent, ClientState, ClientStatistics, Lost, Stopped, TokenFailed
from wsstream.client.failures import refusal_of
from wsstream.client.link import CLOSE_TIMEOUT, Link
from wsstream.client.losses import Loss, Tries, loss_of
from wsstream.client.prompts import Prompt, to_config, to_messages
from wsstream.client.stream import ChatStream
from wsstream.client_protocol import ClientProtocol, Piece, View
from wsstream.errors import FINAL_CLOSE_CODES, CloseCode, ConnectionFailed, LocalError, WsstreamError
from wsstream.states import ConnectionState, ViewState

logger = logging.getLogger(__name__)

TOKEN_TIMEOUT = 10.0
"""Seconds that a function may take to give a token."""

Token = str | Callable[[], str | Awaitable[str]]


class Client:
    """One conversation partner of one server; made by `connect`."""

    def __init__(
        self,
        url: str,
        protocol: ClientProtocol,
        tries: Tries,
        on_event: Callable[[ClientEvent], None] | None,
        token: Token | None = None,
    ) -> None:
        self._url = url
        self._token = token
        self._renewal: asyncio.Task[None] | None = None
        self._token_refused = False
        self._protocol = protocol
        self._tries = tries
        self._tell = on_event
        self._loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[None] | None = None
        self._state = ClientState.CONNECTING
        self._failure: ConnectionFailed | None = None
        self._greeted: asyncio.Future[None] | None = None
        self._streams: WeakValueDictionary[View, ChatStream] = WeakValueDictionary()
        self._abandoned: set[View] = set()
        self._questions: deque[asyncio.Future[m.History]] = deque()
        self._link: Link | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._connections = 0
        self._messages = 0

    def __repr__(self) -> str:
        return f"<Client {shown(self._url)} {self._state}>"

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
        view = self._protocol.chat(secrets.token_urlsafe(16), to_messages(prompt), to_config(config, model), session_id)
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
            failures=self._tries.failures,
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
        if view.state is ViewState.ENDED or self._link is None:
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
            if self._tries.final and self._failure is not None:
                raise self._failure
            self._begin()

    def _begin(self) -> None:
        self._tries.failures = 0
        self._failure = None
        self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            while True:
                loss = await self._connection()
                delay = self._tries.delay_after(loss, self._loop.time())
                self._state = ClientState.WAITING
                self._emit(Lost(loss.reason, loss.code, self._tries.failures, delay))
                await asyncio.sleep(delay)
        except ConnectionFailed as failure:
            self._stop(failure)
        except Exception:
            logger.exception("the client failed unexpectedly")
            self._stop(ConnectionFailed("The client failed unexpectedly; its log tells more"))

    async def _connection(self) -> Loss:
        """One connection, from its opening to its loss."""
        self._state = ClientState.CONNECTING
        try:
            token = await self._ask_token()
        except Exception as error:  # noqa: BLE001 - it is the application's function, and told of it
            self._emit(TokenFailed(error))
            return Loss(f"there is no token: {type(error).__name__}")
        try:
            link = await Link.open(self._url)
        except (OSError, WebSocketException, ImportError, ValueError) as error:
            return loss_of(error)
        return await self._converse(link, token)

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

    async def _converse(self, link: Link, token: str | None) -> Loss:
        self._link = link
        self._protocol.connect(self._loop.time(), token)
        try:
            self._act()
            while True:
                data = await link.receive()
                self._messages += 1
                self._protocol.receive_message(data, self._loop.time())
                self._act()
        except ConnectionClosed:
            return self._loss_of_close(link)
        finally:
            await self._hang_up(link)

    async def _hang_up(self, link: Link) -> None:
        """After the connection was lost, or when the client leaves it: let go of everything that was its."""
        self._link = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        await link.close()
        for view in self._abandoned:
            self._protocol.drop(view)
        self._abandoned.clear()
        self._protocol.connection_lost()

    # -- losses

    def _loss_of_close(self, link: Link) -> Loss:
        if link.is_dead:
            return Loss("nothing was heard from the server in time", CloseCode.TIMEOUT)
        code, reason = link.close_code, link.close_reason
        if code == CloseCode.ABNORMAL:
            return Loss("the connection broke", code)
        again = code == CloseCode.UNAUTHORIZED and callable(self._token) and not self._token_refused
        self._token_refused = again
        final = code in FINAL_CLOSE_CODES or (code == CloseCode.UNAUTHORIZED and not again)
        told = 0.0 if again else None
        return Loss(f"closed by the server with {code}{f' ({reason})' if reason else ''}", code, final, told)

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
        if self._link is not None:
            if out:
                self._link.send(out)
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
                if self._link is not None:
                    self._link.give_up()
            case core.Answered(message):
                result = refusal_of(message) if isinstance(message, m.Error) else message
                _settle(self._questions.popleft(), result)
            case core.Told(message):
                self._on_told(message)
            case core.Started(view) | core.Ended(view):
                self._on_moved(view)
        self._emit(event)

    def _on_received(self, view: View) -> None:
        self._tries.failures = 0
        if self._protocol.state is ConnectionState.OPEN:
            self._tries.told = None  # an error's; what a server said before it goes stands
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
        self._tries.greeted_at = self._loop.time()
        if self._greeted is not None and not self._greeted.done():
            self._greeted.set_result(None)

    def _on_told(self, message: m.ServerMessage) -> None:
        if isinstance(message, m.GoingAway):
            self._tries.told = message.reconnect_after_ms / 1000
        elif isinstance(message, m.Error) and message.retry_after is not None:
            self._tries.told = message.retry_after

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
