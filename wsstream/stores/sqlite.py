"""Logs and sessions in one SQLite file: the default store.

The file belongs to one thread (`wsstream.stores.database`). The event loop gathers what is to be written; the thread
commits it as a group, and what was committed is acknowledged back on the loop. While a commit is under way the next
group gathers, and under load commits start at least `WINDOW` apart, so that many tokens share one. A lone token is
committed at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from asyncio import Future
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

from wsstream.chunks import Outcome
from wsstream.errors import ConfigError, StoreCorrupt, StoreError
from wsstream.stores.base import End, SessionInfo, StoredLog, StoredMessage, StreamRecord, StreamSummary
from wsstream.stores.database import (
    Append,
    Cancelled,
    Create,
    Database,
    Delete,
    DeleteSession,
    Durability,
    Finish,
    Operation,
    Rename,
    SaveMessage,
    set_aside,
)

logger = logging.getLogger(__name__)

WINDOW = 0.003
"""Seconds between the starts of commits under load."""

T = TypeVar("T")


class _Group:
    """What is committed together, and whom to tell."""

    __slots__ = ("committed", "operations", "streams")

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.committed: list[Callable[[], None]] = []
        self.streams: dict[str, tuple[Callable[[int], None], int]] = {}


class SqliteStore:
    """The store ``sqlite:PATH``."""

    durable = True

    def __init__(self, path: str, durability: Durability = "process", vfs: str | None = None) -> None:
        """``durability``: survive the end of the `process`, or also the loss of `power`.

        Raises:
            ConfigError: no path is given.
        """
        if not path:
            raise ConfigError("store: sqlite: needs a path, as in sqlite:wsstream.db")
        self.on_failure: Callable[[StoreError, set[str]], None] = lambda _error, _streams: None
        self._path = path
        self._durability: Durability = durability
        self._vfs = vfs
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wsstream-store", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._database: Database
        self._numbers: dict[str, int] = {}
        self._next_number = 1
        self._group = _Group()
        self._committing = False
        self._scheduled = False
        self._last_commit = 0.0
        self._trouble: str | None = None

    # -- the life of the store

    async def open(self, end: End) -> list[StreamSummary]:
        """Open the file; one that cannot be read is set aside under another name, loudly."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        summaries = await self._ask(lambda: self._open(end))
        self._numbers = {summary.record.stream_id: summary.number for summary in summaries}
        self._next_number = max(self._numbers.values(), default=0) + 1
        return summaries

    def _open(self, end: End) -> list[StreamSummary]:
        try:
            self._database = Database(self._path, self._durability, self._vfs)
            self._database.recover(end)
        except StoreCorrupt as error:
            if hasattr(self, "_database"):
                self._database.close()
            aside = set_aside(self._path)
            logger.critical("the store %s cannot be read (%s): kept as %s, beginning anew", self._path, error, aside)
            self._database = Database(self._path, self._durability, self._vfs)
        return self._database.summaries()

    async def close(self) -> None:
        """Commit what is pending and close the file."""
        if not self._thread.is_alive():
            return
        self._commit()
        await self._ask(self._close)
        self._jobs.put(None)
        self._thread.join(timeout=5.0)

    def _close(self) -> None:
        try:
            self._database.checkpoint()
        finally:
            self._database.close()

    # -- writing

    def create(self, record: StreamRecord) -> None:
        """Begin a log."""
        number = self._numbers[record.stream_id] = self._next_number
        self._next_number += 1
        self._write(Create(number, record))

    def append(
        self, stream_id: str, first: int, bodies: Sequence[bytes], kinds: bytes, committed: Callable[[int], None]
    ) -> None:
        """Add chunks to the group."""
        group = self._group
        group.operations.append(Append(self._numbers[stream_id], first, kinds, list(bodies)))
        group.streams[stream_id] = (committed, first + len(bodies) - 1)
        if not self._committing and not self._scheduled:
            self._schedule()

    def cancel(self, stream_id: str) -> None:
        """Note it, before anything else of the stream that is not committed yet."""
        self._write(Cancelled(self._numbers[stream_id]))

    def finish(
        self, stream_id: str, outcome: Outcome, bodies: Sequence[bytes], kinds: bytes, committed: Callable[[], None]
    ) -> None:
        """End a log: from now on it is one row."""
        number = self._numbers[stream_id]
        self._group.committed.append(committed)
        self._write(Finish(number, outcome, time.time(), kinds, list(bodies)))

    def delete(self, stream_id: str) -> None:
        """Forget a log."""
        number = self._numbers.pop(stream_id, None)
        if number is not None:
            self._write(Delete(number))

    def save_message(self, message: StoredMessage) -> None:
        """Keep a message."""
        self._write(SaveMessage(message))

    def rename_session(self, session_id: str, title: str) -> None:
        """Keep a title."""
        self._write(Rename(session_id, title))

    def delete_session(self, session_id: str) -> None:
        """Forget a session's messages."""
        self._write(DeleteSession(session_id))

    def _write(self, operation: Operation) -> None:
        self._group.operations.append(operation)
        if not self._committing and not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        """Commit at the end of this tick, or when the last commit is `WINDOW` ago."""
        self._scheduled = True
        wait = self._last_commit + WINDOW - time.monotonic()
        if wait <= 0:
            self._loop.call_soon(self._commit)
        else:
            self._loop.call_later(wait, self._commit)

    def _commit(self) -> None:
        self._scheduled = False
        group = self._group
        if not group.operations:
            return
        self._group = _Group()
        self._committing = True
        self._last_commit = time.monotonic()
        self._jobs.put(lambda: self._commit_now(group))

    def _commit_now(self, group: _Group) -> None:
        error: StoreError | None = None
        try:
            self._database.commit(group.operations)
        except StoreError as failure:
            error = failure
        self._call(self._on_commit, group, error)

    def _on_commit(self, group: _Group, error: StoreError | None) -> None:
        self._committing = False
        if self._group.operations:
            self._schedule()
        if error is not None:
            self._on_lost(group, error)
            return
        self._trouble = None
        for committed, last in group.streams.values():
            committed(last)
        for finished in group.committed:
            finished()

    def _on_lost(self, group: _Group, error: StoreError) -> None:
        names = {number: stream_id for stream_id, number in self._numbers.items()}
        lost = {names[number] for operation in group.operations if (number := getattr(operation, "number", 0)) in names}
        logger.error("the store %s failed, %d streams are concerned: %s", self._path, len(lost), error)
        self._trouble = str(error)
        self.on_failure(error, lost)

    # -- reading

    def load(self, stream_id: str) -> Future[StoredLog | None]:
        """Read a log."""
        return self._ask(lambda: self._database.load(stream_id))

    def history(self, session_id: str) -> Future[list[StoredMessage]]:
        """Read a session's messages, those that are being written included."""
        self._commit()
        return self._ask(lambda: self._database.history(session_id))

    def session(self, session_id: str) -> Future[SessionInfo | None]:
        """Read what is known of a session."""
        self._commit()
        return self._ask(lambda: self._database.session(session_id))

    def trouble(self) -> str | None:
        """What the last commit failed of."""
        return self._trouble

    # -- the thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _ask(self, question: Callable[[], T]) -> Future[T]:
        """Have the thread answer; in the order of everything else it is given."""
        future: Future[T] = self._loop.create_future()

        def answer() -> None:
            try:
                result = question()
            except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
                self._call(_fail, future, error)
            else:
                self._call(_resolve, future, result)

        self._jobs.put(answer)
        return future

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            logger.warning("the store answered after the event loop had ended")


def _resolve(future: Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def make(path: str, durability: Durability) -> SqliteStore:
    """The store for the table in `wsstream.stores`."""
    return SqliteStore(os.fspath(path), durability)
