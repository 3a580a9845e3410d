"""The tables and their versions: what is old is brought up to date, what is newer or damaged is left as it is."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from tests.stores.file import finish, made
from wsstream.chunks import session_key
from wsstream.errors import StoreCorrupt, StoreError
from wsstream.stores import schema
from wsstream.stores.base import StoredMessage, StoredPage
from wsstream.stores.operations import Create, SaveMessage
from wsstream.stores.rows import pack, sealed
from wsstream.testing.contracts import record


def test_a_new_file_has_our_version(tmp_path: Path) -> None:
    """It says which tables it has, and that they are ours."""
    database = made(tmp_path / "x.db")
    assert database._connection().pragma("user_version") == schema.VERSION == 3
    assert database._connection().pragma("application_id") == schema.APPLICATION_ID
    database.close()


def test_an_older_file_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step from its version to ours is done, once, and nothing is lost."""
    database = made(tmp_path / "x.db")
    database.commit([Create(1, record("s")), finish(1, [b"a"])])
    database.close()
    monkeypatch.setattr(schema, "VERSION", 5)
    steps = {
        3: lambda db: db.execute("ALTER TABLE streams ADD COLUMN note TEXT"),
        4: lambda db: db.execute("UPDATE streams SET note = 'two'; CREATE TABLE extra (x)"),
    }
    monkeypatch.setattr(schema, "_MIGRATIONS", steps)
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
    db.execute("UPDATE streams SET record = ?", (sealed(pack(old), 1),))
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
    db.execute("UPDATE logs SET chunks = ?", (sealed(pack((bytes(2), [b"a", b"bc"])), 1),))
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


def test_a_step_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older file is as it was when it cannot be brought up to date."""
    made(tmp_path / "x.db").close()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "VERSION", 4)
        patch.setattr(schema, "_MIGRATIONS", {3: lambda db: db.execute("CREATE TABLE extra (x); SELECT nonsense")})
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
