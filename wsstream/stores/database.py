"""The SQLite file: its tables, its transactions, and what is made of it after a crash. Synchronous, for one thread.

Layout. What running answers append goes to the *journal*: one packed row for every group commit, whatever number
of streams it holds, so that a commit touches the end of one table and nothing else. When an answer ends, its whole log
becomes one row of *logs*, and journal rows that no running answer needs are deleted. (A row per chunk in a table ordered
by stream stalls for up to 97 ms at checkpoints: docs/benchmarks.md, "Stores".)

Every packed row carries a CRC-32 of its content: a flipped bit is found when it is read, not shown to anybody.
"""

from __future__ import annotations

import logging
import os
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import apsw
import msgspec

from wsstream.chunks import Outcome
from wsstream.errors import StoreCorrupt, StoreError, StoreLocked
from wsstream.stores.base import End, SessionInfo, StoredLog, StoredMessage, StreamRecord, StreamSummary

logger = logging.getLogger(__name__)

VERSION = 1
PAGES_PER_CHECKPOINT = 2000
BUSY_TIMEOUT_MS = 1000
Durability = Literal["process", "power"]

_SCHEMA = """
CREATE TABLE streams (
    number INTEGER PRIMARY KEY,
    stream_id TEXT NOT NULL UNIQUE,
    record BLOB NOT NULL,
    cancelled INTEGER NOT NULL DEFAULT 0,
    outcome BLOB,
    ended REAL,
    size INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE journal (number INTEGER PRIMARY KEY, entries BLOB NOT NULL);
CREATE TABLE logs (number INTEGER PRIMARY KEY, chunks BLOB NOT NULL);
CREATE TABLE sessions (session_id TEXT PRIMARY KEY, title TEXT, created REAL NOT NULL, updated REAL NOT NULL);
CREATE TABLE messages (
    number INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL,
    stream_id TEXT,
    message BLOB NOT NULL
);
CREATE INDEX messages_by_session ON messages (session_id, number);
CREATE INDEX messages_by_stream ON messages (stream_id) WHERE stream_id IS NOT NULL;
"""

# From version n to n + 1: the statements that take an older file there.
_MIGRATIONS: dict[int, str] = {}


class Create(msgspec.Struct, frozen=True):
    """A stream begins."""

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
    bodies: list[bytes]


class Delete(msgspec.Struct, frozen=True):
    """A stream is forgotten."""

    number: int


class SaveMessage(msgspec.Struct, frozen=True):
    """A message of a session, new or, for the message of a stream, renewed."""

    message: StoredMessage


class Rename(msgspec.Struct, frozen=True):
    """A session gets a title."""

    session_id: str
    title: str


class DeleteSession(msgspec.Struct, frozen=True):
    """A session is forgotten, with its messages."""

    session_id: str


Operation = Create | Append | Cancelled | Finish | Delete | SaveMessage | Rename | DeleteSession

_pack = msgspec.msgpack.Encoder().encode
_unpack_entries = msgspec.msgpack.Decoder(list[Append]).decode
_unpack_log = msgspec.msgpack.Decoder(tuple[bytes, list[bytes]]).decode
_unpack_record = msgspec.msgpack.Decoder(StreamRecord).decode
_unpack_outcome = msgspec.msgpack.Decoder(Outcome).decode
_unpack_message = msgspec.msgpack.Decoder(StoredMessage).decode


