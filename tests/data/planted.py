"""``python -m tests.data.planted NAME serve …``: the command line with one mistake, or one odd habit, planted in it.

The crash harness (tests/crash.py) has to notice every mistake.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from wsstream import cli
from wsstream.chunklog import ChunkLog
from wsstream.stores import database
from wsstream.stores.database import Cancelled, Database, Finish
from wsstream.streams import Streams

PLANTED: dict[str, Callable[[], None]] = {}


def plant(function: Callable[[], None]) -> Callable[[], None]:
    """Put it on the list under its name."""
    PLANTED[function.__name__] = function
    return function


# -- odd habits


@plant
def small_checkpoints() -> None:
    """The WAL goes into the file all the time, so that kills hit that too."""
    database.PAGES_PER_CHECKPOINT = 12


# -- mistakes


@plant
def shown_before_commit() -> None:
    """Viewers see chunks as soon as they are appended."""
    append = ChunkLog.append_bodies

    def append_and_show(self: ChunkLog, bodies: list[bytes], kinds: bytes) -> None:
        append(self, bodies, kinds)
        self._on_committed(len(self))

    ChunkLog.append_bodies = append_and_show  # type: ignore[method-assign]


@plant
def last_row_dropped() -> None:
    """Recovery forgets the last row of the journal."""
    recover = Database.recover

    def recover_less(self: Database, end: Any) -> None:
        self._db.execute("DELETE FROM journal WHERE number = (SELECT max(number) FROM journal)")
        recover(self, end)

    Database.recover = recover_less  # type: ignore[method-assign]


@plant
def requests_forgotten() -> None:
    """After a restart, nobody knows which requests have been answered."""
    open_streams = Streams.open

    async def open_and_forget(self: Streams) -> None:
        await open_streams(self)
        self._requests.clear()

    Streams.open = open_and_forget  # type: ignore[method-assign]


@plant
def cancels_not_kept() -> None:
    """A cancel is not written down, and the end that it made neither."""
    write = Database._write

    def write_less(self: Database, operations: Any) -> None:
        cancelled = {operation.number for operation in operations if isinstance(operation, Cancelled)}
        kept = [
            operation
            for operation in operations
            if not isinstance(operation, Cancelled)
            and not (isinstance(operation, Finish) and (operation.outcome.receipt or operation.number in cancelled))
        ]
        write(self, kept)

    Database._write = write_less  # type: ignore[method-assign]


@plant
def ends_not_written() -> None:
    """Recovery ends streams in memory only: the next restart ends them anew, with another record."""
    finish = Database._finish

    def finish_with_noise(self: Database, operation: Finish) -> None:
        finish(self, operation)
        self._db.execute("UPDATE streams SET outcome = NULL WHERE number = ?", (operation.number,))

    Database._finish = finish_with_noise  # type: ignore[method-assign]


if __name__ == "__main__":
    PLANTED[sys.argv[1]]()
    raise SystemExit(cli.main(sys.argv[2:]))
