"""The file itself: its tables, what becomes of it after a crash, and that it stays small."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from wsstream.chunks import Outcome, StreamState, session_key
from wsstream.errors import StoreCorrupt, StoreError
from wsstream.stores import database as module
from wsstream.stores.base import StoredLog, StoredMessage, StoredPage, StreamRecord
from wsstream.stores.database import (
    Append,
    Cancelled,
    Create,
    Database,
    Delete,
    DeleteSession,
    Finish,
    SaveMessage,
)
from wsstream.testing.contracts import message, record


def _end(_: StreamRecord, __: bool, log: StoredLog) -> tuple[Outcome, StoredMessage | None]:
    return Outcome(StreamState.INTERRUPTED, len(log.bodies)), None


def _say_end(it: StreamRecord, __: bool, log: StoredLog) -> tuple[Outcome, StoredMessage | None]:
    return Outcome(StreamState.INTERRUPTED, len(log.bodies)), message(it.session_id, "cut", stream_id=it.stream_id)


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


# -- versions


def test_a_new_file_has_our_version(tmp_path: Path) -> None:
    """It says which tables it has, and that they are ours."""
    database = made(tmp_path / "x.db")
    assert database._connection().pragma("user_version") == module.VERSION == 3
    assert database._connection().pragma("application_id") == module.APPLICATION_ID
    database.close()


def test_how_it_is_opened(tmp_path: Path) -> None:
    """One connection, exclusively, with a WAL that it checkpoints itself and no memory map."""
    for durability, synchronous in (("process", 1), ("power", 2)):
        database = Database(str(tmp_path / durability), durability)  # type: ignore[arg-type]
        db = database._connection()
        names = ("locking_mode", "journal_mode", "synchronous", "wal_autocheckpoint", "mmap_size")
        assert [db.pragma(name) for name in names] == ["exclusive", "wal", synchronous, 0, 0]
        database.close()
        assert not os.path.exists(f"{tmp_path}/{durability}-shm")


def test_an_older_file_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step from its version to ours is done, once, and nothing is lost."""
    database = made(tmp_path / "x.db")
    database.commit([Create(1, record("s")), finish(1, [b"a"])])
    database.close()
    monkeypatch.setattr(module, "VERSION", 5)
    steps = {
        3: lambda db: db.execute("ALTER TABLE streams ADD COLUMN note TEXT"),
        4: lambda db: db.execute("UPDATE streams SET note = 'two'; CREATE TABLE extra (x)"),
    }
    monkeypatch.setattr(module, "_MIGRATIONS", steps)
    for _ in range(2):
        database = made(tmp_path / "x.db")
        assert database._connection().pragma("user_version") == 5
        assert database._connection().execute("SELECT note FROM streams").get == "two"
        found = database.load("s")
        assert found is not None
        assert found.bodies == [b"a"]
        database.close()


def test_a_file_from_before_there_were_owners(tmp_path: Path) -> None:
    """Streams and sessions of version 1 are read, are nobody's as they were, and new ones have their owners."""
    database = made(tmp_path / "x.db")
    said = StoredMessage("m", "ses", "user", "hi", 1.0)
    database.commit([Create(1, record("s")), SaveMessage(said), finish(1, [b"a"])])
    old = {name: getattr(record("s"), name) for name in record("s").__struct_fields__ if name != "owner"}
    db = database._connection()
    db.execute("UPDATE streams SET record = ?", (module._sealed(module._pack(old), 1),))
    db.execute("ALTER TABLE sessions DROP COLUMN owner")
    _take_ids(db)
    db.pragma("user_version", 1)
    database.close()
    database = made(tmp_path / "x.db")
    assert [summary.record for summary in database.summaries()] == [record("s")]
    assert database.history("ses") == [said]
    database.commit([SaveMessage(StoredMessage("m2", session_key("alice", "ses"), "user", "hi", 1.0))])
    owners = list(database._connection().execute("SELECT session_id, owner FROM sessions ORDER BY session_id"))
    assert owners == [("ses", ""), ("ses/alice", "alice")]
    database.close()


def _take_ids(db: apsw.Connection) -> None:
    """The messages of version 2."""
    db.execute("DROP INDEX messages_by_id; ALTER TABLE messages DROP COLUMN message_id")


