"""One answer, as its one consumer reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

from wsstream import errors
from wsstream.chunks import Outcome
from wsstream.client.failures import failure_of
from wsstream.client_protocol import Piece, View
from wsstream.errors import LocalError, WsstreamError
from wsstream.states import ViewState


class Reader(Protocol):
    """Whose stream it is: `wsstream.client.Client`."""

    def _take(self, view: View) -> Piece | None: ...

    def _cancel(self, view: View) -> None: ...

    def _abandon(self, view: View) -> None: ...


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

    def __init__(self, client: Reader, view: View) -> None:
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


def _parse_partial(text: str) -> Any:
    from jiter import from_json  # only for those who ask for it

    try:
        return from_json(text.encode(), partial_mode="trailing-strings")
    except ValueError:
        return None
