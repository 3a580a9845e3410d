"""What a commit does, operation by operation."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from tests.stores.file import finish, made
from wsstream.stores.operations import (
    WRITERS,
    Append,
    Cancelled,
    Create,
    Delete,
    DeleteSession,
    Operation,
    Rename,
    SaveMessage,
    Update,
)
from wsstream.testing.contracts import message, record


def test_every_operation_is_done() -> None:
    """Each has its statements, but for the chunks, which are the journal's."""
    assert WRITERS.keys() == {*get_args(Operation)} - {Append}


TABLES = ("streams", "logs", "messages", "sessions", "journal")


@pytest.mark.parametrize(
    "operation",
    [
        *(Update(7, record("new")), Cancelled(7), finish(7, [b"x"]), Delete(7)),
        *(Rename("none", "a title"), DeleteSession("none")),
    ],
    ids=lambda operation: type(operation).__name__,
)
def test_what_is_not_there_is_not_made(tmp_path: Path, operation: Operation) -> None:
    """Whatever is said of a stream or session that the file does not have changes nothing in it."""
    database = made(tmp_path / "x.db")
    database.commit([Create(1, record("s")), finish(1, [b"a"]), SaveMessage(message("ses", "hi"))])
    db = database._connection()
    before = {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}
    database.commit([operation])
    assert {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES} == before
    assert getattr(operation, "found", False) is False
    database.close()