def test_a_file_of_version_2_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its logs, which were lists, are read; its messages get the ids by which pages find them; damage stays damage."""
    database = made(tmp_path / "x.db")
    said = [StoredMessage(f"m{number}", "ses", "user", "hi", 1.0) for number in range(4)]
    database.commit([Create(1, record("s")), finish(1, [b"a", b"bc"]), *map(SaveMessage, said)])
    db = database._connection()
    db.execute("UPDATE logs SET chunks = ?", (module._sealed(module._pack((bytes(2), [b"a", b"bc"])), 1),))
    db.execute("UPDATE messages SET message = x'00' WHERE number = 1")
    _take_ids(db)
    db.pragma("user_version", 2)
    database.close()
    for _ in range(2):
        database = made(tmp_path / "x.db")
        log = database.load("s")
        assert log is not None
        assert (log.bodies, log.kinds) == ([b"a", b"bc"], bytes(2))
        assert database.page("ses", "m3", 2, 1000) == StoredPage(said[1:3], more=True)
        database.close()
    assert caplog.text.count("message 1 cannot be read") == 1


def test_a_page_costs_what_it_gives(tmp_path: Path) -> None:
    """SQLite takes as many steps for a page of a long session as for one of a short one, wherever it is."""
    database, costs = made(tmp_path / "x.db"), set()
    db = database._connection()
    for count in (20, 2000):
        for number in range(count):
            db.execute("INSERT INTO sessions VALUES (?, NULL, 1, 1, '') ON CONFLICT DO NOTHING", (f"ses{count}",))
            said = StoredMessage(f"m{number}", f"ses{count}", "user", "hi", 1.0)
            module._save_message(db, SaveMessage(said))
        for before in (None, "m10"):
            steps: list[int] = []
            db.set_progress_handler(lambda steps=steps: steps.append(1) or False, 1)  # type: ignore[misc]
            page = database.page(f"ses{count}", before, 3, 10_000)
            db.set_progress_handler(None)
            assert page is not None
            assert (len(page.messages), page.more) == (3, True)
            costs.add((before, len(steps)))
    assert len(costs) == 2
    database.close()


def test_a_step_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older file is as it was when it cannot be brought up to date."""
    made(tmp_path / "x.db").close()
    with monkeypatch.context() as patch:
        patch.setattr(module, "VERSION", 4)
        patch.setattr(module, "_MIGRATIONS", {3: lambda db: db.execute("CREATE TABLE extra (x); SELECT nonsense")})
        with pytest.raises(StoreError):
            made(tmp_path / "x.db")
    database = made(tmp_path / "x.db")
    assert database._connection().pragma("user_version") == 3
    assert not list(database._connection().execute("SELECT 1 FROM sqlite_master WHERE name = 'extra'"))
    database.close()


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    """What a newer version has written is not touched."""
    database = made(tmp_path / "x.db")
    database._connection().pragma("user_version", 7)
    database.close()
    before = (tmp_path / "x.db").read_bytes()
    with pytest.raises(StoreError, match=r"newer wsstream \(schema 7, this one knows 3\)"):
        made(tmp_path / "x.db")
    assert (tmp_path / "x.db").read_bytes() == before


@pytest.mark.parametrize(
    "damage", ["DROP TABLE journal", "PRAGMA user_version = 0", "ALTER TABLE logs RENAME COLUMN chunks TO chunk"]
)
def test_tables_that_are_not_ours_any_more(tmp_path: Path, damage: str) -> None:
    """A file of ours whose tables are not what they were is damaged, not somebody else's."""
    database = made(tmp_path / "x.db")
    database.commit([Create(1, record("s")), finish(1, [b"a"])])
    database._connection().execute(damage)
    database.close()
    with pytest.raises(StoreCorrupt):
        made(tmp_path / "x.db")


# -- after a crash


