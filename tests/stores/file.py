"""Files of a store, opened for a test, and what is in them."""

from __future__ import annotations

import os
from pathlib import Path

from wsstream.chunks import Outcome, StreamState
from wsstream.stores.base import StoredLog, StoredMessage, StreamRecord
from wsstream.stores.database import Database
from wsstream.stores.operations import Finish


def cut_off(_: StreamRecord, __: bool, log: StoredLog) -> tuple[Outcome, StoredMessage | None]:
    """End what was running as a crash does."""
    return Outcome(StreamState.INTERRUPTED, len(log.bodies)), None


def made(path: Path) -> Database:
    """An open file."""
    return Database(str(path))


def finish(number: int, bodies: list[bytes]) -> Finish:
    """The end of a stream."""
    return Finish(number, Outcome(StreamState.COMPLETE, len(bodies)), 1.0, bytes(len(bodies)), bodies)


def journal_rows(database: Database) -> int:
    """Rows in the journal."""
    return int(database._connection().execute("SELECT count(*) FROM journal").get)


def file_sizes(path: Path) -> tuple[int, int]:
    """Of the file and its WAL."""
    return os.path.getsize(path), os.path.getsize(f"{path}-wal")
