"""What is read back of the file: logs, messages, sessions. Every row is checked, and that it is the one asked for.

Each raises `StoreCorrupt` for a row that is not what was written, and what apsw and msgspec raise for damage that is
larger; see `wsstream.stores.failures`.
"""

from __future__ import annotations

import logging
from typing import Any

import apsw

from wsstream.errors import StoreCorrupt
from wsstream.stores.base import SessionInfo, StoredLog, StoredMessage, StoredPage, StreamRecord, StreamSummary
from wsstream.stores.rows import checked, read_ending, read_log, read_message, read_record

logger = logging.getLogger(__name__)


def load(db: apsw.Connection, stream_id: str) -> StoredLog | None:
    """An ended stream's log; None where there is none."""
    query = "SELECT number, record, ending, chunks FROM streams JOIN logs USING (number) WHERE stream_id = ?"
    for number, packed, ending, chunks in db.execute(query, (stream_id,)):
        record = read_record(packed, number)
        outcome, _, _ = read_ending(ending, number)
        kinds, bodies = read_log(chunks, number)
        if record.stream_id != stream_id or not len(kinds) == len(bodies) == outcome.final_chunk_id:
            raise StoreCorrupt("a stored log is not that of its stream")
        return StoredLog(record, bodies, kinds, outcome)
    return None


def summaries(db: apsw.Connection, path: str) -> list[StreamSummary]:
    """All streams that have ended, oldest first; those that cannot be read are only named in the log, with ``path``."""
    found = []
    query = "SELECT number, stream_id, record, ending FROM streams WHERE ending IS NOT NULL ORDER BY number"
    for number, stream_id, packed, packed_ending in db.execute(query):
        try:
            record = read_record(packed, number)
            outcome, ended, size = read_ending(packed_ending, number)
            if record.stream_id != stream_id:
                raise StoreCorrupt("a stored row has another stream's id")
        except StoreCorrupt as error:
            _say_lost(path, number, error)
        else:
            found.append(StreamSummary(number, record, outcome, ended, size))
    return found


def readable_record(path: str, number: int, packed: Any) -> StreamRecord | None:
    """A stream's record; None where it fails its checksum: then it is named in the log, with ``path``."""
    try:
        return read_record(packed, number)
    except StoreCorrupt as error:
        _say_lost(path, number, error)
        return None


def _say_lost(path: str, number: int, error: StoreCorrupt) -> None:
    logger.error("%s: stream %d is lost: %s", path, number, error)


def highest_number(db: apsw.Connection) -> int:
    """The highest number of a stream in use."""
    return int(db.execute("SELECT max(number) FROM streams").get or 0)


def history(db: apsw.Connection, session_id: str) -> list[StoredMessage]:
    """A session's messages, oldest first."""
    query = "SELECT message FROM messages WHERE session_id = ? ORDER BY number"
    return [_of_session(packed, session_id) for (packed,) in db.execute(query, (session_id,))]


def page(db: apsw.Connection, session_id: str, before: str | None, limit: int, max_bytes: int) -> StoredPage | None:
    """Some of a session's messages; see `wsstream.stores.base.Store.page`."""
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
        found.append(_of_session(packed, session_id))
    return StoredPage(found[::-1], more=False)


def _place(db: apsw.Connection, session_id: str, message_id: str | None) -> int | None:
    """The number of a message; behind all, where none is named, and None, where there is no such one."""
    if message_id is None:
        return 2**63 - 1
    query = "SELECT number FROM messages WHERE session_id = ? AND message_id = ?"
    found: int | None = db.execute(query, (session_id, message_id)).get
    return found


def _of_session(packed: Any, session_id: str) -> StoredMessage:
    message = read_message(packed)
    if message.session_id != session_id:
        raise StoreCorrupt("a stored message is not that of its session")
    return message


def session(db: apsw.Connection, session_id: str) -> SessionInfo | None:
    """What is known of a session; None where it has no message."""
    query = "SELECT title, created, updated FROM sessions WHERE session_id = ?"
    for title, created, updated in db.execute(query, (session_id,)):
        shown = None if title is None else checked(title).decode()
        return SessionInfo(session_id, shown, float(created), float(updated))
    return None