def test_a_row_that_is_lost_ends_its_logs_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is left of each log is a prefix; others are whole, and the log says what happened."""
    database = made(tmp_path / "x.db")
    database.commit([Create(1, record("a")), Create(2, record("b"))])
    for first in range(1, 10):
        entries = [Append(1, first, b"\0", [b"a%d" % first])]
        if first % 2:
            entries.append(Append(2, first // 2 + 1, b"\0", [b"b%d" % first]))
        database.commit(entries)
    rows = [row for (row,) in database._connection().execute("SELECT number FROM journal ORDER BY number")]
    database._connection().execute("UPDATE journal SET entries = zeroblob(20) WHERE number = ?", (rows[5],))
    database.abandon()
    database = made(tmp_path / "x.db")
    database.recover(_end)
    a, b = database.load("a"), database.load("b")
    assert a is not None
    assert b is not None
    assert a.bodies == [b"a%d" % n for n in range(1, 6)]
    assert b.bodies == [b"b%d" % n for n in range(1, 10, 2)]
    assert "the journal is lost" in caplog.text
    database.close()


def _go_on(it: StreamRecord, __: bool, log: StoredLog) -> StreamRecord:
    return msgspec.structs.replace(it, again=b"%d" % log.whole)


def test_what_goes_on_holds_on_to_its_rows_alone(tmp_path: Path) -> None:
    """The journal begins anew with a row for each log that goes on, and is empty again when those have ended."""
    database = made(tmp_path / "x.db")
    database.commit([Create(number, record(f"s{number}")) for number in (1, 2, 3)])
    for first in range(1, 11):
        database.commit([Append(number, first, b"\0", [b"%d" % first]) for number in (1, 2)])
    database.abandon()
    for _ in range(2):
        database = made(tmp_path / "x.db")
        running = database.recover(_go_on)
        assert {number: len(log.bodies) for number, log in running.items()} == {1: 10, 2: 10, 3: 0}
        assert (journal_rows(database), len(database._rows), set(database._needed)) == (2, 2, {1, 2})
        database.abandon()
    database = made(tmp_path / "x.db")
    bodies = list(database.recover(_go_on)[1].bodies)
    database.commit([Append(1, 11, b"\0", [b"11"])])
    database.commit([finish(1, [*bodies, b"11"]), finish(2, bodies)])
    assert journal_rows(database) == 0
    assert (len(database._rows), database._size, database._needed) == (0, 0, {})
    found = database.load("s1")
    assert found is not None
    assert found.bodies == [b"%d" % n for n in range(1, 12)]
    database.close()


def test_what_may_have_lost_a_row_is_said_so(tmp_path: Path) -> None:
    """A row that cannot be read may have held chunks of any log: none is known to be whole."""
    database = made(tmp_path / "x.db")
    database.commit([Create(1, record("s1")), Create(2, record("s2")), Append(1, 1, b"\0", [b"x"])])
    database.commit([Append(2, 1, b"\0", [b"x"])])
    database._connection().execute("UPDATE journal SET entries = zeroblob(20) WHERE number = 2")
    database.abandon()
    database = made(tmp_path / "x.db")
    running = database.recover(_go_on)
    assert [(log.whole, log.record.again) for log in running.values()] == [(False, b"0"), (False, b"0")]
    database.close()


def test_a_record_that_is_lost_takes_only_its_stream(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Streams that cannot be read are left out, and the log says which."""
    database = made(tmp_path / "x.db")
    database.commit([Create(1, record("a")), finish(1, [b"a"]), Create(2, record("b")), Create(3, record("c"))])
    database._connection().execute("UPDATE streams SET record = 'x' WHERE number = 1")
    database._connection().execute("UPDATE streams SET record = NULL WHERE 0")
    database._connection().execute("UPDATE streams SET record = zeroblob(9) WHERE number = 3")
    database.recover(_end)
    assert [summary.record.stream_id for summary in database.summaries()] == ["b"]
    assert "stream 1 is lost" in caplog.text
    assert "stream 3 is lost" in caplog.text
    assert database.highest_number() == 3
    database.close()


def test_the_message_of_a_deleted_session_does_not_come_back(tmp_path: Path) -> None:
    """An answer that a crash cut off after its session was deleted brings no message back."""
    database = made(tmp_path / "x.db")
    database.commit([Create(1, record("s")), SaveMessage(message("ses", "", stream_id="s"))])
    database.commit([DeleteSession("ses"), Cancelled(1)])
    database.abandon()
    database = made(tmp_path / "x.db")
    database.recover(_say_end)
    assert database.history("ses") == []
    assert database.session("ses") is None
    database.close()


def test_recovery_is_done_as_a_whole(tmp_path: Path) -> None:
    """When the process is killed in the middle of it, the next start does it all again."""
    database = made(tmp_path / "x.db")
    for number in (1, 2):
        database.commit([Create(number, record(f"s{number}")), Append(number, 1, b"\0", [b"x"])])
    database.abandon()
    asked: list[str] = []

    def die(it: StreamRecord, _: bool, __: StoredLog) -> Any:
        asked.append(it.stream_id)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return Outcome(StreamState.INTERRUPTED, 1), None

    database = made(tmp_path / "x.db")
    with pytest.raises(KeyboardInterrupt):
        database.recover(die)
    database.abandon()
    database = made(tmp_path / "x.db")
    assert database.summaries() == []
    database.recover(_end)
    logs = [database.load(name) for name in ("s1", "s2")]
    assert [log.bodies for log in logs if log is not None] == [[b"x"], [b"x"]]
    database.close()


