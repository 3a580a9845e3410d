"""``python -m tests.data.planted NAME serve …``: the command line with one mistake, or one odd habit, planted in it.

The crash harness (tests/crash.py), or the soak (tests/soak), has to notice every mistake.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from wsstream import cli
from wsstream.chunklog import Attachment, ChunkLog
from wsstream.chunks import Delta
from wsstream.flow import SendWindow
from wsstream.messages import CancelStream
from wsstream.sessions import Sessions
from wsstream.stores import database, journal
from wsstream.stores.database import Database
from wsstream.stores.operations import Cancelled, Finish
from wsstream.streams import Stream, Streams
from wsstream.wires.desk import _HANDLERS, Desk

PLANTED: dict[str, Callable[[], None]] = {}


def plant(function: Callable[[], None]) -> Callable[[], None]:
    """Put it on the list under its name."""
    PLANTED[function.__name__] = function
    return function


# -- odd habits


@plant
def small_files() -> None:
    """The WAL goes into the file, and the journal is compacted, all the time, so that kills hit that too."""
    database.PAGES_PER_CHECKPOINT = 12
    journal.COMPACT_BYTES = 8192


# -- mistakes


@plant
def shown_before_commit() -> None:
    """Viewers see chunks as soon as they are appended, but for the first, that comes behind its stream's start."""
    append = ChunkLog.append

    def append_and_show(self: ChunkLog, deltas: Sequence[Delta]) -> None:
        append(self, deltas)
        if self.tail:
            self._on_committed(len(self))

    ChunkLog.append = append_and_show  # type: ignore[method-assign]


@plant
def last_row_dropped() -> None:
    """Recovery forgets the last row of the journal."""
    recover = Database.recover

    def recover_less(self: Database, end: Any) -> Any:
        self._connection().execute("DELETE FROM journal WHERE number = (SELECT max(number) FROM journal)")
        return recover(self, end)

    Database.recover = recover_less  # type: ignore[method-assign]


@plant
def requests_forgotten() -> None:
    """After a restart, nobody knows which requests have been answered."""
    open_streams = Streams.open

    async def open_and_forget(self: Streams) -> None:
        await open_streams(self)
        self._directory._requests.clear()

    Streams.open = open_and_forget  # type: ignore[method-assign]


@plant
def cancels_not_kept() -> None:
    """Neither a cancel nor the end that it made is written down."""
    write = Database._write

    def write_less(self: Database, db: Any, operations: Any, needed: Any) -> int:
        return write(self, db, [operation for operation in operations if not _is_cancel(operation)], needed)

    Database._write = write_less  # type: ignore[method-assign]


def _is_cancel(operation: Any) -> bool:
    return isinstance(operation, Cancelled) or (isinstance(operation, Finish) and operation.outcome.receipt is not None)


@plant
def ends_not_kept() -> None:
    """Every start ends everything anew."""
    recover = Database.recover

    def recover_all(self: Database, end: Any) -> Any:
        self._connection().execute("UPDATE streams SET ending = NULL")
        return recover(self, end)

    Database.recover = recover_all  # type: ignore[method-assign]


@plant
def chunk_dropped_on_resume() -> None:
    """Who comes back behind a chunk is sent what follows the next one."""
    attach = ChunkLog.attach

    def attach_further(self: ChunkLog, window: SendWindow, wake: Any) -> Attachment:
        if 0 < window.sent < self.tail:
            window.sent += 1
        return attach(self, window, wake)

    ChunkLog.attach = attach_further  # type: ignore[method-assign]


@plant
def files_left_open() -> None:
    """Each viewer costs a file that nobody closes."""
    attach = ChunkLog.attach

    def attach_and_open(self: ChunkLog, window: SendWindow, wake: Any) -> Attachment:
        os.open(os.devnull, os.O_RDONLY)
        return attach(self, window, wake)

    ChunkLog.attach = attach_and_open  # type: ignore[method-assign]


# -- mistakes that this code really had


@plant
def cancels_overtake() -> None:
    """Who cancels an answer that is still being read from the store is told its end before its chunks."""
    Desk._on_cancel = _cancel_and_overtake  # type: ignore[method-assign]
    _HANDLERS[CancelStream] = _cancel_and_overtake


def _cancel_and_overtake(self: Desk, asked: CancelStream) -> None:
    assert asked.stream_id is not None
    stream = self.streams.get(asked.stream_id)
    self.streams.cancel(stream)
    if asked.stream_id not in self._out.attachments:
        stream.log.when_finished(self._tell_end)


@plant
def starts_shown_before_commit() -> None:
    """A client is told of a stream that a crash can still undo."""

    def begin(self: Stream, store: Any) -> None:
        store.create(self.record, lambda: None)

    Stream.begin = begin  # type: ignore[method-assign]


@plant
def messages_written_late() -> None:
    """What an answer said goes to its session only after its end was committed."""
    end = Sessions.end

    def end_late(self: Sessions, *arguments: Any) -> None:
        asyncio.get_running_loop().call_later(0.005, end, self, *arguments)

    Sessions.end = end_late  # type: ignore[method-assign]


@plant
def requests_written_in_parts() -> None:
    """A stream is committed before the messages that belong to it."""
    begin = Sessions.begin

    def begin_late(self: Sessions, *arguments: Any) -> Any:
        self._store.history("")
        return begin(self, *arguments)

    Sessions.begin = begin_late  # type: ignore[method-assign]


if __name__ == "__main__":
    PLANTED[sys.argv[1]]()
    raise SystemExit(cli.main(sys.argv[2:]))
