"""What a commit is made of: each operation, and the statements that do it. Only `Append` is the journal's.

Statements for other tables than the journal raise what apsw raises; see `wsstream.stores.failures`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apsw
import msgspec

from wsstream.bodies import Bodies
from wsstream.chunks import Outcome
from wsstream.stores.base import StoredMessage, StreamRecord
from wsstream.stores.rows import LARGE, pack, sealed, sealed_log


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


def _create(db: apsw.Connection, operation: Create) -> None:
    packed = sealed(pack(operation.record), operation.number)
    db.execute(
        "INSERT INTO streams (number, stream_id, record) VALUES (?, ?, ?)",
        (operation.number, operation.record.stream_id, packed),
        can_cache=len(packed) < LARGE,
    )


def update(db: apsw.Connection, operation: Update) -> None:
    """Renew a stream's record."""
    packed = sealed(pack(operation.record), operation.number)
    row = (packed, operation.number)
    db.execute("UPDATE streams SET record = ? WHERE number = ?", row, can_cache=len(packed) < LARGE)


def _cancelled(db: apsw.Connection, operation: Cancelled) -> None:
    db.execute("UPDATE streams SET cancelled = 1 WHERE number = ?", (operation.number,))


def finish(db: apsw.Connection, operation: Finish) -> None:
    """Make one row of a log, where there is such a stream."""
    number = operation.number
    chunks = sealed_log(operation.kinds, Bodies.of(operation.bodies), number)
    ending = sealed(pack((operation.outcome, operation.ended, len(chunks))), number)
    db.execute("UPDATE streams SET ending = ? WHERE number = ?", (ending, number))
    if db.changes():
        db.execute("INSERT OR REPLACE INTO logs VALUES (?, ?)", (number, chunks), can_cache=len(chunks) < LARGE)


def _delete(db: apsw.Connection, operation: Delete) -> None:
    db.execute("DELETE FROM logs WHERE number = ?", (operation.number,))
    db.execute("DELETE FROM streams WHERE number = ?", (operation.number,))


def renew_message(db: apsw.Connection, message: StoredMessage) -> bool:
    """Replace the message of a stream; False where it is none of a stream, or there is none to replace."""
    if message.stream_id is None:
        return False
    packed = sealed(pack(message))
    row = (packed, message.message_id, message.stream_id)
    statement = "UPDATE messages SET message = ?, message_id = ? WHERE stream_id = ?"
    db.execute(statement, row, can_cache=len(packed) < LARGE)
    return bool(db.changes())


def _save_message(db: apsw.Connection, operation: SaveMessage) -> None:
    message = operation.message
    if renew_message(db, message):
        return
    packed = sealed(pack(message))
    db.execute(
        "INSERT INTO messages (session_id, stream_id, message, message_id) VALUES (?, ?, ?, ?)",
        (message.session_id, message.stream_id, packed, message.message_id),
        can_cache=len(packed) < LARGE,
    )
    db.execute(
        "INSERT INTO sessions (session_id, created, updated, owner) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (session_id) DO UPDATE SET updated = max(updated, excluded.updated)",
        (message.session_id, message.created, message.created, message.session_id.partition("/")[2]),
    )


def _rename(db: apsw.Connection, operation: Rename) -> None:
    title = sealed(operation.title.encode())
    db.execute("UPDATE sessions SET title = ? WHERE session_id = ?", (title, operation.session_id))
    operation.found = bool(db.changes())


def _delete_session(db: apsw.Connection, operation: DeleteSession) -> None:
    db.execute("DELETE FROM messages WHERE session_id = ?", (operation.session_id,))
    db.execute("DELETE FROM sessions WHERE session_id = ?", (operation.session_id,))


WRITERS: dict[type, Callable[[apsw.Connection, Any], None]] = {
    Create: _create,
    Update: update,
    Cancelled: _cancelled,
    Finish: finish,
    Delete: _delete,
    SaveMessage: _save_message,
    Rename: _rename,
    DeleteSession: _delete_session,
}
"""What does each operation, but for `Append`."""
