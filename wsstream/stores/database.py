"""The SQLite file: its tables, its transactions, and what is made of it after a crash. Synchronous, for one thread.

Layout. What running answers append goes to the *journal*: one packed row for every group commit, whatever number
of streams it holds, so that a commit touches the end of one table and nothing else. When an answer ends, its whole log
becomes one row of *logs*, and journal rows that no running answer needs are deleted. Answers that take very long are
gathered now and then into one row, so that they do not hold on to everybody else's. (A row per chunk in a table ordered
by stream stalls for up to 97 ms at checkpoints: docs/benchmarks.md, "Stores".)

Every packed row carries a CRC-32 of its content and number: a flipped bit is found when it is read, not shown to
anybody.
"""

from __future__ import annotations

import logging
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

import apsw
import msgspec

from wsstream.bodies import Bodies
from wsstream.chunks import Outcome
from wsstream.errors import ConfigError, StoreCorrupt, StoreError, StoreLocked
from wsstream.stores.base import End, SessionInfo, StoredLog, StoredMessage, StoredPage, StreamRecord, StreamSummary

logger = logging.getLogger(__name__)

VERSION = 3
PAGES_PER_CHECKPOINT = 2000
BUSY_TIMEOUT_MS = 1000
WAL_BYTES = 16 * 1024 * 1024
"""What is left of a WAL that one large answer has made larger."""
COMPACT_BYTES = 16 * 1024 * 1024
"""The size from which the journal is looked through for answers that take long."""
TIDY_RETRY = 1.0
"""Seconds until a checkpoint that failed is tried again."""
APPLICATION_ID = 0x77737374
Durability = Literal["process", "power"]

_SCHEMA = """
CREATE TABLE streams (
    number INTEGER PRIMARY KEY,
    stream_id TEXT NOT NULL UNIQUE,
    record BLOB NOT NULL,
    cancelled INTEGER NOT NULL DEFAULT 0,
    ending BLOB
);
CREATE TABLE journal (number INTEGER PRIMARY KEY, entries BLOB NOT NULL);
CREATE TABLE logs (number INTEGER PRIMARY KEY, chunks BLOB NOT NULL);
CREATE TABLE sessions (session_id TEXT PRIMARY KEY, title TEXT, created REAL NOT NULL, updated REAL NOT NULL,
    owner TEXT NOT NULL DEFAULT '');
CREATE TABLE messages (
    number INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL,
    stream_id TEXT,
    message BLOB NOT NULL,
    message_id TEXT NOT NULL DEFAULT ''
);
CREATE INDEX messages_by_session ON messages (session_id, number);
CREATE INDEX messages_by_id ON messages (session_id, message_id);
CREATE INDEX messages_by_stream ON messages (stream_id) WHERE stream_id IS NOT NULL;
"""

_TABLES = {
    "streams": "number, stream_id, record, cancelled, ending",
    "journal": "number, entries",
    "logs": "number, chunks",
    "sessions": "session_id, title, created, updated, owner",
    "messages": "number, session_id, stream_id, message, message_id",
}


class Create(msgspec.Struct, frozen=True):
    """A stream begins."""

    number: int
    record: StreamRecord


class Update(msgspec.Struct, frozen=True):
    """What is kept beside a stream's chunks is another now."""

    number: int
    record: StreamRecord