class Database:
    """One open file. Exactly one connection reads, writes and checkpoints it, under an exclusive lock."""

    def __init__(self, path: str, durability: Durability = "process", vfs: str | None = None) -> None:
        """Open or make the file.

        Raises:
            StoreLocked: another process has it.
            StoreCorrupt: it is not (or no longer) a database of ours; see `set_aside`.
            StoreError: it cannot be opened.
        """
        self.path = path
        self._first_needed: dict[int, int] = {}
        self._journal = 0
        self._wal_pages = 0
        with translated():
            if vfs is None:
                _make_private(path)
            self._db = apsw.Connection(path, vfs=vfs)
            try:
                self._prepare(durability)
            except BaseException:
                self._db.close()
                raise

    def _prepare(self, durability: Durability) -> None:
        db = self._db
        db.set_busy_timeout(BUSY_TIMEOUT_MS)
        # Exclusive before WAL: then the index of the WAL is in our own memory, and no other process can write.
        for pragma in (
            "locking_mode = EXCLUSIVE",
            "journal_mode = WAL",
            f"synchronous = {'FULL' if durability == 'power' else 'NORMAL'}",
            "wal_autocheckpoint = 0",
            "mmap_size = 0",
            "trusted_schema = OFF",
            "cell_size_check = ON",
        ):
            db.pragma(*pragma.split(" = "))
        db.set_wal_hook(self._on_wal)
        with db:
            self._migrate()

    def _migrate(self) -> None:
        db = self._db
        version = db.pragma("user_version")
        if version == 0:
            db.execute(_SCHEMA)
        elif version > VERSION:
            raise StoreError(
                f"{self.path} was written by a newer wsstream (schema {version}, this one knows {VERSION})"
            )
        for old in range(version or VERSION, VERSION):
            db.execute(_MIGRATIONS[old])
        db.pragma("user_version", VERSION)

    def _on_wal(self, _db: Any, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    # -- after a start

    def recover(self, end: End) -> None:
        """Give every stream that was running its end."""
        with translated(), self._db:
            logs = self._journalled()
            rows = list(self._db.execute("SELECT number, record, cancelled FROM streams WHERE outcome IS NULL"))
            for number, packed, cancelled in rows:
                kinds, bodies = logs.get(number, (bytearray(), []))
                record = _unpack_record(packed)
                log = StoredLog(record, bodies, bytes(kinds), None)
                outcome, message = end(record, bool(cancelled), log)
                self._finish(Finish(number, outcome, time.time(), bytes(kinds), bodies))
                if message is not None:
                    self._save_message(message)
            self._db.execute("DELETE FROM journal")

    def _journalled(self) -> dict[int, tuple[bytearray, list[bytes]]]:
        logs: dict[int, tuple[bytearray, list[bytes]]] = {}
        for (entries,) in self._db.execute("SELECT entries FROM journal ORDER BY number"):
            for entry in _unpack_entries(_checked(entries)):
                kinds, bodies = logs.setdefault(entry.number, (bytearray(), []))
                if entry.first != len(bodies) + 1:
                    raise StoreCorrupt(f"the journal has a gap in stream {entry.number} before chunk {entry.first}")
                kinds += entry.kinds
                bodies += entry.bodies
        return logs

    def summaries(self) -> list[StreamSummary]:
        """All streams, oldest first."""
        with translated():
            rows = self._db.execute("SELECT number, record, outcome, ended, size FROM streams ORDER BY number")
            return [
                StreamSummary(number, _unpack_record(record), _unpack_outcome(outcome), ended, size)
                for number, record, outcome, ended, size in rows
                if outcome is not None
            ]

    # -- writing

    def commit(self, operations: Sequence[Operation]) -> None:
        """Do all of ``operations``, or none.

        Raises:
            StoreError: none was done.
        """
        needed = dict(self._first_needed) if any(type(operation) is Finish for operation in operations) else None
        with translated():
            try:
                with self._db:
                    self._write(operations)
            except BaseException:
                self._first_needed = self._first_needed if needed is None else needed
                raise
            if self._wal_pages >= PAGES_PER_CHECKPOINT:
                self.checkpoint()

    def _write(self, operations: Sequence[Operation]) -> None:
        appends: list[Append] = []
        ended = {operation.number for operation in operations if isinstance(operation, Finish)}
        for operation in operations:
            if type(operation) is Append:
                if operation.number not in ended:
                    appends.append(operation)
            else:
                _WRITERS[type(operation)](self, operation)
        if appends:
            self._journal += 1
            for append in appends:
                self._first_needed.setdefault(append.number, self._journal)
            self._db.execute("INSERT INTO journal VALUES (?, ?)", (self._journal, _sealed(_pack(appends))))

    def _create(self, operation: Create) -> None:
        self._db.execute(
            "INSERT INTO streams (number, stream_id, record) VALUES (?, ?, ?)",
            (operation.number, operation.record.stream_id, _pack(operation.record)),
        )

    def _cancelled(self, operation: Cancelled) -> None:
        self._db.execute("UPDATE streams SET cancelled = 1 WHERE number = ?", (operation.number,))

    def _finish(self, operation: Finish) -> None:
        chunks = _sealed(_pack((operation.kinds, operation.bodies)))
        self._db.execute("INSERT INTO logs VALUES (?, ?)", (operation.number, chunks))
        self._db.execute(
            "UPDATE streams SET outcome = ?, ended = ?, size = ? WHERE number = ?",
            (_pack(operation.outcome), operation.ended, len(chunks), operation.number),
        )
        if self._first_needed.pop(operation.number, None) is not None:
            oldest = min(self._first_needed.values(), default=self._journal + 1)
            self._db.execute("DELETE FROM journal WHERE number < ?", (oldest,))

    def _delete(self, operation: Delete) -> None:
        self._db.execute("DELETE FROM logs WHERE number = ?", (operation.number,))
        self._db.execute("DELETE FROM streams WHERE number = ?", (operation.number,))

    def _save_message(self, message: StoredMessage) -> None:
        packed = _pack(message)
        if message.stream_id is not None:
            self._db.execute("UPDATE messages SET message = ? WHERE stream_id = ?", (packed, message.stream_id))
            if self._db.changes():
                return
        self._db.execute(
            "INSERT INTO messages (session_id, stream_id, message) VALUES (?, ?, ?)",
            (message.session_id, message.stream_id, packed),
        )
        self._db.execute(
            "INSERT INTO sessions VALUES (?, NULL, ?, ?)"
            " ON CONFLICT (session_id) DO UPDATE SET updated = excluded.updated",
            (message.session_id, message.created, message.created),
        )

    def _rename(self, operation: Rename) -> None:
        self._db.execute("UPDATE sessions SET title = ? WHERE session_id = ?", (operation.title, operation.session_id))

    def _delete_session(self, operation: DeleteSession) -> None:
        self._db.execute("DELETE FROM messages WHERE session_id = ?", (operation.session_id,))
        self._db.execute("DELETE FROM sessions WHERE session_id = ?", (operation.session_id,))

    def checkpoint(self) -> None:
        """Move what the WAL holds into the file."""
        self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    # -- reading

    def load(self, stream_id: str) -> StoredLog | None:
        """An ended stream's log; None where there is none.

        Raises:
            StoreCorrupt: its bytes are not those that were written.
        """
        with translated():
            for record, outcome, chunks in self._db.execute(
                "SELECT record, outcome, chunks FROM streams JOIN logs USING (number) WHERE stream_id = ?", (stream_id,)
            ):
                kinds, bodies = _unpack_log(_checked(chunks))
                return StoredLog(_unpack_record(record), bodies, kinds, _unpack_outcome(outcome))
        return None

    def history(self, session_id: str) -> list[StoredMessage]:
        """A session's messages, oldest first."""
        with translated():
            rows = self._db.execute("SELECT message FROM messages WHERE session_id = ? ORDER BY number", (session_id,))
            return [_unpack_message(packed) for (packed,) in rows]

    def session(self, session_id: str) -> SessionInfo | None:
        """What is known of a session; None where it has no message."""
        with translated():
            query = "SELECT session_id, title, created, updated FROM sessions WHERE session_id = ?"
            return next((SessionInfo(*row) for row in self._db.execute(query, (session_id,))), None)

    def close(self) -> None:
        """Release the file."""
        self._db.close()


_WRITERS: dict[type, Callable[[Database, Any], None]] = {
    Create: Database._create,
    Cancelled: Database._cancelled,
    Finish: Database._finish,
    Delete: Database._delete,
    SaveMessage: lambda database, operation: database._save_message(operation.message),
    Rename: Database._rename,
    DeleteSession: Database._delete_session,
}


def _make_private(path: str) -> None:
    """See that only our user can read the file, and with it its companions, which inherit its mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def set_aside(path: str) -> str:
    """Rename a file that cannot be read, with its companions, and say where it is now."""
    aside = f"{path}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.rename(path + suffix, aside + suffix)
    return aside


def _sealed(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big") + data


def _checked(data: bytes) -> bytes:
    content = data[4:]
    if zlib.crc32(content).to_bytes(4, "big") != data[:4]:
        raise StoreCorrupt("a stored row fails its checksum")
    return content


class translated:
    """The seam where apsw's exceptions become ours."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, apsw.NotADBError | apsw.CorruptError):
            raise StoreCorrupt(str(error)) from error
        if isinstance(error, msgspec.DecodeError):
            raise StoreCorrupt(f"a stored row cannot be read: {error}") from error
        if isinstance(error, apsw.BusyError | apsw.LockedError):
            raise StoreLocked("another process is using the store") from error
        if isinstance(error, apsw.Error):
            raise StoreError(f"{type(error).__name__}: {error}") from error


def numbers(summaries: Iterable[StreamSummary]) -> int:
    """The highest number in use."""
    return max((summary.number for summary in summaries), default=0)
