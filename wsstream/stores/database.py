"""The SQLite file: one connection, its commits, and what keeps it small. Synchronous, for one thread.

What running answers append goes to the journal (`wsstream.stores.journal`); when an answer ends, its whole log becomes
one row. How rows are packed `rows` knows, which tables there are `schema`, what a commit does to them `operations`,
what is read of them `reading`, and what is made of them after a crash `crashes`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Literal

import apsw

from wsstream.errors import StoreError
from wsstream.stores import crashes, reading, schema
from wsstream.stores.base import End, SessionInfo, StoredLog, StoredMessage, StoredPage, StreamSummary
from wsstream.stores.failures import translated
from wsstream.stores.files import make_private
from wsstream.stores.journal import Journal
from wsstream.stores.operations import WRITERS, Append, Delete, Finish, Operation

logger = logging.getLogger(__name__)

PAGES_PER_CHECKPOINT = 2000
BUSY_TIMEOUT_MS = 1000
WAL_BYTES = 16 * 1024 * 1024
"""What is left of a WAL that one large answer has made larger."""
TIDY_RETRY = 1.0
"""Seconds until a checkpoint that failed is tried again."""
Durability = Literal["process", "power"]


class Database:
    """One open file. Exactly one connection reads, writes and checkpoints it, under an exclusive lock.

    After any failed write the connection is given up and opened anew before the next: what SQLite and the kernel hold
    in memory then need not be what is on the disk, and a second try to sync would succeed without doing anything.
    """

    def __init__(self, path: str, durability: Durability = "process", vfs: str | None = None) -> None:
        """Open or make the file.

        Raises:
            StoreLocked: another process has it.
            ConfigError: it is a database of something else.
            StoreCorrupt: it is not (or no longer) a database of ours; see `wsstream.stores.files`.
            StoreError: it cannot be opened.
        """
        self.path = path
        self.trouble: str | None = None
        """What keeps the file from being tidied up; nothing that was committed is concerned."""
        self._durability = durability
        self._vfs = vfs
        self._db: apsw.Connection | None = None
        self._journal = Journal()
        self._translated = translated(path)
        self._doubtful = False
        self._unsure = False
        self._wal_pages = 0
        self._tidy_again = 0.0
        with translated(path, opening=True):
            if vfs is None:
                make_private(path)
            self._connection()

    # -- the connection

    def _connection(self) -> apsw.Connection:
        """The connection; opened (again) where it must be."""
        if self._db is None:
            db = apsw.Connection(self.path, vfs=self._vfs)
            try:
                self._prepare(db)
                self._verify(db)
            except BaseException:
                _abandon(db)
                raise
            self._db = db
        return self._db

    def _prepare(self, db: apsw.Connection) -> None:
        db.set_busy_timeout(BUSY_TIMEOUT_MS)
        # Exclusive before WAL: then the index of the WAL is in our own memory, and no other process can write.
        db.pragma("locking_mode", "EXCLUSIVE")
        version = schema.check(db, self.path)
        for name, value in (
            ("journal_mode", "WAL"),
            ("synchronous", "FULL" if self._durability == "power" else "NORMAL"),
            ("wal_autocheckpoint", 0),
            ("journal_size_limit", WAL_BYTES),
            ("mmap_size", 0),
            ("trusted_schema", "OFF"),
            ("cell_size_check", "ON"),
        ):
            db.pragma(name, value)
        db.set_wal_hook(self._on_wal)
        with db:
            schema.migrate(db, version)

    def _verify(self, db: apsw.Connection) -> None:
        """See that a disk that failed still has what it had confirmed, unless the failed commit may have deleted it."""
        if not self._unsure and self._journal.has_lost(db):
            raise StoreError(f"{self.path}: the disk has lost what it had confirmed")

    def _on_wal(self, _db: Any, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _give_up(self) -> None:
        """Use the connection no more."""
        db, self._db = self._db, None
        self._doubtful = True
        if db is not None:
            _abandon(db)

    # -- writing

    def commit(self, operations: Sequence[Operation]) -> None:
        """Do all of ``operations``, or none.

        Raises:
            StoreError: none was done.
        """
        needed = self._journal.begin()
        with self._translated:
            db = self._connection()
            try:
                with db:
                    if self._doubtful:
                        schema.write_again(db)
                    size = self._write(db, operations, needed)
            except BaseException:
                self._unsure |= any(isinstance(operation, Finish | Delete) for operation in operations)
                self._give_up()
                raise
        self._doubtful = self._unsure = False
        self._journal.keep(needed, size)
        self._tidy()

    def _write(self, db: apsw.Connection, operations: Sequence[Operation], needed: dict[int, int]) -> int:
        """Do ``operations``; the bytes that the journal grew by."""
        appends: list[Append] = []
        over: set[int] = set()
        for operation in operations:
            if type(operation) is Append:
                appends.append(operation)
                continue
            WRITERS[type(operation)](db, operation)
            if isinstance(operation, Finish | Delete):
                over.add(operation.number)
        return self._journal.write(db, appends, over, needed)

    # -- what can wait until after a commit

    def _tidy(self) -> None:
        """Keep the files small. Trouble here concerns nothing that was committed."""
        if self._wal_pages < PAGES_PER_CHECKPOINT and not self._journal.is_large():
            self.trouble = None  # what could not be tidied has gone by itself: its answers have ended
            return
        if self.trouble is not None and time.monotonic() < self._tidy_again:
            return
        try:
            with self._translated:
                if self._journal.is_large():
                    self._journal.compact(self._connection())
                if self._wal_pages >= PAGES_PER_CHECKPOINT:
                    self._checkpoint()
        except StoreError as error:
            self._unsure = True
            self._give_up()
            self._tidy_again = time.monotonic() + TIDY_RETRY
            if self.trouble is None:
                logger.error("%s", error)
            self.trouble = str(error)
        else:
            self.trouble = None

    def _checkpoint(self) -> None:
        """Move what the WAL holds into the file; the next commit begins it anew."""
        self._connection().wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self._wal_pages = 0

    # -- after a start

    def recover(self, end: End) -> dict[int, StoredLog]:
        """Give every stream that was running its end, or let it go on; the logs of those that do, by their numbers.

        Raises:
            StoreError: nothing was done.
        """
        with translated(self.path, opening=True):
            return crashes.recover(self._connection(), self.path, self._journal, end)

    def summaries(self) -> list[StreamSummary]:
        """All streams that have ended and can be read, oldest first.

        Raises:
            StoreError: they cannot be listed.
        """
        with translated(self.path, opening=True):
            return reading.summaries(self._connection(), self.path)

    def highest_number(self) -> int:
        """The highest number of a stream in use.

        Raises:
            StoreError: it cannot be read.
        """
        with translated(self.path, opening=True):
            return reading.highest_number(self._connection())

    # -- reading

    def load(self, stream_id: str) -> StoredLog | None:
        """An ended stream's log; None where there is none.

        Raises:
            StoreCorrupt: its bytes are not those that were written.
            StoreError: it cannot be read.
        """
        with self._translated:
            return reading.load(self._connection(), stream_id)

    def history(self, session_id: str) -> list[StoredMessage]:
        """A session's messages, oldest first.

        Raises:
            StoreCorrupt: one is not what was written.
            StoreError: they cannot be read.
        """
        with self._translated:
            return reading.history(self._connection(), session_id)

    def page(self, session_id: str, before: str | None, limit: int, max_bytes: int) -> StoredPage | None:
        """Some of a session's messages; see `wsstream.stores.base.Store.page`.

        Raises:
            StoreCorrupt: one is not what was written.
            StoreError: they cannot be read.
        """
        with self._translated:
            return reading.page(self._connection(), session_id, before, limit, max_bytes)

    def session(self, session_id: str) -> SessionInfo | None:
        """What is known of a session; None where it has no message.

        Raises:
            StoreCorrupt: its title is not what was written.
            StoreError: it cannot be read.
        """
        with self._translated:
            return reading.session(self._connection(), session_id)

    # -- the end

    def close(self) -> None:
        """Bring everything into one file, and release it."""
        if self._db is None:
            return
        try:
            with self._translated:
                self._checkpoint()
        except StoreError as error:
            self._give_up()
            logger.error("%s", error)
        else:
            self._db.close()
            self._db = None

    def abandon(self) -> None:
        """Release the file as it is."""
        self._give_up()


def _abandon(db: apsw.Connection) -> None:
    """Close without the checkpoint that closing brings: it would trust what a failed disk says."""
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.close(True)
