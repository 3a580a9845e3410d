"""The tables, their version, and what brings an older file up to date.

What running answers append goes to *journal* (`wsstream.stores.journal`); an ended log is one row of *logs*. Streams
and messages are packed (`wsstream.stores.rows`) beside the columns they are found by.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import apsw
import msgspec

from wsstream.errors import ConfigError, StoreCorrupt, StoreError
from wsstream.stores.rows import read_message

logger = logging.getLogger(__name__)

VERSION = 3
APPLICATION_ID = 0x77737374

SCHEMA = """
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


def check(db: apsw.Connection, path: str) -> int:
    """See that the file is ours, or empty, without changing it; the version of its tables, 0 where it is empty.

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


def migrate(db: apsw.Connection, version: int) -> None:
    """Bring the tables from ``version`` to ours. Within a transaction of the caller's: all of it happens, or nothing.

    Raises:
        apsw.Error: the tables are damaged, or cannot be written.
    """
    if version == 0:
        db.execute(SCHEMA)
        db.pragma("application_id", APPLICATION_ID)
    for old in range(version or VERSION, VERSION):
        _MIGRATIONS[old](db)
    if version != VERSION:
        db.pragma("user_version", VERSION)
    for table, columns in _TABLES.items():
        db.execute(f"SELECT {columns} FROM {table} LIMIT 0")  # fails where they are damaged


def write_again(db: apsw.Connection) -> None:
    """Write what is there already: it shows whether the disk works again, and changes nothing."""
    db.pragma("user_version", VERSION)


def _give_owners(db: apsw.Connection) -> None:
    """Streams and sessions have owners. Those of before are nobody's, as they were."""
    db.execute("ALTER TABLE sessions ADD COLUMN owner TEXT NOT NULL DEFAULT ''")


def _give_ids(db: apsw.Connection) -> None:
    """Messages are found by their ids. (Logs have another form too from here on; `rows.read_log` knows both.)"""
    db.execute("ALTER TABLE messages ADD COLUMN message_id TEXT NOT NULL DEFAULT ''")
    for number in [number for (number,) in db.execute("SELECT number FROM messages")]:
        for (packed,) in db.execute("SELECT message FROM messages WHERE number = ?", (number,)):
            try:
                message = read_message(packed)
            except (StoreCorrupt, msgspec.DecodeError) as error:
                logger.error("message %d cannot be read: %s", number, error)
            else:
                db.execute("UPDATE messages SET message_id = ? WHERE number = ?", (message.message_id, number))
    db.execute("CREATE INDEX messages_by_id ON messages (session_id, message_id)")


_MIGRATIONS: dict[int, Callable[[apsw.Connection], None]] = {1: _give_owners, 2: _give_ids}
"""What takes a file of version n to n + 1."""
