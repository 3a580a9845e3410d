"""What becomes of a file after a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.stores.file import cut_off, finish, journal_rows, made
from wsstream.chunks import Outcome, StreamState
from wsstream.stores.base import StoredLog, StoredMessage, StreamRecord
from wsstream.stores.operations import Append, Cancelled, Create, DeleteSession, SaveMessage
from wsstream.testing.contracts import message, record


def _say_end(it: StreamRecord, __: bool, log: StoredLog) -> tuple[Outcome, StoredMessage | None]:
    return Outcome(StreamState.INTERRUPTED, len(log.bodies)), message(it.session_id, "cut", stream_id=it.stream_id)


def _go_on(it: StreamRecord, __: bool, log: StoredLog) -> StreamRecord:
    return msgspec.structs.replace(it, again=b"%d" % log.whole)


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
    database.recover(cut_off)
    a, b = database.load("a"), database.load("b")
    assert a is not None
    assert b is not None
    assert a.bodies == [b"a%d" % n for n in range(1, 6)]
    assert b.bodies == [b"b%d" % n for n in range(1, 10, 2)]
    assert "the journal is lost" in caplog.text
    database.close()


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
        assert (journal_rows(database), len(database._journal._rows), set(database._journal._needed)) == (2, 2, {1, 2})
        database.abandon()
    database = made(tmp_path / "x.db")
    bodies = list(database.recover(_go_on)[1].bodies)
    database.commit([Append(1, 11, b"\0", [b"11"])])
    database.commit([finish(1, [*bodies, b"11"]), finish(2, bodies)])
    assert journal_rows(database) == 0
    assert (len(database._journal._rows), database._journal._size, database._journal._needed) == (0, 0, {})
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
    database.recover(cut_off)
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
    database.recover(cut_off)
    logs = [database.load(name) for name in ("s1", "s2")]
    assert [log.bodies for log in logs if log is not None] == [[b"x"], [b"x"]]
    database.close()
