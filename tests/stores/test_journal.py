"""The journal holds what running answers need, and the books about it are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores.file import cut_off, finish, journal_rows, made
from wsstream.errors import StoreError
from wsstream.stores import journal
from wsstream.stores.operations import Append, Create, Delete
from wsstream.testing.contracts import record


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
    assert (len(database._journal._rows), database._journal._size, database._journal._needed) == (0, 0, {})
    database.close()


def test_a_long_answer_does_not_hold_on_to_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that runs for ever costs its own size, however many others come and go meanwhile."""
    monkeypatch.setattr(journal, "COMPACT_BYTES", 20_000)
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
        assert database._journal._size < 60_000
    assert sum(size for _, size in database._journal._rows) == database._journal._size
    assert journal_rows(database) == len(database._journal._rows)
    database.abandon()
    database = made(tmp_path / "x.db")
    database.recover(cut_off)
    found = database.load("long")
    assert found is not None
    assert found.bodies == said
    database.close()


def test_a_commit_that_fails_leaves_the_books_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of the journal is what is in it, also after failures."""
    database = made(tmp_path / "x.db")
    database.commit([Create(number, record(f"s{number}")) for number in (1, 2)])
    database.commit([Append(1, 1, b"\0", [b"x"]), Append(2, 1, b"\0", [b"x"])])
    before = dict(database._journal._needed)
    with pytest.raises(StoreError):  # the same stream cannot begin twice
        database.commit([finish(1, [b"x"]), Append(2, 2, b"\0", [b"x"]), Create(2, record("s2"))])
    assert (database._journal._needed, journal_rows(database), len(database._journal._rows)) == (before, 1, 1)
    database.commit([finish(1, [b"x"]), Append(2, 2, b"\0", [b"x"])])
    assert (set(database._journal._needed), journal_rows(database), len(database._journal._rows)) == ({2}, 2, 2)
    database.commit([finish(2, [b"x", b"x"])])
    assert (database._journal._needed, journal_rows(database), database._journal._size) == ({}, 0, 0)
    database.close()
