"""The open file: how it is opened, and that it stays small."""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from tests.stores.file import file_sizes, finish, made
from wsstream.stores import database as module
from wsstream.stores.database import Database
from wsstream.stores.operations import Append, Create, Delete, SaveMessage
from wsstream.testing.contracts import message, record


def test_how_it_is_opened(tmp_path: Path) -> None:
    """One connection, exclusively, with a WAL that it checkpoints itself and no memory map."""
    for durability, synchronous in (("process", 1), ("power", 2)):
        database = Database(str(tmp_path / durability), durability)  # type: ignore[arg-type]
        db = database._connection()
        names = ("locking_mode", "journal_mode", "synchronous", "wal_autocheckpoint", "mmap_size")
        assert [db.pragma(name) for name in names] == ["exclusive", "wal", synchronous, 0, 0]
        database.close()
        assert not os.path.exists(f"{tmp_path}/{durability}-shm")


def test_the_wal_stays_small(tmp_path: Path) -> None:
    """After ten thousand commits the WAL is as small as after a thousand, and after a huge one it shrinks again."""
    path = tmp_path / "x.db"
    database = made(path)
    database.commit([Create(1, record("s"))])
    limit = (module.PAGES_PER_CHECKPOINT + 100) * 4200
    body = [b"x" * 300]
    for first in range(1, 10_001):
        database.commit([Append(1, first, b"\0", body)])
        if first % 500 == 0:
            assert file_sizes(path)[1] < limit
    database.commit([Create(2, record("huge")), finish(2, [b"x" * 1000] * 40_000)])
    assert file_sizes(path)[1] > 2 * module.WAL_BYTES
    database.commit([Append(1, 10_001, b"\0", body)])
    assert file_sizes(path)[1] <= module.WAL_BYTES
    database.close()
    assert not os.path.exists(f"{path}-wal")


def test_space_is_used_again(tmp_path: Path) -> None:
    """A store whose answers are deleted as new ones come does not grow."""
    path = tmp_path / "x.db"
    database = made(path)
    sizes = []
    for number in range(1, 601):
        bodies = [b"x" * 100] * 100
        database.commit([Create(number, record(f"s{number}")), Append(number, 1, bytes(100), bodies)])
        database.commit([finish(number, bodies), *([Delete(number - 20)] if number > 20 else [])])
        if number % 100 == 0:
            database._checkpoint()
            sizes.append(file_sizes(path)[0])
    assert sizes[-1] <= sizes[0] * 1.3
    database.close()


def test_large_rows_leave_nothing_in_memory(tmp_path: Path) -> None:
    """When a log of 8 MB and its message are stored, SQLite holds no more of them than its cache of pages."""
    database = made(tmp_path / "store.db")
    held = 4 * 1024 * 1024
    before = apsw.memory_used()
    large = [b"x" * 8192] * 1000
    for number, stream in enumerate(("s_a", "s_b"), 1):
        said = message("ses", "x" * 8_192_000, stream_id=stream, message_id="m_" + stream)
        database.commit([Create(number, record(stream)), SaveMessage(said)])
        database.commit([Append(number, 1, bytes(1000), large), SaveMessage(said)])
        database.commit([finish(number, large), SaveMessage(said)])
    database.load("s_a")
    database.history("ses")
    assert apsw.memory_used() - before < held
    database.close()
