"""The store that keeps nothing beyond the process. Logs live in their `wsstream.chunklog.ChunkLog`, sessions here."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from wsstream.chunks import Outcome
from wsstream.errors import ConfigError, StoreError
from wsstream.stores.base import (
    End,
    SessionInfo,
    StoredLog,
    StoredMessage,
    StoredPage,
    StoreStatistics,
    StreamRecord,
    StreamSummary,
    untold,
)
from wsstream.tally import Histogram

SESSIONS = 10_000
"""Sessions whose messages are kept, the latest."""

T = TypeVar("T")

_pack = msgspec.msgpack.Encoder().encode


class MemoryStore:
    """Everything is committed at once, because the process is all the durability there is."""

    durable = False

    def __init__(self) -> None:
        self.on_failure: Callable[[StoreError, set[str]], None] = lambda _error, _streams: None
        self._messages: dict[str, list[StoredMessage]] = {}
        self._sessions: dict[str, SessionInfo] = {}

    async def open(self, end: End) -> list[StreamSummary]:
        """Nothing survives, so nothing is listed."""
        return []

    def take_running(self) -> list[StoredLog]:
        """Nor does anything go on."""
        return []

    def create(self, record: StreamRecord, committed: Callable[[], None]) -> None:
        """Commit at once."""
        committed()

    def update(self, record: StreamRecord, committed: Callable[[], None]) -> None:
        """Commit at once."""
        committed()

    def append(
        self, stream_id: str, first: int, bodies: Sequence[bytes], kinds: bytes, committed: Callable[[int], None]
    ) -> None:
        """Commit at once."""
        committed(first + len(bodies) - 1)

    def cancel(self, stream_id: str) -> None:
        """Nothing to do."""

    def finish(
        self, stream_id: str, outcome: Outcome, bodies: Sequence[bytes], kinds: bytes, committed: Callable[[], None]
    ) -> None:
        """Commit at once."""
        committed()

    def load(self, stream_id: str) -> Future[StoredLog | None]:
        """No log is anywhere but in memory already."""
        return _done(None)

    def delete(self, stream_id: str, committed: Callable[[], None] = untold) -> None:
        """Nothing to do."""
        committed()

    def save_message(self, message: StoredMessage) -> None:
        """Keep it."""
        session_id = message.session_id
        messages = self._messages.setdefault(session_id, [])
        for place, other in enumerate(messages):
            if message.stream_id is not None and other.stream_id == message.stream_id:
                messages[place] = message
                return
        messages.append(message)
        known = self._sessions.pop(session_id, None) or SessionInfo(session_id, None, message.created, message.created)
        updated = max(known.updated, message.created)
        self._sessions[session_id] = SessionInfo(session_id, known.title, known.created, updated)
        if len(self._sessions) > SESSIONS:
            self.delete_session(next(iter(self._sessions)))

    def history(self, session_id: str) -> Future[list[StoredMessage]]:
        """A session's messages."""
        return _done(list(self._messages.get(session_id, ())))

    def page(self, session_id: str, before: str | None, limit: int, max_bytes: int) -> Future[StoredPage | None]:
        """Some of them, counted from the newest."""
        messages = self._messages.get(session_id, [])
        end = len(messages)
        if before is not None:
            end = next((n for n in reversed(range(end)) if messages[n].message_id == before), -1)
        if end < 0:
            return _done(None)
        size, begin = 0, end
        while begin and end - begin < limit:
            size += len(_pack(messages[begin - 1]))
            if size > max_bytes and begin < end:
                break
            begin -= 1
        return _done(StoredPage(messages[begin:end], begin > 0))

    def session(self, session_id: str) -> Future[SessionInfo | None]:
        """What is known of a session."""
        return _done(self._sessions.get(session_id))

    def rename_session(self, session_id: str, title: str, committed: Callable[[bool], None] = untold) -> None:
        """Keep the title."""
        known = self._sessions.get(session_id)
        if known is not None:
            self._sessions[session_id] = SessionInfo(session_id, title, known.created, known.updated)
        committed(known is not None)

    def delete_session(self, session_id: str, committed: Callable[[], None] = untold) -> None:
        """Forget it."""
        self._sessions.pop(session_id, None)
        self._messages.pop(session_id, None)
        committed()

    def trouble(self) -> str | None:
        """Nothing can go wrong."""
        return None

    def statistics(self) -> StoreStatistics:
        """There are no commits."""
        return StoreStatistics(Histogram())

    async def close(self) -> None:
        """Nothing to do."""


def _done(result: T) -> Future[T]:
    future: Future[T] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future


def make(path: str, durability: str) -> MemoryStore:
    """The store for the table in `wsstream.stores`.

    Raises:
        ConfigError: a path was given, which this store has no use for.
    """
    if path:
        raise ConfigError(f"store: memory: takes no path, got {path!r}")
    return MemoryStore()
