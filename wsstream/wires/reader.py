"""Reading one stream's log for a wire that has no acks: HTTP, where the socket's own flow control stands in for them.

A `LogReader` belongs to one response. What it gives is one write, and asking for the next is the acknowledgement that
the socket has taken it. So a client that stops reading is behind by a window like any other viewer, its backlog stays
in the log, and the provider is held back at the same high mark.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, NamedTuple

from wsstream.chunklog import Attachment
from wsstream.chunks import Kind, Outcome
from wsstream.errors import RequestError, StoreError
from wsstream.flow import SendWindow
from wsstream.messages import Rewind, StreamStatus, decode_body, read_rewind
from wsstream.wires.base import LoggedLike, LogsLike

WINDOW = 200
"""Chunks that one write may hold."""
WINDOW_BYTES = 256 * 1024
"""Bytes of chunks handed to the socket and not taken yet; a larger chunk goes alone."""
MAX_STATUSES = 16
"""Statuses kept for a client that does not read."""
WRITE_SLICE = 16 * 1024
"""Bytes of chunks per write, so that a client that stops reading is noticed soon."""


class Entry(NamedTuple):
    """One chunk. ``body`` is the inside of its JSON string, fit to be put into other JSON as it is."""

    chunk_id: int
    kind: int
    body: bytes

    @property
    def content(self) -> str:
        """What the body says; not of a REWIND."""
        return decode_body(self.body)

    @property
    def rewind(self) -> Rewind:
        """What a chunk of kind REWIND says: the text behind ``to_chunk_id`` is withdrawn, and why."""
        return read_rewind(self.body)


class Run(NamedTuple):
    """Neighbouring chunks of one kind, ``body`` their bodies end to end. A REWIND is always a run of its own."""

    first: int
    last: int
    kind: int
    body: bytes

    @property
    def content(self) -> str:
        """What the bodies say together; not of a REWIND."""
        return decode_body(self.body)

    @property
    def rewind(self) -> Rewind:
        """What a chunk of kind REWIND says."""
        return read_rewind(self.body)


class Span(NamedTuple):
    """Chunks that may go now, in one write: ``first``, ``first + 1`` …"""

    first: int
    bodies: list[bytes]
    kinds: bytes

    @property
    def last(self) -> int:
        """The id of the last one."""
        return self.first + len(self.bodies) - 1

    def entries(self) -> Iterator[Entry]:
        """One by one."""
        for chunk_id, (body, kind) in enumerate(zip(self.bodies, self.kinds, strict=True), self.first):
            yield Entry(chunk_id, kind, body)

    def runs(self) -> Iterator[Run]:
        """The same, merged where neighbours are of one kind."""
        begin = 0
        for end in range(1, len(self.kinds) + 1):
            kind = self.kinds[begin]
            if end == len(self.kinds) or self.kinds[end] != kind or kind == Kind.REWIND:
                yield Run(self.first + begin, self.first + end - 1, kind, b"".join(self.bodies[begin:end]))
                begin = end


class LogReader:
    """One response's cursor into a log, from behind ``after`` to the outcome.

    >>> async with LogReader(streams, stream, after=0) as reader:       # doctest: +SKIP
    ...     async for item in reader:
    ...         if isinstance(item, Outcome): ...                       # once, at the end
    ...         else: await send(b"".join(write(entry) for entry in item.entries()))

    Entering attaches before anything is awaited, where the chunks are in memory: a stream that was just started is at
    no moment without a viewer. Leaving detaches. There is no task and no queue.
    """

    def __init__(
        self,
        streams: LogsLike,
        stream: LoggedLike,
        after: int = 0,
        *,
        window: int = WINDOW,
        window_bytes: int = WINDOW_BYTES,
        statuses: bool = False,
    ) -> None:
        """``statuses``: whether `next` comes back with None for them, too, and they are then in `taken_statuses`."""
        self._streams = streams
        self._stream = stream
        self._after = after
        self._limits = (window, window_bytes)
        self._attachment: Attachment | None = None
        self._waiter: Future[bool] | None = None
        self._opening: Future[None] | None = None
        self._closed = False
        self._error: RequestError | None = None
        self._wants_statuses = statuses
        self._statuses: list[StreamStatus] = []

    async def __aenter__(self) -> LogReader:
        """Attach, when the store has read the chunks if it must.

        Raises:
            ResumeAhead: there is no chunk ``after``.
            StoreError: the chunks cannot be read.
        """
        self._stream.log.check_position(self._after)
        loading = self._streams.load(self._stream)
        if loading is None:
            self._attach()
            return self
        self._opening = asyncio.get_running_loop().create_future()
        loading.add_done_callback(self._on_loaded)
        try:
            await self._opening
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _on_loaded(self, loaded: Future[Any]) -> None:
        """Attach within the callback: a moment later the chunks may have left the memory again."""
        if self._closed or self._opening is None or self._opening.done():
            return
        if loaded.cancelled() or loaded.exception() is not None or not self._stream.log.loaded:
            self._opening.set_exception(StoreError("The answer cannot be read from the store"))
        else:
            self._attach()
            self._opening.set_result(None)

    def _attach(self) -> None:
        window = SendWindow(*self._limits, self._after)
        self._attachment = self._streams.attach(self._stream, window, self._on_roused)
        if self._wants_statuses:
            self._attachment.tell_statuses(self._on_status)

    def _on_status(self, status: StreamStatus) -> None:
        self._statuses = [*self._statuses[1 - MAX_STATUSES :], status]
        self._wake(False)

    def taken_statuses(self) -> list[StreamStatus]:
        """Why people wait: what was said of that since the last call, the newest few."""
        statuses, self._statuses = self._statuses, []
        return statuses

    def close(self) -> None:
        """Detach. Idempotent."""
        self._closed = True
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.log.detach(attachment)
        self._wake(False)

    def end(self, error: RequestError) -> None:
        """Detach; whoever waits for `next`, or asks for it, gets ``error``."""
        self._error = error
        self.close()

    # -- reading

    async def next(self, patience: float | None = None) -> Span | Outcome | None:
        """The chunks that may go now, or the outcome behind the last one; what was given before is acknowledged.

        Args:
            patience: seconds to wait; None comes back where nothing has come by then, and what was given last counts
                as taken all the same.

        Raises:
            StopAsyncIteration: the outcome was given already, or the reader is closed.
            RequestError: what `end` was called with.
        """
        attachment = self._attachment
        if attachment is None or attachment.told:
            raise self._error or StopAsyncIteration
        self.acknowledge()
        while True:
            item = self._take(attachment)
            if item is not None:
                return item
            if self._statuses or not await self._wait(patience):
                if self._closed:
                    raise self._error or StopAsyncIteration
                return None

    async def __aiter__(self) -> AsyncIterator[Span | Outcome]:
        """`next` to the end."""
        while True:
            try:
                item = await self.next()
            except StopAsyncIteration:
                return
            assert item is not None
            yield item

    def acknowledge(self) -> None:
        """The socket has taken everything that was given. `next` does this by itself."""
        attachment = self._attachment
        if attachment is not None and attachment.window.on_ack(attachment.window.sent):
            attachment.on_acked()

    def _take(self, attachment: Attachment) -> Span | Outcome | None:
        span = attachment.take(WRITE_SLICE)
        if span is None:
            return attachment.take_outcome()
        log = attachment.log
        return Span(span[0], log.bodies(*span), bytes(log.kinds(*span)))

    async def _wait(self, patience: float | None) -> bool:
        """Wait until roused; False where ``patience`` ran out or the reader was closed first."""
        loop = asyncio.get_running_loop()
        waiter: Future[bool] = loop.create_future()
        self._waiter = waiter
        timer = None if patience is None else loop.call_later(patience, self._wake, False)
        try:
            return await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _on_roused(self, _: Attachment) -> None:
        self._wake(True)

    def _wake(self, roused: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(roused)


async def stored(stream: LoggedLike) -> None:
    """Wait until a crash can no longer undo that ``stream`` has begun: before, nobody is to be told of it."""
    waiter: Future[None] = asyncio.get_running_loop().create_future()

    def tell() -> None:
        if not waiter.done():
            waiter.set_result(None)

    stream.when_stored(tell)
    await waiter
