"""What a store is: where logs live. A store knows bytes and ids; it knows no viewer, no task and no wire."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from wsstream.chunks import Outcome, ToolCall, Usage, session_key
from wsstream.errors import StoreError
from wsstream.tally import Histogram


class StreamRecord(msgspec.Struct, frozen=True):
    """What a store keeps of a stream beside its chunks; written when the stream begins, and by `Store.update`."""

    stream_id: str
    session_id: str
    request_id: str
    epoch: str
    model: str | None
    created: float
    """Seconds since 1970."""
    owner: str = ""
    """Whose it is; empty for whoever knows its id."""
    note: bytes = b""
    """What a room of streams that are no answers keeps with each, in words of its own."""
    again: bytes = b""
    """What it takes to ask for the answer again after a crash, in words of whoever asks; empty where nobody will."""

    @property
    def session_key(self) -> str:
        """The name of its session among everybody's: what stores know sessions by."""
        return session_key(self.owner, self.session_id)


class StreamSummary(msgspec.Struct, frozen=True):
    """A stream that a store has, without its chunks. ``number`` is the store's own."""

    number: int
    record: StreamRecord
    outcome: Outcome
    ended: float
    """Seconds since 1970."""
    size: int
    """Bytes its log takes."""


class StoredMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a session, whose name is a `wsstream.chunks.session_key`.

    That of an answer has its ``stream_id``, and is renewed when the answer ends.
    """

    message_id: str
    session_id: str
    role: str
    content: str | list[dict[str, Any]]
    created: float
    """Seconds since 1970."""
    is_complete: bool = True
    stream_id: str | None = None
    usage: Usage | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    client_id: str | None = None
    """What its client calls it: the same again replaces it, and what followed."""


class StoredPage(msgspec.Struct, frozen=True):
    """Some messages of a session in a row, oldest first, and whether there are older ones."""

    messages: list[StoredMessage]
    more: bool


class SessionInfo(msgspec.Struct, frozen=True):
    """A session in a list. Times are seconds since 1970."""

    session_id: str
    title: str | None
    created: float
    updated: float


class StoreStatistics(msgspec.Struct, frozen=True):
    """What a store has done since it was opened."""

    commits: Histogram
    """Seconds from the start of a commit to its acknowledgement."""
    failures: int = 0
    """Commits that failed."""
    pending: int = 0
    """Operations that are gathered or being committed now."""


class StoredLog(msgspec.Struct, frozen=True):
    """A log as read back: ``bodies`` and ``kinds`` of the chunks 1 … n, and the outcome if it has ended.

    Long logs are best given as `wsstream.bodies.Bodies`.
    """

    record: StreamRecord
    bodies: Sequence[bytes]
    kinds: bytes
    outcome: Outcome | None
    whole: bool = True
    """Whether nothing that was committed is known to be missing."""


def untold(*_: object) -> None:
    """For a write whose acknowledgement nobody waits for."""


End = Callable[[StreamRecord, bool, StoredLog], tuple[Outcome, StoredMessage | None] | StreamRecord]
"""Makes the end of a stream that a crash cut off: of its record, whether a cancel was asked for, and what is left of
its log. The message is what its session keeps of it. Or gives the record with which the stream goes on. Called in any
thread.
"""


class Store(Protocol):
    """Keeps logs and sessions.

    Writes are done in the order in which they are asked for; what is asked for in one turn of the event loop, without
    a question in between, is done together or not at all, whatever happens to the process. Those of a log are
    acknowledged by their ``committed`` callback, in order; only then may a viewer see what was written (written before
    sent). A store that keeps nothing beyond the process may call it at once. All callbacks run on the event loop. A
    question sees what was written before it, and nothing that is written later.

    A write that fails is never acknowledged. The store says so once, to `on_failure`, for all streams that it concerns;
    what was acknowledged before stays. From then on chunks of such a stream are ignored; its end is still taken, if the
    store has the stream at all. Deletions and titles are no stream's: they stay owed, and are acknowledged when they
    are written after all.
    """

    durable: bool
    """Whether what was written can be read back: then ended logs need not stay in memory."""

    on_failure: Callable[[StoreError, set[str]], None]
    """Called with what went wrong and the streams whose writes were lost by it."""

    async def open(self, end: End) -> list[StreamSummary]:
        """Begin. Streams that a crash cut off get their end from ``end`` first; then all that have ended are listed.

        Raises:
            StoreError: the store cannot be used.
        """

    def take_running(self) -> list[StoredLog]:
        """The streams that go on, as ``end`` has said at `open`; once. Their logs are appended to as any other."""

    def create(self, record: StreamRecord, committed: Callable[[], None]) -> None:
        """Begin a log. Before it is committed, nobody is told of the stream: no id is given that a crash takes back."""

    def update(self, record: StreamRecord, committed: Callable[[], None]) -> None:
        """Replace the record of a stream, together with what is written of it in the same turn."""

    def append(
        self, stream_id: str, first: int, bodies: Sequence[bytes], kinds: bytes, committed: Callable[[int], None]
    ) -> None:
        """Add the chunks ``first``, ``first + 1`` … to a log that ends at ``first - 1``.

        ``committed`` is called with the last chunk id that is safe now.
        """

    def cancel(self, stream_id: str) -> None:
        """Note that the end of a stream was asked for, so that nothing continues it after a crash."""

    def finish(
        self, stream_id: str, outcome: Outcome, bodies: Sequence[bytes], kinds: bytes, committed: Callable[[], None]
    ) -> None:
        """Add the terminal record. ``bodies`` and ``kinds`` are the whole log, appended before.

        ``bodies`` may be `wsstream.bodies.Bodies`, the log's own buffers: they stay as they are, and are to be read
        elsewhere than on the event loop where the log is long.
        """

    def load(self, stream_id: str) -> Future[StoredLog | None]:
        """Read an ended log back; None where the store has none of that id.

        Raises (by the future):
            StoreError: it cannot be read.
        """

    def delete(self, stream_id: str, committed: Callable[[], None] = untold) -> None:
        """Forget a log. Unknown ids are fine, and acknowledged behind what was written before."""

    def save_message(self, message: StoredMessage) -> None:
        """Add a message to its session; that of a stream that has begun replaces an earlier one of its."""

    def history(self, session_id: str) -> Future[list[StoredMessage]]:
        """A session's messages, oldest first."""

    def page(self, session_id: str, before: str | None, limit: int, max_bytes: int) -> Future[StoredPage | None]:
        """The newest ``limit`` messages that are older than the one whose id is ``before``; None: there is none such.

        As many as ``max_bytes`` hold, by their size in the store, and one at least. What it costs does not depend on
        how long the session is.
        """

    def session(self, session_id: str) -> Future[SessionInfo | None]:
        """What is known of a session; None where it has no message."""

    def rename_session(self, session_id: str, title: str, committed: Callable[[bool], None] = untold) -> None:
        """Give a session a title; ``committed`` is told whether there is such a session, that is, a message of it."""

    def delete_session(self, session_id: str, committed: Callable[[], None] = untold) -> None:
        """Forget a session's messages. Its logs are deleted one by one. Unknown ones are fine, and acknowledged."""

    def trouble(self) -> str | None:
        """What is wrong with the store now, in words for operators; None when nothing is."""

    def statistics(self) -> StoreStatistics:
        """What it has done."""

    async def close(self) -> None:
        """Write what is pending, then release everything."""