@pytest.mark.parametrize("table", ["logs", "messages", "sessions", "streams"])
def test_a_changed_byte_is_found(tmp_path: Path, table: str) -> None:
    """Whatever is read carries a checksum: one other letter is an error, not another text."""
    database = made(tmp_path / "x.db")
    database.commit([Create(1, record("s")), finish(1, [b"secret"]), SaveMessage(message("ses", "secret"))])
    database.commit([module.Rename("ses", "secret")])
    column = {"logs": "chunks", "messages": "message", "sessions": "title", "streams": "record"}[table]
    db = database._connection()
    (packed,) = [row for (row,) in db.execute(f"SELECT {column} FROM {table}")]
    changed = packed[:-1] + bytes([packed[-1] ^ 1])
    db.execute(f"UPDATE {table} SET {column} = ?", (changed,))
    with pytest.raises(StoreCorrupt, match="checksum"):
        {"messages": database.history, "sessions": database.session}.get(table, lambda _: database.load("s"))("ses")
    database.close()


# -- size


def test_the_journal_is_empty_when_nothing_runs(tmp_path: Path) -> None:
    """Rows that no running answer needs are deleted as answers end or are deleted."""
    database = made(tmp_path / "x.db")
    database.commit([Create(number, record(f"s{number}")) for number in (1, 2, 3)])
    for first in range(1, 11):
        database.commit([Append(number, first, b"\0", [b"x"]) for number in (1, 2, 3)])
    bodies = [b"x"] * 10
    database.commit([finish(1, bodies)])
    database.commit([finish(2, bodies)])
    assert journal_rows(database) == 10
    database.commit([Delete(3)])
    assert journal_rows(database) == 0
    assert (len(database._rows), database._size, database._needed) == (0, 0, {})
    database.close()


def test_a_long_answer_does_not_hold_on_to_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that runs for ever costs its own size, however many others come and go meanwhile."""
    monkeypatch.setattr(module, "COMPACT_BYTES", 20_000)
    database = made(tmp_path / "x.db")
    database.commit([Create(1, record("long"))])
    said: list[bytes] = []
    database.commit([Create(1000, record("other"))])
    other: list[bytes] = []
    for number in range(2, 200):
        if number % 20 == 0:  # one that is younger holds on to rows too
            database.commit([finish(1000 + number - 20, other) if number > 20 else finish(1000, other)])
            other = []
            database.commit([Create(1000 + number, record(f"other{number}"))])
        slot = 1000 + number - number % 20
        other.append(b"other %d" % number)
        database.commit([Append(slot, len(other), b"\0", other[-1:])])
        said.append(b"long %d" % number)
        bodies = [b"y" * 100] * 10
        database.commit([Create(number, record(f"s{number}")), Append(1, len(said), b"\0", said[-1:])])
        database.commit([Append(number, 1, bytes(10), bodies)])
        database.commit([finish(number, bodies), Delete(number)])
        assert database._size < 60_000
    assert sum(size for _, size in database._rows) == database._size
    assert journal_rows(database) == len(database._rows)
    database.abandon()
    database = made(tmp_path / "x.db")
    database.recover(_end)
    found = database.load("long")
    assert found is not None
    assert found.bodies == said
    database.close()


def test_a_commit_that_fails_leaves_the_books_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of the journal is what is in it, also after failures."""
    database = made(tmp_path / "x.db")
    database.commit([Create(number, record(f"s{number}")) for number in (1, 2)])
    database.commit([Append(1, 1, b"\0", [b"x"]), Append(2, 1, b"\0", [b"x"])])
    before = dict(database._needed)
    with pytest.raises(StoreError):  # the same stream cannot begin twice
        database.commit([finish(1, [b"x"]), Append(2, 2, b"\0", [b"x"]), Create(2, record("s2"))])
    assert (database._needed, journal_rows(database), len(database._rows)) == (before, 1, 1)
    database.commit([finish(1, [b"x"]), Append(2, 2, b"\0", [b"x"])])
    assert (set(database._needed), journal_rows(database), len(database._rows)) == ({2}, 2, 2)
    database.commit([finish(2, [b"x", b"x"])])
    assert (database._needed, journal_rows(database), database._size) == ({}, 0, 0)
    database.close()


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


def test_errors_are_ours(tmp_path: Path) -> None:
    """No exception of SQLite's gets out."""
    database = made(tmp_path / "x.db")
    database._connection().execute("DROP TABLE messages")
    with pytest.raises(StoreError):
        database.history("ses")
    with pytest.raises(StoreError):
        database.commit([SaveMessage(message("ses", "x"))])
    assert not issubclass(StoreError, apsw.Error)
    database.abandon()