class Append(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Chunks of a stream, from ``first`` on."""

    number: int
    first: int
    kinds: bytes
    bodies: list[bytes]


class Cancelled(msgspec.Struct, frozen=True):
    """Somebody has asked for the end of a stream: whatever happens now, it must not be continued."""

    number: int


class Finish(msgspec.Struct, frozen=True):
    """A stream ends, with everything it holds."""

    number: int
    outcome: Outcome
    ended: float
    kinds: bytes
    bodies: Sequence[bytes]


class Delete(msgspec.Struct, frozen=True):
    """A stream is forgotten."""

    number: int


class SaveMessage(msgspec.Struct, frozen=True):
    """A message of a session, new or, for the message of a stream, renewed."""

    message: StoredMessage


class Rename(msgspec.Struct):
    """A session gets a title; ``found`` is set where it is written, and there is such a session."""

    session_id: str
    title: str
    found: bool = False


class DeleteSession(msgspec.Struct, frozen=True):
    """A session is forgotten, with its messages."""

    session_id: str


Operation = Create | Update | Append | Cancelled | Finish | Delete | SaveMessage | Rename | DeleteSession

_Logs = dict[int, tuple[bytearray, list[bytes]]]

_pack = msgspec.msgpack.Encoder().encode
_unpack_entries = msgspec.msgpack.Decoder(list[Append]).decode
_pack_into = msgspec.msgpack.Encoder().encode_into
_unpack_log = msgspec.msgpack.Decoder(tuple[bytes, int, bytes, bytes]).decode
_unpack_old_log = msgspec.msgpack.Decoder(tuple[bytes, list[bytes]]).decode
_unpack_record = msgspec.msgpack.Decoder(StreamRecord).decode
_unpack_ending = msgspec.msgpack.Decoder(tuple[Outcome, float, int]).decode
_unpack_message = msgspec.msgpack.Decoder(StoredMessage).decode


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
            StoreCorrupt: it is not (or no longer) a database of ours; see `is_ours` and `set_aside`.
            StoreError: it cannot be opened.
        """
        self.path = path
        self.trouble: str | None = None
        """What keeps the file from being tidied up; nothing that was committed is concerned."""
        self._durability = durability
        self._vfs = vfs
        self._db: apsw.Connection | None = None
        self._doubtful = False
        self._unsure = False
        self._row = 0
        self._rows: deque[tuple[int, int]] = deque()
        self._needed: dict[int, int] = {}
        self._size = 0
        self._compact_at = COMPACT_BYTES
        self._wal_pages = 0
        self._tidy_again = 0.0
        with translated(path, opening=True):
            if vfs is None:
                _make_private(path)
                if 0 < os.path.getsize(path) < HEADER_BYTES:  # which SQLite might take for an empty one
                    raise StoreCorrupt(f"{path}: it is shorter than any database")
            self._connection()

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
        version = _check(db, self.path)
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
            _migrate(db, version)

    def _verify(self, db: apsw.Connection) -> None:
        """See that a disk that failed still has what it had confirmed, unless the failed commit may have deleted it."""
        if self._rows and not self._unsure:
            newest = self._rows[-1][0]
            if not db.execute("SELECT 1 FROM journal WHERE number = ?", (newest,)).fetchall():
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

    # -- after a start

    def recover(self, end: End) -> dict[int, StoredLog]:
        """Give every stream that was running its end, or let it go on; the logs of those that do, by their numbers.

        A row that cannot be read ends the logs that it was part of: what is left of each is a prefix, and none is known
        to be whole.
        """
        with translated(self.path, opening=True):
            db = self._connection()
            logs, is_whole = _journalled(db)
            running: dict[int, StoredLog] = {}
            with db:
                rows = list(db.execute("SELECT number, record, cancelled FROM streams WHERE ending IS NULL"))
                for number, packed, cancelled in rows:
                    kinds, bodies = logs.get(number, (bytearray(), []))
                    record = self._read_record(number, packed)
                    if record is not None:
                        log = StoredLog(record, bodies, bytes(kinds), None, is_whole)
                        going_on = _recover_stream(db, number, bool(cancelled), log, end)
                        if going_on is not None:
                            running[number] = going_on
                db.execute("DELETE FROM journal")
                written = self._keep_running(db, running)
        for number, row, size in written:
            self._needed[number] = row
            self._account(row, size)
        return running

    def _read_record(self, number: int, packed: bytes) -> StreamRecord | None:
        try:
            return _unpack_record(_checked(packed, number))
        except StoreCorrupt as error:
            logger.error("%s: stream %d is lost: %s", self.path, number, error)
            return None

    def _keep_running(self, db: apsw.Connection, running: dict[int, StoredLog]) -> list[tuple[int, int, int]]:
        """Begin the journal anew with what goes on: a row for each log. Their numbers, rows and sizes."""
        written = []
        for number, log in running.items():
            if log.bodies:
                self._row += 1
                size = _write_row(db, self._row, [Append(number, 1, log.kinds, list(log.bodies))])
                written.append((number, self._row, size))
        return written

    def summaries(self) -> list[StreamSummary]:
        """All streams that have ended and can be read, oldest first."""
        found = []
        with translated(self.path, opening=True):
            query = "SELECT number, stream_id, record, ending FROM streams WHERE ending IS NOT NULL ORDER BY number"
            for number, stream_id, packed, ending in self._connection().execute(query):
                try:
                    record = _unpack_record(_checked(packed, number))
                    outcome, ended, size = _unpack_ending(_checked(ending, number))
                    if record.stream_id != stream_id:
                        raise StoreCorrupt("a stored row has another stream's id")
                except StoreCorrupt as error:
                    logger.error("%s: stream %d is lost: %s", self.path, number, error)
                else:
                    found.append(StreamSummary(number, record, outcome, ended, size))
        return found

    def highest_number(self) -> int:
        """The highest number of a stream in use."""
        with translated(self.path, opening=True):
            return int(self._connection().execute("SELECT max(number) FROM streams").get or 0)

    # -- writing

    def commit(self, operations: Sequence[Operation]) -> None:
        """Do all of ``operations``, or none.

        Raises:
            StoreError: none was done.
        """
        needed = dict(self._needed)
        self._row += 1  # never used twice: a commit that failed may yet be found in the file
        with translated(self.path):
            db = self._connection()
            try:
                with db:
                    if self._doubtful:
                        db.pragma("user_version", VERSION)  # a write that shows whether the disk works again
                    size = self._write(db, operations, needed)
            except BaseException:
                self._unsure |= any(isinstance(operation, Finish | Delete) for operation in operations)
                self._give_up()
                raise
        self._doubtful = self._unsure = False
        shrunk = not self._needed.keys() <= needed.keys()
        self._needed = needed
        if size:
            self._account(self._row, size)
        if shrunk:
            self._forget_rows()
        self._tidy()

    def _write(self, db: apsw.Connection, operations: Sequence[Operation], needed: dict[int, int]) -> int:
        """Do ``operations``; the bytes that the journal grew by."""
        appends: list[Append] = []
        over: set[int] = set()
        for operation in operations:
            if type(operation) is Append:
                appends.append(operation)
                continue
            _WRITERS[type(operation)](db, operation)
            if isinstance(operation, Finish | Delete):
                over.add(operation.number)
        if over:
            appends = [append for append in appends if append.number not in over]
            for number in over:
                needed.pop(number, None)
            self._trim(db, needed)
        if not appends:
            return 0
        for append in appends:
            needed.setdefault(append.number, self._row)
        return _write_row(db, self._row, appends)

    # -- the journal: rows are needed from the first one of the oldest answer that is running

    def _trim(self, db: apsw.Connection, needed: dict[int, int]) -> None:
        oldest = min(needed.values(), default=self._row)
        if self._rows and self._rows[0][0] < oldest:
            db.execute("DELETE FROM journal WHERE number < ?", (oldest,))

    def _account(self, row: int, size: int) -> None:
        self._rows.append((row, size))
        self._size += size

    def _forget_rows(self) -> None:
        rows = self._rows
        oldest = min(self._needed.values(), default=self._row + 1)
        while rows and rows[0][0] < oldest:
            self._size -= rows.popleft()[1]

    def _compact(self) -> None:
        """Gather what long answers have in many rows: the journal must not grow for as long as they run."""
        middle = self._rows[len(self._rows) // 2][0]
        slow = {number for number, first in self._needed.items() if first <= middle}
        needed = dict(self._needed)
        written: list[tuple[int, int]] = []
        db = self._connection()
        with db:
            for number, (kinds, bodies) in _journalled(db, slow)[0].items():
                self._row += 1
                needed[number] = self._row
                written.append((self._row, _write_row(db, self._row, [Append(number, 1, bytes(kinds), bodies)])))
            self._trim(db, needed)
        self._needed = needed
        for row, size in written:
            self._account(row, size)
        self._forget_rows()
        self._compact_at = max(COMPACT_BYTES, 2 * self._size)

    # -- what can wait until after a commit

    def _tidy(self) -> None:
        """Keep the files small. Trouble here concerns nothing that was committed."""
        if self._wal_pages < PAGES_PER_CHECKPOINT and self._size < self._compact_at:
            self.trouble = None  # what could not be tidied has gone by itself: its answers have ended
            return
        if self.trouble is not None and time.monotonic() < self._tidy_again:
            return
        try:
            with translated(self.path):
                if self._size >= self._compact_at:
                    self._compact()
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

    # -- reading

    def load(self, stream_id: str) -> StoredLog | None:
        """An ended stream's log; None where there is none.

        Raises:
            StoreCorrupt: its bytes are not those that were written.
        """
        query = "SELECT number, record, ending, chunks FROM streams JOIN logs USING (number) WHERE stream_id = ?"
        with translated(self.path):
            for number, packed, ending, chunks in self._connection().execute(query, (stream_id,)):
                record = _unpack_record(_checked(packed, number))
                outcome, _, _ = _unpack_ending(_checked(ending, number))
                kinds, bodies = _read_log(_checked(chunks, number))
                if record.stream_id != stream_id or not len(kinds) == len(bodies) == outcome.final_chunk_id:
                    raise StoreCorrupt("a stored log is not that of its stream")
                return StoredLog(record, bodies, kinds, outcome)
        return None

    def history(self, session_id: str) -> list[StoredMessage]:
        """A session's messages, oldest first.

        Raises:
            StoreCorrupt: one is not what was written.
        """
        query = "SELECT message FROM messages WHERE session_id = ? ORDER BY number"
        with translated(self.path):
            rows = self._connection().execute(query, (session_id,))
            return [_read_message(packed, session_id) for (packed,) in rows]

    def page(self, session_id: str, before: str | None, limit: int, max_bytes: int) -> StoredPage | None:
        """Some of a session's messages; see `wsstream.stores.base.Store.page`.

        Raises:
            StoreCorrupt: one is not what was written.
        """
        with translated(self.path):
            db = self._connection()
            end = _place(db, session_id, before)
            if end is None:
                return None
            query = "SELECT message FROM messages WHERE session_id = ? AND number < ? ORDER BY number DESC LIMIT ?"
            found: list[StoredMessage] = []
            size = 0
            for (packed,) in db.execute(query, (session_id, end, limit + 1)):
                size += len(packed)
                if len(found) == limit or (found and size > max_bytes):
                    return StoredPage(found[::-1], more=True)
                found.append(_read_message(packed, session_id))
            return StoredPage(found[::-1], more=False)

    def session(self, session_id: str) -> SessionInfo | None:
        """What is known of a session; None where it has no message."""
        query = "SELECT title, created, updated FROM sessions WHERE session_id = ?"
        with translated(self.path):
            for title, created, updated in self._connection().execute(query, (session_id,)):
                shown = None if title is None else _checked(title).decode()
                return SessionInfo(session_id, shown, float(created), float(updated))
        return None

    def close(self) -> None:
        """Bring everything into one file, and release it."""
        if self._db is None:
            return
        try:
            with translated(self.path):
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


# -- statements


def _check(db: apsw.Connection, path: str) -> int:
    """See that the file is ours, or empty, without changing it; the version of its tables.

    Raises:
        ConfigError: it belongs to something else.
        StoreError: it belongs to a newer version.
        StoreCorrupt: it is ours, and damaged.
    """
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    version = int(db.pragma("user_version"))
    if not tables and version == 0:
        return 0
    if db.pragma("application_id") != APPLICATION_ID and not tables >= _TABLES.keys():
        raise ConfigError(f"store: {path} is a database of something else")
    if version > VERSION:
        raise StoreError(f"{path} was written by a newer wsstream (schema {version}, this one knows {VERSION})")
    if version < 1 or not tables >= _TABLES.keys():
        raise StoreCorrupt("its tables are not what they were")
    return version


def _migrate(db: apsw.Connection, version: int) -> None:
    """Bring the tables from ``version`` to ours."""
    if version == 0:
        db.execute(_SCHEMA)
        db.pragma("application_id", APPLICATION_ID)
    for old in range(version or VERSION, VERSION):
        _MIGRATIONS[old](db)
    if version != VERSION:
        db.pragma("user_version", VERSION)
    for table, columns in _TABLES.items():
        db.execute(f"SELECT {columns} FROM {table} LIMIT 0")  # fails where they are damaged


def _give_owners(db: apsw.Connection) -> None:
    """Streams and sessions have owners. Those of before are nobody's, as they were."""
    db.execute("ALTER TABLE sessions ADD COLUMN owner TEXT NOT NULL DEFAULT ''")


def _give_ids(db: apsw.Connection) -> None:
    """Messages are found by their ids. (Logs have another form too from here on; `_read_log` knows both.)"""
    db.execute("ALTER TABLE messages ADD COLUMN message_id TEXT NOT NULL DEFAULT ''")
    for number in [number for (number,) in db.execute("SELECT number FROM messages")]:
        for (packed,) in db.execute("SELECT message FROM messages WHERE number = ?", (number,)):
            try:
                message = _unpack_message(_checked(packed))
            except (StoreCorrupt, msgspec.DecodeError) as error:
                logger.error("message %d cannot be read: %s", number, error)
            else:
                db.execute("UPDATE messages SET message_id = ? WHERE number = ?", (message.message_id, number))
    db.execute("CREATE INDEX messages_by_id ON messages (session_id, message_id)")


_MIGRATIONS: dict[int, Callable[[apsw.Connection], None]] = {1: _give_owners, 2: _give_ids}
"""What takes a file of version n to n + 1."""


def _place(db: apsw.Connection, session_id: str, message_id: str | None) -> int | None:
    """The number of a message; behind all, where none is named, and None, where there is no such one."""
    if message_id is None:
        return 2**63 - 1
    query = "SELECT number FROM messages WHERE session_id = ? AND message_id = ?"
    found: int | None = db.execute(query, (session_id, message_id)).get
    return found


def _journalled(db: apsw.Connection, numbers: set[int] | None = None) -> tuple[_Logs, bool]:
    """The logs in the journal, or only those of ``numbers``, and whether every row could be read.

    A log ends before a gap, which a row that cannot be read leaves.
    """
    logs: _Logs = {}
    is_whole = True
    for row, packed in db.execute("SELECT number, entries FROM journal ORDER BY number"):
        try:
            entries = _unpack_entries(_checked(packed, row))
        except StoreCorrupt as error:
            if numbers is not None:
                raise
            logger.critical("row %d of the journal is lost, the answers in it end before: %s", row, error)
            is_whole = False
            continue
        for entry in entries:
            if numbers is not None and entry.number not in numbers:
                continue
            kinds, bodies = logs.setdefault(entry.number, (bytearray(), []))
            if entry.first == len(bodies) + 1:
                kinds += entry.kinds
                bodies += entry.bodies
    return logs, is_whole


def _recover_stream(db: apsw.Connection, number: int, cancelled: bool, log: StoredLog, end: End) -> StoredLog | None:
    """Give a stream its end; or its new record, if it goes on with that."""
    ending = end(log.record, cancelled, log)
    if isinstance(ending, StreamRecord):
        _update(db, Update(number, ending))
        return msgspec.structs.replace(log, record=ending)
    outcome, message = ending
    _finish(db, Finish(number, outcome, time.time(), log.kinds, log.bodies))
    if log.record.again:  # nobody will ask for it any more
        _update(db, Update(number, msgspec.structs.replace(log.record, again=b"")))
    if message is not None:
        _renew_message(db, message)  # where it is gone, its session was deleted
    return None


def _write_row(db: apsw.Connection, row: int, appends: list[Append]) -> int:
    sealed = _sealed(_pack(appends), row)
    db.execute("INSERT INTO journal VALUES (?, ?)", (row, sealed))
    return len(sealed)


def _create(db: apsw.Connection, operation: Create) -> None:
    db.execute(
        "INSERT INTO streams (number, stream_id, record) VALUES (?, ?, ?)",
        (operation.number, operation.record.stream_id, _sealed(_pack(operation.record), operation.number)),
    )


def _update(db: apsw.Connection, operation: Update) -> None:
    packed = _sealed(_pack(operation.record), operation.number)
    db.execute("UPDATE streams SET record = ? WHERE number = ?", (packed, operation.number))


def _cancelled(db: apsw.Connection, operation: Cancelled) -> None:
    db.execute("UPDATE streams SET cancelled = 1 WHERE number = ?", (operation.number,))


def _finish(db: apsw.Connection, operation: Finish) -> None:
    number = operation.number
    chunks = _packed_log(operation.kinds, Bodies.of(operation.bodies), number)
    ending = _sealed(_pack((operation.outcome, operation.ended, len(chunks))), number)
    db.execute("UPDATE streams SET ending = ? WHERE number = ?", (ending, number))
    if db.changes():
        db.execute("INSERT OR REPLACE INTO logs VALUES (?, ?)", (number, chunks))


def _delete(db: apsw.Connection, operation: Delete) -> None:
    db.execute("DELETE FROM logs WHERE number = ?", (operation.number,))
    db.execute("DELETE FROM streams WHERE number = ?", (operation.number,))


def _renew_message(db: apsw.Connection, message: StoredMessage) -> bool:
    if message.stream_id is None:
        return False
    row = (_sealed(_pack(message)), message.message_id, message.stream_id)
    db.execute("UPDATE messages SET message = ?, message_id = ? WHERE stream_id = ?", row)
    return bool(db.changes())


def _save_message(db: apsw.Connection, operation: SaveMessage) -> None:
    message = operation.message
    if _renew_message(db, message):
        return
    db.execute(
        "INSERT INTO messages (session_id, stream_id, message, message_id) VALUES (?, ?, ?, ?)",
        (message.session_id, message.stream_id, _sealed(_pack(message)), message.message_id),
    )
    db.execute(
        "INSERT INTO sessions (session_id, created, updated, owner) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (session_id) DO UPDATE SET updated = max(updated, excluded.updated)",
        (message.session_id, message.created, message.created, message.session_id.partition("/")[2]),
    )


def _rename(db: apsw.Connection, operation: Rename) -> None:
    title = _sealed(operation.title.encode())
    db.execute("UPDATE sessions SET title = ? WHERE session_id = ?", (title, operation.session_id))
    operation.found = bool(db.changes())


def _delete_session(db: apsw.Connection, operation: DeleteSession) -> None:
    db.execute("DELETE FROM messages WHERE session_id = ?", (operation.session_id,))
    db.execute("DELETE FROM sessions WHERE session_id = ?", (operation.session_id,))


_WRITERS: dict[type, Callable[[apsw.Connection, Any], None]] = {
    Create: _create,
    Update: _update,
    Cancelled: _cancelled,
    Finish: _finish,
    Delete: _delete,
    SaveMessage: _save_message,
    Rename: _rename,
    DeleteSession: _delete_session,
}


# -- files


def _abandon(db: apsw.Connection) -> None:
    """Close without the checkpoint that closing brings: it would trust what a failed disk says."""
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.close(True)


def _make_private(path: str) -> None:
    """See that only our user can read the file, and with it its companions, which inherit its mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(directory)  # its name is to survive what its content survives
        finally:
            os.close(directory)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def is_ours(path: str) -> bool:
    """Whether a file that cannot be read is what is left of ours: its header says so, or it or its WAL has our tables.

    What shows nothing of us may be anything, a letter or somebody's photographs.
    """
    ours = APPLICATION_ID.to_bytes(4, "big")
    for suffix in ("", "-wal"):
        try:
            with open(path + suffix, "rb") as file:
                start = file.read(TRACES_BYTES)
        except OSError:
            continue
        if (not suffix and start[:16] == _MAGIC and start[68:72] == ours) or all(trace in start for trace in _TRACES):
            return True
    return False


HEADER_BYTES = 100
TRACES_BYTES = 4 * 1024 * 1024
"""How far of a file is looked through for our tables: they are on its first page, and early in its WAL."""
_MAGIC = b"SQLite format 3\0"
_TRACES = [b"table" + name * 2 for name in (b"journal", b"logs")]
"""How SQLite writes the names of our tables down; no text has them like that."""


def set_aside(path: str) -> str:
    """Rename a file that cannot be read, with its companions, and say where it is now."""
    aside = wanted = f"{path}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}"
    count = 1
    while os.path.exists(aside):
        count += 1
        aside = f"{wanted}-{count}"
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.rename(path + suffix, aside + suffix)
    return aside


# -- rows


def _sealed(data: bytes, number: int = 0) -> bytes:
    """``data`` with a checksum, which is also that of the row's number: no row passes for another."""
    return _checksum(data, number) + data


def _checksum(data: bytes | memoryview, number: int) -> bytes:
    return zlib.crc32(data, number & 0xFFFFFFFF).to_bytes(4, "big")


def _checked(sealed: Any, number: int = 0) -> bytes:
    """What `_sealed` has sealed.

    Raises:
        StoreCorrupt: it is not that any more.
    """
    if not isinstance(sealed, bytes):
        raise StoreCorrupt("a stored row is not of its type")
    data = sealed[4:]
    if _checksum(data, number) != sealed[:4]:
        raise StoreCorrupt("a stored row fails its checksum")
    return data


def _packed_log(kinds: bytes, bodies: Bodies, number: int) -> bytearray:
    """A log as one row, sealed; made in one piece, as a long one is not to be in memory three times."""
    row = bytearray(4)
    _pack_into((kinds, bodies.overhead, bodies.sizes(), bodies.data), row, 4)
    with memoryview(row) as view:
        row[:4] = _checksum(view[4:], number)
    return row


def _read_log(row: bytes) -> tuple[bytes, Bodies]:
    """What `_packed_log` has packed, or versions before it had: a list of bodies.

    Raises:
        StoreCorrupt: it is neither.
    """
    if row[:1] == b"\x92":
        kinds, old = _unpack_old_log(row)
        return kinds, Bodies.of(old)
    kinds, overhead, sizes, data = _unpack_log(row)
    try:
        return kinds, Bodies.from_sizes(data, sizes, len(kinds), overhead)
    except ValueError as error:
        raise StoreCorrupt(str(error)) from None


def _read_message(packed: Any, session_id: str) -> StoredMessage:
    message = _unpack_message(_checked(packed))
    if message.session_id != session_id:
        raise StoreCorrupt("a stored message is not that of its session")
    return message


class translated:
    """The seam where apsw's exceptions become ours. While opening, a statement that fails means damaged tables."""

    __slots__ = ("_corrupt", "_path")

    def __init__(self, path: str, opening: bool = False) -> None:
        self._path = path
        self._corrupt = (*_CORRUPT, apsw.SQLError) if opening else _CORRUPT

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if error is None or isinstance(error, StoreError) or not isinstance(error, Exception):
            return
        if isinstance(error, self._corrupt):
            raise StoreCorrupt(f"{self._path}: {error}") from error
        if isinstance(error, apsw.BusyError | apsw.LockedError):
            raise StoreLocked(f"{self._path}: another process is using it") from error
        if isinstance(error, apsw.Error | MemoryError):
            raise StoreError(f"{self._path}: {str(error) or type(error).__name__}") from error


_CORRUPT = (
    apsw.NotADBError,
    apsw.CorruptError,
    apsw.MismatchError,
    apsw.FormatError,
    msgspec.DecodeError,
    UnicodeDecodeError,
)
