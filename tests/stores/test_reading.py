"""What is read back costs what it gives, and what was changed is not given."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores.file import finish, made
from wsstream.errors import StoreCorrupt
from wsstream.stores.base import StoredMessage
from wsstream.stores.operations import WRITERS, Create, Rename, SaveMessage
from wsstream.testing.contracts import message, record


def test_a_page_costs_what_it_gives(tmp_path: Path) -> None:
    """SQLite takes as many steps for a page of a long session as for one of a short one, wherever it is."""
    database, costs = made(tmp_path / "x.db"), set()
    db = database._connection()
    for count in (20, 2000):
        for number in range(count):
            db.execute("INSERT INTO sessions VALUES (?, NULL, 1, 1, '') ON CONFLICT DO NOTHING", (f"ses{count}",))
            said = StoredMessage(f"m{number}", f"ses{count}", "user", "hi", 1.0)
            WRITERS[SaveMessage](db, SaveMessage(said))
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


@pytest.mark.parametrize("table", ["logs", "messages", "sessions", "streams"])
def test_a_changed_byte_is_found(tmp_path: Path, table: str) -> None:
    """Whatever is read carries a checksum: one other letter is an error, not another text."""
    database = made(tmp_path / "x.db")
    database.commit([Create(1, record("s")), finish(1, [b"secret"]), SaveMessage(message("ses", "secret"))])
    database.commit([Rename("ses", "secret")])
    column = {"logs": "chunks", "messages": "message", "sessions": "title", "streams": "record"}[table]
    db = database._connection()
    (packed,) = [row for (row,) in db.execute(f"SELECT {column} FROM {table}")]
    changed = packed[:-1] + bytes([packed[-1] ^ 1])
    db.execute(f"UPDATE {table} SET {column} = ?", (changed,))
    with pytest.raises(StoreCorrupt, match="checksum"):
        {"messages": database.history, "sessions": database.session}.get(table, lambda _: database.load("s"))("ses")
    database.close()
